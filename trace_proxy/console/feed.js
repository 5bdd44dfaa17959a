// The overview as the proxy tells it: one snapshot, then changes. Holds no content.
// Read by `fetch`, since an EventSource can send no bearer token.

const WIRE_ROWS = 1000;
const RETRY_MS = 1000;
const SILENCE_MS = 20000; // the proxy says something every 5 s

const EMPTY = { needs: {}, live: {}, recent: {}, clients: {} };

export const overview = { ...EMPTY, top: null, wire: [], skipped: 0, link: "connecting", wireOn: true, skewMs: 0 };

let stopped = new AbortController();
let wake = () => {};
let changed = () => {};

// Whom to tell that anything here or in the thread has changed; `others`: by what others do.
export const watch = (watcher) => (changed = watcher);

export const tell = (others = false) => changed(others);

// The token: from the address once, then for as long as this tab lives.
export function takeToken() {
	const found = /^#token=(.+)$/.exec(location.hash);
	if (!found) return;
	sessionStorage.setItem("token", decodeURIComponent(found[1]));
	history.replaceState(null, "", location.pathname + location.search);
}

export const token = () => sessionStorage.getItem("token") || "";

export function setToken(text) {
	sessionStorage.setItem("token", text.trim());
	overview.link = "connecting";
	tell();
	wake();
}

export function setWire(on) {
	overview.wireOn = on;
	tell();
	stopped.abort(); // asks again, with or without the wire
}

function take(name, { nowMs, top, sections, wire, skipped = 0 }) {
	overview.skewMs = nowMs - Date.now();
	overview.link = "live";
	if (top) overview.top = top;
	if (name === "snapshot") Object.assign(overview, EMPTY, sections);
	else
		for (const [section, { set, gone = [] }] of Object.entries(sections || {})) {
			const rows = (overview[section] = { ...overview[section], ...set });
			for (const id of gone) delete rows[id];
		}
	if (wire) {
		overview.wire = overview.wire.concat(wire).slice(-WIRE_ROWS);
		overview.skipped += skipped;
	}
	tell(name !== "snapshot");
}

async function read(signal) {
	const silent = new AbortController();
	let watchdog = 0;
	const heard = () => clearTimeout(watchdog) || (watchdog = setTimeout(() => silent.abort(), SILENCE_MS));
	heard();
	try {
		const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
		const options = { headers, signal: AbortSignal.any([signal, silent.signal]), cache: "no-store" };
		const answer = await fetch(`console/events?wire=${+overview.wireOn}`, options);
		if (!answer.ok) return { 401: "token", 503: "busy" }[answer.status] || "lost";
		const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
		let text = "";
		for (;;) {
			const { done, value } = await reader.read();
			if (done) return "lost";
			heard();
			const events = (text + value).split("\n\n");
			text = events.pop();
			for (const event of events) {
				const found = /^event: (\w+)\ndata: (.*)$/.exec(event);
				if (found) take(found[1], JSON.parse(found[2]));
			}
		}
	} finally {
		clearTimeout(watchdog);
	}
}

const pause = (ms) =>
	new Promise((go) => {
		wake = go;
		if (ms) setTimeout(go, ms);
	});

export async function follow() {
	document.addEventListener("visibilitychange", () => (document.hidden ? stopped.abort() : wake()));
	for (;;) {
		while (document.hidden) await pause(0);
		stopped = new AbortController();
		let ended = "lost";
		try {
			ended = await read(stopped.signal);
		} catch (error) {
			if (error.name !== "AbortError" && !(error instanceof TypeError)) console.error(error);
		}
		if (stopped.signal.aborted) continue;
		overview.link = ended;
		tell();
		await pause(ended === "token" ? 0 : RETRY_MS);
	}
}
