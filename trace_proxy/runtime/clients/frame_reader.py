"""What a websocket client says: parsed and handled a fair share at a time.

One read may bring a thousand requests, and to parse and handle them all at once is what
every other client would wait for. So a share is handled in one turn of the event loop and
the rest later:

    read ──> rest ──> a piece is parsed ──> messages ──> a few are handled ──> share used up?
                                                              client full?      message large?

As long as there is a rest nothing more is read, so that TCP slows down who sends it. A large
message waits until its client may send one; the parsing of it is no matter of that.
"""

import asyncio
import time
from typing import Final, Protocol

from trace_proxy.queues.pace import WEIGHED_BYTES, cost_of
from trace_proxy.runtime.clients.client import Client, Reader
from trace_proxy.runtime.clients.frames import FrameParser, Parsed, Ping, Pong
from trace_proxy.settings.limits import KIB, Limits

FAIR_SHARE_S: Final = 0.0001
"""Of each other turn of the loop for one client's messages: a neighbour's p99 bears it."""

ALONE_SHARE_S: Final = 0.0005
"""The same while nobody else speaks: who comes then may wait so long, once."""

SHARES_IN_A_ROW: Final = 2
"""Then a pause, unless nobody else speaks. Some 15,000 small requests a second are left, and
the processor is free a thousand times a second: for the core, which may have no other."""

PAUSE_S: Final = 0.001
"""Also after requests of a client that has as many under way as it may, and after pings and
nothing else: to refuse without end, or to pong, takes the time that the others need."""

_LEAST_PIECE_BYTES: Final = 2 * KIB
_MOST_PIECE_BYTES: Final = 32 * KIB
"""Parsed without a look at the clock, at least and at most. Frames of no bytes, thousands in
32 KiB, take a hundred times as long as a message does: then pieces become small."""

_SLOW_PARSE_S: Final = 0.0002
_FAST_PARSE_S: Final = 0.00005

_SLICE: Final = 8
"""Messages that are handled without a look at the clock."""

_HELD_STEP_BYTES: Final = 64 * KIB
"""What is held is told of in steps of so much."""

_NOTHING: Final = memoryview(b"")
"""One for all: an empty slice would keep alive what it was cut from."""


class Handler(Protocol):
    """Who handles what was parsed; see `websocket`."""

    def handle(self, parsed: list[Parsed]) -> bool:
        """Some of it, in order; returns whether the client has all that it may under way."""
        ...

    def ended(self) -> None:
        """Nothing more will come: the connection is closed."""
        ...


class FrameReader:
    """Reads one client's frames; aiohttp calls it as the parser of an upgraded connection.

    Args:
        transport: Paused while there is a rest.
        client: Whose frames they are.
        handler: Who handles what was parsed.
        reader: Who knows of the other clients.
        limits: Of what the client may send.

    Attributes:
        heard_at_s: When it said something last, loop time.
        unfinished_since_s: Since when a message has been unfinished, None while none is.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        client: Client,
        handler: Handler,
        reader: Reader,
        limits: Limits,
    ) -> None:
        self._parser = FrameParser(limits.max_message_bytes, limits.cut_message_bytes)
        self._transport = transport
        self._client = client
        self._handler = handler
        self._reader = reader
        self._weighed_bytes = min(WEIGHED_BYTES, limits.large_message_bytes)
        self._cost_bytes = 0  # of the first of what was parsed, while that waits
        self._loop = asyncio.get_running_loop()
        self._piece_bytes = 2 * _LEAST_PIECE_BYTES
        self._parsed: list[Parsed] = []
        self._rest = _NOTHING
        self._waits = False
        self._shares = 0
        self._held_bytes = 0
        self.heard_at_s = self._loop.time()
        self.unfinished_since_s: float | None = None

    def __repr__(self) -> str:
        return f"<FrameReader {self._parser!r} held_bytes={self._held_bytes}>"

    def feed_eof(self) -> None:
        """The connection is closed."""
        self._handler.ended()

    def set_exception(self, exc: BaseException, exc_cause: object = None) -> None:  # noqa: ARG002
        """The connection was lost."""
        self._handler.ended()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what was read; whatever it is, aiohttp is to go on."""
        self.heard_at_s = self._loop.time()
        if self._waits:
            self._rest = memoryview(b"".join((self._rest, data)))
            return False, b""
        size = len(data)
        if size <= _LEAST_PIECE_BYTES:
            self._parsed = self._parser.feed(data)  # nothing of before is left: see `_waits`
        elif size <= self._piece_bytes:
            self._parse(data)
        else:
            self._rest = memoryview(data)
        self._go_on()
        return False, b""

    def _go_on(self) -> None:
        """Handle a share of the rest; read on behind it when all is handled."""
        wait_s = self._share()
        unfinished = self._parser.unfinished
        if not unfinished:
            self.unfinished_since_s = None
        elif self.unfinished_since_s is None:
            self.unfinished_since_s = self.heard_at_s
        if unfinished or self._held_bytes or wait_s is not None:
            self._tell_held()
        if wait_s is None:
            self._shares = 0
            if self._waits:
                self._waits = False
                if not self._transport.is_closing():
                    self._transport.resume_reading()
            return
        if not self._waits:
            self._waits = True
            if not self._transport.is_closing():
                self._transport.pause_reading()
        if wait_s:
            self._loop.call_later(wait_s, self._go_on)
        else:
            # Not in the next turn but one later: what others said meanwhile goes first.
            self._loop.call_soon(self._loop.call_soon, self._go_on)

    def _share(self) -> float | None:
        """Handle a share; returns after how many seconds to go on, None when there is no rest."""
        began_s = 0.0
        while True:
            if not self._parsed:
                if not self._rest:
                    return None
                began_s = began_s or time.monotonic()
                self._parse_rest()
                if not self._parsed and self._is_used_up(began_s):
                    return self._used_up()
                continue
            parsed = self._slice()
            if began_s == 0.0 and (self._rest or self._parsed):
                began_s = time.monotonic()  # nobody asks where this is all there is
            weighs = max(map(len, parsed)) >= self._weighed_bytes
            if weighs and (wait_s := self._wait_s(parsed)):
                return wait_s
            full = self._handler.handle(parsed)
            if full or (len(parsed) == _SLICE and all(map(_is_ping, parsed))):
                return PAUSE_S
            if not self._rest and not self._parsed:
                return None
            if self._is_used_up(began_s):
                return self._used_up()

    def _parse_rest(self) -> None:
        """Parse a piece of what was read."""
        rest, size = self._rest, self._piece_bytes
        self._rest = rest[size:] if len(rest) > size else _NOTHING
        self._parse(bytes(rest[:size]))

    def _slice(self) -> list[Parsed]:
        """The next few messages."""
        parsed, self._parsed = self._parsed, []
        if len(parsed) > _SLICE:
            parsed, self._parsed = parsed[:_SLICE], parsed[_SLICE:]
        return parsed

    def _wait_s(self, parsed: list[Parsed]) -> float:
        """Seconds until one of these that is not small may be handled; before it all may."""
        weighed_bytes = self._weighed_bytes
        self._client.paced = False
        for place, message in enumerate(parsed):
            if type(message) is not bytes or len(message) < weighed_bytes:
                continue
            if self._client.closing is not None:
                return 0.0  # nobody wants it any more, and behind it the peer's Close may come
            cost_bytes = self._cost_bytes or cost_of(message)
            self._cost_bytes = 0
            wait_s = self._reader.weighs(self._client, cost_bytes)
            if wait_s:
                self._cost_bytes = cost_bytes
                self._client.paced = True
                before, rest = parsed[:place], parsed[place:]
                self._parsed = rest + self._parsed
                if before:
                    self._handler.handle(before)
                return wait_s
        return 0.0

    def _is_used_up(self, began_s: float) -> bool:
        """Whether the share that began then is."""
        took_s = time.monotonic() - began_s
        return took_s >= FAIR_SHARE_S and (
            took_s >= ALONE_SHARE_S or not self._reader.alone(self._client)
        )

    def _used_up(self) -> float:
        """The share is used up; returns after how many seconds there is another."""
        self._shares += 1
        if self._shares < SHARES_IN_A_ROW or self._reader.alone(self._client):
            return 0.0
        self._shares = 0
        return PAUSE_S

    def _parse(self, piece: bytes) -> None:
        """Parse a piece of what came, and learn how large the next one may be."""
        if len(piece) <= _LEAST_PIECE_BYTES:
            parsed = self._parser.feed(piece)
        else:
            began_s = time.monotonic()
            parsed = self._parser.feed(piece)
            took_s = time.monotonic() - began_s
            if took_s > _SLOW_PARSE_S:
                self._piece_bytes = max(_LEAST_PIECE_BYTES, self._piece_bytes // 2)
            elif took_s < _FAST_PARSE_S:
                self._piece_bytes = min(_MOST_PIECE_BYTES, self._piece_bytes * 2)
        if self._parsed:
            self._parsed += parsed
        else:
            self._parsed = parsed

    def _tell_held(self) -> None:
        """Say how much input of this client is held, where that is worth saying."""
        held = self._parser.unfinished_bytes + len(self._rest)
        if self._parsed:
            held += sum(len(each) for each in self._parsed if type(each) is bytes)
        if held >= _HELD_STEP_BYTES or self._held_bytes:
            held -= held % _HELD_STEP_BYTES
            if held != self._held_bytes:
                self._held_bytes = held
                self._reader.holds(self._client, held)


def _is_ping(message: Parsed) -> bool:
    return type(message) is Ping or type(message) is Pong
