"""A prompt as the body of a Responses API request. Pure; the other way is `responses`.

Every request carries the whole history and `store: false`: nothing of a thread stays
with the endpoint, and any server that speaks the API will do.
"""

import msgspec

from core_server.engines.base import (
    AgentMessage,
    CompactedHistory,
    EngineError,
    HistoryEntry,
    ImagePart,
    Prompt,
    TextPart,
    ToolCall,
    ToolOutput,
    UserMessage,
)
from core_server.engines.endpoint.tools import TOOLS
from core_server.engines.endpoint.values import Json, encodable, is_object
from core_server.engines.history import since_compaction

COMPACT_REQUEST = (
    "Summarise the conversation so far for whoever continues it without having seen it: "
    "what was asked, what was done and decided, which files and commands matter, and what "
    "is left to do. Answer with the summary alone."
)
SUMMARY_INTRO = "Summary of the conversation before this point:\n"

# What the endpoint reads where a turn ended before its command did: it wants an output
# for every call.
NO_OUTPUT = "aborted: the turn was interrupted before this call had an output"


def request_body(prompt: Prompt) -> Json:
    """Return the request for a prompt.

    Raises:
        EngineError: when `output_schema` is not a JSON object.
    """
    body: Json = {
        "model": prompt.model,
        "input": _input(since_compaction(prompt.history)),
        "store": False,
        "stream": True,
    }
    if prompt.instructions:
        body["instructions"] = prompt.instructions
    if prompt.effort is not None:
        body["reasoning"] = {"effort": prompt.effort, "summary": "auto"}
    if prompt.compact:
        return with_message(body, {"type": "message", "role": "user", "content": COMPACT_REQUEST})
    body["tools"] = list(TOOLS)
    if prompt.output_schema is not None:
        body["text"] = {"format": _format(prompt.output_schema)}
    return body


def with_message(body: Json, item: Json) -> Json:
    """Return the request with one more input item at its end."""
    items = body["input"]
    assert isinstance(items, list)
    return {**body, "input": [*items, item]}


def said_body(body: Json, text: str) -> Json:
    """Return the request with one more message, that was said, at its end."""
    return with_message(body, agent_item(text))


def trace_headers(prompt: Prompt) -> dict[str, str]:
    """Return the turn's trace context as HTTP headers; what no header can carry is left out."""
    headers = {"traceparent": prompt.traceparent, "tracestate": prompt.tracestate}
    if not _is_header_value(prompt.traceparent):
        return {}
    return {name: value for name, value in headers.items() if _is_header_value(value)}


def agent_item(text: str) -> Json:
    """Return the input item of something that was already said."""
    return {"type": "message", "role": "assistant", "content": text}


def sent_arguments(arguments: str) -> str:
    """Return a call's arguments as an object: endpoints that parse them refuse anything else."""
    if is_object(arguments):
        return arguments
    return msgspec.json.encode({"unreadable": encodable(arguments)}).decode()


def _is_header_value(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable()


def _input(history: tuple[HistoryEntry, ...]) -> list[Json]:
    called = {entry.call_id for entry in history if isinstance(entry, ToolCall)}
    settled = {entry.call_id for entry in history if isinstance(entry, ToolOutput)}
    items: list[Json] = []
    for entry in history:
        # An output whose call was compacted away would be refused.
        if isinstance(entry, ToolOutput) and entry.call_id not in called:
            continue
        items.append(_item(entry))
        if isinstance(entry, ToolCall) and entry.call_id not in settled:
            items.append(_item(ToolOutput(entry.call_id, NO_OUTPUT)))
    return items


def _item(entry: HistoryEntry) -> Json:
    # No `match` for what most entries are: the whole history goes along with every sample.
    if isinstance(entry, AgentMessage):
        return agent_item(entry.text)
    if isinstance(entry, UserMessage):
        content = [_part(part) for part in entry.parts] or [_part(TextPart(""))]
        return {"type": "message", "role": "user", "content": content}
    match entry:
        case ToolCall(call_id, name, arguments):
            return {
                "type": "function_call",
                "call_id": call_id,
                "name": name,
                "arguments": sent_arguments(arguments),
            }
        case ToolOutput(call_id, output):
            return {"type": "function_call_output", "call_id": call_id, "output": output}
        case CompactedHistory(summary):
            content = [_part(TextPart(SUMMARY_INTRO + summary))]
            return {"type": "message", "role": "user", "content": content}


def _part(part: TextPart | ImagePart) -> Json:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    return {"type": "input_image", "image_url": part.url, "detail": "auto"}


def _format(output_schema: str) -> Json:
    return {"type": "json_schema", **schema_format(output_schema)}


def schema_format(output_schema: str) -> Json:
    """Return the members that ask for an answer of a schema, alike on both wires.

    Raises:
        EngineError: when it is not a JSON object.
    """
    try:
        schema = msgspec.json.decode(output_schema, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise EngineError(f"outputSchema is not a JSON object: {error}", "badRequest") from None
    return {"name": "final_output", "strict": True, "schema": schema}
