"""Stdin into lines, lines onto stdout, and nobody else's bytes in between.

`claim` moves the protocol to descriptors of its own and points fd 0 at /dev/null and
fd 1 at stderr, so a stray print, or a library that writes to fd 1, cannot corrupt the
wire and no child can read it. Both ends are non-blocking; what is no pipe or socket (a
terminal, a file) goes through a thread and a pipe. Lines are joined into one write per
turn of the event loop.

Nobody waits for the client here except the reader, and that cannot deadlock: `Writer`
keeps what does not fit, and `Reader` is paused (by the dispatcher) only while more is
unread than a bound. A client that reads makes room, and reading goes on; a client that
does not read gets no more service, and its own write waits, not ours. Turns, timers,
signals and the end do not depend on the reader.
"""

import asyncio
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from core_server.jsonrpc.framing import LineSplitter, Oversized

READ_BYTES: Final = 64 * 1024
"""The capacity of a Linux pipe: one read takes all that is there."""

WRITE_BYTES: Final = 1024 * 1024
"""One system call's worth: a larger one would copy what does not fit, again and again."""


def claim() -> tuple[int, int]:
    """Take fd 0 and 1 for the protocol; returns what to read from and to write to."""
    ends = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # stderr is closed
        os.dup2(null, 1)
        os.dup2(null, 2)
    os.close(null)
    return ends


def pollable(fd: int, flags: int) -> tuple[int, threading.Thread | None]:
    """A non-blocking descriptor for the same bytes, and the thread that carries them, if any.

    A pipe is opened anew, because O_NONBLOCK belongs to the open file, which we may
    share with other processes.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        try:
            own = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # no /proc, or a pipe of another user
            os.set_blocking(fd, False)
            return fd, None
        os.close(fd)
        return own, None
    if stat.S_ISSOCK(mode):
        os.set_blocking(fd, False)
        return fd, None
    inner, outer = os.pipe()
    source, target, ours = (fd, outer, inner) if flags == os.O_RDONLY else (inner, fd, outer)
    carrier = threading.Thread(target=_carry, args=(source, target), daemon=True)
    carrier.start()
    os.set_blocking(ours, False)
    return ours, carrier


def _carry(source: int, target: int) -> None:
    try:
        while chunk := os.read(source, READ_BYTES):
            left = memoryview(chunk)
            while left:
                left = left[os.write(target, left) :]
    except OSError:  # either side is gone; the other one learns it by the close
        pass
    finally:
        os.close(source)
        os.close(target)


class Reader:
    """Stdin. Calls back with all lines of a chunk at once, and once at the end.

    Args:
        fd: Readable and non-blocking.
        max_line_bytes: A longer line comes as `Oversized`.
        on_lines: Takes the lines of one chunk.
        on_end: The input is at its end, or broken.
    """

    def __init__(
        self,
        fd: int,
        max_line_bytes: int,
        on_lines: Callable[[list[bytes | Oversized]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._fd = fd
        self._splitter = LineSplitter(max_line_bytes)
        self._on_lines = on_lines
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._ended = False

    def resume(self) -> None:
        """Begin to read, or go on; a no-op while reading and after the end."""
        if not self._reading and not self._ended:
            self._loop.add_reader(self._fd, self._readable)
            self._reading = True

    def pause(self) -> None:
        """Leave what comes in the pipe."""
        if self._reading:
            self._loop.remove_reader(self._fd)
            self._reading = False

    def close(self) -> None:
        """Read no more."""
        self.pause()
        self._ended = True

    def _readable(self) -> None:
        try:
            chunk = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if chunk:
            if lines := self._splitter.feed(chunk):
                self._on_lines(lines)
            return
        self.close()
        if lines := self._splitter.close():
            self._on_lines(lines)
        self._on_end()


class Writer:
    """Stdout. Takes lines without waiting; counts what the client has not taken.

    Args:
        fd: Writable and non-blocking.
        on_broken: The client closed its end; called once.
        on_progress: Bytes were taken.
    """

    def __init__(
        self, fd: int, on_broken: Callable[[], None], on_progress: Callable[[], None]
    ) -> None:
        self._fd = fd
        self._on_broken = on_broken
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._lines: list[bytes] = []
        self._chunks: deque[memoryview] = deque()
        self._scheduled = False
        self._blocked = False
        self._broken = False
        self._moved = asyncio.Event()
        self.buffered_bytes = 0
        self._watch()

    def write(self, line: bytes) -> None:
        """Queue a line; it leaves with all others of this turn of the loop."""
        if self._broken:
            return
        self._lines.append(line)
        self.buffered_bytes += len(line) + 1
        if not self._scheduled and not self._blocked:
            self._scheduled = True
            self._loop.call_soon(self._scheduled_flush)

    def flush(self) -> None:
        """Write now what the pipe takes."""
        if self._blocked or not self._lines:
            return
        self._lines.append(b"")
        self._chunks.append(memoryview(b"\n".join(self._lines)))
        self._lines = []
        self._push()

    async def close(self, timeout_s: float, carrier: threading.Thread | None) -> None:
        """Wait until all is taken, at most `timeout_s`, and close."""
        try:
            async with asyncio.timeout(timeout_s):
                self.flush()
                while self.buffered_bytes and not self._broken:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            pass
        self._stop()
        os.close(self._fd)
        if carrier is not None:
            await asyncio.to_thread(carrier.join, timeout_s)

    def _scheduled_flush(self) -> None:
        self._scheduled = False
        self.flush()

    def _push(self) -> None:
        before = self.buffered_bytes
        try:
            while self._chunks:
                head = self._chunks[0]
                taken = os.write(self._fd, head[:WRITE_BYTES])
                self.buffered_bytes -= taken
                if taken == len(head):
                    self._chunks.popleft()
                else:
                    self._chunks[0] = head[taken:]
        except BlockingIOError:
            if not self._blocked:
                self._blocked = True
                self._loop.add_writer(self._fd, self._writable)
        except OSError:
            self._fail()
            return
        self._moved.set()
        if self.buffered_bytes < before:
            self._on_progress()

    def _writable(self) -> None:
        self._push()
        if self._blocked and not self._chunks:
            self._loop.remove_writer(self._fd)
            self._blocked = False
            self.flush()

    def _watch(self) -> None:
        """Learn of a closed reader without writing: its end polls as hung up or in error."""
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            self._loop.add_reader(self._fd, self._peer_moved)

    def _peer_moved(self) -> None:
        events = select.poll()
        events.register(self._fd, 0)  # hung up and error are always told
        if events.poll(0):
            self._fail()
        else:  # a socket with something to read, which is stdin's business
            self._loop.remove_reader(self._fd)

    def _fail(self) -> None:
        if not self._broken:
            self._stop()
            self._lines, self.buffered_bytes = [], 0
            self._chunks.clear()
            self._moved.set()
            self._on_broken()

    def _stop(self) -> None:
        self._broken = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
