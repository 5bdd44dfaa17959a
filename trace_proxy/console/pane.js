// The joined thread: text as it streams, tools, diffs, approvals, the composer.

import { html, useState, useEffect, useRef } from "./vendor/htm-preact.js";
import { decide, dismiss, leave, newThread, pane, send, stop } from "./thread.js";
import { Panel, Trace } from "./panels.js";

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

function Diff({ text }) {
  const kind = (line) => (line[0] === "+" ? "add" : line[0] === "-" ? "cut" : line[0] === "@" ? "hunk" : "");
  return html`<pre class="diff">${text.trimEnd().split("\n").map((line) => html`<span class=${kind(line)}>${line}${"\n"}</span>`)}</pre>`;
}

const changes = (item) =>
  (item.changes || []).map((each) => html`<div class="change"><code>${(each.kind && each.kind.type) || "change"} ${each.path}</code>
    <${Diff} text=${each.kind && each.kind.type === "add" && each.diff[0] !== "@" ? each.diff.replace(/^(?=.)/gm, "+") : each.diff || ""} /></div>`);

const inputs = (item) => (item.content || []).map((each) => each.text || each.url || each.path || each.type).join("\n");
const thought = (item) => item.thought || [...(item.summary || []), ...(item.content || [])].join("\n");

function Item({ item, asked }) {
  switch (item.type) {
    case "userMessage":
      return html`<li class="item said"><span class="hidden">You: </span>${inputs(item)}</li>`;
    case "agentMessage":
      return html`<li class="item text"><span class="hidden">Agent: </span>${item.text}</li>`;
    case "reasoning":
      return html`<li class="item thought"><span class="hidden">Reasoning: </span>${thought(item)}</li>`;
    case "commandExecution":
      return html`<li class="item tool"><code>$ ${item.command}</code> <${State} item=${item} />
        ${item.aggregatedOutput ? html`<pre>${item.aggregatedOutput}</pre>` : null}</li>`;
    case "fileChange":
      return html`<li class="item tool"><b>File change</b> <${State} item=${item} />${asked ? null : changes(item)}</li>`;
    case "turnDiff":
      return item.diff ? html`<li class="item tool"><b>Changed in this turn</b><${Diff} text=${item.diff} /></li>` : null;
    default:
      return html`<li class="item tool"><code>${item.tool || item.type}</code> <${State} item=${item} /></li>`;
  }
}

function State({ item }) {
  const code = Number.isInteger(item.exitCode) ? `exit ${item.exitCode}` : "";
  const status = item.status === "inProgress" ? "running" : item.status || "";
  return html`<span class=${`status ${item.status}`}>${code || status}</span>`;
}

const LABELS = { accept: "Accept", acceptForSession: "Accept for session", decline: "Decline", cancel: "Cancel turn" };

function label(decision) {
  if (typeof decision === "string") return LABELS[decision] || decision;
  const name = Object.keys(decision)[0] || "other";
  return { acceptWithExecpolicyAmendment: "Accept, and always this command", applyNetworkPolicyAmendment: "Accept, and this network rule" }[name] || name;
}

function Approval({ request, items }) {
  const { params } = request;
  const item = items.find((each) => each.id === params.itemId) || {};
  const file = request.method.includes("fileChange");
  const known = request.method.includes("requestApproval");
  const decisions = params.availableDecisions || ["accept", "decline"];
  const title = file ? "Change these files?" : request.method.includes("commandExecution") ? "Run this command?" : request.method;
  return html`<div class="approval" role="group" aria-label=${title} data-request=${request.id}>
    <b>${title}</b>
    ${params.reason ? html`<p>${params.reason}</p>` : null}
    ${params.command ? html`<pre class="command">${params.command}</pre>` : null}
    ${params.cwd ? html`<p class="dim">in <code>${params.cwd}</code></p>` : null}
    ${params.grantRoot ? html`<p class="dim">asks for <code>${params.grantRoot}</code></p>` : null}
    ${file ? changes(item) : null}
    ${known || request.over ? null : html`<pre class="command">${JSON.stringify(params, null, 1)}</pre><p class="dim">This page cannot answer it; another client may.</p>`}
    ${request.over
      ? html`<p role="status">${request.over} <button class="small" onClick=${() => dismiss(request)}>Dismiss</button></p>`
      : request.mine
        ? html`<p role="status">Answered: ${label(request.mine)}</p>`
        : known && html`<p class="buttons">${decisions.map((each) => html`<button key=${label(each)} class=${label(each) === "Accept" ? "primary" : ""}
            onClick=${(event) => decide(request, each, event.detail === 0)}>${label(each)}</button>`)}</p>`}
  </div>`;
}

function Composer({ thread, draining }) {
  const [text, setText] = useState("");
  const off = draining || thread.link !== "open";
  const submit = async (event) => {
    event.preventDefault();
    if (text.trim() && !off && (await send(text))) setText("");
  };
  const keys = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`<form class="composer" onSubmit=${submit}>
    ${thread.provider === "offline" ? html`<p class="directives" role="group" aria-label="What the offline engine does">${DIRECTIVES.map(([name, line]) => html`<button key=${name} type="button" class="small" title=${line} disabled=${off} onClick=${() => send(line)}>${name}</button>`)}</p>` : null}
    <p class="entry"><label class="grow"><span class="hidden">Message</span>
      <textarea rows="2" value=${text} onInput=${(event) => setText(event.target.value)} onKeyDown=${keys} disabled=${off}
        placeholder=${draining ? "Draining: no new work" : thread.turn ? "Steer the running turn" : "Say something; Enter sends"}></textarea></label>
      <button class="primary" disabled=${off || !text.trim()}>Send</button>
      <button type="button" disabled=${!thread.turn} onClick=${stop}>Stop</button></p>
  </form>`;
}

// Follows the end of the text, unless somebody has scrolled up to read.
function useFollow(list, what) {
  const following = useRef(true);
  const follow = () => {
    if (following.current) list.current.scrollTop = list.current.scrollHeight;
  };
  useEffect(follow, what);
  useEffect(() => {
    const watch = new ResizeObserver(follow);
    watch.observe(list.current);
    return () => watch.disconnect();
  }, []);
  return (event) => {
    const { scrollTop, scrollHeight, clientHeight } = event.target;
    following.current = scrollHeight - scrollTop - clientHeight < 40;
  };
}

export function Pane({ thread, live, recent, top, lost }) {
  const list = useRef(null);
  const onScroll = useFollow(list, [thread.items, thread.asks]);
  const running = live[thread.last];
  const row = running || recent[thread.last];
  const draining = top.state !== "serving";
  const begin = html`<button class=${thread.id ? "" : "primary"} onClick=${newThread} disabled=${draining || lost}>New thread</button>`;
  const aside = html`${row ? html`<${Trace} trace=${row.trace} thread=${thread.id} top=${top} running=${Boolean(running)} />` : null}
    ${begin}${thread.id ? html`<button class="small" onClick=${leave}>Leave</button>` : null}`;
  const note = thread.link === "lost" ? "The connection is lost; it comes back by itself." : thread.note;
  return html`<section class="panel thread" aria-labelledby="h-thread" data-thread=${thread.id}>
    <header><h2 id="h-thread">Thread</h2>${thread.id ? html`<code class="id" title=${thread.id}>…${thread.id.slice(-8)}</code><span class="dim cwd">${thread.model}</span>` : null}<span class="aside">${aside}</span></header>
    <div class="body" ref=${list} onScroll=${onScroll} tabindex="0" role="log" aria-label="Messages">
      ${thread.id ? null : html`<div class="empty"><p><b>New thread</b> begins a conversation here: type, watch it stream, and follow its trace.</p><p><b>Join</b>, beside any turn, shows what is said in its thread. You then are a client like any other.</p></div>`}
      ${thread.id && !thread.items.length ? html`<p class="empty">Nothing was said yet.</p>` : null}
      <ul>${thread.items.map((item) => html`<${Item} key=${item.id} item=${item} asked=${thread.asks.some((each) => each.params.itemId === item.id)} />`)}</ul>
      ${thread.asks.map((request) => html`<${Approval} key=${request.id} request=${request} items=${thread.items} />`)}
    </div>
    ${note ? html`<p class="note" role="status">${note}</p>` : null}
    ${thread.id ? html`<${Composer} thread=${thread} draining=${draining} />` : null}
  </section>`;
}
