"""One client on our own stdin and stdout: the proxy as a drop-in wrapper.

Standard output carries protocol lines only; file descriptor 1 is moved away and
pointed at stderr first, so a stray print cannot corrupt the wire. End of input
drains, like a signal.
"""

import asyncio
import os
from collections.abc import Callable

from core_server.jsonrpc.framing import LineSplitter, Oversized
from trace_proxy.queues.client_queue import ClientQueue
from trace_proxy.runtime.clients import streams
from trace_proxy.runtime.clients.client import Client, Reader


class _Output(asyncio.Protocol):
    """The write side; tells when it is full, and when nobody reads any more."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self.paused = False
        self.resumed = asyncio.Event()
        self.resumed.set()

    def pause_writing(self) -> None:
        self.paused = True
        self.resumed.clear()

    def resume_writing(self) -> None:
        self.paused = False
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.resumed.set()
        self._lost()


class _Input(asyncio.Protocol):
    def __init__(self, client: "StdioClient", reader: Reader, max_line_bytes: int) -> None:
        self._client = client
        self._reader = reader
        self._splitter = LineSplitter(max_line_bytes)
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self._take(self._splitter.feed(data))

    def _take(self, lines: list[bytes | Oversized]) -> None:
        texts: list[bytes] = []
        for line in lines:
            if isinstance(line, Oversized):
                self._reader.messages(self._client, texts)
                self._reader.oversized(self._client, line)
                texts = []
            elif line.strip():
                texts.append(line)
        self._reader.messages(self._client, texts)

    def eof_received(self) -> None:
        self._take(self._splitter.close())
        self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.ended.set()


def claim_stdout() -> int:
    """Take file descriptor 1 for the protocol; whoever else writes there reaches stderr."""
    wire = os.dup(1)
    os.set_inheritable(wire, False)  # noqa: FBT003 - its only argument
    os.dup2(2, 1)
    return wire


class StdioClient(Client):
    """The client at the other end of our pipes.

    Args:
        queue: Its queue.
        wire: The file descriptor of the real stdout.
        slow_close_s: How long it gets to take the last lines.
    """

    def __init__(self, queue: ClientQueue, wire: int, slow_close_s: float) -> None:
        super().__init__(queue, slow_close_s)
        self._wire = wire
        self._output = _Output(self._nobody_reads)
        self._transport: asyncio.WriteTransport | None = None
        self._ended = asyncio.Event()
        self._source: _Input | None = None

    def encode(self, message: bytes) -> bytes:
        """A line."""
        return message + b"\n"

    def decode(self, frame: bytes) -> bytes:
        """The line without its newline."""
        return frame[:-1]

    @property
    def paused(self) -> bool:
        """Whether the pipe is full."""
        return self._output.paused

    @property
    def buffered_bytes(self) -> int:
        """What the pipe has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Write whole lines."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait until the pipe takes more."""
        await self._output.resumed.wait()
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("stdout was closed")

    async def send_close(self, code: int, reason: str) -> None:  # noqa: ARG002
        """End of output, behind all that was written."""
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.set_write_buffer_limits(high=0)  # from now on, drained means empty
            self._transport.write(b"")
            await self._output.resumed.wait()
        self.abort()

    def _nobody_reads(self) -> None:
        self.close(1001, "stdout was closed", drop=True)

    def abort(self) -> None:
        """Stop."""
        if self._transport is not None:
            self._transport.abort()
        if self._source is not None:
            self._source.ended.set()
        self._ended.set()

    async def run(self, reader: Reader, max_line_bytes: int) -> None:
        """Serve it until its input ends or it is closed."""
        loop = asyncio.get_running_loop()
        if streams.pollable(self._wire):
            self._transport, _ = await loop.connect_write_pipe(
                lambda: self._output, os.fdopen(self._wire, "wb", buffering=0)
            )
        else:
            self._transport = streams.FileTransport(self._wire)
        source = self._source = _Input(self, reader, max_line_bytes)
        stdin = os.dup(0)
        if not streams.pollable(stdin):
            stdin = streams.piped(stdin)
        reading, _ = await loop.connect_read_pipe(
            lambda: source, os.fdopen(stdin, "rb", buffering=0)
        )
        self.flush()
        try:
            await source.ended.wait()
            self.input_ended = True
        finally:
            reading.close()

    async def finish(self) -> None:
        """Wait until it was closed."""
        await self._ended.wait()
