// One joined thread: the page as an ordinary client of the websocket, with its gate and limits.
// What is kept is bounded; what a model says stays text.

import { tell, token } from "./feed.js";

const ITEMS = 400;
const ITEM_CHARS = 200000; // of one text; beyond it the beginning goes
const RETRY_MS = 1000;
const KEYBOARD_MS = 500; // an approval that has just appeared takes no key

const FRESH = { id: "", model: "", provider: "", cwd: "", items: [], asks: [], turn: "", last: "", note: "" };

export let pane = { ...FRESH, link: "none" };
let socket = null;
let waiting = new Map();
let nextId = 1;
let wanted = ""; // the thread to come back to
let retry = 0;

function set(values) {
	pane = { ...pane, ...values };
	tell();
}

const say = (message) => socket?.readyState === 1 && socket.send(JSON.stringify(message));

function ask(method, params) {
	const id = nextId++;
	say({ id, method, params });
	return new Promise((done, failed) => waiting.set(id, { done, failed }));
}

function open() {
	if (socket?.readyState < 2) return socket.ready;
	const opened = new WebSocket(new URL("./", location.href.replace(/^http/, "ws")), token() ? [`bearer.${token()}`] : []);
	socket = opened;
	set({ link: "connecting" });
	opened.onmessage = (event) => take(JSON.parse(event.data));
	opened.ready = new Promise((done, failed) => {
		opened.onopen = () => {
			const clientInfo = { name: "console", version: "1" };
			ask("initialize", { clientInfo, capabilities: { experimentalApi: true } }).then(done, failed);
		};
		opened.onclose = ({ reason }) => {
			failed(new Error(reason || "the connection was closed"));
			if (opened === socket) closed();
		};
	}).then(() => {
		say({ method: "initialized" });
		set({ link: "open" });
	});
	opened.ready.catch(() => {});
	return opened.ready;
}

function closed() {
	socket = null;
	for (const { failed } of waiting.values()) failed(new Error("the connection was lost"));
	waiting = new Map();
	if (!wanted) return set({ link: "none" });
	set({ link: "lost", asks: [] });
	again(wanted);
}

function again(id) {
	clearTimeout(retry);
	retry = setTimeout(() => wanted === id && join(id), RETRY_MS);
}

function take({ id, method, params, result, error }) {
	if (method !== undefined) return id === undefined ? told(method, params || {}) : asked(id, method, params);
	const { done, failed } = waiting.get(id) || {};
	waiting.delete(id);
	if (error) failed?.(Object.assign(new Error(error.message), error));
	else done?.(result);
}

function asked(id, method, params) {
	if ((params?.threadId ?? params?.conversationId) !== pane.id) return;
	const since = performance.now();
	set({ asks: [...pane.asks.filter((each) => each.id !== id), { id, method, params, since }] });
}

const clip = (text) => (text.length > ITEM_CHARS ? `… ${text.slice(-ITEM_CHARS)}` : text);

const known = (id) => pane.items.findLast((each) => each.id === id);

function put(item) {
	const before = known(item.id);
	const after = { ...before, ...item };
	set({ items: before ? pane.items.map((each) => (each === before ? after : each)) : [...pane.items, after].slice(-ITEMS) });
}

function grow(id, member, text, type) {
	const before = known(id) || { id, type };
	put({ ...before, [member]: clip((before[member] || "") + text) });
}

function told(method, params) {
	const { threadId, turnId, itemId, delta, turn, item } = params;
	if (threadId !== pane.id) return;
	switch (method) {
		case "turn/started":
			return set({ turn: turn.id, last: turn.id, note: "" });
		case "turn/completed":
			return ended(turn);
		case "item/started":
		case "item/completed":
			contradicted(item);
			return put(item);
		case "item/agentMessage/delta":
			return grow(itemId, "text", delta, "agentMessage");
		case "item/commandExecution/outputDelta":
			return grow(itemId, "aggregatedOutput", delta, "commandExecution");
		case "item/reasoning/summaryTextDelta":
		case "item/reasoning/textDelta":
			return grow(itemId, "thought", delta, "reasoning");
		case "turn/diff/updated":
			return put({ id: `diff ${turnId}`, type: "turnDiff", diff: clip(params.diff || "") });
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

const WITHDRAWN = "Withdrawn: the turn is over.";

function ended(turn) {
	end(turn).forEach(put);
	const asks = pane.asks.filter((each) => !each.mine).map((each) => ({ over: WITHDRAWN, ...each }));
	set({ turn: "", last: turn.id, note: "", asks });
}

const change = (request, values) => set({ asks: pane.asks.map((each) => (each.id === request.id ? { ...each, ...values } : each)) });

export const dismiss = (request) => set({ asks: pane.asks.filter((each) => each.id !== request.id) });

const decided = new Map();

// The first answer counts: here somebody else's did, or ours.
function resolved(id) {
	const found = pane.asks.find((each) => each.id === id);
	if (!found?.mine) return found && change(found, { over: found.over || (pane.turn ? "Another client answered first." : WITHDRAWN) });
	decided.set(found.params.itemId, found.mine);
	dismiss(found);
}

function contradicted({ id, status }) {
	const mine = decided.get(id);
	if (!mine || status === "inProgress") return;
	decided.delete(id);
	if (/^A/.test(mine) === (status === "declined")) set({ note: "Another client answered first; your answer did not count." });
}

export function decide(request, label, result, byKeyboard) {
	if (request.mine || request.over) return;
	if (byKeyboard && performance.now() - request.since < KEYBOARD_MS) return;
	say({ id: request.id, result });
	change(request, { mine: label });
}

function show({ thread, ...rest }) {
	const turns = thread.turns || [];
	wanted = thread.id;
	set({
		id: thread.id,
		model: rest.model || thread.model || "",
		provider: rest.modelProvider || thread.modelProvider || "",
		cwd: rest.cwd || thread.cwd || "",
		items: turns.flatMap((turn) => [...(turn.items || []), ...end(turn)]).slice(-ITEMS),
		turn: turns.find((turn) => turn.status === "inProgress")?.id || "",
		last: turns.at(-1)?.id || "",
		note: "",
	});
}

async function loaded(id, method, params) {
	try {
		await open();
		if (pane.id && pane.id !== id) leaveThread();
		if (id) set({ id });
		show(await ask(method, params));
	} catch (error) {
		if (pane.link === "lost") return; // it tries again
		note(error);
		if (id && error.data?.retryable) again(id);
	}
}

const note = (error) => set({ note: error.data?.reason === "draining" ? "The proxy is draining: it takes no new work." : error.message });

export const newThread = () => loaded("", "thread/start", {});

// Its id is known before the answer: nothing that happens meanwhile is lost.
export function join(id) {
	wanted = id;
	loaded(id, "thread/resume", { threadId: id });
}

function leaveThread() {
	if (pane.link === "open") ask("thread/unsubscribe", { threadId: pane.id }).catch(() => {});
	decided.clear();
	set(FRESH);
}

export function leave() {
	wanted = "";
	leaveThread();
	socket?.close(1000);
}

export async function send(text) {
	try {
		const { turn } = await ask("turn/start", { threadId: pane.id, input: [{ type: "text", text, text_elements: [] }] });
		if (pane.last !== turn.id) set({ turn: turn.id, last: turn.id, note: "" });
		return true;
	} catch (error) {
		note(error);
	}
}

export const stop = () => ask("turn/interrupt", { threadId: pane.id, turnId: pane.turn }).catch(note);
