// The overview's panels: what waits, runs, ran, who is here, what is said. No content, ever.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { KINDS } from "./asks.js";
import { overview, setWire } from "./feed.js";
import { join, pane } from "./thread.js";

// In a tab of its own that does not know where it came from.
const Out = (props) => html`<a target="_blank" rel="noreferrer" ...${props} />`;

const WIRE_SHOWN = 24; // while it moves; all once it is paused
const RECENT_SHOWN = 40; // until one asks for all
const TICK_MS = 500; // of what is told in whole seconds

// Rendered anew only when a prop has changed. (`useMemo` would keep all rows there ever were.)
export const memo = (of) =>
	function (props) {
		this.shouldComponentUpdate = (next) => Object.keys(next).some((each) => next[each] !== this.props[each]);
		return html`<${of} ...${props} />`;
	};

// The proxy's clock; who looks at it is rendered anew with it.
export function useNow(looked) {
	const [, set] = useState(0);
	useEffect(() => {
		if (!looked) return;
		const timer = setInterval(() => document.hidden || set(Date.now()), TICK_MS);
		return () => clearInterval(timer);
	}, [looked]);
	return Date.now() + overview.skewMs;
}

export const some = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function span(ms, digits = 1) {
	const seconds = Math.max(0, ms) / 1000;
	const minutes = Math.floor(seconds / 60);
	if (seconds < 1 && digits) return `${Math.round(seconds * 1000)} ms`;
	if (!minutes) return `${digits ? seconds.toFixed(1) : Math.floor(seconds)} s`;
	return minutes < 60 ? `${minutes} min ${Math.floor(seconds) % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// Of what still grows: digits that fly by tell nobody anything.
export const since = (ms) => span(ms, 0);

const short = new Intl.NumberFormat("en", { notation: "compact" }).format;

const sorted = (section, by) => Object.entries(section).sort((a, b) => by(a) - by(b));

function Panel({ title, rows, count = rows.length, aside, none, note }) {
	const name = title.split(" ")[0].toLowerCase();
	return html`<section class="panel ${name}" aria-labelledby="h-${name}">
		<header><h2 id="h-${name}">${title}</h2>${count > 0 && html`<span class="count">${count}</span>`}<span class="aside">${aside}</span></header>
		<div class="body" tabindex="0" role="group" aria-labelledby="h-${name}"><ul>${rows}</ul>${(note || !rows.length) && html`<p class="empty">${note || none}</p>`}</div>
	</section>`;
}

function Where({ id }) {
	const here = pane.id === id;
	if (!id) return html`<span></span>`; // of no thread
	return html`<span class="where"><code class="id" title=${id}>…${id.slice(-8)}</code>
		<button class="small" disabled=${here} onClick=${() => join(id)}>${here ? "Joined" : "Join"}</button></span>`;
}

async function copy({ target }) {
	if (!navigator.clipboard) return prompt("Trace id", target.title); // a page over plain HTTP has none
	await navigator.clipboard.writeText(target.title);
	target.textContent = "Copied";
}

export function Trace({ row: { trace, thread }, running }) {
	const { jaegerUrl, coreService } = overview.top;
	if (!trace) return html`<span class="dim" title="This turn is not sampled">no trace</span>`;
	if (running) return html`<span class="dim later" title=${trace}>trace<span> appears when it ends</span></span>`;
	if (!jaegerUrl) return html`<button class="small" title=${trace} onClick=${copy}>Copy id</button>`;
	const tags = encodeURIComponent(JSON.stringify({ "gen_ai.conversation.id": thread }));
	const search = `${jaegerUrl}/search?service=${encodeURIComponent(coreService)}&tags=${tags}&lookback=2d&limit=100`;
	return html`<${Out} href="${jaegerUrl}/trace/${trace}">Trace<//><${Out} class="dim" href=${search} title="All turns of this thread in Jaeger">all<//>`;
}

const SPLIT = ["model", "tool", "human"];
const LEGEND = html`<span class="legend">${SPLIT.map((kind) => html`<span><i class=${kind}></i>${kind}</span>`)}</span>`;

function Lane({ split, scaleMs }) {
	const total = split.reduce((sum, ms) => sum + ms, 0) || 1;
	const words = SPLIT.map((kind, i) => `${kind} ${span(split[i])}`).join(", ");
	const width = scaleMs ? Math.max(2, (100 * total) / scaleMs) : 100;
	return html`<span class="lane" role="img" aria-label=${words} title=${words}>
		${SPLIT.map((kind, i) => split[i] > 0 && html`<i class=${kind} style=${{ width: `${(width * split[i]) / total}%` }}></i>`)}
	</span>`;
}

function Turn({ id, row, does, ms, running, children }) {
	const [came, went] = row.tokens;
	return html`<li class=${pane.id === row.thread ? "row turn here" : "row turn"} data-thread=${row.thread} data-turn=${id}>
		${does}
		<span class="grow" title="${row.client} ${row.model}"><b>${row.client || "unknown"}</b> <span class="dim">${row.model}</span></span>
		<${Where} id=${row.thread} />
		<span class="dim num" title="tokens in → out">${came || went ? `${short(came)} → ${short(went)} tok` : ""}</span>
		<time class="num">${ms}</time>
		<span class="links"><${Trace} row=${row} running=${running} /></span>
		${children}
	</li>`;
}

export const Needs = memo(() => {
	const list = sorted(overview.needs, ([, row]) => row.sinceMs);
	const now = useNow(list.length > 0);
	const rows = list.map(([id, row]) => html`<li key=${id} class="row need" data-thread=${row.thread} data-turn=${row.turn} data-request=${id}>
		<b class="cut" title=${row.kind}>${(KINDS[row.kind] || [row.kind])[0]}</b>
		<span class="grow">${row.client || "nobody here"}</span>
		<${Where} id=${row.thread} />
		<time class="num wait">${since(now - row.sinceMs)}</time>
	</li>`);
	return html`<${Panel} title="Needs you" rows=${rows} none="Nothing waits for a human. An approval that does shows here, and in this page's title." />`;
});

const DOES = { model: "thinking", human: "waits for a human" };

export const Live = memo(() => {
	const list = sorted(overview.live, ([, row]) => row.startMs);
	const { turns } = overview.top;
	const now = useNow(list.length > 0);
	const scaleMs = Math.max(10000, ...list.map(([, row]) => now - row.startMs));
	const rows = list.map(([id, row]) => {
		const split = [...row.split];
		split[SPLIT.indexOf(row.now)] += now - row.atMs; // what went by since belongs to what it does now
		const does = html`<span class="does cut ${row.now}">${row.now === "tool" ? row.tool : DOES[row.now]}</span>`;
		return html`<${Turn} key=${id} id=${id} row=${row} does=${does} ms=${since(now - row.startMs)} running><${Lane} split=${split} scaleMs=${scaleMs} /><//>`;
	});
	const none = html`No turn runs. Begin one: <b>New thread</b>, or connect any client to <code>${location.host}</code>.`;
	return html`<${Panel} title="Live turns" rows=${rows} count=${turns} aside=${html`${first(list, turns)}${LEGEND}`} none=${none} />`;
});

const first = ({ length }, all) => all > length && `first ${length} shown`;

function Select({ label, set, list, of }) {
	const options = [...new Set(list.map(([, row]) => row[of]).filter(Boolean))].sort();
	return html`<select aria-label=${label} onChange=${(event) => set(event.target.value)}>
		<option value="">${label}: all</option>${options.map((each) => html`<option value=${each}>${each}</option>`)}
	</select>`;
}

const Ended = memo(({ id, row }) => {
	const { status, error } = row;
	const does = html`<span class="status cut ${status}" title="${status} ${error}">${status}</span>`;
	return html`<${Turn} id=${id} row=${row} does=${does} ms=${span(row.endMs - row.startMs)}>
		<${Lane} split=${row.split} />
		${error && html`<small class="why ${status}">${error}</small>`}
	<//>`;
});

export const Recent = memo(() => {
	const [client, setClient] = useState("");
	const [status, setStatus] = useState("");
	const [whole, setWhole] = useState(false);
	const all = sorted(overview.recent, ([, row]) => -row.endMs);
	const list = all.filter(([, row]) => (!client || row.client === client) && (!status || row.status === status));
	const filters = html`<${Select} label="Client" set=${setClient} list=${all} of="client" /><${Select} label="Status" set=${setStatus} list=${all} of="status" />`;
	const none = all.length ? "No recent turn fits the filter." : "The last 200 turns stay here, each with where its time went and a link to its trace.";
	const more = !(whole || client || status) && list.length > RECENT_SHOWN;
	const note = more && html`<button class="small" onClick=${() => setWhole(true)}>Show all ${list.length}</button>`;
	const rows = (more ? list.slice(0, RECENT_SHOWN) : list).map(([id, row]) => html`<${Ended} key=${id} id=${id} row=${row} joined=${pane.id === row.thread} />`);
	return html`<${Panel} title="Recent turns" rows=${rows} count=${all.length} aside=${all.length > 0 && filters} none=${none} note=${note} />`;
});

export const Clients = memo(() => {
	const rows = sorted(overview.clients, ([id]) => id).map(([id, row]) => html`<li key=${id} class="row" data-connection=${id}>
		<b class="cut">${row.name || "not initialized"}</b>
		<span class="dim cut">${row.version}</span>
		<span class="grow dim">${row.peer}</span>
		<span>${row.state !== "ok" && html`<span class="status failed">${row.state}</span>`}</span>
		<span class="num" title="requests in flight">${row.inFlight} in flight</span>
		<span class="num" title="queued for it">${short(row.queueBytes)}B</span>
	</li>`);
	const { clients } = overview.top;
	return html`<${Panel} title="Clients" rows=${rows} count=${clients} aside=${first(rows, clients)} none="Nobody is connected. This page is no client until you join a thread." />`;
});

// A stream of deltas is one row. Newest first.
function runs(rows, most) {
	const shown = [];
	for (const row of rows.toReversed()) {
		const last = shown[shown.length - 1];
		if (last && row.ms === null && last.ms === null && ["way", "method", "connection", "error"].every((each) => last[each] === row[each])) {
			last.times += 1;
			last.bytes += row.bytes;
		} else if (shown.length === most) break;
		else shown.push({ ...row, times: 1 });
	}
	return shown;
}

export const Wire = memo(() => {
	const [text, setText] = useState("");
	const { wire, wireOn, skipped } = overview;
	const wanted = text.trim().toLowerCase();
	const fits = (row) => `${row.method} ${row.connection} ${row.error}`.toLowerCase().includes(wanted);
	const list = runs(wanted ? wire.filter(fits) : wire, wireOn ? WIRE_SHOWN : wire.length);
	const tools = html`<input type="search" aria-label="Filter the wire" placeholder="Filter" value=${text} onInput=${(event) => setText(event.target.value)} />
		<button class="small" aria-pressed=${wireOn} onClick=${() => setWire(!wireOn)}>${wireOn ? "Pause" : "Go"}</button>`;
	const none = wire.length ? "No message fits the filter." : wireOn ? "Messages show here as they pass: method, size, time, never what they say." : "Stopped. Go shows what passes from now on.";
	const rows = list.map((row) => html`<li class="row" data-connection=${row.connection}>
		<span class="dim" title=${row.way === "in" ? "from a client" : "to clients"}>${row.way === "in" ? "→" : "←"}</span>
		<code class="grow">${row.method}${row.times > 1 && html` <b>×${row.times}</b>`}</code>
		<span>${row.error && html`<span class="status failed">${row.error}</span>`}</span>
		<span class="dim num" title="connection">${row.connection}</span>
		<span class="num">${row.ms === null ? "" : span(row.ms)}</span>
		<span class="num">${short(row.bytes)}B</span>
	</li>`);
	const more = list.length === WIRE_SHOWN && "Pause shows all of the last 1,000.";
	const note = [wireOn && more, list.length && skipped && `${skipped} not shown: too many at once.`].filter(Boolean).join(" ");
	return html`<${Panel} title="Wire" rows=${rows} count=${wire.length} aside=${tools} none=${none} note=${note} />`;
});
