"""One websocket client: a reader that never waits for a writer, and a writer task.

Frames out are built by hand and written together; pings are answered through the
outbox's control lane, so a client that sends pings and reads nothing cannot stop its
own reader. Ending: RFC 6455 section 7, with the codes of the field: 1012 restart,
1013 too slow, 1009 too big, 1008 policy, 1007 not UTF-8, 1003 binary.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from aiohttp import WebSocketError, WSMessage, WSMsgType, web
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.http import WebSocketReader, WSMessageTextBytes

from trace_proxy.queues.outbox import Outbox
from trace_proxy.runtime.client import Client
from trace_proxy.runtime.frames import close_frame, message_of, pong_frame, text_frame, text_frames
from trace_proxy.settings.limits import Limits

FAIR_SHARE_S: Final = 0.0001
"""Of each other turn of the loop for one client's messages: a neighbour's p99 bears it."""

FULL_WAIT_S: Final = 0.001
"""Until more is read of a client that has as many requests under way as it may: each one
more would be refused, and refusing without end takes the time that the others need."""

_SLICE: Final = 8
"""Messages that are handled without a look at the clock."""

_CONTROL_BYTES: Final = 6
"""Of a client's control frame, before its payload (RFC 6455 section 5.2)."""

_BEHIND: Final = 1
_LARGE: Final = 2
"""Why nothing is read: there is more to handle than a share, or a large message waits."""

CLOSE_WAIT_S: Final = 1.0
"""For the peer's Close after ours."""

_PROTOCOL_ERROR: Final = 1002
_ECHOED_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
_OWN_CODES: Final = range(3000, 5000)


class Reader(Protocol):
    """Who takes what a client says."""

    def messages(self, client: Client, texts: list[bytes]) -> bool:
        """Text messages, in order; returns whether it has as many requests under way as it may."""
        ...

    def large(self, client: Client, size: int, *, begins: bool) -> float:
        """So much of a large message has come; returns for how long to read no further."""
        ...


class _Inbox(WebSocketDataQueue):
    """Where aiohttp's frame parser puts what it has read; emptied after each piece of input.

    The stock queue wakes a task that asks for one message at a time, which costs more than
    handling the message.
    """

    _size = _limit = 0  # what the parser looks at: nothing waits here

    def __init__(self, ended: Callable[[], None]) -> None:
        # Not the stock one's: it makes a deque, 0.6 KB for every idle client.
        self.parsed: list[WSMessage | WSMessageTextBytes] = []
        self._ended = ended

    def feed_data(self, data: WSMessage | WSMessageTextBytes, size: int) -> None:  # noqa: ARG002
        self.parsed.append(data)

    def feed_eof(self) -> None:
        self._ended()

    def set_exception(self, exc: BaseException, exc_cause: object = None) -> None:  # noqa: ARG002
        self.parsed.append(WSMessage(WSMsgType.ERROR, exc, ""))


class _Frames(WebSocketReader):
    """aiohttp's frame parser, which hands on what it has parsed before it returns."""

    def __init__(self, inbox: _Inbox, parsed: Callable[[int], None], max_bytes: int) -> None:
        super().__init__(inbox, max_bytes, compress=False, decode_text=False)
        self._parsed = parsed

    def feed_data(self, data: bytes | bytearray | memoryview) -> tuple[bool, bytes]:
        ended = super().feed_data(data)
        self._parsed(len(data))
        return ended


class WebsocketClient(Client):
    """A client behind a websocket.

    Args:
        request: Its handshake, answered with 101.
        outbox: Its queue.
        limits: Of what it may send, and how long it gets to take its Close.
    """

    def __init__(self, request: web.BaseRequest, outbox: Outbox, limits: Limits) -> None:
        super().__init__(outbox, limits.slow_close_timeout_s)
        transport = request.transport
        assert transport is not None
        self._protocol = request.protocol
        self._stream = request.writer
        self._transport: asyncio.Transport = transport
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._reader: Reader | None = None
        self._inbox = _Inbox(self._gone)
        self._held = 0
        self._unfinished_bytes = 0
        self._large = False
        self._heard_all = self._loop.create_future()
        self._ended = self._loop.create_future()
        self._room: asyncio.Event | None = None

    def encode(self, message: bytes) -> bytes:
        """A text frame."""
        return text_frame(message)

    def encode_all(self, messages: Sequence[bytes]) -> list[bytes]:
        """Text frames."""
        return text_frames(messages)

    def decode(self, frame: bytes) -> bytes:
        """The frame's message."""
        return message_of(frame)

    @property
    def paused(self) -> bool:
        """Whether aiohttp was told to pause writing."""
        return self._protocol.writing_paused

    @property
    def buffered_bytes(self) -> int:
        """The transport's write buffer."""
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Write whole frames."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait until writing is resumed; raises ConnectionError when the peer is gone.

        In a task of its own, because aiohttp's `drain` must not be cancelled: whoever
        asks after that would find its waiter cancelled.
        """
        if self.paused and self._tasks is not None:
            room = self._room
            if room is None:
                room = self._room = asyncio.Event()
                self._tasks.create_task(self._make_room(room))
            await room.wait()
        if self._transport.is_closing():
            raise ConnectionResetError("the peer is gone")

    async def _make_room(self, room: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            await self._stream.drain()
        self._room = None
        room.set()

    async def send_close(self, code: int, reason: str) -> None:
        """Send Close behind all that was written, and wait a little for the peer's."""
        if not self._transport.is_closing():
            self._transport.set_write_buffer_limits(high=0)  # from now on, drained means empty
        self.write(close_frame(code, reason))
        await self.drained()
        async with asyncio.timeout(CLOSE_WAIT_S):
            await self._ended
        self._hang_up()

    def abort(self) -> None:
        """Reset the connection."""
        self._transport.abort()

    def _hang_up(self) -> None:
        """Close behind what the transport still holds, if the peer takes it soon."""
        self._transport.close()
        self._loop.call_later(self._slow_close_s, self._transport.abort)

    async def run(self, reader: Reader) -> None:
        """Serve it until it is gone."""
        self._reader = reader
        try:
            async with asyncio.TaskGroup() as tasks:
                self.writes_in(tasks)
                try:
                    frames = _Frames(self._inbox, self._parsed, self._limits.cut_message_bytes)
                    self._protocol.set_parser(frames)
                    self._protocol.keep_alive(False)  # noqa: FBT003 - its only argument
                    if self._protocol.transport is None:
                        self._gone()  # while the handshake was answered
                    await self._heard_all
                finally:
                    if self._writer is not None and self.closing is None:
                        self._writer.cancel()
        finally:
            self._tasks = None  # what is flushed now goes nowhere
            self._reader = None

    def _parsed(self, size: int) -> None:
        """So many bytes were parsed: handle what they completed."""
        parsed = self._inbox.parsed
        if parsed and not self._held & _BEHIND:
            self._hand_on()
        if parsed:
            if parsed[0][0] is WSMsgType.TEXT or not all(map(_is_ping, parsed)):
                self._unfinished_bytes, self._large = 0, False
                return
            # Between two fragments of a message; they do not count for it.
            size -= sum(_CONTROL_BYTES + len(message[1]) for message in parsed)
        self._unfinished_bytes += size
        if self._unfinished_bytes > self._limits.large_message_bytes:
            self._read_large(size if self._large else self._unfinished_bytes)

    def _read_large(self, size: int) -> None:
        """A large message goes on; it may have to wait before the rest of it is read."""
        if self._reader is None:
            return
        wait_s = self._reader.large(self, size, begins=not self._large)
        self._large = wait_s == 0
        if self._large:
            self._release(_LARGE)
        else:
            self._hold(_LARGE)
            self._loop.call_later(wait_s, self._read_large, size)

    def _hold(self, reason: int) -> None:
        """Read nothing for now."""
        if not self._held and not self._transport.is_closing():
            self._transport.pause_reading()
        self._held |= reason

    def _release(self, reason: int) -> None:
        if self._held == reason and not self._transport.is_closing():
            self._transport.resume_reading()
        self._held &= ~reason

    def _hand_on(self) -> None:
        """Handle a fair share of what was parsed; a later turn goes on with the rest."""
        parsed, self._inbox.parsed = self._inbox.parsed, []
        full = self._handle(parsed[:_SLICE])
        handled = _SLICE
        if handled < len(parsed):
            until_s = time.monotonic() + FAIR_SHARE_S
            while handled < len(parsed) and time.monotonic() < until_s:
                full = self._handle(parsed[handled : handled + _SLICE])
                handled += _SLICE
            self._inbox.parsed = parsed[handled:]
        if full:
            self._hold(_BEHIND)
            self._loop.call_later(FULL_WAIT_S, self._hand_on)
        elif handled < len(parsed):
            self._hold(_BEHIND)
            # Not in the next turn but one later: what others said meanwhile goes first.
            self._loop.call_soon(self._loop.call_soon, self._hand_on)
        else:
            self._release(_BEHIND)

    def _handle(self, parsed: list[WSMessage | WSMessageTextBytes]) -> bool:
        """Handle some messages; returns whether the client has all that it may under way."""
        reader, texts, full = self._reader, list[bytes](), False
        for message in parsed:
            if message[0] is WSMsgType.TEXT:
                data = message[1]
                assert isinstance(data, bytes)
                if data.isascii() or _is_utf8(data):
                    texts.append(data)
                    continue
            if texts and reader is not None and self.closing is None:
                reader.messages(self, texts)
                texts = []
            self._anything_else(message)
        if texts and reader is not None and self.closing is None:
            full = reader.messages(self, texts)
        return full

    def _gone(self) -> None:
        """Nothing more will come: the connection is closed."""
        for future in (self._heard_all, self._ended):
            if not future.done():
                future.set_result(None)

    def _anything_else(self, message: WSMessage | WSMessageTextBytes) -> None:
        """Handle what is no text that can be read."""
        kind, data = message[0], message[1]
        if self._heard_all.done():
            return  # behind a Close or an error
        if kind is WSMsgType.PING and isinstance(data, bytes | bytearray):
            self._ping(bytes(data))
        elif kind is WSMsgType.TEXT:
            self.close(1007, "text must be UTF-8")
        elif kind is WSMsgType.BINARY:
            self.close(1003, "send text, one JSON-RPC message a frame")
        elif kind is WSMsgType.ERROR:
            if isinstance(data, WebSocketError):
                self.close(data.code, str(data))
            else:
                self.abort()
            # The peer may still send: only its end, or our patience, ends the wait.
            self._heard_all.set_result(None)
        elif kind is WSMsgType.CLOSE:
            self._closed_by_peer(data)
            self._gone()

    def _ping(self, payload: bytes) -> None:
        if self.closing is None:
            if self.outbox.append_control(pong_frame(payload)):
                self.flush()
            else:
                self.abort()

    def _closed_by_peer(self, data: object) -> None:
        """Answer with its own code (RFC 6455 section 5.5.1), or 1002 when that is none."""
        if self.closing is None:
            code = data if isinstance(data, int) else 0
            known = not code or code in _ECHOED_CODES or code in _OWN_CODES
            self.write(close_frame((code or 1000) if known else _PROTOCOL_ERROR, ""))
            self._hang_up()


def _is_ping(message: WSMessage | WSMessageTextBytes) -> bool:
    return message[0] is WSMsgType.PING or message[0] is WSMsgType.PONG


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
