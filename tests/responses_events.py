"""What the test endpoint says: replies as data, and the event stream of each. Pure.

The events carry all that the API documents (ids, sequence numbers, whole items), so that
strict clients can read them too.
"""

import re
from collections.abc import Generator, Iterator
from typing import Literal

import msgspec

Json = dict[str, object]


class Text(msgspec.Struct, frozen=True, tag="text"):
    """A message; `streamed=False` leaves its deltas out."""

    text: str
    streamed: bool = True


class Reasoning(msgspec.Struct, frozen=True, tag="reasoning"):
    """Reasoning with a summary of so many parts."""

    summary: tuple[str, ...]


class Call(msgspec.Struct, frozen=True, tag="call"):
    """A function call; a call id is made up if none is given."""

    name: str
    arguments: str
    call_id: str = ""
    namespace: str = ""


End = Literal["completed", "linger", "failed", "incomplete", "error", "eof", "cut", "stall"]


class Reply(msgspec.Struct, frozen=True):
    """What one request gets.

    Attributes:
        items: The output, in order.
        end: `completed`, `failed` and `incomplete` are events; `error` is the event of
            that name; `linger` completes and leaves the body open; `eof` ends the body in order, `cut` breaks the connection, `stall`
            sends nothing more.
        after: So many events are sent before the end; None for all of the items.
        delay_s: Before each event.
        status: Other than 200: an error answer with `error`, no stream.
        error: Code and message of an error answer, of `failed` and of `error`.
        reason: Of `incomplete`.
        headers: More headers of the answer.
        usage: Input, cached, output and reasoning tokens; None leaves usage out.
    """

    items: tuple[Text | Reasoning | Call, ...] = ()
    end: End = "completed"
    after: int | None = None
    delay_s: float = 0.0
    status: int = 200
    error: tuple[str, str] = ("server_error", "scripted failure")
    reason: str = "max_output_tokens"
    headers: dict[str, str] = {}
    usage: tuple[int, int, int, int] | None = (100, 10, 20, 5)


class Raw(msgspec.Struct, frozen=True, tag="raw"):
    """An answer byte for byte.

    Attributes:
        body: Its bytes.
        content_type: Empty for none.
        status: HTTP status.
        headers: More headers.
        cuts: Where the body is cut into writes.
        cut: The connection breaks behind it.
    """

    body: bytes
    content_type: str = "text/event-stream"
    status: int = 200
    headers: dict[str, str] = {}
    cuts: tuple[int, ...] = ()
    cut: bool = False


_HELLO = (Text("Hello from the model"),)


def reply_to(body: Json) -> Reply:
    """Answer by the last text, which is `WORD: REST`.

    `text`, `think`, `run CMD`, `call NAME JSON`, `slow SECONDS`, `fail MESSAGE`; the
    bare words `http500`, `cut`, `eof`, `stall`, `incomplete`; else a greeting.
    """
    kind, text = last_input(body)
    word, _, rest = text.partition(":")
    if kind in {"function_call_output", "tool"}:
        return Reply(_HELLO)
    if match := re.fullmatch(r"http(\d{3})", text):
        return Reply(status=int(match[1]))
    return _reply_to_word(word, rest.strip())


def _reply_to_word(word: str, rest: str) -> Reply:
    reply = Reply(_HELLO)
    match word:
        case "text":
            reply = Reply((Text(rest),))
        case "think":
            reply = Reply((Reasoning((rest,)), *_HELLO))
        case "run":
            arguments = {"command": ["bash", "-c", rest], "workdir": None, "timeout_ms": None}
            reply = Reply((Call("shell", msgspec.json.encode(arguments).decode()),))
        case "call":
            name, _, text = rest.partition(" ")
            reply = Reply((Call(name, text or "{}"),))
        case "slow":
            words = max(1, round(float(rest) / 0.2))
            reply = Reply((Text("word " * words),), delay_s=0.2)
        case "fail":
            reply = Reply(end="failed", error=("invalid_prompt", rest))
        case "cut" | "eof" | "stall" | "incomplete":
            reply = Reply(_HELLO, end=word, after=None if word == "incomplete" else 5)
        case _:
            pass
    return reply


def stream_events(reply: Reply, serial: str, model: str) -> Iterator[Json]:
    """Yield all events of a reply; ids end in `serial`."""
    response: Json = _response(f"resp_{serial}", model)
    yield {"type": "response.created", "response": response}
    yield {"type": "response.in_progress", "response": response}
    output: list[Json] = []
    for index, item in enumerate(reply.items):
        done = yield from _item_events(item, index, serial)
        yield {"type": "response.output_item.done", "output_index": index, "item": done}
        output.append(done)
    code, message = reply.error
    ended: Json = {**response, "output": output, "usage": _usage(reply.usage)}
    match reply.end:
        case "completed" | "linger":
            ended["status"] = "completed"
            yield {"type": "response.completed", "response": ended}
        case "failed":
            ended |= {"status": "failed", "error": {"code": code, "message": message}}
            yield {"type": "response.failed", "response": ended}
        case "incomplete":
            ended |= {"status": "incomplete", "incomplete_details": {"reason": reply.reason}}
            yield {"type": "response.incomplete", "response": ended}
        case "error":
            yield {"type": "error", "code": code, "message": message, "param": None}
        case _:
            return


def _item_events(
    item: Text | Reasoning | Call, index: int, serial: str
) -> Generator[Json, None, Json]:
    """Yield the events of an item but the last; return the whole item."""
    match item:
        case Text():
            return _text_events(item, index, f"msg_{serial}{index}")
        case Reasoning():
            return _reasoning_events(item, index, f"rs_{serial}{index}")
        case Call():
            return _call_events(item, index, serial)


def _text_events(item: Text, index: int, item_id: str) -> Generator[Json, None, Json]:
    opened: Json = {
        "type": "message",
        "id": item_id,
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    yield {"type": "response.output_item.added", "output_index": index, "item": opened}
    part: Json = {"type": "output_text", "text": item.text, "annotations": [], "logprobs": []}
    if item.streamed:
        where: Json = {"item_id": item_id, "output_index": index, "content_index": 0}
        yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
        for word in re.findall(r"\s*\S+|\s+", item.text):
            delta: Json = {**where, "delta": word, "logprobs": []}
            yield {"type": "response.output_text.delta", **delta}
        yield {"type": "response.output_text.done", **where, "text": item.text, "logprobs": []}
        yield {"type": "response.content_part.done", **where, "part": part}
    return {**opened, "status": "completed", "content": [part]}


def _reasoning_events(item: Reasoning, index: int, item_id: str) -> Generator[Json, None, Json]:
    opened: Json = {"type": "reasoning", "id": item_id, "summary": []}
    yield {"type": "response.output_item.added", "output_index": index, "item": opened}
    summary: list[Json] = []
    for number, text in enumerate(item.summary):
        where: Json = {"item_id": item_id, "output_index": index, "summary_index": number}
        part: Json = {"type": "summary_text", "text": text}
        empty: Json = {**part, "text": ""}
        yield {"type": "response.reasoning_summary_part.added", **where, "part": empty}
        for word in re.findall(r"\s*\S+|\s+", text):
            yield {"type": "response.reasoning_summary_text.delta", **where, "delta": word}
        yield {"type": "response.reasoning_summary_text.done", **where, "text": text}
        yield {"type": "response.reasoning_summary_part.done", **where, "part": part}
        summary.append(part)
    return {**opened, "summary": summary}


def _call_events(item: Call, index: int, serial: str) -> Generator[Json, None, Json]:
    item_id = f"fc_{serial}{index}"
    opened: Json = {
        "type": "function_call",
        "id": item_id,
        "call_id": item.call_id or f"call_{serial}{index}",
        "name": item.name,
        "arguments": "",
        "status": "in_progress",
    }
    if item.namespace:
        opened["namespace"] = item.namespace
    yield {"type": "response.output_item.added", "output_index": index, "item": opened}
    where: Json = {"item_id": item_id, "output_index": index}
    yield {
        "type": "response.function_call_arguments.delta",
        **where,
        "delta": item.arguments,
    }
    yield {
        "type": "response.function_call_arguments.done",
        **where,
        "name": item.name,
        "arguments": item.arguments,
    }
    return {**opened, "status": "completed", "arguments": item.arguments}


def _response(response_id: str, model: str) -> Json:
    return {
        "id": response_id,
        "object": "response",
        "created_at": 1_795_000_000,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def _usage(usage: tuple[int, int, int, int] | None) -> Json | None:
    if usage is None:
        return None
    read, cached, written, reasoned = usage
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": read + written,
    }


def last_input(body: Json) -> tuple[str, str]:
    """Return kind and text of the last input item, or message."""
    items = body.get("input", body.get("messages"))
    if isinstance(items, str):
        return "message", items
    item = items[-1] if isinstance(items, list) and items else {}
    content = item.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(part.get("text", "") for part in content)
    kind = "tool" if item.get("role") == "tool" else str(item.get("type", "message"))
    # Chat requests make one of two messages in a row; the latest is asked.
    return kind, content.rpartition("\n\n")[2]
