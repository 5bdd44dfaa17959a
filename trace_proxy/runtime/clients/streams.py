"""Standard streams that are no pipes: `< requests.jsonl > answers.jsonl`, or /dev/null.

An event loop cannot wait for a file; uvloop aborts the process when it is asked to.
Files never block for long, so output is written at once, and input is carried into a
pipe by a thread.
"""

import asyncio
import os
import select
import threading
from typing import Final

_CHUNK_BYTES: Final = 64 * 1024
"""What a pipe holds."""


def pollable(fd: int) -> bool:
    """Whether an event loop can wait for this descriptor: pipes, sockets, terminals."""
    with select.epoll() as poll:
        try:
            poll.register(fd)
        except PermissionError:  # what epoll_ctl(2) says of files
            return False
    return True


def piped(fd: int) -> int:
    """Returns a pipe out of which comes what is read from the descriptor."""
    out, into = os.pipe()

    def carry() -> None:
        with os.fdopen(fd, "rb", buffering=0) as source, os.fdopen(into, "wb") as pipe:
            while chunk := source.read(_CHUNK_BYTES):
                pipe.write(chunk)
                pipe.flush()

    # A daemon: it may wait for room in a pipe that nobody reads any more.
    threading.Thread(target=carry, name="stdin", daemon=True).start()
    return out


class FileTransport(asyncio.WriteTransport):
    """Writes to a file; what was written needs no waiting for."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._file = os.fdopen(fd, "wb", buffering=0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it, or close: a full disk is the end of this client."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self.abort()

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def is_closing(self) -> bool:
        """Whether it takes no more."""
        return self._file.closed

    def abort(self) -> None:
        """Close it."""
        self._file.close()
