"""What is kept of content when it may be recorded: cut, and only for spans that are exported."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trace_proxy.recording import CountingIds
from trace_proxy.context.span_record import AttributeValue, Kind, Service, SpanContext, SpanRecord
from trace_proxy.context.trace_context import Resolution, Source
from trace_proxy.protocol.envelope import decode_core
from trace_proxy.queues.core_queue import CoreQueue, CoreQueueBounds
from trace_proxy.spans import semconv
from trace_proxy.spans.content import Content, RecordingTurns, messages_json
from trace_proxy.spans.turn_spans import Turn
from trace_proxy.spans.turns import Ended, EndedTool, EndedTurn
from trace_proxy.state.connection import RequestSpan
from trace_proxy.state.core_session import CoreSession

SHARED: dict[str, AttributeValue] = {"shared": True}
LIMIT = 12


def context(*, sampled: bool = True) -> SpanContext:
    return SpanContext(trace_id=1, span_id=2, flags=1 if sampled else 0)


def span(*, sampled: bool = True) -> RequestSpan:
    return RequestSpan(context(sampled=sampled), Resolution(Source.GENERATED), 5, SHARED)


@pytest.fixture
def content() -> Content:
    return Content(LIMIT)


def test_a_request_keeps_its_params_and_nothing_is_shared(content: Content) -> None:
    kept = content.of_request(span(), b'{"a":1}')
    assert kept.attributes == {"shared": True, semconv.CONTENT_PARAMS: '{"a":1}'}
    assert SHARED == {"shared": True}
    assert content.of_request(span(), None).attributes == SHARED


@pytest.mark.parametrize(
    ("line", "name", "text"),
    [
        (b'{"id":1,"result":{"x":"a long result"}}', semconv.CONTENT_RESULT, '{"x":"a long'),
        (b'{"id":1,"error":{"code":1}}', semconv.CONTENT_ERROR, '{"code":1}'),
    ],
    ids=["result", "error"],
)
def test_an_answer_is_added_to_its_request(
    content: Content, line: bytes, name: str, text: str
) -> None:
    kept = content.of_request(span(), None)
    content.of_answer(kept, decode_core(line))
    assert kept.attributes == {"shared": True, name: text}


def test_what_is_not_sampled_keeps_nothing(content: Content) -> None:
    unsampled = span(sampled=False)
    assert content.of_request(unsampled, b"{}") is unsampled
    content.of_answer(unsampled, decode_core(b'{"id":1,"result":{}}'))
    assert SHARED == {"shared": True}


def test_an_approval_keeps_the_question_and_the_answer(content: Content) -> None:
    record = SpanRecord(Service.CORE, "ask", Kind.CLIENT, context(), None, 1, 2, {})
    content.of_approval(record, b'{"q":1}', b'{"a":2}')
    assert record.attributes == {
        semconv.CONTENT_PARAMS: '{"q":1}',
        semconv.CONTENT_RESULT: '{"a":2}',
    }


@given(st.text(), st.integers(1, 40))
def test_a_text_is_cut_at_the_limit_and_never_within_a_character(text: str, limit: int) -> None:
    kept = Content(limit).text(text.encode("utf-8", "surrogatepass"))
    if text.isascii() or "\ufffd" not in kept:
        assert kept == text[:limit]
    assert len(kept) <= limit


def test_bytes_that_are_no_text_are_shown_all_the_same(content: Content) -> None:
    assert content.text(b"a\xffb") == "a\ufffdb"
    assert repr(content) == "<Content limit_chars=12>"


def observed(method: str, **params: Any) -> bytes:
    return json.dumps({"method": method, "params": {"threadId": "t", **params}}).encode()


class Running:
    """A turn that runs and is recorded."""

    def __init__(self, content: Content, *, sampled: bool = True) -> None:
        self.core = CoreSession(0, CoreQueue(CoreQueueBounds()))
        self.turns = RecordingTurns(CountingIds(), content)
        own = context(sampled=sampled)
        self.turns.begin(Turn("t", "turn", self.core, own, None, 1))

    def observe(self, method: str, **params: Any) -> Ended:
        return self.turns.observe(observed(method, **params), self.core, 9)

    def end(self) -> EndedTurn:
        ended = self.observe("turn/completed", turn={"id": "turn", "status": "completed"})
        assert isinstance(ended, EndedTurn)
        return ended


@pytest.mark.parametrize("limit", [120, 1_024])
def test_a_turn_keeps_what_was_asked_and_said_as_messages(limit: int) -> None:
    content = Content(limit)
    request = msgspec.structs.replace(span(), turn=context())
    said = [{"type": "text", "text": 'do "this"'}, {"type": "image", "url": "x"}]
    kept = content.of_request(request, json.dumps({"threadId": "t", "input": said}).encode())
    assert kept.attributes == SHARED, "the turn says it, not the request"
    running = Running(content)
    for text in ("hello ", '"there" ', "world" * 100):
        running.turns.delta("turn", text, 5)
    running.turns.delta("another", "text", 5)
    record = running.end().records[-1]
    asked = json.loads(str(record.attributes[semconv.INPUT_MESSAGES]))
    answered = json.loads(str(record.attributes[semconv.OUTPUT_MESSAGES]))
    whole = 'do "this"\n'
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": whole}]}]
    (message,) = answered
    (part,) = message["parts"]
    assert (message["role"], message["finish_reason"]) == ("assistant", "stop")
    assert ('hello "there" ' + "world" * 100).startswith(part["content"])
    assert len(part["content"]) > limit // 10
    assert len(str(record.attributes[semconv.OUTPUT_MESSAGES])) <= limit
    assert record.attributes[semconv.OUTPUT_BYTES] == len('hello "there" ') + 500


@given(st.text(), st.integers(0, 200))
def test_messages_stay_whole_json_within_any_limit(text: str, limit: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    made = messages_json("assistant", text, limit)
    assert len(made) <= limit
    if made:
        (message,) = json.loads(made)
        assert text.startswith(message["parts"][0]["content"])


def test_a_turn_without_text_or_span_has_no_content(content: Content) -> None:
    assert semconv.OUTPUT_MESSAGES not in Running(content).end().records[-1].attributes
    unsampled = Running(content, sampled=False)
    unsampled.turns.delta("turn", "text", 5)
    assert unsampled.end().records == ()


def test_params_that_are_no_input_leave_no_messages(content: Content) -> None:
    request = msgspec.structs.replace(span(), turn=context())
    for params in (b"5", b'{"input":5}', b'{"input":[5]}', None):
        content.of_request(request, params)
    assert semconv.INPUT_MESSAGES not in Running(content).end().records[-1].attributes


@pytest.mark.parametrize("limit", [40, 1_024])
def test_a_tool_takes_its_arguments_and_its_result_along(limit: int) -> None:
    running = Running(Content(limit))
    about = {"command": "ls " * 20, "cwd": "/w"}
    item = {"type": "commandExecution", "id": "call", **about}
    assert running.observe("item/started", turnId="turn", item=item) is None
    done = {**item, "aggregatedOutput": "a b", "exitCode": 0}
    ended = running.observe("item/completed", turnId="turn", item=done)
    assert isinstance(ended, EndedTool)
    assert ended.record is not None
    said = ended.record.attributes
    arguments = json.loads(str(said[semconv.TOOL_ARGUMENTS]))
    assert len(str(said[semconv.TOOL_ARGUMENTS])) <= limit
    if limit == 1_024:
        assert arguments == about
    else:
        assert json.dumps(about, separators=(",", ":")).startswith(arguments["cut"])
    assert json.loads(str(said[semconv.TOOL_RESULT])) == {"aggregatedOutput": "a b"}


def test_a_tool_that_says_nothing_has_nothing(content: Content) -> None:
    running = Running(content)
    item = {"type": "imageView", "id": "call"}
    running.observe("item/started", turnId="turn", item=item)
    ended = running.observe("item/completed", turnId="turn", item=item)
    assert isinstance(ended, EndedTool)
    assert ended.record is not None
    keys = {semconv.TOOL_ARGUMENTS, semconv.TOOL_RESULT}
    assert keys.isdisjoint(ended.record.attributes)
