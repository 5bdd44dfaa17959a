// The page: the overview, and one thread that one may join.

import { html, render } from "./vendor/htm-preact.js";
import { follow, overview, setToken, takeToken, token, watch } from "./feed.js";
import { Clients, Live, Needs, Recent, Wire, since, some, useNow } from "./panels.js";
import { Pane } from "./pane.js";
import { pane } from "./thread.js";

const LINKS = {
	connecting: "Connecting",
	lost: "The proxy does not answer. This page comes back by itself.",
	busy: "Too many consoles are open; trying again.",
};

function State() {
	const { top, link } = overview;
	const now = useNow(top && top.deadlineMs);
	if (link !== "live") return html`<span class="state bad" role="status">${link === "token" ? "locked" : link}</span>`;
	if (top.state === "serving") return html`<span class="state good" role="status">serving</span>`;
	const left = top.deadlineMs ? `, ${since(top.deadlineMs - now)} left` : "";
	return html`<span class="state warn" role="status">${top.state}: ${some(top.turns, "turn")} left${left}</span>`;
}

function Facts() {
	const { cores, hosts, clients, inFlight, collector } = overview.top;
	const { kind, state, dropped } = collector;
	const traces = state === "none" ? "no collector" : `${kind === "file" ? "trace file" : "collector"} ${state}`;
	return html`<ul class=${overview.link === "live" ? "facts" : "facts old"}>
		${cores.map((core) => html`<li key=${core.id}><span class="dot ${core.state}"></span>core ${core.id} ${core.state}${core.restarts ? `, ${some(core.restarts, "restart")}` : ""}</li>`)}
		${hosts && html`<li>${some(hosts, "host")}</li>`}
		<li>${some(clients, "client")}</li>
		<li>${inFlight} in flight</li>
		<li><span class="dot ${state}"></span>${traces}${dropped ? `, ${some(dropped, "span")} dropped` : ""}</li>
	</ul>`;
}

function AskToken() {
	const submit = (event) => {
		event.preventDefault();
		setToken(event.target.elements.token.value);
	};
	const refused = token() ? "That token was refused." : "This proxy asks who you are.";
	return html`<form class="token panel" onSubmit=${submit} aria-labelledby="h-token">
		<h2 id="h-token">Token</h2><p>${refused} The token stays in this tab.</p>
		<p class="entry"><input class="wide" name="token" aria-label="Token" type="password" autocomplete="off" required /><button class="primary">Enter</button></p>
	</form>`;
}

// Each part is made anew when what it is given has changed.
function Overview() {
	const { top, link, needs, live, recent, clients, wire, wireOn } = overview;
	const joined = pane.id;
	return html`<main class=${link === "live" ? "" : "stale"}>
		<div class="left"><${Needs} of=${needs} joined=${joined} /><${Live} of=${live} count=${top.turns} joined=${joined} /><${Recent} of=${recent} joined=${joined} /></div>
		<div class="right"><${Pane} of=${pane} row=${live[pane.last] || recent[pane.last]} state=${top.state} link=${link} /><${Clients} of=${clients} count=${top.clients} /><${Wire} of=${wire} on=${wireOn} /></div>
	</main>`;
}

function Page() {
	const { top, link, needs } = overview;
	const waiting = Object.keys(needs).length;
	document.title = waiting ? `(${waiting}) trace-proxy` : "trace-proxy";
	const asks = link === "token";
	return html`<header class="top">
			<h1><img src="console/icon.svg" alt="" width="22" height="22" /> trace-proxy</h1>
			<${State} />${top && html`<${Facts} />`}
		</header>
		${link !== "live" && !asks && top && html`<p class="banner" role="alert">${LINKS[link]}</p>`}
		${top && !asks ? html`<${Overview} />` : html`<main class="single">${asks ? html`<${AskToken} />` : html`<p class="empty">${LINKS[link]}</p>`}</main>`}`;
}

// Once a frame, however much has come; for what others do, a tenth of the time at most.
let asked = 0;
let later = 0;
let rests = 0;

function show() {
	clearTimeout(later);
	asked = later = 0;
	const began = performance.now();
	render(html`<${Page} />`, document.getElementById("page"));
	setTimeout(() => (rests = performance.now() + Math.min(9 * (performance.now() - began), 1000))); // painted
}

const soon = () => (asked ||= requestAnimationFrame(show));

takeToken();
watch((others) => (others ? (later ||= setTimeout(soon, rests - performance.now())) : soon()));
show();
follow();
