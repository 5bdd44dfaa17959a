"""One websocket client: a reader that never waits for a writer, and a writer task.

Frames out are built by hand and written together; pings are answered through the
the queue's control lane, so a client that sends pings and reads nothing cannot stop its
own reader. Ending: RFC 6455 section 7, with the codes of the field: 1012 restart,
1013 too slow, 1009 too big, 1008 policy, 1007 not UTF-8, 1003 binary.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final, cast

from aiohttp import web

from core_server.jsonrpc.framing import Oversized
from trace_proxy.queues.client_queue import ClientQueue
from trace_proxy.runtime.clients.client import Client, Reader
from trace_proxy.runtime.clients.frame_reader import FrameReader
from trace_proxy.runtime.clients.frames import (
    PING_FRAME,
    Close,
    Parsed,
    Ping,
    Violation,
    close_frame,
    message_of,
    pong_frame,
    text_frame,
    text_frames,
)
from trace_proxy.settings.limits import Limits

CLOSE_WAIT_S: Final = 1.0
"""For the peer's Close after ours."""


class WebsocketClient(Client):
    """A client behind a websocket.

    Args:
        request: Its handshake, answered with 101.
        queue: Its queue.
        limits: Of what it may send, and how long it gets to take its Close.
    """

    def __init__(self, request: web.BaseRequest, queue: ClientQueue, limits: Limits) -> None:
        super().__init__(queue, limits.slow_close_timeout_s)
        transport = request.transport
        assert transport is not None
        self._protocol = request.protocol
        self._stream = request.writer
        self._transport: asyncio.Transport = transport
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._reader: Reader | None = None
        self._frames: FrameReader | None = None
        self._heard_all = self._loop.create_future()
        self._ended = self._loop.create_future()
        self._room: asyncio.Event | None = None

    encode = staticmethod(text_frame)

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
                    frames = FrameReader(self._transport, self, self, reader, self._limits)
                    self._frames = frames
                    # It asks for no more of a parser than `FrameReader` has.
                    self._protocol.set_parser(cast("Any", frames))
                    self._protocol.keep_alive(False)  # noqa: FBT003 - its only argument
                    if self._protocol.transport is None:
                        self.ended()  # while the handshake was answered
                    await self._heard_all
                finally:
                    if self._writer is not None and self.closing is None:
                        self._writer.cancel()
        finally:
            self._tasks = None  # what is flushed now goes nowhere
            self._reader = self._frames = None

    def handle(self, parsed: list[Parsed]) -> bool:
        """Handle some messages; returns whether the client has all that it may under way."""
        for each in parsed:
            if type(each) is not bytes:
                return self._handle_mixed(parsed)
        if self._reader is None or self.closing is not None:
            return False
        return self._reader.messages(self, cast("list[bytes]", parsed))

    def _handle_mixed(self, parsed: list[Parsed]) -> bool:
        texts: list[bytes] = []
        full = False
        for message in parsed:
            if type(message) is bytes:
                texts.append(message)
                continue
            if texts:
                full = self._say(texts)
                texts = []
            self._anything_else(message)
        return self._say(texts) if texts else full

    def _say(self, texts: list[bytes]) -> bool:
        if self._reader is None or self.closing is not None:
            return False
        return self._reader.messages(self, texts)

    def ended(self) -> None:
        """Nothing more will come: the connection is closed."""
        for future in (self._heard_all, self._ended):
            if not future.done():
                future.set_result(None)

    def _anything_else(self, message: Parsed) -> None:
        """Handle what is no text."""
        if self._heard_all.done():
            return  # behind a Close or an error
        match message:
            case Ping(payload):
                self._ping(payload)
            case Oversized():
                if self._reader is not None and self.closing is None:
                    self._reader.oversized(self, message)
            case Violation(code, reason):
                self.close(code, reason)
                # The peer may still send: only its end, or our patience, ends the wait.
                self._heard_all.set_result(None)
            case Close(code):
                self._closed_by_peer(code)
                self.ended()
            case _:  # a pong: it was heard
                pass

    def _ping(self, payload: bytes) -> None:
        if self.closing is None:
            if self.queue.append_control(pong_frame(payload)):
                self.flush()
            else:
                self.abort()

    def _closed_by_peer(self, code: int) -> None:
        """Answer with its own code (RFC 6455 section 5.5.1)."""
        if self.closing is None:
            self.write(close_frame(code or 1000, ""))
            self._hang_up()

    @property
    def heard_at_s(self) -> float | None:
        """When it said something last, loop time; None while that is not known."""
        return None if self._frames is None else self._frames.heard_at_s

    @property
    def unfinished_since_s(self) -> float | None:
        """Since when a message of it has been unfinished."""
        return None if self._frames is None else self._frames.unfinished_since_s

    def ping(self) -> None:
        """Ask whether it is there; whatever it says next is the answer."""
        if self.closing is None and self.queue.append_control(PING_FRAME):
            self.flush()
