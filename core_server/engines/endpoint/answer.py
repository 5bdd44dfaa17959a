"""An HTTP answer with a good status, whatever it is: stream, whole response, error, page. Pure.

    UNKNOWN --first bytes--> STREAM | JSON | TEXT --> the reader is completed or has failed

The first bytes decide, not the content type alone: endpoints send JSON as an event stream
and event streams as plain text.
"""

import contextlib
from enum import Enum, auto
from typing import Protocol

from core_server.engines.base import Event
from core_server.engines.endpoint.failures import Failure, reported, unreadable
from core_server.engines.endpoint.frames import (
    MAX_FRAME_BYTES,
    Frame,
    FrameReader,
    FrameTooLongError,
)
from core_server.engines.endpoint.values import Json, decoded
from core_server.engines.endpoint.words import page_words, said_in, said_in_body

# A page or text tells what it is in its head.
_MAX_TEXT_BYTES = 64 * 1024
_MAX_JUNK_CHARS = 200

# So many bytes tell the longest field name, "retry:", from anything else.
_HEAD_BYTES = 8
_FIELDS = (b"data", b"event", b"id", b"retry", b":")
_BOM = b"\xef\xbb\xbf"


class Reader(Protocol):
    """Reads one response on one wire."""

    completed: bool
    failure: Failure | None

    @property
    def ending(self) -> bool:
        """All of the answer is there; only usage may follow."""
        ...

    def feed(self, event: object, name: str = "") -> list[Event]:
        """Take an event."""
        ...

    def junk(self, text: str) -> None:
        """Take note of what is no event."""
        ...

    def marker(self) -> list[Event]:
        """Take `[DONE]`."""
        ...

    def whole(self, body: Json) -> list[Event]:
        """Take a response that is no stream."""
        ...

    def end(self) -> list[Event]:
        """The stream closed: the response is complete or failed now."""
        ...


class _Kind(Enum):
    UNKNOWN = auto()
    STREAM = auto()
    JSON = auto()
    TEXT = auto()


class AnswerReader:
    """Reads one answer.

    Args:
        reader: Of the wire.
        content_type: As the headers say; may be empty.
        status: HTTP status, for texts.
        url: What was asked, for texts.
    """

    def __init__(
        self, reader: Reader, content_type: str = "", status: int = 200, url: str = ""
    ) -> None:
        self._reader = reader
        self._content_type = content_type.lower()
        self._status = status
        self._url = url
        self._kind = _Kind.UNKNOWN
        self._frames = FrameReader()
        self._body = bytearray()
        self.events_read = 0

    def __repr__(self) -> str:
        return f"<AnswerReader {self._kind.name} {self._reader!r}>"

    @property
    def over(self) -> bool:
        """Whether the response is complete or failed."""
        return self._reader.completed or self._reader.failure is not None

    @property
    def completed(self) -> bool:
        """Whether the response is complete."""
        return self._reader.completed

    @property
    def failure(self) -> Failure | None:
        """Why it failed, if it did."""
        return self._reader.failure

    @property
    def ending(self) -> bool:
        """Whether nothing but usage may follow."""
        return self._reader.ending

    def feed(self, chunk: bytes) -> list[Event]:
        """Take bytes of the body; must not be over."""
        if self._kind is _Kind.STREAM:
            return self._stream(chunk)
        self._body += chunk
        if self._kind is _Kind.UNKNOWN:
            self._kind = self._told(at_end=False)
            if self._kind is _Kind.STREAM:
                chunk, self._body = bytes(self._body), bytearray()
                return self._stream(chunk)
        if self._kind is _Kind.TEXT and len(self._body) > _MAX_TEXT_BYTES:
            self._not_a_stream()
        if len(self._body) > MAX_FRAME_BYTES:
            self._reader.failure = unreadable(f"it is longer than {MAX_FRAME_BYTES} bytes")
        return []

    def end(self) -> list[Event]:
        """The body is over; the response is complete or failed after this."""
        if self._kind is _Kind.UNKNOWN:
            self._kind = self._told(at_end=True)
            if self._kind is _Kind.STREAM:
                events = self._stream(bytes(self._body))
                return events if self.over else [*events, *self._end_stream()]
        if self._kind is _Kind.STREAM:
            return self._end_stream()
        return self._not_a_stream()

    def _told(self, *, at_end: bool) -> _Kind:
        head = bytes(self._body[:64]).removeprefix(_BOM).lstrip()
        declared = "event-stream" in self._content_type
        if head[:1] in {b"{", b"["}:
            return _Kind.JSON
        if head[:1] == b"<":
            return _Kind.TEXT
        if head.startswith(_FIELDS) or (at_end and not head and declared):
            return _Kind.STREAM
        if not at_end and len(head) < _HEAD_BYTES and len(self._body) < _MAX_TEXT_BYTES:
            return _Kind.UNKNOWN
        if declared and head:
            return _Kind.STREAM
        return _Kind.JSON if "json" in self._content_type else _Kind.TEXT

    def _stream(self, chunk: bytes) -> list[Event]:
        try:
            frames = self._frames.feed(chunk)
        except FrameTooLongError:
            self._reader.failure = unreadable(f"an event is longer than {MAX_FRAME_BYTES} bytes")
            return []
        events: list[Event] = []
        for frame in frames:
            events += self._frame(frame)
            if self.over:
                break
        return events

    def _end_stream(self) -> list[Event]:
        events: list[Event] = []
        for frame in self._frames.end():
            if not self.over:
                events += self._frame(frame)
        return events if self.over else [*events, *self._reader.end()]

    def _frame(self, frame: Frame) -> list[Event]:
        data = frame.data[0] if len(frame.data) == 1 else b"\n".join(frame.data)
        try:
            event = decoded(data)
        except ValueError:
            return self._no_json(frame, data)
        self.events_read += 1
        return self._events(event, frame.name)

    def _events(self, event: object, name: str) -> list[Event]:
        """Some gateways put an event into a string once more, or several into a list."""
        if isinstance(event, str) and event.lstrip().startswith("{"):
            with contextlib.suppress(ValueError):
                event = decoded(event.encode("utf-8", "replace"))
        events: list[Event] = []
        for each in event if isinstance(event, list) else [event]:
            if not self.over:
                events += self._reader.feed(each, name)
        return events

    def _no_json(self, frame: Frame, data: bytes) -> list[Event]:
        text = data.strip()
        if text.startswith(b"[DONE]"):
            return self._reader.marker()
        if len(frame.data) > 1:  # some end an event by one line end
            events: list[Event] = []
            for line in frame.data:
                if not self.over:
                    events += self._frame(Frame(frame.name, (line,))) if line.strip() else []
            return events
        words = said_in_body(text).words[:_MAX_JUNK_CHARS]
        if frame.name == "error":
            self._reader.failure = reported(said_in(words))
        elif b"{" in text:
            self._reader.junk(f"an event is no JSON: {words}")
        return []

    def _not_a_stream(self) -> list[Event]:
        """A body: what is in it is taken or said."""
        body = bytes(self._body).removeprefix(_BOM).strip()
        try:
            value = decoded(body)
        except ValueError:
            self._reader.failure = self._no_stream(self._what(body))
            return []
        if isinstance(value, dict) and value.keys() & {"output", "choices"}:
            return self._reader.whole(value)
        said = said_in(value)
        if said.words or said.code:
            self._reader.failure = reported(said, again=False)
        else:
            words = said_in_body(body).words[:_MAX_JUNK_CHARS]
            self._reader.failure = self._no_stream(f"JSON that is no response: {words}")
        return []

    def _what(self, body: bytes) -> str:
        """What a body is that is no JSON."""
        if not body:
            return "nothing at all"
        if self._kind is _Kind.JSON:
            line = body.partition(b"\n")[0]
            words = said_in_body(line).words[:_MAX_JUNK_CHARS]
            return f"lines of JSON or broken JSON, not an event stream: {words}"
        text = body.decode("utf-8", "replace")
        if text.startswith("<"):
            return f"a web page: {page_words(text)}"
        return f"text: {said_in_body(body).words[:_MAX_JUNK_CHARS]}"

    def _no_stream(self, what: str) -> Failure:
        return Failure(
            f"the endpoint answered with {what} (status {self._status}, url: {self._url}; "
            "OPENAI_BASE_URL must lead to the API, often up to /v1)"
        )
