// The joined thread: text as it streams, tools, diffs, what is asked, the composer.

import { html, useState, useEffect, useRef } from "./vendor/htm-preact.js";
import { Approval, Diff, changes } from "./asks.js";
import { leave, newThread, send, stop } from "./thread.js";
import { Trace } from "./panels.js";

const DIRECTIVES = [
	["Hello", "hello there"],
	["/run", "/run echo hello from the sandbox"],
	["/write", "/write hello.txt hello"],
	["/slow", "/slow 5"],
	["/think", "/think about it"],
	["/tokens", "/tokens 500"],
	["/fail", "/fail on purpose"],
	["/help", "/help"],
];

const inputs = (item) => (item.content || []).map((each) => each.text || each.url || each.path || each.type).join("\n");
const thought = (item) => item.thought || [...(item.summary || []), ...(item.content || [])].join("\n");

function Status({ item }) {
	const words = Number.isInteger(item.exitCode) ? `exit ${item.exitCode}` : item.status === "inProgress" ? "running" : item.status;
	return words ? html`<span class=${`status ${item.exitCode ? "failed" : item.status}`}>${words}</span>` : null;
}

function Item({ item, asked, cwd }) {
	const path = (each) => (cwd && each.startsWith(`${cwd}/`) ? each.slice(cwd.length + 1) : each);
	switch (item.type) {
		case "userMessage":
			return html`<li class="item said"><span class="hidden">You: </span>${inputs(item)}</li>`;
		case "agentMessage":
			return html`<li class="item text"><span class="hidden">Agent: </span>${item.text}</li>`;
		case "reasoning":
			return html`<li class="item thought"><span class="hidden">Reasoning: </span>${thought(item)}</li>`;
		case "commandExecution": // while it is asked for, the approval shows it
			return asked ? null : html`<li class="item tool"><code>$ ${item.command}</code> <${Status} item=${item} />
				${item.aggregatedOutput ? html`<pre class="output"><span>${item.aggregatedOutput}</span></pre>` : null}</li>`;
		case "fileChange":
			return asked ? null : html`<li class="item tool"><b>File change</b> <${Status} item=${item} />${changes(item, path)}</li>`;
		case "turnDiff":
			return item.diff ? html`<li class="item tool"><details><summary>All that this turn changed</summary><${Diff} text=${item.diff} /></details></li>` : null;
		case "turnEnd":
			return html`<li class=${`item end ${item.status}`}>${item.text}</li>`;
		default:
			return html`<li class="item tool"><code>${item.tool || item.type}</code> <${Status} item=${item} /></li>`;
	}
}

function Composer({ thread, draining }) {
	const [text, setText] = useState("");
	const lost = thread.link !== "open";
	const off = draining || lost;
	const submit = async (event) => {
		event.preventDefault();
		if (text.trim() && !off && (await send(text))) setText("");
	};
	const keys = (event) => {
		if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
	};
	const hint = lost ? "Not connected" : draining ? "Draining: no new work" : thread.turn ? "Steer the running turn" : "Say something; Enter sends";
	return html`<form class="composer" onSubmit=${submit}>
		${thread.provider === "offline" ? html`<p class="directives" role="group" aria-label="What the offline engine does">${DIRECTIVES.map(([name, line]) => html`<button key=${name} type="button" class="small" title=${line} disabled=${off} onClick=${() => send(line)}>${name}</button>`)}</p>` : null}
		<p class="entry"><label class="grow"><span class="hidden">Message</span>
			<textarea rows="2" value=${text} onInput=${(event) => setText(event.target.value)} onKeyDown=${keys} disabled=${off} placeholder=${hint}></textarea></label>
			<button class="primary" disabled=${off || !text.trim()}>Send</button>
			<button type="button" disabled=${!thread.turn || lost} onClick=${stop}>Stop</button></p>
	</form>`;
}

// Follows the end of the text, unless somebody has scrolled up to read.
function useFollow(list, what) {
	const at = useRef({ following: true, top: 0 });
	const follow = () => {
		if (at.current.following) list.current.scrollTop = list.current.scrollHeight;
	};
	useEffect(follow, what);
	useEffect(() => {
		const watch = new ResizeObserver(follow);
		watch.observe(list.current);
		watch.observe(list.current.querySelector("ul"));
		return () => watch.disconnect();
	}, []);
	return (event) => {
		const { scrollTop, scrollHeight, clientHeight } = event.target;
		if (scrollHeight - scrollTop - clientHeight < 40) at.current.following = true;
		else if (scrollTop < at.current.top) at.current.following = false;
		at.current.top = scrollTop;
	};
}

function Begin({ button }) {
	return html`<div class="begin"><p>Begin a conversation: type, watch it stream, and follow its trace.</p>
		<p>${button}</p>
		<p class="dim"><b>Join</b>, beside any turn, shows what is said in its thread and what it asks. You then are a client like any other.</p></div>`;
}

export function Pane({ thread, live, recent, top, lost }) {
	const list = useRef(null);
	const onScroll = useFollow(list, [thread.items, thread.asks]);
	const running = live[thread.last];
	const row = running || recent[thread.last];
	const draining = top.state !== "serving";
	const begin = html`<button class=${thread.id ? "small" : "primary"} onClick=${newThread} disabled=${draining || lost}>New thread</button>`;
	const aside = html`${row ? html`<${Trace} trace=${row.trace} thread=${thread.id} top=${top} running=${running} />` : null}
		${begin}<button class="small" onClick=${leave}>Leave</button>`;
	const note = thread.link === "lost" ? "The connection is lost; it comes back by itself." : thread.note;
	const asked = new Set(thread.asks.filter((each) => !each.mine && !each.over).map((each) => each.params.itemId));
	return html`<section class="panel thread" aria-labelledby="h-thread" data-thread=${thread.id}>
		<header><h2 id="h-thread">Thread</h2>${thread.id ? html`<code class="id" title=${thread.id}>…${thread.id.slice(-8)}</code><span class="dim cut">${thread.model}</span><span class="aside">${aside}</span>` : null}</header>
		<div class="body" ref=${list} onScroll=${onScroll} tabindex="0" role="log" aria-label="Messages">
			${thread.id ? null : html`<${Begin} button=${begin} />`}
			${thread.id && !thread.items.length && !thread.asks.length ? html`<p class="empty">Nothing was said yet.</p>` : null}
			<ul>${thread.items.map((item) => html`<${Item} key=${item.id} item=${item} asked=${asked.has(item.id)} cwd=${thread.cwd} />`)}</ul>
			${thread.asks.map((request) => html`<${Approval} key=${request.id} request=${request} items=${thread.items} />`)}
		</div>
		${note ? html`<p class="note" role="status">${note}</p>` : null}
		${thread.id ? html`<${Composer} thread=${thread} draining=${draining} />` : null}
	</section>`;
}
