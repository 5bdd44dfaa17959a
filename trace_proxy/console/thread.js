// One joined thread: the page as an ordinary client of the websocket, with its gate and limits.
// What is kept is bounded, and everything that a model says stays text.

import { tell, token } from "./feed.js";

const ITEMS = 400;
const ITEM_CHARS = 200000; // of one text; beyond it the beginning goes
const RETRY_MS = 1000;
const KEYBOARD_MS = 500; // an approval that has just appeared takes no key

const fresh = () => ({ id: "", model: "", provider: "", cwd: "", items: [], asks: [], turn: "", last: "", note: "", link: "none" });

export let pane = fresh();
let socket = null;
let waiting = new Map();
let nextId = 1;
let wanted = ""; // the thread to come back to
let retry = 0;

function set(values) {
	pane = { ...pane, ...values };
	tell();
}

function say(message) {
	if (socket && socket.readyState === 1) socket.send(JSON.stringify(message));
}

function ask(method, params) {
	const id = nextId++;
	say({ id, method, params });
	return new Promise((done, failed) => waiting.set(id, { done, failed }));
}

function open() {
	if (socket && socket.readyState < 2) return socket.ready;
	const at = new URL("./", location.href.replace(/^http/, "ws"));
	const opened = token() ? new WebSocket(at, [`bearer.${token()}`]) : new WebSocket(at);
	socket = opened;
	set({ link: "connecting" });
	opened.ready = new Promise((done, failed) => {
		opened.onopen = async () => {
			try {
				const clientInfo = { name: "console", title: "trace-proxy console", version: "1" };
				await ask("initialize", { clientInfo, capabilities: { experimentalApi: true } });
				say({ method: "initialized" });
				set({ link: "open" });
				done();
			} catch (error) {
				failed(error);
			}
		};
		opened.onclose = (event) => {
			failed(new Error(event.reason || "the connection was closed"));
			closed(opened);
		};
	});
	opened.ready.catch(() => {});
	opened.onmessage = (event) => take(JSON.parse(event.data));
	return opened.ready;
}

function closed(which) {
	if (which !== socket) return;
	socket = null;
	for (const { failed } of waiting.values()) failed(new Error("the connection was lost"));
	waiting = new Map();
	if (!wanted) return set({ link: "none" });
	set({ link: "lost", asks: [] });
	clearTimeout(retry);
	retry = setTimeout(() => join(wanted), RETRY_MS);
}

function take(message) {
	if (message.method === undefined) {
		const asked = waiting.get(message.id);
		waiting.delete(message.id);
		if (!asked) return;
		if (message.error) asked.failed(Object.assign(new Error(message.error.message), message.error));
		else asked.done(message.result);
	} else if (message.id !== undefined) {
		asked(message);
	} else {
		told(message.method, message.params || {});
	}
}

function asked({ id, method, params }) {
	if ((params?.threadId ?? params?.conversationId) !== pane.id) return;
	const since = performance.now();
	set({ asks: [...pane.asks.filter((each) => each.id !== id), { id, method, params, since }] });
}

const clip = (text) => (text.length > ITEM_CHARS ? `… ${text.slice(-ITEM_CHARS)}` : text);

function put(item) {
	const at = pane.items.findIndex((each) => each.id === item.id);
	const items = pane.items.slice(-ITEMS);
	if (at < 0) items.push(item);
	else items[items.findIndex((each) => each.id === item.id)] = { ...pane.items[at], ...item };
	set({ items });
}

function grow(id, member, text, type) {
	const known = pane.items.find((each) => each.id === id) || { id, type, [member]: "" };
	put({ ...known, [member]: clip((known[member] || "") + text) });
}

function told(method, params) {
	if (params.threadId !== pane.id) return;
	switch (method) {
		case "turn/started":
			return set({ turn: params.turn.id, last: params.turn.id, note: "" });
		case "turn/completed":
			return ended(params.turn);
		case "item/started":
		case "item/completed":
			contradicted(params.item);
			return put(params.item);
		case "item/agentMessage/delta":
			return grow(params.itemId, "text", params.delta, "agentMessage");
		case "item/commandExecution/outputDelta":
			return grow(params.itemId, "aggregatedOutput", params.delta, "commandExecution");
		case "item/reasoning/summaryTextDelta":
		case "item/reasoning/textDelta":
			return grow(params.itemId, "thought", params.delta, "reasoning");
		case "turn/diff/updated":
			return put({ id: `diff ${params.turnId}`, type: "turnDiff", diff: clip(params.diff || "") });
		case "serverRequest/resolved":
			return resolved(params.requestId);
		case "error":
			return set({ note: params.error.message });
	}
}

// How a turn ended that did not end well, as the last of its items.
function end({ id, status, error }) {
	if (status === "completed" || status === "inProgress") return [];
	const text = status === "failed" && error ? `Failed: ${error.message}` : `The turn was ${status}.`;
	return [{ id: `end ${id}`, type: "turnEnd", status, text }];
}

function ended(turn) {
	end(turn).forEach(put);
	const asks = pane.asks.map((each) => (each.mine ? each : { ...each, over: "Withdrawn: the turn is over." }));
	set({ turn: "", last: turn.id, note: "", asks: asks.filter((each) => !each.mine) });
}

// The first answer counts: here somebody else's did, or ours.
function resolved(id) {
	const found = pane.asks.find((each) => each.id === id);
	if (!found) return;
	if (found.mine) {
		decided.set(found.params.itemId, found.mine);
		return set({ asks: pane.asks.filter((each) => each !== found) });
	}
	const over = pane.turn ? "Another client answered first." : "Withdrawn: the turn is over.";
	set({ asks: pane.asks.map((each) => (each === found ? { ...each, over: each.over || over } : each)) });
}

const decided = new Map();

function contradicted(item) {
	const mine = decided.get(item.id);
	if (!mine || item.status === "inProgress") return;
	decided.delete(item.id);
	if (/^A/.test(mine) === (item.status === "declined")) set({ note: "Another client answered first; your answer did not count." });
}

export function decide(request, label, result, byKeyboard) {
	if (request.mine || request.over) return;
	if (byKeyboard && performance.now() - request.since < KEYBOARD_MS) return;
	say({ id: request.id, result });
	set({ asks: pane.asks.map((each) => (each.id === request.id ? { ...each, mine: label } : each)) });
}

export function dismiss(request) {
	set({ asks: pane.asks.filter((each) => each.id !== request.id) });
}

function show(result) {
	const { thread } = result;
	wanted = thread.id;
	const turns = thread.turns || [];
	const running = turns.find((turn) => turn.status === "inProgress");
	const last = turns[turns.length - 1];
	set({
		id: thread.id,
		model: result.model || thread.model || "",
		provider: result.modelProvider || thread.modelProvider || "",
		cwd: result.cwd || thread.cwd || "",
		items: turns.flatMap((turn) => [...(turn.items || []), ...end(turn)]).slice(-ITEMS),
		turn: running ? running.id : "",
		last: last ? last.id : "",
		note: "",
	});
}

async function loaded(id, method, params) {
	try {
		await open();
		if (pane.id && pane.id !== id) leaveThread();
		if (id) set({ id });
		show(await ask(method, params));
		return true;
	} catch (error) {
		if (pane.link === "lost") return true; // it tries again
		set({ note: words(error) });
		return !(error.data && error.data.retryable);
	}
}

const words = (error) =>
	error.data && error.data.reason === "draining" ? "The proxy is draining: it takes no new work." : error.message;

export const newThread = () => loaded("", "thread/start", {});

// Its id is known before the answer: what happens in the thread meanwhile is not lost.
export async function join(id) {
	wanted = id;
	if (await loaded(id, "thread/resume", { threadId: id })) return;
	clearTimeout(retry);
	retry = setTimeout(() => wanted === id && join(id), RETRY_MS);
}

function leaveThread() {
	if (pane.id && pane.link === "open") ask("thread/unsubscribe", { threadId: pane.id }).catch(() => {});
	decided.clear();
	set({ ...fresh(), link: pane.link });
}

export function leave() {
	wanted = "";
	leaveThread();
	if (socket) socket.close(1000);
}

export async function send(text) {
	const input = [{ type: "text", text, text_elements: [] }];
	try {
		const result = await ask("turn/start", { threadId: pane.id, input });
		if (pane.last !== result.turn.id) set({ turn: result.turn.id, last: result.turn.id, note: "" });
		return true;
	} catch (error) {
		set({ note: words(error) });
		return false;
	}
}

export function stop() {
	ask("turn/interrupt", { threadId: pane.id, turnId: pane.turn }).catch((error) => set({ note: error.message }));
}
