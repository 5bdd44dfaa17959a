"""The pipes of a running command, on the event loop: output in, stdin out.

Callbacks of the loop instead of tasks: nothing here can be orphaned. Reading stops while
the queue is full, writing waits while the pipe is full; neither grows.
"""

import asyncio
import contextlib
import os
from functools import partial
from typing import Literal, cast

from core_server.tools.base import Output, ToolError
from core_server.tools.process.output import OutputQueue

_READ_BYTES = 64 * 1024  # what a pipe holds
# Reads per wakeup: enough to drop a gigabyte in about a second, few enough (0.1 ms)
# that a neighbour on the loop does not notice.
_READS_PER_WAKEUP = 8
_END_OF_TRANSMISSION = b"\x04"


class OutputReader:
    """Reads the streams into a bounded queue.

    Args:
        fds: Non-blocking descriptor of each stream; owned from here on.
        cap_bytes: See `Command.output_cap_bytes`.
    """

    def __init__(self, fds: dict[str, int], cap_bytes: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._fds = dict(fds)
        self._queue = OutputQueue(cap_bytes)
        self._changed = asyncio.Event()
        self._reading = False
        self._writers_gone = False
        self._discarding = False
        self._resume()

    @property
    def truncated(self) -> bool:
        """Whether output went over its cap."""
        return self._queue.truncated

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return bool(self._fds)

    async def next(self) -> Output | None:
        """Return the next piece, waiting for it; None at the end."""
        while True:
            piece = self._queue.pop()
            if piece is not None:
                self._resume()
                return piece
            if not self._fds:
                return None
            self._changed.clear()
            await self._changed.wait()

    async def discard(self) -> None:
        """Read and drop all that comes, to the end."""
        self._discarding = True
        self._queue.clear()
        self._resume()
        while await self.next() is not None:
            pass

    def notice(self, text: str) -> None:
        """Add a line of the core's own."""
        self._queue.put_notice(text)
        self._changed.set()

    def end_writers(self) -> None:
        """Tell that every process is gone: what is not in the pipes now is not to come.

        A process elsewhere that was handed a descriptor would otherwise hold up the end.
        """
        self._writers_gone = True
        for stream in tuple(self._fds) if self._reading else ():
            self._read(stream)

    def close(self) -> None:
        """Stop reading and free the descriptors."""
        for stream in tuple(self._fds):
            self._end(stream)

    def _resume(self) -> None:
        if self._reading or not (self._discarding or self._queue.wants_more):
            return
        self._reading = True
        for stream, fd in self._fds.items():
            self._loop.add_reader(fd, self._read, stream)
        if self._writers_gone:
            self.end_writers()

    def _pause(self) -> None:
        self._reading = False
        for fd in self._fds.values():
            self._loop.remove_reader(fd)

    def _read(self, stream: str) -> None:
        for _ in range(_READS_PER_WAKEUP):
            if stream not in self._fds or not self._reading:
                return
            try:
                data = os.read(self._fds[stream], _READ_BYTES)
            except BlockingIOError:
                if self._writers_gone:
                    self._end(stream)
                return
            except OSError:  # EIO: a terminal whose other side is closed
                data = b""
            if not data:
                self._end(stream)
                return
            self._take(stream, data)

    def _take(self, stream: str, data: bytes) -> None:
        if not self._discarding:
            self._queue.put(cast("Literal['stdout', 'stderr']", stream), data)
            self._changed.set()
            if not self._queue.wants_more:
                self._pause()

    def _end(self, stream: str) -> None:
        fd = self._fds.pop(stream)
        self._loop.remove_reader(fd)
        os.close(fd)
        self._changed.set()


class InputWriter:
    """Writes to a command's stdin.

    Args:
        fd: Non-blocking; owned from here on. None if the command has no stdin.
        tty: It is a terminal: closing means to type the end-of-file character.
    """

    def __init__(self, fd: int | None, *, tty: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._tty = tty
        self._turn = asyncio.Lock()  # two writers must not mix their bytes
        self._waiting: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Write all of it; waits while the command does not read.

        Raises:
            ToolError: stdin is closed, or was never open.
        """
        async with self._turn:
            left = memoryview(data)
            while left:
                if self._fd is None:
                    raise ToolError("stdin of the command is closed")
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    await self._writable(self._fd)
                except OSError:
                    self.close()

    async def finish(self) -> None:
        """Let the command see the end of its input, after all that was written."""
        if self._tty and self._fd is not None:
            await self.write(_END_OF_TRANSMISSION)
            return
        async with self._turn:
            self.close()

    def close(self) -> None:
        """Free the descriptor; a writer that waits fails."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        self._loop.remove_writer(fd)
        os.close(fd)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _writable(self, fd: int) -> None:
        self._waiting = self._loop.create_future()
        self._loop.add_writer(fd, partial(_wake, self._waiting))
        try:
            await self._waiting
        finally:
            self._waiting = None
            with contextlib.suppress(ValueError):
                if self._fd is not None:
                    self._loop.remove_writer(fd)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
