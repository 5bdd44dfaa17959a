"""What a websocket client says: parsed and handled a fair share at a time.

One read may bring a thousand requests, and to parse and handle them all at once is what
every other client would wait for. So a share is handled in one turn of the event loop and
the rest later:

    read ──> rest ──> a piece is parsed ──> messages ──> a few are handled ──> share used up?
                                                              client full?      message large?

As long as there is a rest nothing more is read, so that TCP slows down who sends it.
The frames themselves (RFC 6455 section 5) are aiohttp's matter.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import WSMessage, WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.http import WebSocketReader, WSMessageTextBytes

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

_PIECE_BYTES: Final = 32 * KIB
"""Parsed without a look at the clock: half a share's time if it is all small messages."""

_SLICE: Final = 8
"""Messages that are handled without a look at the clock."""

_NOTHING: Final = memoryview(b"")
"""One for all: an empty slice would keep alive what it was cut from."""

Parsed = WSMessage | WSMessageTextBytes
"""A message as aiohttp parsed it; text is bytes that may not be UTF-8."""


class Listener(Protocol):
    """Who takes what a client says."""

    def handle(self, parsed: list[Parsed]) -> bool:
        """Some messages, in order; returns whether it has all that it may under way."""
        ...

    @property
    def alone(self) -> bool:
        """Whether nobody else has said anything lately."""
        ...

    def handle_large(self, size: int, *, begins: bool) -> float:
        """So much of a large message has come; returns for how long to read no further."""
        ...

    def ended(self) -> None:
        """Nothing more will come: the connection is closed."""
        ...


class _Inbox(WebSocketDataQueue):
    """Where aiohttp's frame parser puts what it has read; emptied after each piece.

    The stock queue wakes a task that asks for one message at a time, which costs more than
    handling the message.
    """

    _size = _limit = 0  # what the parser looks at: nothing waits here

    def __init__(self, ended: Callable[[], None]) -> None:
        # Not the stock one's: it makes a deque, 0.6 KB for every idle client.
        self.parsed: list[Parsed] = []
        self._ended = ended

    def feed_data(self, data: Parsed, size: int) -> None:  # noqa: ARG002
        self.parsed.append(data)

    def feed_eof(self) -> None:
        self._ended()

    def set_exception(self, exc: BaseException, exc_cause: object = None) -> None:  # noqa: ARG002
        self.parsed.append(WSMessage(WSMsgType.ERROR, exc, ""))


class FrameReader(WebSocketReader):
    """Reads one client's frames.

    Args:
        transport: Paused while there is a rest.
        listener: Who takes what was read.
        limits: Of what the client may send.
    """

    def __init__(self, transport: asyncio.Transport, listener: Listener, limits: Limits) -> None:
        self._inbox = _Inbox(listener.ended)
        super().__init__(self._inbox, limits.cut_message_bytes, compress=False, decode_text=False)
        self._transport = transport
        self._listener = listener
        self._large_bytes = limits.large_message_bytes
        self._loop = asyncio.get_running_loop()
        self._rest = _NOTHING
        self._waits = False
        self._shares = 0
        self._unfinished_bytes = 0
        self._large = False
        self._uncharged_bytes = 0

    def feed_data(self, data: bytes | bytearray | memoryview) -> tuple[bool, bytes]:
        """Take what was read; whatever it is, aiohttp is to go on."""
        if self._waits:
            self._rest = memoryview(b"".join((self._rest, data)))
            return False, b""
        if len(data) <= _PIECE_BYTES:
            self._parse(data)
        else:
            self._rest = memoryview(data)
        self._go_on()
        return False, b""

    def _go_on(self) -> None:
        """Handle a share of the rest; read on behind it when all is handled."""
        wait_s = self._share()
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
        listener, began_s = self._listener, time.monotonic()
        while True:
            if self._uncharged_bytes and (wait_s := self._read_large()):
                return wait_s
            parsed = self._inbox.parsed
            if not parsed:
                rest = self._rest
                if not rest:
                    return None
                self._rest = rest[_PIECE_BYTES:] if len(rest) > _PIECE_BYTES else _NOTHING
                self._parse(rest[:_PIECE_BYTES])
                continue
            if len(parsed) > _SLICE:
                parsed, self._inbox.parsed = parsed[:_SLICE], parsed[_SLICE:]
            else:
                self._inbox.parsed = []
            full = listener.handle(parsed)
            if full or (len(parsed) == _SLICE and all(map(_is_ping, parsed))):
                return PAUSE_S
            if not self._rest and not self._inbox.parsed:
                return None
            took_s = time.monotonic() - began_s
            if took_s >= FAIR_SHARE_S and (took_s >= ALONE_SHARE_S or not listener.alone):
                return self._used_up()

    def _used_up(self) -> float:
        """The share is used up; returns after how many seconds there is another."""
        self._shares += 1
        if self._shares < SHARES_IN_A_ROW or self._listener.alone:
            return 0.0
        self._shares = 0
        return PAUSE_S

    def _parse(self, piece: bytes | bytearray | memoryview) -> None:
        """Parse a piece of what came."""
        super().feed_data(piece)
        size, parsed = len(piece), self._inbox.parsed
        if parsed:
            if parsed[0][0] is WSMsgType.TEXT or not all(map(_is_ping, parsed)):
                left = 0  # a small piece has no room for much of the next message
                if size == _PIECE_BYTES:
                    left = self._unfinished_bytes + size - sum(map(_frame_bytes, parsed))
                self._unfinished_bytes, self._large = max(0, min(left, size - 1)), False
                return
            # Between two fragments of a message; they do not count for it.
            size -= sum(map(_frame_bytes, parsed))
        self._unfinished_bytes += size
        if self._unfinished_bytes >= self._large_bytes:
            self._uncharged_bytes = size if self._large else self._unfinished_bytes

    def _read_large(self) -> float:
        """A large message goes on; returns how long the rest of it has to wait."""
        wait_s = self._listener.handle_large(self._uncharged_bytes, begins=not self._large)
        if not wait_s:
            self._large, self._uncharged_bytes = True, 0
        return wait_s


def _is_ping(message: Parsed) -> bool:
    return message[0] is WSMsgType.PING or message[0] is WSMsgType.PONG


def _frame_bytes(message: Parsed) -> int:
    """What a client's frame took (RFC 6455 section 5.2), of a fragmented message at least."""
    payload = message[1]
    size = len(payload) if isinstance(payload, bytes | bytearray) else 0
    return size + (6 if size < 126 else 8 if size < 65_536 else 14)
