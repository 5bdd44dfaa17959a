// The page: the overview that the proxy tells, and one thread that one may join.

import { html, render, useEffect, useMemo, useState } from "./vendor/htm-preact.js";
import * as feed from "./feed.js";
import * as threads from "./thread.js";
import { Clients, Live, Needs, Recent, Wire, since, useNow } from "./panels.js";
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

const some = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function State({ top, link, now }) {
	if (link !== "live") return html`<span class="state bad" role="status">${link === "token" ? "locked" : link}</span>`;
	const good = top.state === "serving";
	const left = top.deadlineMs ? `, ${since(top.deadlineMs - now)} left` : "";
	return html`<span class=${`state ${good ? "good" : "warn"}`} role="status">${good ? "serving" : `${top.state}: ${some(top.turns, "turn")} left${left}`}</span>`;
}

function Collector({ of: { kind, state, dropped } }) {
	const words = state === "none" ? "no collector" : `${kind === "file" ? "trace file" : "collector"} ${state}`;
	return html`<li><span class=${`dot ${state}`}></span>${words}${dropped ? `, ${some(dropped, "span")} dropped` : ""}</li>`;
}

function Top({ top, link, now }) {
	return html`<header class="top">
		<h1><img src="console/icon.svg" alt="" width="22" height="22" /> trace-proxy</h1>
		<${State} top=${top} link=${link} now=${now} />
		${top && html`<ul class=${link === "live" ? "facts" : "facts old"}>
			${top.cores.map((core) => html`<li key=${core.id}><span class=${`dot ${core.state}`}></span>core ${core.id} ${core.state}${core.restarts ? `, ${some(core.restarts, "restart")}` : ""}</li>`)}
			${top.hosts && html`<li>${some(top.hosts, "host")}</li>`}
			<li>${some(top.clients, "client")}</li>
			<li>${top.inFlight} in flight</li>
			<${Collector} of=${top.collector} />
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
		<p class="entry"><label class="grow"><span class="hidden">Token</span><input class="wide" type="password" autocomplete="off" value=${text} onInput=${(event) => setText(event.target.value)} /></label><button class="primary">Enter</button></p>
	</form>`;
}

// What does not grow with time is made anew only when it has changed.
function Overview({ view, thread, top, now }) {
	const common = { top, now, joined: thread.id };
	const recent = useMemo(
		() => html`<${Recent} recent=${view.recent} ...${common} />`,
		[view.recent, thread.id, top.jaegerUrl, top.coreService],
	);
	const clients = useMemo(
		() => html`<${Clients} clients=${view.clients} count=${top.clients} />`,
		[view.clients, top.clients],
	);
	const wire = useMemo(
		() => html`<${Wire} wire=${view.wire} skipped=${view.skipped} on=${view.wireOn} />`,
		[view.wire, view.skipped, view.wireOn],
	);
	const lost = view.link !== "live";
	return html`<main class=${lost ? "stale" : ""}>
		<div class="left"><${Needs} needs=${view.needs} ...${common} /><${Live} live=${view.live} ...${common} />${recent}</div>
		<div class="right"><${Pane} thread=${thread} live=${view.live} recent=${view.recent} top=${top} lost=${lost} />${clients}${wire}</div>
	</main>`;
}

function Page() {
	useStore(feed);
	useStore(threads);
	const view = feed.overview;
	const { top, link } = view;
	const waiting = Object.keys(view.needs).length;
	const busy = Object.keys(view.live).length + waiting > 0 || (top && top.deadlineMs);
	const now = useNow(busy ? 250 : 1000) + view.skewMs;
	useEffect(() => {
		document.title = waiting ? `(${waiting}) trace-proxy` : "trace-proxy";
	}, [waiting]);
	const asks = link === "token";
	return html`<${Top} top=${top} link=${link} now=${now} />
		${link !== "live" && !asks && top ? html`<p class="banner" role="alert">${LINKS[link]}</p>` : null}
		${asks ? html`<main class="single"><${AskToken} /></main>` : null}
		${!top && !asks ? html`<main class="single"><p class="empty">${LINKS[link]}</p></main>` : null}
		${top && !asks ? html`<${Overview} view=${view} thread=${threads.pane} top=${top} now=${now} />` : null}`;
}

feed.takeToken();
const root = document.getElementById("page");
root.replaceChildren();
render(html`<${Page} />`, root);
feed.follow();
