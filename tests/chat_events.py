"""The test endpoint's replies as the chunks of a Chat Completions stream. Pure.

The counterpart of `responses_events`, for the same `Reply`.
"""

import re
from collections.abc import Iterator

from tests.responses_events import Call, Json, Reasoning, Reply, Text


def stream_chunks(reply: Reply, serial: str, model: str) -> Iterator[Json]:
    """Yield all chunks of a reply but `[DONE]`; ids end in `serial`."""
    base: Json = {
        "id": f"chatcmpl-{serial}",
        "object": "chat.completion.chunk",
        "created": 1_795_000_000,
        "model": model,
    }
    calls = 0
    for item in reply.items:
        for delta in _deltas(item, calls, serial):
            yield {**base, "choices": [_choice(delta)]}
        calls += isinstance(item, Call)
    code, message = reply.error
    match reply.end:
        case "completed" | "linger":
            reason = "tool_calls" if calls else "stop"
            yield {**base, "choices": [_choice({}, reason)]}
            if reply.usage is not None:
                yield {**base, "choices": [], "usage": _usage(reply.usage)}
        case "incomplete":
            reason = "length" if reply.reason == "max_output_tokens" else "content_filter"
            yield {**base, "choices": [_choice({}, reason)]}
        case "failed" | "error":
            yield {"error": {"message": message, "type": code, "param": None, "code": code}}
        case _:
            return


def _choice(delta: Json, reason: str | None = None) -> Json:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _deltas(item: Text | Reasoning | Call, index: int, serial: str) -> Iterator[Json]:
    match item:
        case Text(text):
            for word in re.findall(r"\s*\S+|\s+", text):
                yield {"role": "assistant", "content": word}
        case Reasoning(summary):
            for word in re.findall(r"\s*\S+|\s+", "\n".join(summary)):
                yield {"content": None, "reasoning_content": word}
        case Call(name, arguments, call_id):
            call_id = call_id or f"call_{serial}{index}"
            head: Json = {"index": index, "id": call_id, "type": "function"}
            yield {"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]}
            half = len(arguments) // 2
            for piece in (arguments[:half], arguments[half:]):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _usage(usage: tuple[int, int, int, int]) -> Json:
    read, cached, written, reasoned = usage
    return {
        "prompt_tokens": read,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens": written,
        "completion_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": read + written,
    }
