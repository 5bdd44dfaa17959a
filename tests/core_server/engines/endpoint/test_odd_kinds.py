"""Answers as nobody documents them: each is read, or fails once with the endpoint's own words.

What is held here besides the rows: nothing is said twice, and what cannot get better is not
asked again.
"""

import itertools
import json
from typing import Any

import pytest

from core_server.engines.base import Event, MessageDone, ReasoningDone, ToolCall, Usage
from core_server.engines.endpoint.answer import AnswerReader
from core_server.engines.endpoint.chat import ChatReader
from core_server.engines.endpoint.responses import ResponseReader

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"
CANNOT_READ = "the endpoint's answer cannot be read: "


def _sse(*events: object) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def _chunk(delta: object = None, reason: str | None = None, **more: object) -> Json:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": reason}], **more}


def _call(**piece: object) -> Json:
    return _chunk({"tool_calls": [{"index": 0, **piece}]})


def _delta(text: str, item: str | None = "m1", index: int | None = 0) -> Json:
    kind = "response.output_text.delta"
    return {"type": kind, "item_id": item, "output_index": index, "delta": text}


def _message(text: str, item: str = "m1") -> Json:
    return {"type": "message", "id": item, "content": [{"type": "output_text", "text": text}]}


def _completed(*output: Json, **more: object) -> Json:
    response = {"id": "r", "status": "completed", "output": list(output), **more}
    return {"type": "response.completed", "response": response}


def _item(**item: object) -> Json:
    return {"type": "response.output_item.done", "output_index": 0, "item": item}


def _bare(event: Json) -> Json:
    return {name: value for name, value in event.items() if name != "type"}


X = _chunk({"content": "x"})
STOP = _chunk({}, "stop")
CUT_SHORT = "Incomplete response returned, reason: "

CHAT: dict[str, tuple[bytes, list[object], str | None]] = {
    # what came, what is made of it, and why it failed
    "byte order mark, all line ends": (
        b"\xef\xbb\xbf"
        + _sse(X).replace(b"\n", b"\r\n")
        + _sse(X).replace(b"\n", b"\r")
        + _sse(STOP)
        + DONE,
        ["xx"],
        None,
    ),
    "nulls and huge numbers": (
        _sse(
            {"id": None, "choices": [{"index": None, "delta": {"content": "x"}}], "usage": None},
            {
                "id": 10**40,
                "choices": [{"index": 0.0, "delta": None, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": "12", "completion_tokens": 1e300},
            },
        ),
        ["x", (12, 0)],
        None,
    ),
    "an error in a choice": (
        _sse(X, {"choices": [{"finish_reason": "error", "error": {"message": "It went"}}]}),
        [],
        "It went",
    ),
    "an error as an object, and done": (
        _sse(X, {"object": "error", "message": "too long by 3", "code": 400}) + DONE,
        [],
        "too long by 3",
    ),
    "a detail": (_sse({"detail": "No such model"}), [], "No such model"),
    "a status": (_sse({"status": "error", "message": "No model"}), [], "No model"),
    "several errors": (_sse({"errors": [{"message": "a"}, {"message": "b"}]}), [], "a; b"),
    "cut, in other words": (
        _sse(X, _chunk({}, "MAX_TOKENS")),
        ["x"],
        CUT_SHORT + "max_output_tokens",
    ),
    "filtered, in other words": (
        _sse(X, _chunk({}, "SAFETY")),
        ["x"],
        CUT_SHORT + "content_filter",
    ),
    "a reason nobody knows": (_sse(X, _chunk({}, "eos_token")), ["x"], None),
    "calls are promised and none comes": (
        _sse(_chunk({}, "tool_calls")),
        [],
        CANNOT_READ + "its finish_reason is tool_calls, and there is no call",
    ),
    "a call's name in pieces": (
        _sse(
            _call(id="a", function={"name": "sh"}),
            _call(function={"name": "ell", "arguments": "{}"}),
            STOP,
        ),
        [("shell", "{}")],
        None,
    ),
    "thoughts as parts of the content": (
        _sse(
            _chunk(
                {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}
            ),
            _chunk({"content": [{"type": "text", "text": "yes"}]}),
            STOP,
        ),
        ["thought: hm", "yes"],
        None,
    ),
    "text as Completions had it": (
        _sse({"choices": [{"text": "hi", "finish_reason": None}]}, STOP),
        ["hi"],
        None,
    ),
    "a second choice": (
        _sse(X, {"choices": [{"index": 1, "delta": {"content": "y"}}]}, STOP),
        [],
        CANNOT_READ + "a second choice",
    ),
    "a refusal beside null": (
        _sse(_chunk({"content": None, "refusal": "No"}), _chunk({}, "refusal")),
        ["No"],
        None,
    ),
    "an error in a list, without a stream": (
        b'[{"error":{"code":400,"message":"bad key","status":"INVALID_ARGUMENT"}}]',
        [],
        "bad key",
    ),
    "success: false": (b'{"success":false,"msg":"quota exceeded"}', [], "quota exceeded"),
}

RESPONSES: dict[str, tuple[bytes, list[object], str | None]] = {
    "no types": (
        _sse(*map(_bare, (_delta("he"), _delta("llo"), _completed(_message("hello"))))),
        ["hello"],
        None,
    ),
    "a gap in the places": (
        _sse(_delta("a"), _delta("b", "m2", 7), _completed(_message("a"), _message("b", "m2"))),
        ["a", "b"],
        None,
    ),
    "ids and output are null": (
        _sse(
            _delta("a", None, None),
            _delta("b", None, None),
            {
                "type": "response.completed",
                "response": {
                    "id": None,
                    "output": None,
                    "usage": {"input_tokens": "7", "output_tokens": None},
                },
            },
        ),
        ["ab", (7, 0)],
        None,
    ),
    "usage is a word": (_sse(_delta("a"), _completed(usage="many")), ["a"], None),
    "a detail": (_sse({"detail": "No such model"}), [], "No such model"),
    "an error as an object": (_sse({"object": "error", "message": "too long"}), [], "too long"),
    "an error of another type": (
        _sse({"type": "response.error", "error": {"message": "odd"}}),
        [],
        "odd",
    ),
    "an error that says nothing": (
        _sse({"type": "error", "error": None, "message": None}),
        [],
        "the endpoint reported an error and says no more",
    ),
    "cancelled": (
        _sse(_delta("a"), {"type": "response.cancelled", "response": {"status": "cancelled"}}),
        [],
        "the endpoint cancelled the response",
    ),
    "an order that nobody carries out": (
        _sse(_item(type="local_shell_call", id="w", call_id="c"), _completed()),
        [],
        CANNOT_READ + "all that it has is an item of type local_shell_call",
    ),
    "the endpoint's own tool beside a message": (
        _sse(_item(type="web_search_call", id="w"), _completed(_message("x"))),
        ["x"],
        None,
    ),
    "a call without a name": (
        _sse(_item(type="function_call", id="f", call_id="c", arguments="{}"), _completed()),
        [],
        CANNOT_READ + "a tool call without a name",
    ),
    "arguments that are no JSON go to the tool, which says so": (
        _sse(
            _item(type="function_call", id="f", call_id="c", name="shell", arguments='{"a'),
            _completed(),
        ),
        [("shell", '{"a')],
        None,
    ),
    "queued": (
        json.dumps({"object": "response", "status": "queued", "output": []}).encode(),
        [],
        CANNOT_READ + "a response that is queued, and no stream of it",
    ),
    "completed twice": (
        _sse(_delta("a"), _completed(_message("a")), _completed(_message("a"))),
        ["a"],
        None,
    ),
    "all events in a list": (_sse([_delta("a"), _completed(_message("a"))]), ["a"], None),
    "events in strings": (
        _sse(json.dumps(_delta("a")), json.dumps(_completed(_message("a")))),
        ["a"],
        None,
    ),
}


def _read(answer: AnswerReader, body: bytes, size: int) -> list[object]:
    """What was said, called and counted."""
    events: list[Event] = []
    for place in range(0, len(body), size):
        if not answer.over:
            events += answer.feed(body[place : place + size])
    if not answer.over:
        events += answer.end()
    return [told for event in events if (told := _told(event)) is not None]


def _told(event: Event) -> object:
    match event:
        case MessageDone(_, text):
            return text
        case ReasoningDone(_, summary):
            return f"thought: {''.join(summary)}"
        case ToolCall(_, name, arguments):
            return name, arguments
        case Usage():
            return event.input_tokens, event.output_tokens
        case _:
            return None


CASES = [
    *(pytest.param(ChatReader, *case, id=f"chat: {name}") for name, case in CHAT.items()),
    *(pytest.param(ResponseReader, *case, id=name) for name, case in RESPONSES.items()),
]


@pytest.mark.parametrize(("reader", "body", "read", "failed"), CASES)
@pytest.mark.parametrize("size", [1, 4096])
def test_an_odd_answer_is_read_or_fails_once_with_its_own_words(
    reader: type[ChatReader | ResponseReader],
    body: bytes,
    read: list[object],
    failed: str | None,
    size: int,
) -> None:
    numbers = itertools.count()
    kind = "application/json" if body[:1] in b"[{" else "text/event-stream"
    answer = AnswerReader(reader(lambda p: f"{p}{next(numbers)}", frozenset()), kind)
    assert _read(answer, body, size) == read
    assert answer.completed is (failed is None)
    if failed is not None:
        assert answer.failure is not None
        assert answer.failure.message == failed


FINAL = ("It went", "It broke")  # of a provider behind it: that may get better


@pytest.mark.parametrize(("reader", "body", "read", "failed"), CASES)
def test_what_cannot_get_better_is_not_asked_again(
    reader: type[ChatReader | ResponseReader], body: bytes, read: list[object], failed: str | None
) -> None:
    answer = AnswerReader(reader(lambda p: p, frozenset()), "")
    _read(answer, body, 4096)
    if answer.failure is not None:
        assert answer.failure.retry is (failed in FINAL), read
