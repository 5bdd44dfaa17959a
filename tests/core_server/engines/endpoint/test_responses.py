import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from core_server.engines.endpoint import responses as responses_module
from core_server.engines.endpoint.failures import Failure
from core_server.engines.endpoint.responses import ResponseReader
from tests.responses_events import Call, Json, Reasoning, Reply, Text, stream_events


def reader(*taken_call_ids: str) -> ResponseReader:
    counter = itertools.count(1)
    return ResponseReader(lambda prefix: f"{prefix}_{next(counter)}", frozenset(taken_call_ids))


def read(machine: ResponseReader, *events: Json) -> list[Event]:
    return [out for event in events for out in machine.feed(event)]


def read_reply(machine: ResponseReader, reply: Reply) -> list[Event]:
    return read(machine, *stream_events(reply, "x", "m"))


def test_a_response_is_read_item_by_item() -> None:
    machine = reader()
    reply = Reply(
        (Reasoning(("first part", "second")), Text("hi there"), Call("shell", '{"a":1}', "c1"))
    )

    assert read_reply(machine, reply) == [
        ReasoningStarted("rs_1"),
        ReasoningDelta("rs_1", 0, "first"),
        ReasoningDelta("rs_1", 0, " part"),
        ReasoningDelta("rs_1", 1, "second"),
        ReasoningDone("rs_1", ("first part", "second")),
        MessageStarted("msg_2"),
        TextDelta("msg_2", "hi"),
        TextDelta("msg_2", " there"),
        MessageDone("msg_2", "hi there"),
        ToolCall("c1", "shell", '{"a":1}'),
        Usage(100, 20, 10, 5, "resp_x"),
    ]
    assert repr(machine) == "<ResponseReader completed open=0 calls=1>"


def test_a_tool_call_waits_for_the_end_of_the_response() -> None:
    machine = reader()
    *before, completed = stream_events(Reply((Call("shell", "{}", "c1"),)), "x", "m")

    assert read(machine, *before) == []
    assert repr(machine) == "<ResponseReader streaming open=0 calls=1>"
    assert read(machine, completed) == [
        ToolCall("c1", "shell", "{}"),
        Usage(100, 20, 10, 5, "resp_x"),
    ]


@pytest.mark.parametrize("call_id", ["used", ""])
def test_a_call_id_that_the_thread_has_used_is_replaced(call_id: str) -> None:
    calls = (
        Call("shell", "{}", "c1"),
        Call("shell", "{}", "c1"),
        Call("shell", "{}", call_id or "used"),
    )

    events = read_reply(reader("used"), Reply(calls, usage=None))

    assert events == [ToolCall(name, "shell", "{}") for name in ("c1", "call_1", "call_2")]


def test_null_arguments_are_left_out() -> None:
    events = read_reply(
        reader(), Reply((Call("shell", '{"command":["ls"],"workdir":null}', "c"),))
    )

    assert events[0] == ToolCall("c", "shell", '{"command":["ls"]}')


def test_a_message_without_deltas_is_one_delta() -> None:
    events = read_reply(reader(), Reply((Text("all at once", streamed=False),), usage=None))

    assert events == [
        MessageStarted("msg_1"),
        TextDelta("msg_1", "all at once"),
        MessageDone("msg_1", "all at once"),
    ]


def test_what_was_never_said_to_be_done_is_done_with_the_response() -> None:
    machine = reader()
    response: Json = {
        "output": [
            {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c", "name": "shell", "arguments": "{}"},
        ]
    }

    events = read(
        machine,
        {"type": "response.output_text.delta", "delta": "hi", "item_id": "m"},
        {"type": "response.completed", "response": response},
    )

    assert events == [
        MessageStarted("msg_1"),
        TextDelta("msg_1", "hi"),
        MessageDone("msg_1", "hi"),
        ToolCall("c", "shell", "{}"),
    ]


def test_a_response_that_streams_nothing_is_read_from_its_end() -> None:
    response: Json = {
        "output": [
            {
                "type": "reasoning",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "so"}],
            },
            {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]},
            {"type": "web_search_call"},
        ],
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }

    assert read(reader(), {"type": "response.completed", "response": response}) == [
        ReasoningStarted("rs_1"),
        ReasoningDelta("rs_1", 0, "so"),
        ReasoningDone("rs_1", ("so",)),
        MessageStarted("msg_2"),
        TextDelta("msg_2", "no"),
        MessageDone("msg_2", "no"),
        Usage(3, 4),
    ]


def test_endpoints_that_send_no_indexes_are_read_one_item_at_a_time() -> None:
    done: Json = {"type": "message", "content": []}

    events = read(
        reader(),
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.output_item.done", "item": done},
        {"type": "response.output_text.delta", "delta": "b"},
        {"type": "response.output_item.done", "item": done},
    )

    assert [event for event in events if isinstance(event, MessageDone)] == [
        MessageDone("msg_1", "a"),
        MessageDone("msg_2", "b"),
    ]


def test_open_models_reasoning_is_read_like_a_summary() -> None:
    events = read(
        reader(),
        {
            "type": "response.reasoning_text.delta",
            "delta": "hm",
            "output_index": 0,
            "content_index": 3,
        },
        {"type": "response.output_item.done", "output_index": 0, "item": {"type": "reasoning"}},
    )

    assert events == [
        ReasoningStarted("rs_1"),
        ReasoningDelta("rs_1", 0, "hm"),
        ReasoningDone("rs_1", ("hm",)),
    ]


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (Reply(end="failed", error=("server_error", "boom")), Failure("boom", retry=True)),
        (Reply(end="error", error=("invalid_prompt", "boom")), Failure("boom")),
        (
            Reply(end="failed", error=("context_length_exceeded", "too long")),
            Failure("too long", "contextWindowExceeded"),
        ),
        (
            Reply(end="failed", error=("rate_limit_exceeded", "slower")),
            Failure("slower", "rateLimitExceeded", retry=True),
        ),
        (
            Reply(end="failed", error=("server_is_overloaded", "busy")),
            Failure("busy", "serverOverloaded", retry=True),
        ),
        (
            Reply(end="failed", error=("insufficient_quota", "pay")),
            Failure("pay", "usageLimitExceeded"),
        ),
        (
            Reply(end="failed", error=("odd", "")),
            Failure("the endpoint reported odd and says no more"),
        ),
        (
            Reply(end="incomplete"),
            Failure("Incomplete response returned, reason: max_output_tokens"),
        ),
        (
            Reply(end="incomplete", reason=""),
            Failure("Incomplete response returned, reason: unknown"),
        ),
    ],
)
def test_a_failed_response_says_why(reply: Reply, failure: Failure) -> None:
    machine = reader()

    read_reply(machine, reply)

    assert machine.failure == failure
    assert not machine.completed
    assert repr(machine) == "<ResponseReader failed open=0 calls=0>"


def test_a_failure_without_an_error_is_still_one() -> None:
    machine = reader()

    read(machine, {"type": "response.failed", "response": {"error": None}})

    assert machine.failure == Failure(
        "the endpoint reported an error and says no more", retry=True
    )


def test_an_incomplete_message_is_kept() -> None:
    machine = reader()

    events = read(
        machine,
        {"type": "response.output_text.delta", "delta": "half a", "output_index": 0},
        {
            "type": "response.incomplete",
            "response": {"usage": {"input_tokens": 1, "output_tokens": 2}},
        },
    )

    assert events[-2:] == [MessageDone("msg_1", "half a"), Usage(1, 2)]


@pytest.mark.parametrize(
    "event",
    [
        None,
        5,
        [],
        "text",
        {},
        {"type": 5},
        {"type": "response.shiny_new.thing", "delta": 1},
        {"type": None},
    ],
)
def test_unknown_events_are_passed_over(event: object) -> None:
    machine = reader()

    assert machine.feed(event) == []
    assert machine.failure is None


def test_an_endless_response_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses_module, "MAX_RESPONSE_CHARS", 10)
    limit = Failure("the response is longer than 10 characters")
    over = "y" * 11
    endings: list[list[Json]] = [
        [{"type": "response.output_text.delta", "delta": "x" * n} for n in (10, 1)],
        [{"type": "response.output_item.done", "item": message(over)}],
        [{"type": "response.completed", "response": {"output": [message(over)]}}],
    ]
    for ending in endings:
        machine = reader()
        read(machine, *ending)
        assert machine.failure == limit


def message(text: str) -> Json:
    return {"type": "message", "content": [{"type": "output_text", "text": text}]}


ITEMS = st.one_of(
    st.builds(Text, st.text(), st.booleans()),
    st.builds(Reasoning, st.lists(st.text(), max_size=3).map(tuple)),
    st.builds(
        Call,
        st.sampled_from(["shell", "apply_patch"]),
        st.text(),
        st.sampled_from(["", "c1", "c2"]),
    ),
)


@given(st.lists(ITEMS, max_size=5), st.data())
def test_every_item_that_begins_ends_once_with_the_sum_of_its_deltas(
    items: list[Text | Reasoning | Call], data: st.DataObject
) -> None:
    events = list(stream_events(Reply(tuple(items)), "x", "m"))
    # Leaving out any events but the last must lose nothing: the last one tells it all.
    kept = [event for event in events[:-1] if data.draw(st.booleans())]
    machine = reader()

    out = read(machine, *kept, events[-1])

    begun = [
        event.item_id for event in out if isinstance(event, MessageStarted | ReasoningStarted)
    ]
    done = [event.item_id for event in out if isinstance(event, MessageDone | ReasoningDone)]
    assert machine.completed
    assert sorted(begun) == sorted(set(done))
    assert len(done) == len(set(done))
    assert sorted(event.text for event in out if isinstance(event, MessageDone)) == sorted(
        item.text for item in items if isinstance(item, Text) and item.text
    )
    assert sorted("".join(event.summary) for event in out if isinstance(event, ReasoningDone)) == (
        sorted("".join(item.summary) for item in items if isinstance(item, Reasoning))
    )
    calls = [event for event in out if isinstance(event, ToolCall)]
    assert len({call.call_id for call in calls}) == len(calls)
    assert sorted(call.name for call in calls) == sorted(
        item.name for item in items if isinstance(item, Call)
    )
    assert isinstance(out[-1], Usage)
