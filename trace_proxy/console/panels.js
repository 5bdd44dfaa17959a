// The overview's panels: what waits, runs, ran, who is here, what is said. No content, ever.

import { html, useState, useEffect } from "./vendor/htm-preact.js";
import { setWire } from "./feed.js";
import { join } from "./thread.js";

const WIRE_SHOWN = 200; // while it moves; all of it once it is paused

export function useNow(everyMs) {
	const [now, setNow] = useState(Date.now());
	useEffect(() => {
		const timer = setInterval(() => document.hidden || setNow(Date.now()), everyMs);
		return () => clearInterval(timer);
	}, [everyMs]);
	return now;
}

export function span(ms, digits = 1) {
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

const tail = (id) => (id && id.length > 12 ? `…${id.slice(-8)}` : id);
const rows = (section) => Object.entries(section);

const ASKS = {
	"item/commandExecution/requestApproval": "Run a command",
	"item/fileChange/requestApproval": "Change files",
	"item/permissions/requestApproval": "Permissions",
	"item/tool/requestUserInput": "A question",
	"mcpServer/elicitation/request": "A question",
};

function Panel({ title, count, aside, children, name }) {
	const id = `h-${name}`;
	return html`<section class=${`panel ${name}`} aria-labelledby=${id}>
		<header><h2 id=${id}>${title}</h2>${count ? html`<span class="count">${count}</span>` : null}<span class="aside">${aside}</span></header>
		<div class="body" tabindex="0" role="group" aria-labelledby=${id}>${children}</div>
	</section>`;
}

const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

function Thread({ id, joined }) {
	const here = joined === id;
	return html`<span class="where"><code class="id" title=${id}>${tail(id)}</code>
		<button class="small" disabled=${here} onClick=${() => join(id)}>${here ? "Joined" : "Join"}</button></span>`;
}

const Who = ({ row }) => html`<span class="grow" title=${`${row.client} ${row.model}`}><b>${row.client || "unknown"}</b> <span class="dim">${row.model}</span></span>`;

function Copy({ text }) {
	const [done, setDone] = useState(false);
	const copy = async () => {
		if (!navigator.clipboard) return prompt("Trace id", text); // a page over plain HTTP has none
		await navigator.clipboard.writeText(text);
		setDone(true);
	};
	return html`<button class="small" title=${text} onClick=${copy}>${done ? "Copied" : "Copy id"}</button>`;
}

export function Trace({ trace, thread, top, running }) {
	if (!trace) return html`<span class="dim" title="This turn is not sampled">no trace</span>`;
	if (running) return html`<span class="dim later" title=${trace}>trace<span> appears when it ends</span></span>`;
	if (!top.jaegerUrl) return html`<${Copy} text=${trace} />`;
	const tags = encodeURIComponent(JSON.stringify({ "gen_ai.conversation.id": thread }));
	const search = `${top.jaegerUrl}/search?service=${encodeURIComponent(top.coreService)}&tags=${tags}&lookback=2d&limit=100`;
	return html`<a href=${`${top.jaegerUrl}/trace/${trace}`} target="_blank" rel="noreferrer">Trace</a>
		<a class="dim" href=${search} target="_blank" rel="noreferrer" title="All turns of this thread in Jaeger">all</a>`;
}

const KINDS = ["model", "tool", "human"];
const Legend = () => html`<span class="legend">${KINDS.map((kind) => html`<span><i class=${kind}></i>${kind}</span>`)}</span>`;

function Lane({ split, scaleMs }) {
	const total = split.reduce((sum, ms) => sum + ms, 0) || 1;
	const words = KINDS.map((kind, i) => `${kind} ${span(split[i])}`).join(", ");
	const width = scaleMs ? Math.max(2, Math.min(100, (100 * total) / scaleMs)) : 100;
	return html`<span class="lane" role="img" aria-label=${words} title=${words}>
		${KINDS.map((kind, i) => (split[i] ? html`<i class=${kind} style=${{ width: `${(width * split[i]) / total}%` }}></i>` : null))}
	</span>`;
}

// What went by since the row was made belongs to what it does now.
function grown(row, now) {
	const split = [...row.split];
	split[KINDS.indexOf(row.now)] += Math.max(0, now - row.atMs);
	return split;
}

const short = (count) => (count < 1000 ? count : `${(count / 1000).toFixed(count < 10000 ? 1 : 0)}k`);

function Tokens({ tokens: [came, went] }) {
	return html`<span class="dim num" title="tokens in → out">${came || went ? `${short(came)} → ${short(went)} tok` : ""}</span>`;
}

export function Needs({ needs, now, joined }) {
	const list = rows(needs).sort((a, b) => a[1].sinceMs - b[1].sinceMs);
	return html`<${Panel} title="Needs you" name="needs" count=${list.length}>
		${list.length ? null : html`<${Empty}>Nothing waits for a human. An approval that does shows here, and in this page's title.<//>`}
		<ul>${list.map(([id, row]) => html`<li key=${id} class="row need" data-thread=${row.thread} data-turn=${row.turn} data-request=${id}>
			<b class="cut" title=${row.kind}>${ASKS[row.kind] || row.kind}</b>
			<span class="grow">${row.client || "nobody here"}</span>
			<${Thread} id=${row.thread} joined=${joined} />
			<time class="num wait">${since(now - row.sinceMs)}</time>
		</li>`)}</ul>
	<//>`;
}

const DOES = { model: "thinking", human: "waits for a human" };

export function Live({ live, top, now, joined }) {
	const list = rows(live).sort((a, b) => a[1].startMs - b[1].startMs);
	const scaleMs = Math.max(10000, ...list.map(([, row]) => now - row.startMs));
	const some = top.turns > list.length ? `first ${list.length} shown` : "";
	return html`<${Panel} title="Live turns" name="live" count=${top.turns} aside=${html`${some}<${Legend} />`}>
		${list.length ? null : html`<${Empty}>No turn runs. Begin one: <b>New thread</b>, or connect any client to <code>${location.host}</code>.<//>`}
		<ul>${list.map(([id, row]) => html`<li key=${id} class="row turn" data-thread=${row.thread} data-turn=${id}>
			<span class=${`does cut ${row.now}`}>${row.now === "tool" ? row.tool : DOES[row.now]}</span>
			<${Who} row=${row} />
			<${Thread} id=${row.thread} joined=${joined} />
			<${Tokens} tokens=${row.tokens} />
			<time class="num">${since(now - row.startMs)}</time>
			<span class="links"><${Trace} trace=${row.trace} thread=${row.thread} top=${top} running /></span>
			<${Lane} split=${grown(row, now)} scaleMs=${scaleMs} />
		</li>`)}</ul>
	<//>`;
}

function Select({ label, value, options, set }) {
	return html`<label><span class="hidden">${label}</span>
		<select value=${value} onChange=${(event) => set(event.target.value)}>
			<option value="">${label}: all</option>${options.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}
		</select></label>`;
}

const distinct = (list, member) => [...new Set(list.map(([, row]) => row[member]).filter(Boolean))].sort();

export function Recent({ recent, top, joined }) {
	const [client, setClient] = useState("");
	const [status, setStatus] = useState("");
	const all = rows(recent).sort((a, b) => b[1].endMs - a[1].endMs);
	const list = all.filter(([, row]) => (!client || row.client === client) && (!status || row.status === status));
	const filters = html`<${Select} label="Client" value=${client} options=${distinct(all, "client")} set=${setClient} />
		<${Select} label="Status" value=${status} options=${distinct(all, "status")} set=${setStatus} />`;
	return html`<${Panel} title="Recent turns" name="recent" count=${all.length} aside=${all.length ? filters : null}>
		${all.length ? null : html`<${Empty}>The last 200 turns stay here, each with where its time went and a link to its trace.<//>`}
		${all.length && !list.length ? html`<${Empty}>No recent turn fits the filter.<//>` : null}
		<ul>${list.map(([id, row]) => html`<li key=${id} class="row turn" data-thread=${row.thread} data-turn=${id}>
			<span class=${`status cut ${row.status}`} title=${`${row.status} ${row.error}`}>${row.status}</span>
			<${Who} row=${row} />
			<${Thread} id=${row.thread} joined=${joined} />
			<${Tokens} tokens=${row.tokens} />
			<time class="num">${span(row.endMs - row.startMs)}</time>
			<span class="links"><${Trace} trace=${row.trace} thread=${row.thread} top=${top} /></span>
			<${Lane} split=${row.split} />
			${row.error ? html`<small class=${`why ${row.status}`}>${row.error}</small>` : null}
		</li>`)}</ul>
	<//>`;
}

export function Clients({ clients, count }) {
	const list = rows(clients).sort((a, b) => a[0] - b[0]);
	return html`<${Panel} title="Clients" name="clients" count=${count} aside=${count > list.length ? `first ${list.length} shown` : ""}>
		${list.length ? null : html`<${Empty}>Nobody is connected. This page is no client until you join a thread.<//>`}
		<ul>${list.map(([id, row]) => html`<li key=${id} class="row" data-connection=${id}>
			<b class="cut">${row.name || "not initialized"}</b>
			<span class="dim cut">${row.version}</span>
			<span class="grow dim">${row.peer}</span>
			${row.state === "ok" ? null : html`<span class="status failed">${row.state}</span>`}
			<span class="num" title="requests in flight">${row.inFlight} in flight</span>
			<span class="num" title="queued for it">${bytes(row.queueBytes)}</span>
		</li>`)}</ul>
	<//>`;
}

// A stream of deltas is one row. Newest first.
function runs(rows, most) {
	const shown = [];
	for (let i = rows.length - 1; i >= 0 && shown.length < most; i--) {
		const row = rows[i];
		const last = shown[shown.length - 1];
		if (last && row.ms === null && last.ms === null && ["way", "method", "connection", "error"].every((each) => last[each] === row[each])) {
			last.times += 1;
			last.bytes += row.bytes;
		} else shown.push({ ...row, times: 1 });
	}
	return shown;
}

export function Wire({ wire, skipped, on }) {
	const [text, setText] = useState("");
	const wanted = text.trim().toLowerCase();
	const fits = (row) => !wanted || `${row.method} ${row.connection} ${row.error}`.toLowerCase().includes(wanted);
	const list = runs(wire.filter(fits), on ? WIRE_SHOWN : wire.length);
	const tools = html`<label><span class="hidden">Filter the wire</span><input type="search" placeholder="Filter" value=${text} onInput=${(event) => setText(event.target.value)} /></label>
		<button class="small" aria-pressed=${on} onClick=${() => setWire(!on)}>${on ? "Pause" : "Go"}</button>`;
	return html`<${Panel} title="Wire" name="wire" count=${wire.length} aside=${tools}>
		${list.length ? null : html`<${Empty}>${wire.length ? "No message fits the filter." : on ? "Messages show here as they pass: method, size, time, never what they say." : "Stopped. Go shows what passes from now on."}<//>`}
		${skipped ? html`<p class="empty">${skipped} not shown: too many at once.</p>` : null}
		<ul>${list.map((row) => html`<li key=${row.id} class="row" data-connection=${row.connection}>
			<span class="dim" title=${row.way === "in" ? "from a client" : "to clients"}>${row.way === "in" ? "→" : "←"}</span>
			<code class="grow">${row.method}${row.times > 1 ? html` <b>×${row.times}</b>` : null}</code>
			${row.error ? html`<span class="status failed">${row.error}</span>` : null}
			<span class="dim num" title="connection">${row.connection}</span>
			<span class="num">${row.ms === null ? "" : span(row.ms)}</span>
			<span class="num">${bytes(row.bytes)}</span>
		</li>`)}</ul>
	<//>`;
}
