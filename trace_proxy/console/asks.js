// What a core asks a human: what it is about, and the answers its kind allows.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { decide, dismiss } from "./thread.js";

const WORDS = { accept: "Accept", acceptForSession: "Accept for session", decline: "Decline", cancel: "Cancel turn" };

function word(decision) {
	if (typeof decision === "string") return WORDS[decision] || decision;
	const [name, rule] = Object.entries(decision)[0];
	if (rule.execpolicy_amendment) return `Always accept ${rule.execpolicy_amendment.join(" ")}`;
	const { action, host } = rule.network_policy_amendment || {};
	return host ? `Always ${action} ${host}` : name;
}

const decisions = ({ availableDecisions }) =>
	(availableDecisions || ["accept", "decline"]).map((decision) => [word(decision), { decision }]);

const grants = ({ permissions }) => [
	["Accept", { permissions, scope: "turn" }],
	["Accept for session", { permissions, scope: "session" }],
	["Decline", { permissions: {}, scope: "turn" }],
];

// The names of the protocol's first version.
const reviews = () => [
	["Accept", { decision: "approved" }],
	["Accept for session", { decision: "approved_for_session" }],
	["Decline", { decision: { denied: { rejection: "declined by a human" } } }],
	["Cancel turn", { decision: "abort" }],
];

const refusals = ({ mode }) => [
	...(mode === "url" ? [["Accept", { action: "accept" }]] : []),
	["Decline", { action: "decline" }],
	["Cancel", { action: "cancel" }],
];

// In the overview's words: its heading, which params have to be seen, the answers.
export const KINDS = {
	"item/commandExecution/requestApproval": ["Run a command", "Run this command?", ["kind", "networkApprovalContext", "additionalPermissions"], decisions],
	"item/fileChange/requestApproval": ["Change files", "Change these files?", [], decisions],
	"item/permissions/requestApproval": ["Permissions", "Grant these permissions?", ["permissions"], grants],
	"item/tool/requestUserInput": ["A question", "A question", [], () => []],
	"mcpServer/elicitation/request": ["A question", "A question of an MCP server", ["serverName", "title", "description", "_meta"], refusals],
	execCommandApproval: ["Run a command", "Run this command?", [], reviews],
	applyPatchApproval: ["Change files", "Change these files?", ["fileChanges"], reviews],
};

export function Diff({ text }) {
	const kind = (line) => ({ "+": "add", "-": "cut", "@": "hunk" })[line[0]] || "";
	return html`<pre class="diff">${text.trimEnd().split("\n").map((line) => html`<span class=${kind(line)}>${line}${"\n"}</span>`)}</pre>`;
}

export function changes(item, path = (each) => each) {
	return (item.changes || []).map((each) => {
		const { type = "change" } = each.kind || {};
		const diff = each.diff || "";
		return html`<div class="change"><code title=${each.path}>${type} ${path(each.path)}</code>
			<${Diff} text=${type === "add" && diff[0] !== "@" ? diff.replace(/^(?=.)/gm, "+") : diff} /></div>`;
	});
}

// All that a value holds, a line each.
const leaves = (value, name) =>
	value && typeof value === "object" ? Object.entries(value).flatMap(([key, each]) => leaves(each, `${name}.${key}`)) : [`${name}: ${value}`];

function Answers({ request, answers }) {
	const [Form, setForm] = useState();
	const { questions, requestedSchema, url } = request.params;
	const asks = questions || requestedSchema || url;
	useEffect(() => {
		if (asks) import("./form.js").then((module) => setForm(() => module.Form));
	}, []);
	const buttons = answers(request.params).map(([label, result]) => html`<button key=${label} type="button" title=${label} class=${label === "Accept" ? "primary" : ""}
		onClick=${(event) => decide(request, label, result, event.detail === 0)}>${label}</button>`);
	return asks && Form ? html`<${Form} request=${request}>${buttons}<//>` : html`<p class="buttons">${buttons}</p>`;
}

export function Approval({ request, items }) {
	const { method, params, over, mine } = request;
	const item = items.find((each) => each.id === params.itemId) || {};
	const [, title, shown, answers] = KINDS[method] || [method, method, Object.keys(params)];
	const more = shown.filter((name) => params[name] && params[name] !== "command");
	return html`<div class="approval" role="group" aria-label=${title} data-request=${request.id}>
		<h3>${title}</h3>
		<p>${params.reason || params.message}</p>
		${answers && params.command && html`<pre>${[].concat(params.command).join("\n")}</pre>`}
		${more.length > 0 && html`<pre>${more.flatMap((name) => leaves(params[name], name)).join("\n")}</pre>`}
		${params.cwd && html`<p class="dim">in <code>${params.cwd}</code></p>`}
		${params.grantRoot && html`<p class="dim">asks for <code>${params.grantRoot}</code></p>`}
		${method.includes("fileChange") && changes(item)}
		${over
			? html`<p role="status">${over} <button class="small" onClick=${() => dismiss(request)}>Dismiss</button></p>`
			: mine
				? html`<p role="status">Answered: ${mine}</p>`
				: answers
					? html`<${Answers} request=${request} answers=${answers} />`
					: html`<p class="dim">This page cannot answer it; another client may.</p>`}
	</div>`;
}
