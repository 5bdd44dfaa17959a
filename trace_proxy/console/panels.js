// The overview's panels: what waits, runs, ran, who is here, what is said. No content, ever.

import { html, useState, useEffect, useMemo } from "./vendor/htm-preact.js";
import { KINDS } from "./asks.js";
import { overview, setWire } from "./feed.js";
import { join, pane } from "./thread.js";

const WIRE_SHOWN = 50; // while it moves: nobody reads more; all of it once it is paused
const TICK_MS = 500; // of what is told in whole seconds

// The proxy's clock; while it is looked at, the caller is rendered anew with it.
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
	if (ms < 1000 && digits) return `${Math.max(0, Math.round(ms))} ms`;
	const seconds = Math.max(0, ms) / 1000;
	if (seconds < 60) return `${digits ? seconds.toFixed(1) : Math.floor(seconds)} s`;
	const minutes = Math.floor(seconds / 60);
	return minutes < 60 ? `${minutes} min ${Math.floor(seconds) % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// Of what still grows: digits that fly by tell nobody anything.
export const since = (ms) => span(ms, 0);

function bytes(count) {
	if (count < 1024) return `${count} B`;
	return count < 1048576 ? `${(count / 1024).toFixed(1)} KiB` : `${(count / 1048576).toFixed(1)} MiB`;
}

const short = (count) => (count < 1000 ? count : `${(count / 1000).toFixed(count < 10000 ? 1 : 0)}k`);

const sorted = (section, by) => Object.entries(section).sort((a, b) => by(a) - by(b));

function Panel({ title, count, aside, empty, children }) {
	const name = title.split(" ")[0].toLowerCase();
	return html`<section class="panel ${name}" aria-labelledby="h-${name}">
		<header><h2 id="h-${name}">${title}</h2>${count ? html`<span class="count">${count}</span>` : null}<span class="aside">${aside}</span></header>
		<div class="body" tabindex="0" role="group" aria-labelledby="h-${name}">
			${empty && html`<p class="empty">${empty}</p>`}<ul>${children}</ul>
		</div>
	</section>`;
}

function Where({ id }) {
	const here = pane.id === id;
	if (!id) return html`<span></span>`; // of no thread
	return html`<span class="where"><code class="id" title=${id}>${id.length > 12 ? `…${id.slice(-8)}` : id}</code>
		<button class="small" disabled=${here} onClick=${() => join(id)}>${here ? "Joined" : "Join"}</button></span>`;
}

function Copy({ text }) {
	const [done, setDone] = useState(false);
	const copy = async () => {
		if (!navigator.clipboard) return prompt("Trace id", text); // a page over plain HTTP has none
		await navigator.clipboard.writeText(text);
		setDone(true);
	};
	return html`<button class="small" title=${text} onClick=${copy}>${done ? "Copied" : "Copy id"}</button>`;
}

export function Trace({ row: { trace, thread }, running }) {
	const { jaegerUrl, coreService } = overview.top;
	if (!trace) return html`<span class="dim" title="This turn is not sampled">no trace</span>`;
	if (running) return html`<span class="dim later" title=${trace}>trace<span> appears when it ends</span></span>`;
	if (!jaegerUrl) return html`<${Copy} text=${trace} />`;
	const tags = encodeURIComponent(JSON.stringify({ "gen_ai.conversation.id": thread }));
	const search = `${jaegerUrl}/search?service=${encodeURIComponent(coreService)}&tags=${tags}&lookback=2d&limit=100`;
	return html`<a href="${jaegerUrl}/trace/${trace}" target="_blank" rel="noreferrer">Trace</a>
		<a class="dim" href=${search} target="_blank" rel="noreferrer" title="All turns of this thread in Jaeger">all</a>`;
}

const SPLIT = ["model", "tool", "human"];
const LEGEND = html`<span class="legend">${SPLIT.map((kind) => html`<span><i class=${kind}></i>${kind}</span>`)}</span>`;

function Lane({ split, scaleMs }) {
	const total = split.reduce((sum, ms) => sum + ms, 0) || 1;
	const words = SPLIT.map((kind, i) => `${kind} ${span(split[i])}`).join(", ");
	const width = scaleMs ? Math.max(2, Math.min(100, (100 * total) / scaleMs)) : 100;
	return html`<span class="lane" role="img" aria-label=${words} title=${words}>
		${SPLIT.map((kind, i) => split[i] > 0 && html`<i class=${kind} style=${{ width: `${(width * split[i]) / total}%` }}></i>`)}
	</span>`;
}

function Turn({ id, row, does, ms, running, children }) {
	const [came, went] = row.tokens;
	return html`<li class="row turn" data-thread=${row.thread} data-turn=${id}>
		${does}
		<span class="grow" title="${row.client} ${row.model}"><b>${row.client || "unknown"}</b> <span class="dim">${row.model}</span></span>
		<${Where} id=${row.thread} />
		<span class="dim num" title="tokens in → out">${came || went ? `${short(came)} → ${short(went)} tok` : ""}</span>
		<time class="num">${ms}</time>
		<span class="links"><${Trace} row=${row} running=${running} /></span>
		${children}
	</li>`;
}

export function Needs() {
	const list = sorted(overview.needs, ([, row]) => row.sinceMs);
	const now = useNow(list.length > 0);
	const empty = list.length ? "" : "Nothing waits for a human. An approval that does shows here, and in this page's title.";
	return html`<${Panel} title="Needs you" count=${list.length} empty=${empty}>${list.map(([id, row]) => html`<li key=${id} class="row need" data-thread=${row.thread} data-turn=${row.turn} data-request=${id}>
		<b class="cut" title=${row.kind}>${(KINDS[row.kind] || [row.kind])[0]}</b>
		<span class="grow">${row.client || "nobody here"}</span>
		<${Where} id=${row.thread} />
		<time class="num wait">${since(now - row.sinceMs)}</time>
	</li>`)}<//>`;
}

const DOES = { model: "thinking", human: "waits for a human" };

export function Live() {
	const list = sorted(overview.live, ([, row]) => row.startMs);
	const { turns } = overview.top;
	const now = useNow(list.length > 0);
	const scaleMs = Math.max(10000, ...list.map(([, row]) => now - row.startMs));
	const empty = list.length ? "" : html`No turn runs. Begin one: <b>New thread</b>, or connect any client to <code>${location.host}</code>.`;
	const aside = html`${turns > list.length ? `first ${list.length} shown` : ""}${LEGEND}`;
	return html`<${Panel} title="Live turns" count=${turns} aside=${aside} empty=${empty}>${list.map(([id, row]) => {
		const split = [...row.split];
		split[SPLIT.indexOf(row.now)] += now - row.atMs; // what went by since belongs to what it does now
		const does = html`<span class="does cut ${row.now}">${row.now === "tool" ? row.tool : DOES[row.now]}</span>`;
		return html`<${Turn} key=${id} id=${id} row=${row} does=${does} ms=${since(now - row.startMs)} running><${Lane} split=${split} scaleMs=${scaleMs} /><//>`;
	})}<//>`;
}

function Select({ label, set, list, of }) {
	const options = [...new Set(list.map(([, row]) => row[of]).filter(Boolean))].sort();
	return html`<select aria-label=${label} onChange=${(event) => set(event.target.value)}>
		<option value="">${label}: all</option>${options.map((each) => html`<option key=${each}>${each}</option>`)}
	</select>`;
}

// Made anew only when it has changed: two hundred of them are looked at four times a second.
function Ended({ id, row }) {
	const { status, error } = row;
	return useMemo(() => {
		const does = html`<span class="status cut ${status}" title="${status} ${error}">${status}</span>`;
		return html`<${Turn} id=${id} row=${row} does=${does} ms=${span(row.endMs - row.startMs)}>
			<${Lane} split=${row.split} />
			${error && html`<small class="why ${status}">${error}</small>`}
		<//>`;
	}, [row, pane.id === row.thread, overview.top.jaegerUrl]);
}

export function Recent() {
	const [client, setClient] = useState("");
	const [status, setStatus] = useState("");
	const all = sorted(overview.recent, ([, row]) => -row.endMs);
	const list = all.filter(([, row]) => (!client || row.client === client) && (!status || row.status === status));
	const filters = html`<${Select} label="Client" set=${setClient} list=${all} of="client" /><${Select} label="Status" set=${setStatus} list=${all} of="status" />`;
	const empty = !all.length ? "The last 200 turns stay here, each with where its time went and a link to its trace." : list.length ? "" : "No recent turn fits the filter.";
	return html`<${Panel} title="Recent turns" count=${all.length} aside=${all.length ? filters : ""} empty=${empty}>${list.map(([id, row]) => html`<${Ended} key=${id} id=${id} row=${row} />`)}<//>`;
}

export function Clients() {
	const list = sorted(overview.clients, ([id]) => id);
	const { clients } = overview.top;
	const empty = list.length ? "" : "Nobody is connected. This page is no client until you join a thread.";
	return html`<${Panel} title="Clients" count=${clients} aside=${clients > list.length ? `first ${list.length} shown` : ""} empty=${empty}>${list.map(([id, row]) => html`<li key=${id} class="row" data-connection=${id}>
		<b class="cut">${row.name || "not initialized"}</b>
		<span class="dim cut">${row.version}</span>
		<span class="grow dim">${row.peer}</span>
		${row.state !== "ok" && html`<span class="status failed">${row.state}</span>`}
		<span class="num" title="requests in flight">${row.inFlight} in flight</span>
		<span class="num" title="queued for it">${bytes(row.queueBytes)}</span>
	</li>`)}<//>`;
}

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

export function Wire() {
	const [text, setText] = useState("");
	const { wire, wireOn, skipped } = overview;
	const wanted = text.trim().toLowerCase();
	const fits = (row) => `${row.method} ${row.connection} ${row.error}`.toLowerCase().includes(wanted);
	const list = runs(wanted ? wire.filter(fits) : wire, wireOn ? WIRE_SHOWN : wire.length);
	const tools = html`<input type="search" aria-label="Filter the wire" placeholder="Filter" value=${text} onInput=${(event) => setText(event.target.value)} />
		<button class="small" aria-pressed=${wireOn} onClick=${() => setWire(!wireOn)}>${wireOn ? "Pause" : "Go"}</button>`;
	const none = wire.length ? "No message fits the filter." : wireOn ? "Messages show here as they pass: method, size, time, never what they say." : "Stopped. Go shows what passes from now on.";
	const empty = !list.length ? none : skipped ? `${skipped} not shown: too many at once.` : "";
	return html`<${Panel} title="Wire" count=${wire.length} aside=${tools} empty=${empty}>
		${list.map((row) => html`<li key=${row.id} class="row" data-connection=${row.connection}>
			<span class="dim" title=${row.way === "in" ? "from a client" : "to clients"}>${row.way === "in" ? "→" : "←"}</span>
			<code class="grow">${row.method}${row.times > 1 && html` <b>×${row.times}</b>`}</code>
			${row.error && html`<span class="status failed">${row.error}</span>`}
			<span class="dim num" title="connection">${row.connection}</span>
			<span class="num">${row.ms === null ? "" : span(row.ms)}</span>
			<span class="num">${bytes(row.bytes)}</span>
		</li>`)}
		${wireOn && list.length === WIRE_SHOWN && html`<li class="empty">Pause shows all of the last 1,000.</li>`}
	<//>`;
}
