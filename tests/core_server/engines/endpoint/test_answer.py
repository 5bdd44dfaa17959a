"""What comes with a good status and is no stream, or half a stream."""

import itertools
import json

import pytest

from core_server.engines.base import Event, MessageDone
from core_server.engines.endpoint import answer as answer_module
from core_server.engines.endpoint.answer import AnswerReader, Reader
from core_server.engines.endpoint.chat import ChatReader
from core_server.engines.endpoint.failures import Failure
from core_server.engines.endpoint.responses import ResponseReader

RESPONSE = {
    "object": "response",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}],
}
COMPLETION = {
    "object": "chat.completion",
    "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
}
STREAM = (
    b'data: {"type":"response.output_text.delta","delta":"hi"}\n\ndata: '
    + json.dumps({"type": "response.completed", "response": RESPONSE}).encode()
)


def reader(content_type: str = "", *, chat: bool = False) -> AnswerReader:
    counter = itertools.count(1)
    wire: Reader = (ChatReader if chat else ResponseReader)(
        lambda prefix: f"{prefix}_{next(counter)}", frozenset()
    )
    return AnswerReader(wire, content_type, 200, "http://h/v1/responses")


def read(machine: AnswerReader, body: bytes) -> list[Event]:
    events = machine.feed(body) if body else []
    return events if machine.over else [*events, *machine.end()]


def failed(body: bytes, content_type: str = "", *, chat: bool = False) -> Failure:
    machine = reader(content_type, chat=chat)
    assert read(machine, body) == []
    assert machine.failure is not None
    return machine.failure


@pytest.mark.parametrize(
    "content_type", ["text/event-stream", "", "text/plain", "application/json", "text/html"]
)
def test_a_stream_is_one_whatever_it_is_called(content_type: str) -> None:
    machine = reader(content_type)

    assert read(machine, STREAM)[-1] == MessageDone("msg_1", "hi")
    assert machine.completed


@pytest.mark.parametrize("content_type", ["text/event-stream", "", "application/json"])
@pytest.mark.parametrize("lead", [b"", b"\n ", b"\xef\xbb\xbf"])
def test_a_whole_response_is_taken(content_type: str, lead: bytes) -> None:
    for chat, body in ((False, RESPONSE), (True, COMPLETION)):
        machine = reader(content_type, chat=chat)
        assert read(machine, lead + json.dumps(body).encode())[-1] == MessageDone("msg_1", "hi")
        assert machine.completed


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"", "", "nothing at all"),
        (b" \n", "text/plain", "nothing at all"),
        (b"<html><title>Hub</title>", "text/html", "a web page: Hub"),
        (b"<html><title>Hub</title>", "text/event-stream", "a web page: Hub"),
        (b"Service is starting", "text/plain", "text: Service is starting"),
        (b"no", "", "text: no"),
        (b'{"status": "ok"}', "application/json", 'JSON that is no response: {"status": "ok"}'),
        (b"[]", "application/json", "JSON that is no response"),
        (b'{"a": 1}\n{"a": 2}', "application/x-ndjson", "lines of JSON or broken JSON"),
        (b'{"a": ', "application/json", "lines of JSON or broken JSON"),
    ],
)
def test_what_is_no_answer_is_said_and_not_asked_for_again(
    body: bytes, content_type: str, words: str
) -> None:
    failure = failed(body, content_type)

    assert f"the endpoint answered with {words}" in failure.message
    assert "http://h/v1/responses" in failure.message
    assert not failure.retry


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (b'{"error": "not here"}', Failure("not here")),
        (b'{"detail": "Not Found"}', Failure("Not Found")),
        (b'"gone"', Failure("gone")),
        (b'[{"error": {"message": "quota", "code": 400}}]', Failure("quota")),
        (b'{"error": {"message": "later", "code": 503}}', Failure("later", retry=True)),
        (b'{"type": "error", "error": {"message": "no"}}', Failure("no")),
    ],
)
def test_an_error_in_a_good_answer_is_an_error(body: bytes, failure: Failure) -> None:
    assert failed(body, "application/json") == failure


@pytest.mark.parametrize(
    ("body", "chat", "words"),
    [
        (b'data: {"object":"chat.completion.chunk","choices":[]}\n\n', False, "--wire chat"),
        (json.dumps(COMPLETION).encode(), False, "--wire chat"),
        (b'data: {"type":"response.created","response":{}}\n\n', True, "--wire responses"),
        (json.dumps(RESPONSE).encode(), True, "--wire responses"),
    ],
)
def test_the_other_wire_is_named(
    body: bytes,
    chat: bool,  # noqa: FBT001 - a parameter of the table
    words: str,
) -> None:
    failure = failed(body, chat=chat)

    assert words in failure.message
    assert not failure.retry


@pytest.mark.parametrize(
    ("frame", "message", "retry"),
    [
        (b"event: error\ndata: overloaded\n\n", "overloaded", True),
        (b'event: error\ndata: {"message": "no"}\n\n', "no", False),
        (b'data: {"error": {"message": "no", "code": 502}}\n\n', "no", True),
        (b'data: {"error": "no"}\n\n', "no", False),
        (b'data: {"error": {"x": 1}}\n\n', "the endpoint reported an error", False),
    ],
)
@pytest.mark.parametrize("chat", [False, True])
def test_an_error_in_a_stream_ends_it_with_its_words(
    frame: bytes,
    message: str,
    retry: bool,  # noqa: FBT001 - a parameter of the table
    chat: bool,  # noqa: FBT001 - likewise
) -> None:
    failure = failed(frame, "text/event-stream", chat=chat)

    assert failure.message.startswith(message)
    assert failure.retry is retry


def test_frames_that_end_with_one_line_end_are_read() -> None:
    machine = reader()

    assert read(machine, STREAM.replace(b"\n\n", b"\n"))[-1] == MessageDone("msg_1", "hi")


def test_the_last_words_of_a_stream_that_broke_off_are_told() -> None:
    failure = failed(b'data: {"broken\n\n', "text/event-stream")

    assert 'an event is no JSON: {"broken' in failure.message
    assert failure.retry


def test_an_answer_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "MAX_FRAME_BYTES", 1000)
    for head in (b"{", b"data: "):
        machine = reader()
        for _ in range(20_000_000 // 100_000):
            if not machine.over:
                machine.feed(head + b"x" * 100_000)
        assert machine.failure is not None
        assert "longer than" in machine.failure.message


def test_a_page_is_not_read_to_its_end() -> None:
    machine = reader()
    machine.feed(b"<title>Hub</title>")
    while not machine.over:
        machine.feed(b"x" * 1000)

    assert machine.failure is not None
    assert "a web page: Hub" in machine.failure.message
