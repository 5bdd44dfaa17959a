"""One websocket client: a reader that never waits for a writer, and a writer task.

Frames out are built by hand and written together; pings are answered through the
outbox's control lane, so a client that sends pings and reads nothing cannot stop its
own reader. Ending: RFC 6455 section 7, with the codes of the field: 1012 restart,
1013 too slow, 1009 too big, 1008 policy, 1007 not UTF-8, 1003 binary.
"""

import asyncio
import contextlib
from typing import Final, Literal, Protocol

from aiohttp import WebSocketError, WSMsgType, web

from trace_proxy.queues.outbox import Outbox
from trace_proxy.runtime.client import Client
from trace_proxy.runtime.frames import close_frame, message_of, pong_frame, text_frame

FAIR_SHARE: Final = 16
"""Messages of one client that are handled before others get a turn of the loop: half a
millisecond, which a neighbour's p99 bears."""

CLOSE_WAIT_S: Final = 1.0
"""For the peer's Close after ours."""

_PROTOCOL_ERROR: Final = 1002
_ECHOED_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
_OWN_CODES: Final = range(3000, 5000)


class Reader(Protocol):
    """Who takes what a client says."""

    def message(self, client: Client, data: bytes) -> None:
        """A text message."""
        ...


class Socket(web.WebSocketResponse[Literal[False]]):
    """aiohttp's handshake and frame parser; the Close is ours.

    Its own `close` writes past our queue, waits in the reader's task for a peer that may
    never read, and drops the connection before the peer's Close when a reader waits.

    Args:
        max_bytes: A larger message is not even read: Close 1009.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            autoping=False,
            autoclose=False,
            decode_text=False,
            compress=False,
            max_msg_size=max_bytes,
        )

    async def close(
        self,
        *,
        code: int = 1000,  # noqa: ARG002 - aiohttp's signature
        message: bytes = b"",  # noqa: ARG002 - as above
        drain: bool = True,  # noqa: ARG002 - as above
    ) -> bool:
        """Do nothing: `WebsocketClient` ends the connection."""
        return False


class WebsocketClient(Client):
    """A client behind a websocket.

    Args:
        socket: Prepared.
        request: Its handshake.
        outbox: Its queue.
        slow_close_s: How long a slow peer gets to take its Close.
    """

    def __init__(
        self, socket: Socket, request: web.BaseRequest, outbox: Outbox, slow_close_s: float
    ) -> None:
        super().__init__(outbox, slow_close_s)
        transport = request.transport
        assert transport is not None
        self._socket = socket
        self._protocol = request.protocol
        self._stream = request.writer
        self._transport: asyncio.Transport = transport
        self._ended = asyncio.get_running_loop().create_future()
        self._room: asyncio.Event | None = None

    def encode(self, message: bytes) -> bytes:
        """A text frame."""
        return text_frame(message)

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
        asyncio.get_running_loop().call_later(self._slow_close_s, self._transport.abort)

    async def run(self, reader: Reader) -> None:
        """Serve it until it is gone."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self.writes_in(tasks)
                try:
                    await self._read(reader)
                finally:
                    if self._writer is not None and self.closing is None:
                        self._writer.cancel()
        finally:
            self._tasks = None  # what is flushed now goes nowhere

    async def _read(self, reader: Reader) -> None:
        handled = 0
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                data = message.data
                assert isinstance(data, bytes)
                if self.closing is None:
                    self._text(reader, data)
            elif not self._control(message.type, message.data):
                return
            handled += 1
            if handled == FAIR_SHARE:
                handled = 0
                await asyncio.sleep(0)  # a turn for the others, not a delay

    def _text(self, reader: Reader, data: bytes) -> None:
        if data.isascii() or _is_utf8(data):
            reader.message(self, data)
        else:
            self.close(1007, "text must be UTF-8")

    def _control(self, kind: WSMsgType, data: object) -> bool:
        """Handle anything but text; False when nothing more will come."""
        if kind is WSMsgType.PING and isinstance(data, bytes | bytearray):
            return self._ping(bytes(data))
        if kind is WSMsgType.PONG:
            return True
        if kind is WSMsgType.BINARY:
            self.close(1003, "send text, one JSON-RPC message a frame")
            return True
        if kind is WSMsgType.ERROR and isinstance(data, WebSocketError):
            self.close(data.code, str(data))
            return False  # the peer still sends: only its end or our patience ends the wait
        if kind is WSMsgType.CLOSE:
            self._closed_by_peer(data)
        if not self._ended.done():
            self._ended.set_result(None)
        return False

    def _ping(self, payload: bytes) -> bool:
        if self.closing is None:
            if not self.outbox.append_control(pong_frame(payload)):
                self.abort()
                return False
            self.flush()
        return True

    def _closed_by_peer(self, data: object) -> None:
        """Answer with its own code (RFC 6455 section 5.5.1), or 1002 when that is none."""
        if self.closing is None:
            code = data if isinstance(data, int) else 0
            known = not code or code in _ECHOED_CODES or code in _OWN_CODES
            self.write(close_frame((code or 1000) if known else _PROTOCOL_ERROR, ""))
            self._hang_up()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
