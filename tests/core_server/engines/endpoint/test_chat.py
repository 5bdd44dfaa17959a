import itertools

import pytest

from core_server.engines.base import (
    Event,
    MessageDone,
    MessageStarted,
    ReasoningDelta,
    ReasoningDone,
    ReasoningStarted,
    TextDelta,
    ToolCall,
    Usage,
)
from core_server.engines.endpoint import chat as chat_module
from core_server.engines.endpoint.chat import ChatReader
from core_server.engines.endpoint.failures import Failure
from tests.chat_events import stream_chunks
from tests.responses_events import Call, Json, Reasoning, Reply, Text


def reader(*taken_call_ids: str) -> ChatReader:
    counter = itertools.count(1)
    return ChatReader(lambda prefix: f"{prefix}_{next(counter)}", frozenset(taken_call_ids))


def read(machine: ChatReader, *chunks: Json, done: bool = True) -> list[Event]:
    events = [event for chunk in chunks for event in machine.feed(chunk)]
    return [*events, *(machine.marker() if done else machine.end())]


def chunk(reason: str | None = None, **delta: object) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def call(
    index: int | None = None, call_id: str = "", name: str = "", arguments: object = ""
) -> Json:
    function: Json = {"arguments": arguments, **({"name": name} if name else {})}
    piece: Json = {"function": function, **({"id": call_id} if call_id else {})}
    return chunk(tool_calls=[piece if index is None else {**piece, "index": index}])


STOP = chunk("stop")


def calls(*chunks: Json) -> list[tuple[str, str, str]]:
    events = read(reader("used"), *chunks, chunk("tool_calls"))
    return [
        (event.call_id, event.name, event.arguments)
        for event in events
        if isinstance(event, ToolCall)
    ]


def test_a_response_is_read_item_by_item() -> None:
    machine = reader()
    reply = Reply((Reasoning(("so it is",)), Text("hi there"), Call("shell", '{"a":1}', "c1")))

    assert read(machine, *stream_chunks(reply, "x", "m")) == [
        ReasoningStarted("rs_1"),
        ReasoningDelta("rs_1", 0, "so"),
        ReasoningDelta("rs_1", 0, " it"),
        ReasoningDelta("rs_1", 0, " is"),
        ReasoningDone("rs_1", ("so it is",)),
        MessageStarted("msg_2"),
        TextDelta("msg_2", "hi"),
        TextDelta("msg_2", " there"),
        MessageDone("msg_2", "hi there"),
        ToolCall("c1", "shell", '{"a":1}'),
        Usage(100, 20, 10, 5, "chatcmpl-x"),
    ]
    assert repr(machine) == "<ChatReader completed reason='tool_calls' calls=1>"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_many_names(name: str) -> None:
    events = read(reader(), chunk(**{name: "hm"}), STOP)

    assert events[-1] == ReasoningDone("rs_1", ("hm",))


def test_calls_come_whole_or_in_pieces() -> None:
    whole = '{"a":1}'
    assert calls(call(0, "c", "f"), call(0, arguments='{"a"'), call(0, arguments=":1}")) == [
        ("c", "f", whole)
    ]
    assert calls(call(0, "c", "f", whole), call(1, "d", "g", whole)) == [
        ("c", "f", whole),
        ("d", "g", whole),
    ]
    # One index for all, an id for each.
    assert calls(call(0, "c", "f", whole), call(0, "d", "g", whole)) == [
        ("c", "f", whole),
        ("d", "g", whole),
    ]
    # No index.
    assert calls(call(None, "c", "f"), call(None, arguments=whole), call(None, "d", "g")) == [
        ("c", "f", whole),
        ("d", "g", "{}"),
    ]
    # A new id with each piece.
    assert calls(call(0, "c", "f"), call(0, "x", "", '{"a"'), call(0, "y", "", ":1}")) == [
        ("c", "f", whole)
    ]
    # Twice the same, an object, the name again.
    assert calls(call(0, "c", "f", whole), call(0, "c", "f", whole)) == [("c", "f", whole)]
    assert calls(call(0, "c", "f", {"a": 1})) == [("c", "f", whole)]
    # Nothing first, then what it is.
    assert calls(call(0, "c", "f", "{}"), call(0, arguments='{"a"'), call(0, arguments=":1}")) == [
        ("c", "f", whole)
    ]
    # No id at all, one that is used.
    assert calls(call(0, "", "f", whole), call(1, "used", "g", whole)) == [
        ("call_1", "f", whole),
        ("call_2", "g", whole),
    ]


def test_the_old_form_of_a_call_is_read() -> None:
    old = chunk(function_call={"name": "f", "arguments": "{}"})
    assert calls(old) == [("call_1", "f", "{}")]


def test_a_name_is_made_one_that_can_be_sent_back() -> None:
    assert [name for _, name, _ in calls(call(0, "c", "functions.shell"))] == ["shell"]
    assert [name for _, name, _ in calls(call(0, "c", " a b<|x|>" + "y" * 90))] == [
        ("a_b_x_" + "y" * 90)[:64]
    ]


def test_a_call_without_a_name_is_an_error() -> None:
    machine = reader()

    assert read(machine, call(0, "c", "", "{}"), chunk("tool_calls")) == []
    assert machine.failure == Failure(
        "the endpoint's answer cannot be read: a tool call without a name"
    )


@pytest.mark.parametrize(
    ("reason", "words"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_was_cut_is_kept_and_says_why(reason: str, words: str) -> None:
    machine = reader()
    usage: Json = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}

    events = read(machine, chunk(content="half"), call(0, "c", "f"), chunk(reason), usage)

    assert events[-2:] == [MessageDone("msg_1", "half"), Usage(3, 4)]
    assert machine.failure == Failure(f"Incomplete response returned, reason: {words}")


def test_a_stream_without_a_reason_is_cut_unless_it_says_done() -> None:
    machine = reader()
    assert read(machine, chunk(content="half"), done=False)[-1] == TextDelta("msg_1", "half")
    assert machine.failure is not None
    assert machine.failure.retry

    machine = reader()
    assert read(machine, chunk(content="all"), done=True)[-1] == MessageDone("msg_1", "all")

    machine = reader()
    read(machine, chunk(role="assistant"), done=True)
    assert machine.failure is not None
    assert machine.failure.retry


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": [{"delta": 5}]},
        chunk(content=5),
        chunk(content={"x": 1}),
        chunk(tool_calls=["x"]),
        chunk(tool_calls=[{"function": 5}]),
        call(0, "c", "f", 5),
        call(0, "c", "f", [1]),
        chunk(
            tool_calls=[
                {"index": 0, "function": {"name": "f", "arguments": '{"a":1}'}},
                {"index": 0, "function": {"arguments": ',"b":2}'}},
            ]
        ),
    ],
)
def test_a_piece_that_cannot_be_read_is_not_lost_silently(odd: Json) -> None:
    machine = reader()

    read(machine, chunk(content="a"), odd, STOP)

    assert machine.failure is not None
    assert "cannot be read" in machine.failure.message
    assert not machine.failure.retry


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [None]},
        {"choices": {}},
        {"error": None},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": None, "tool_calls": None, "function_call": None}}]},
        {"choices": [{"delta": {"content": "", "tool_calls": [None]}}], "usage": "many"},
        {"usage": {"prompt_tokens": None}},
        chunk(annotations=[1], audio={}),
    ],
)
def test_what_says_nothing_is_passed_over(odd: Json) -> None:
    machine = reader()

    events = read(machine, chunk(content="a"), odd, STOP)

    assert events == [MessageStarted("msg_1"), TextDelta("msg_1", "a"), MessageDone("msg_1", "a")]


def test_the_reason_error_is_an_error() -> None:
    machine = reader()

    read(machine, chunk("error", content="half"))

    assert machine.failure is not None
    assert machine.failure.retry


def test_text_parts_and_a_refusal_are_text() -> None:
    events = read(
        reader(), chunk(content=[{"type": "text", "text": "a"}]), chunk(refusal="b"), STOP
    )

    assert events[-1] == MessageDone("msg_1", "ab")


def test_an_endless_response_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_module, "MAX_RESPONSE_CHARS", 10)
    for piece in (chunk(content="x" * 6), chunk(reasoning="x" * 6), call(0, "c", "f", "x" * 6)):
        machine = reader()
        for _ in range(2):
            machine.feed(piece)
        assert machine.failure == Failure("the response is longer than 10 characters")
