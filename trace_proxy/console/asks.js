// What a core asks a human: all that it is about, and the answers that its kind allows.

import { html, useState } from "./vendor/htm-preact.js";
import { decide, dismiss } from "./thread.js";

const WORDS = { accept: "Accept", acceptForSession: "Accept for session", decline: "Decline", cancel: "Cancel turn" };

function word(decision) {
	if (typeof decision === "string") return WORDS[decision] || decision;
	const [name, rule] = Object.entries(decision)[0];
	if (rule.execpolicy_amendment) return `Always accept ${rule.execpolicy_amendment.join(" ")}`;
	const { action, host } = rule.network_policy_amendment || {};
	return host ? `Always ${action} ${host}` : name;
}

const grants = ({ permissions }) => [
	["Accept", { permissions, scope: "turn" }],
	["Accept for session", { permissions, scope: "session" }],
	["Decline", { permissions: {}, scope: "turn" }],
];

const decisions = ({ availableDecisions }) =>
	(availableDecisions || ["accept", "decline"]).map((decision) => [word(decision), { decision }]);

// Its heading, what else of its params has to be seen, and the answers.
const KINDS = {
	"item/commandExecution/requestApproval": ["Run this command?", ["networkApprovalContext", "additionalPermissions"], decisions],
	"item/fileChange/requestApproval": ["Change these files?", [], decisions],
	"item/permissions/requestApproval": ["Grant these permissions?", ["permissions"], grants],
	"item/tool/requestUserInput": ["A question", [], null],
	"mcpServer/elicitation/request": ["A question of an MCP server", ["serverName", "message", "url", "requestedSchema"], () => [["Decline", { action: "decline" }], ["Cancel", { action: "cancel" }]]],
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

function Questions({ request }) {
	const [said, setSaid] = useState({});
	const { questions } = request.params;
	const say = (id) => (event) => setSaid({ ...said, [id]: event.target.value });
	const submit = (event) => {
		event.preventDefault();
		const answers = Object.fromEntries(questions.map(({ id }) => [id, { answers: said[id] ? [said[id]] : [] }]));
		decide(request, "Answer", { answers });
	};
	return html`<form onSubmit=${submit}>${questions.map(({ id, header, question, options, isOther, isSecret }) => {
		const own = !options || isOther;
		const chosen = (options || []).some(({ label }) => label === said[id]);
		return html`<fieldset key=${id}><legend><b>${header}</b> ${question}</legend>
			${(options || []).map(({ label, description }) => html`<label class="option"><input type="radio" name=${id} value=${label} checked=${said[id] === label} onChange=${say(id)} /><span>${label} <span class="dim">${description}</span></span></label>`)}
			${own ? html`<label><span class="hidden">${header}: ${options ? "something else" : "your answer"}</span><input class="wide" type=${isSecret ? "password" : "text"} autocomplete="off" placeholder=${options ? "Something else" : "Your answer"} value=${chosen ? "" : said[id] || ""} onInput=${say(id)} /></label>` : null}
		</fieldset>`;
	})}<p class="buttons"><button class="primary" disabled=${!questions.every(({ id }) => said[id])}>Answer</button></p></form>`;
}

// All that a value holds, a line each.
const leaves = (value, name) =>
	value && typeof value === "object" ? Object.entries(value).flatMap(([key, each]) => leaves(each, `${name}.${key}`)) : [`${name}: ${value}`];

export function Approval({ request, items }) {
	const { method, params, over, mine } = request;
	const item = items.find((each) => each.id === params.itemId) || {};
	const [title, shown, answers] = KINDS[method] || [method, Object.keys(params), null];
	const more = shown.filter((name) => params[name]);
	return html`<div class="approval" role="group" aria-label=${title} data-request=${request.id}>
		<h3>${title}</h3>
		${params.reason ? html`<p>${params.reason}</p>` : null}
		${params.command ? html`<pre>${params.command}</pre>` : null}
		${more.length ? html`<pre>${more.flatMap((name) => leaves(params[name], name)).join("\n")}</pre>` : null}
		${params.cwd ? html`<p class="dim">in <code>${params.cwd}</code></p>` : null}
		${params.grantRoot ? html`<p class="dim">asks for <code>${params.grantRoot}</code></p>` : null}
		${method.includes("fileChange") ? changes(item) : null}
		${over
			? html`<p role="status">${over} <button class="small" onClick=${() => dismiss(request)}>Dismiss</button></p>`
			: mine
				? html`<p role="status">Answered: ${mine}</p>`
				: answers
					? html`<p class="buttons">${answers(params).map(([label, result]) => html`<button key=${label} title=${label} class=${label === "Accept" ? "primary" : ""}
							onClick=${(event) => decide(request, label, result, event.detail === 0)}>${label}</button>`)}</p>`
					: params.questions
						? html`<${Questions} request=${request} />`
						: html`<p class="dim">This page cannot answer it; another client may.</p>`}
	</div>`;
}
