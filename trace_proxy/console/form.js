// What a core or an MCP server wants to know, as a form or a link; loaded when it is first asked.

import { html } from "./vendor/htm-preact.js";
import { decide } from "./thread.js";

// It is opened by whoever wants to, never by itself.
function Link({ url }) {
	const { protocol, host } = URL.canParse(url) ? new URL(url) : {};
	return /^https?:$/.test(protocol) ? html`<p>Opens <b>${host}</b>: <a target="_blank" rel="noreferrer" href=${url}>${url}</a></p>` : html`<p><code>${url}</code></p>`;
}

const FORMATS = { email: "email", uri: "url", date: "date", "date-time": "datetime-local" };

// The options of a choice, whichever of the three ways names them.
const choice = ({ oneOf, anyOf, enum: values, enumNames }) =>
	(oneOf || anyOf)?.map((each) => [each.const, each.title]) ?? values?.map((each, i) => [each, enumNames?.[i] || each]);

// A member of an MCP form as a field; its `type` is missing where this page has none for it.
function member(id, schema, required) {
	const { type, title, description, minimum, maximum, minLength, maxLength } = schema;
	const common = { id, title: title || id, about: description, given: schema.default, required };
	if (type === "array") return { ...common, type: choice(schema.items || {}) && "many", options: choice(schema.items || {}), least: Math.max(schema.minItems || 0, +required), most: schema.maxItems ?? Infinity };
	if (choice(schema)) return { ...common, type: "radio", options: choice(schema) };
	if (type === "boolean") return { ...common, type: "checkbox" };
	if (type === "string") return { ...common, type: FORMATS[schema.format] || "text", limits: { minlength: minLength, maxlength: maxLength } };
	return { ...common, type: /^(number|integer)$/.test(type) && "number", limits: { min: minimum, max: maximum, step: type === "integer" ? 1 : "any" } };
}

function fieldsOf({ questions, requestedSchema }) {
	if (!questions) return Object.entries(requestedSchema.properties ?? { "this form": {} }).map(([id, schema]) => member(id, Object(schema), !!requestedSchema.required?.includes(id)));
	return questions.map(({ id, header, question, options, isOther, isSecret }) => {
		const type = options?.length ? "radio" : isSecret ? "password" : "text";
		return { id, title: header, about: question, required: true, type, own: isOther, options: options?.map((each) => [each.label, each.label, each.description]) };
	});
}

function Choice({ of: { id, title, given, required, own, options, type, least, most }, words }) {
	const many = type === "many";
	const chosen = [].concat(given ?? (required ? [] : ""));
	const all = many || required ? options : [["", "No answer"], ...options];
	const bounds = many && (most < Infinity ? `choose ${least} to ${most}` : least > 0 && `choose at least ${least}`);
	return html`<fieldset><legend>${words} <span class="dim">${bounds}</span></legend>
		${all.map(([value, label, more]) => html`<label class="option"><input type=${many ? "checkbox" : "radio"} name=${id} value=${value} required=${required && !many} defaultChecked=${chosen.includes(value)} /><span>${label} <span class="dim">${more}</span></span></label>`)}
		${own && html`<p class="option"><input type="radio" name=${id} value="" aria-label="${title}: something else" /><input class="wide" name="${id} own" aria-label="${title}: your answer" placeholder="Something else" autocomplete="off" onInput=${(event) => (event.target.previousSibling.checked = true)} /></p>`}
	</fieldset>`;
}

function Field({ of }) {
	const { id, title, about, given, required, options, type, limits } = of;
	const words = html`<b>${title}</b> ${about}${!required && type !== "checkbox" && html` <span class="dim">(optional)</span>`}`;
	if (options?.length) return html`<${Choice} of=${of} words=${words} />`;
	if (type === "checkbox") return html`<label class="option"><input type=${type} name=${id} defaultChecked=${given} /><span>${words}</span></label>`;
	return html`<label>${words}<input class="wide" name=${id} type=${type} autocomplete="off" required=${required} defaultValue=${given} ...${limits} /></label>`;
}

// What was entered, as JSON has it; undefined for nothing.
function entered(data, { id, type }) {
	if (type === "checkbox") return data.has(id);
	if (type === "many") return data.getAll(id);
	const text = data.get(id) || data.get(`${id} own`) || undefined;
	if (text && type === "number") return Number(text);
	return text && type === "datetime-local" ? new Date(text).toISOString() : text;
}

// What the browser does not see by itself.
const lacks = ({ required, least, most }, value) => (Array.isArray(value) ? value.length < least || value.length > most : required && value === undefined);

export function Form({ request, children }) {
	const { questions, _meta, url } = request.params;
	if (url) return html`<${Link} url=${url} /><p class="buttons">${children}</p>`;
	const fields = fieldsOf(request.params);
	const odd = fields.filter(({ type }) => !type).map(({ title }) => title);
	if (odd.length) return html`<p>This page has no field for ${odd.join(", ")}; another client may.</p><p class="buttons">${children}</p>`;
	let byKeyboard = true; // Enter in a field is a click, too: one that no pointer has made
	const submit = (event) => {
		event.preventDefault();
		const data = new FormData(event.target);
		const values = fields.map((each) => [each.id, entered(data, each)]);
		const wrong = fields.findIndex((each, i) => lacks(each, values[i][1]));
		if (wrong >= 0) return event.target.querySelectorAll("fieldset, form > label")[wrong].querySelector("input").focus();
		const { value: persist, textContent: label } = event.submitter;
		const answers = () => Object.fromEntries(values.map(([id, value]) => [id, { answers: [value] }]));
		const accepted = { action: "accept", content: Object.fromEntries(values), _meta: persist ? { persist } : undefined };
		decide(request, label, questions ? { answers: answers() } : accepted, byKeyboard);
	};
	const kept = [].concat(_meta?.persist || []); // how long a client may let it hold
	return html`<form onSubmit=${submit} onClick=${(event) => (byKeyboard = event.detail === 0)}>${fields.map((each) => html`<${Field} key=${each.id} of=${each} />`)}
		<p class="buttons"><button class="primary">${questions ? "Answer" : "Accept"}</button>
			${kept.includes("session") && html`<button value="session">Accept for session</button>`}
			${kept.includes("always") && html`<button value="always">Always accept</button>`}${children}</p></form>`;
}
