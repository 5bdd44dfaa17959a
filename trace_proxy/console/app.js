// The page: the overview that the proxy tells, and one thread that one may join.

import { html, render, useEffect, useState } from "./vendor/htm-preact.js";
import * as feed from "./feed.js";
import * as threads from "./thread.js";
import { Clients, Live, Needs, Recent, Wire, span, useNow } from "./panels.js";
import { Pane } from "./pane.js";

const LINKS = {
  connecting: "Connecting",
  lost: "The proxy does not answer. This page comes back by itself.",
  busy: "Too many consoles are open; trying again.",
};

// Renders once a frame, however much has come.
function useStore(store) {
  const [, set] = useState(0);
  useEffect(() => {
    let asked = false;
    return store.subscribe(() => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        set((n) => n + 1);
      });
    });
  }, []);
}

function State({ top, link, now }) {
  if (link !== "live") return html`<span class="state bad" role="status">${link === "lost" ? "lost" : link}</span>`;
  const good = top.state === "serving";
  const left = top.deadlineMs ? `, ${span(top.deadlineMs - now)} left` : "";
  const words = good ? "serving" : `${top.state}: ${top.turns} turn${top.turns === 1 ? "" : "s"} left${left}`;
  return html`<span class=${`state ${good ? "good" : "warn"}`} role="status">${words}</span>`;
}

function Top({ top, link, now }) {
  return html`<header class="top">
    <h1><img src="console/icon.svg" alt="" width="22" height="22" /> trace-proxy</h1>
    <${State} top=${top} link=${link} now=${now} />
    ${top && html`<ul class="facts">
      ${top.cores.map((core) => html`<li key=${core.id}><span class=${`dot ${core.state}`}></span>core ${core.id} ${core.state}${core.restarts ? `, ${core.restarts} restart${core.restarts === 1 ? "" : "s"}` : ""}</li>`)}
      ${top.hosts && html`<li>${top.hosts} hosts</li>`}
      <li><b>${top.clients}</b> client${top.clients === 1 ? "" : "s"}</li>
      <li><b>${top.inFlight}</b> in flight</li>
      <li title=${top.collector.kind}><span class=${`dot ${top.collector.state}`}></span>collector ${top.collector.state}${top.collector.dropped ? `, ${top.collector.dropped} spans dropped` : ""}</li>
    </ul>`}
  </header>`;
}

function AskToken() {
  const [text, setText] = useState("");
  const submit = (event) => {
    event.preventDefault();
    if (text.trim()) feed.setToken(text);
  };
  const refused = feed.token() ? "That token was refused." : "This proxy asks who you are.";
  return html`<form class="token panel" onSubmit=${submit} aria-labelledby="h-token">
    <h2 id="h-token">Token</h2><p>${refused} The token stays in this tab.</p>
    <p class="entry"><label class="grow"><span class="hidden">Token</span><input type="password" autocomplete="off" value=${text} onInput=${(event) => setText(event.target.value)} /></label><button class="primary">Enter</button></p>
  </form>`;
}

function Page() {
  useStore(feed);
  useStore(threads);
  const view = feed.overview;
  const { top, link } = view;
  const thread = threads.pane;
  const waiting = Object.keys(view.needs).length;
  const busy = Object.keys(view.live).length + waiting > 0 || (top && top.deadlineMs);
  const now = useNow(busy ? 250 : 1000) + view.skewMs;
  useEffect(() => {
    document.title = waiting ? `(${waiting}) trace-proxy` : "trace-proxy";
  }, [waiting]);
  const common = { top, now, joined: thread.id };
  return html`<${Top} top=${top} link=${link} now=${now} />
    ${link !== "live" && link !== "token" && top ? html`<p class="banner" role="alert">${LINKS[link]}</p>` : null}
    ${link === "token" ? html`<main class="single"><${AskToken} /></main>` : null}
    ${!top && link !== "token" ? html`<main class="single"><p class="empty">${LINKS[link]}</p></main>` : null}
    ${top && link !== "token"
      ? html`<main class=${link === "live" ? "" : "stale"}>
          <div class="left">
            <${Needs} needs=${view.needs} ...${common} />
            <${Live} live=${view.live} ...${common} />
            <${Recent} recent=${view.recent} ...${common} />
          </div>
          <div class="right">
            <${Pane} thread=${thread} live=${view.live} recent=${view.recent} top=${top} lost=${link !== "live"} />
            <${Clients} clients=${view.clients} top=${top} />
            <${Wire} wire=${view.wire} skipped=${view.skipped} on=${view.wireOn} />
          </div>
        </main>`
      : null}`;
}

feed.takeToken();
const root = document.getElementById("page");
root.replaceChildren();
render(html`<${Page} />`, root);
feed.follow();
