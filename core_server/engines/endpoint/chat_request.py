"""A prompt as the body of a Chat Completions request. Pure; the other way is `chat`.

Templates of open models are strict about the order of messages: the output of a call
follows it at once, and two messages of one role in a row are made one.
"""

from core_server.engines.base import (
    AgentMessage,
    CompactedHistory,
    HistoryEntry,
    ImagePart,
    Prompt,
    TextPart,
    ToolCall,
    ToolOutput,
    UserMessage,
)
from core_server.engines.endpoint.responses_request import (
    COMPACT_REQUEST,
    NO_OUTPUT,
    SUMMARY_INTRO,
    schema_format,
    sent_arguments,
)
from core_server.engines.endpoint.tools import chat_tools
from core_server.engines.endpoint.values import Json
from core_server.engines.history import since_compaction


def chat_body(prompt: Prompt) -> Json:
    """Return the request for a prompt.

    Raises:
        EngineError: when `output_schema` is not a JSON object.
    """
    messages = _messages(since_compaction(prompt.history))
    if prompt.instructions:
        messages.insert(0, {"role": "system", "content": prompt.instructions})
    body: Json = {
        "model": prompt.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if prompt.effort is not None:
        body["reasoning_effort"] = prompt.effort
    if prompt.compact:
        _add(messages, {"role": "user", "content": COMPACT_REQUEST})
        return body
    body["tools"] = chat_tools()
    if prompt.output_schema is not None:
        schema = schema_format(prompt.output_schema)
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def chat_body_with(body: Json, text: str) -> Json:
    """Return the request with one more message, that was said, at its end."""
    messages = body["messages"]
    assert isinstance(messages, list)
    return {**body, "messages": [*messages, {"role": "assistant", "content": text}]}


def _messages(history: tuple[HistoryEntry, ...]) -> list[Json]:
    outputs = {entry.call_id: entry.output for entry in history if isinstance(entry, ToolOutput)}
    messages: list[Json] = []
    for entry in history:
        match entry:
            case UserMessage(parts):
                _add(messages, {"role": "user", "content": _content(parts)})
            case CompactedHistory(summary):
                _add(messages, {"role": "user", "content": SUMMARY_INTRO + summary})
            case AgentMessage(text):
                _add(messages, {"role": "assistant", "content": text})
            case ToolCall(call_id):
                _add_call(messages, entry)
                output = outputs.get(call_id, NO_OUTPUT)
                messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
            case ToolOutput():
                pass  # it stands behind its call
    return messages


def _add_call(messages: list[Json], call: ToolCall) -> None:
    function = {"name": call.name, "arguments": sent_arguments(call.arguments)}
    calls = [{"id": call.call_id, "type": "function", "function": function}]
    if messages and messages[-1]["role"] == "assistant":
        messages[-1]["tool_calls"] = calls
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})


def _add(messages: list[Json], message: Json) -> None:
    last = messages[-1] if messages else {}
    if last.get("role") != message["role"]:
        messages.append(message)
        return
    before, more = last["content"], message["content"]
    if isinstance(before, str) and isinstance(more, str):
        last["content"] = f"{before}\n\n{more}"
    else:
        last["content"] = [*_parts(before), *_parts(more)]


def _parts(content: object) -> list[object]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _content(parts: tuple[TextPart | ImagePart, ...]) -> str | list[Json]:
    # Text alone goes as a string: not every endpoint takes parts.
    if not any(isinstance(part, ImagePart) for part in parts):
        return "\n".join(part.text for part in parts if isinstance(part, TextPart))
    return [_part(part) for part in parts]


def _part(part: TextPart | ImagePart) -> Json:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ImagePart(url):
            return {"type": "image_url", "image_url": {"url": url}}
