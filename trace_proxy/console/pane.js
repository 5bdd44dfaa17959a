// The joined thread: text as it streams, tools, diffs, what is asked, the composer.

import { html, useState } from "./vendor/htm-preact.js";
import { Approval, Diff, changes } from "./asks.js";
import { overview } from "./feed.js";
import { leave, newThread, pane, send, stop } from "./thread.js";
import { Trace, memo } from "./panels.js";

const DIRECTIVES = ["hello there", "/run echo hello from the sandbox", "/write hello.txt hello", "/slow 5", "/think about it", "/tokens 500", "/fail on purpose", "/help"];

const inputs = (item) => (item.content || []).map((each) => each.text || each.url || each.path || each.type).join("\n");
const thought = (item) => item.thought || [...(item.summary || []), ...(item.content || [])].join("\n");

function Status({ item: { exitCode, status } }) {
	const words = Number.isInteger(exitCode) ? `exit ${exitCode}` : status === "inProgress" ? "running" : status;
	return words && html`<span class="status ${exitCode ? "failed" : status}">${words}</span>`;
}

// While it is asked for, the approval shows what a command or a change is.
const Item = memo(({ item, asked }) => {
	const path = (each) => (each.startsWith(`${pane.cwd}/`) ? each.slice(pane.cwd.length + 1) : each);
	const status = html` <${Status} item=${item} />`;
	switch (item.type) {
		case "userMessage":
			return html`<li class="item said"><span class="hidden">You: </span>${inputs(item)}</li>`;
		case "agentMessage":
			return html`<li class="item text"><span class="hidden">Agent: </span>${item.text}</li>`;
		case "reasoning":
			return html`<li class="item thought"><span class="hidden">Reasoning: </span>${thought(item)}</li>`;
		case "commandExecution":
			return !asked && html`<li class="item tool"><code>$ ${item.command}</code>${status}
				${item.aggregatedOutput && html`<pre class="output"><span>${item.aggregatedOutput}</span></pre>`}</li>`;
		case "fileChange":
			return !asked && html`<li class="item tool"><b>File change</b>${status}${changes(item, path)}</li>`;
		case "turnDiff":
			return item.diff && html`<li class="item tool"><details><summary>All that this turn changed</summary><${Diff} text=${item.diff} /></details></li>`;
		case "turnEnd":
			return html`<li class="item end ${item.status}">${item.text}</li>`;
		default:
			return html`<li class="item tool"><code>${item.tool || item.type}</code>${status}</li>`;
	}
});

function Composer({ draining }) {
	const [text, setText] = useState("");
	const lost = pane.link !== "open";
	const off = draining || lost;
	const submit = async (event) => {
		event.preventDefault();
		if (text.trim() && !off && (await send(text))) setText("");
	};
	const keys = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && submit(event);
	const hint = lost ? "Not connected" : draining ? "Draining: no new work" : pane.turn ? "Steer the running turn" : "Say something; Enter sends";
	return html`<form class="composer" onSubmit=${submit}>
		${pane.provider === "offline" && html`<p class="directives" role="group" aria-label="What the offline engine does">${DIRECTIVES.map((line) => html`<button key=${line} type="button" class="small" title=${line} disabled=${off} onClick=${() => send(line)}>${line.split(" ")[0]}</button>`)}</p>`}
		<p class="entry"><textarea rows="2" aria-label="Message" value=${text} onInput=${(event) => setText(event.target.value)} onKeyDown=${keys} disabled=${off} placeholder=${hint}></textarea>
			<button class="primary" disabled=${off || !text.trim()}>Send</button>
			<button type="button" disabled=${!pane.turn || lost} onClick=${stop}>Stop</button></p>
	</form>`;
}

export const Pane = memo(({ row }) => {
	const { id, last, items, asks, link } = pane;
	const draining = overview.top.state !== "serving";
	const begin = html`<button class=${id ? "small" : "primary"} onClick=${newThread} disabled=${draining || overview.link !== "live"}>New thread</button>`;
	const note = link === "lost" ? "The connection is lost; it comes back by itself." : pane.note;
	const asked = new Set(asks.filter((each) => !each.mine && !each.over).map((each) => each.params.itemId));
	return html`<section class="panel thread" aria-labelledby="h-thread" data-thread=${id}>
		<header><h2 id="h-thread">Thread</h2>${id && html`<code class="id" title=${id}>…${id.slice(-8)}</code><span class="dim cut">${pane.model}</span>
			<span class="aside">${row && html`<${Trace} row=${row} running=${last in overview.live} />`}${begin}<button class="small" onClick=${leave}>Leave</button></span>`}</header>
		<div class="body" tabindex="0" role="log" aria-label="Messages"><div>
			${!id && html`<div class="begin"><p>Begin a conversation: type, watch it stream, and follow its trace.</p><p>${begin}</p>
				<p class="dim"><b>Join</b>, beside any turn, shows what is said in its thread and what it asks. You then are a client like any other.</p></div>`}
			${id && !items.length && !asks.length && html`<p class="dim">Nothing was said yet.</p>`}
			<ul>${items.map((item) => html`<${Item} key=${item.id} item=${item} asked=${asked.has(item.id)} />`)}</ul>
			${asks.map((request) => html`<${Approval} key=${request.id} request=${request} items=${items} />`)}
		</div></div>
		${note && html`<p class="note" role="status">${note}</p>`}
		${id && html`<${Composer} draining=${draining} />`}
	</section>`;
});
