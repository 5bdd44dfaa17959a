// The overview as the proxy tells it: one snapshot, then changes, at most four a second.
// Read by `fetch`, since an EventSource can send no bearer token. Holds no content.

const WIRE_ROWS = 1000;
const RETRY_MS = [500, 1000, 2000, 3000];
const SILENCE_MS = 20000; // the proxy says something every 5 s

const empty = () => ({ top: null, needs: {}, live: {}, recent: {}, clients: {}, wire: [], skipped: 0 });

const state = { ...empty(), link: "connecting", wireOn: true, skewMs: 0 };
const listeners = new Set();
let stopped = null;
let wake = () => {};

export const overview = state;

export function subscribe(listener) {
	listeners.add(listener);
	return () => listeners.delete(listener);
}

function changed() {
	for (const listener of listeners) listener();
}

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
	state.link = "connecting";
	changed();
	wake();
}

export function setWire(on) {
	state.wireOn = on;
	changed();
	if (stopped) stopped.abort(); // asks again, with or without the wire
}

function take(name, data) {
	state.skewMs = data.nowMs - Date.now();
	if (name === "snapshot") {
		Object.assign(state, empty(), { wire: state.wire, skipped: state.skipped }, { top: data.top }, data.sections);
	} else {
		if (data.top) state.top = data.top;
		for (const [section, change] of Object.entries(data.sections || {})) {
			const rows = { ...state[section], ...change.set };
			for (const id of change.gone || []) delete rows[id];
			state[section] = rows;
		}
		if (data.wire) {
			const wire = state.wire.concat(data.wire);
			state.wire = wire.length > WIRE_ROWS ? wire.slice(-WIRE_ROWS) : wire;
			state.skipped += data.skipped || 0;
		}
	}
	state.link = "live";
	changed();
}

async function read(signal) {
	const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
	const answer = await fetch(`console/events?wire=${state.wireOn ? 1 : 0}`, { headers, signal, cache: "no-store" });
	if (answer.status === 401) return "token";
	if (!answer.ok || !answer.body) return answer.status === 503 ? "busy" : "lost";
	const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
	let text = "";
	let watch = 0;
	const quiet = () => reader.cancel().catch(() => {});
	try {
		for (;;) {
			clearTimeout(watch);
			watch = setTimeout(quiet, SILENCE_MS);
			const { done, value } = await reader.read();
			if (done) return "lost";
			text += value;
			const events = text.split("\n\n");
			text = events.pop();
			for (const event of events) {
				const found = /^event: (\w+)\ndata: (.*)$/s.exec(event);
				if (found) take(found[1], JSON.parse(found[2]));
			}
		}
	} finally {
		clearTimeout(watch);
	}
}

const visible = () =>
	document.hidden
		? new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }))
		: null;

const pause = (ms) =>
	new Promise((go) => {
		wake = go;
		if (ms) setTimeout(go, ms);
	});

export async function follow() {
	document.addEventListener("visibilitychange", () => {
		if (document.hidden && stopped) stopped.abort();
	});
	let failures = 0;
	for (;;) {
		while (document.hidden) await visible();
		stopped = new AbortController();
		let ended = "lost";
		try {
			ended = await read(stopped.signal);
		} catch (error) {
			if (error.name !== "AbortError" && !(error instanceof TypeError)) console.error(error);
		}
		if (stopped.signal.aborted) continue;
		failures = state.link === "live" ? 0 : failures + 1;
		state.link = ended;
		changed();
		if (ended === "token") await pause(0);
		else await pause(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
	}
}
