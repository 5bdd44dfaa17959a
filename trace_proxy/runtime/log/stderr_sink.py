"""Lines to stderr that nobody waits for.

A log line must never stop the event loop, and stderr is often a pipe whose reader sleeps,
or is gone. So one daemon thread writes, from a queue with a bound in bytes; what does not
fit is dropped and counted, and the count is written as soon as there is room again.
Setting the descriptor non-blocking instead would change it for everyone who shares it.

This module moves bytes; what is in a line is `logging`'s business.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_QUEUED_BYTES: Final = 1024 * 1024
"""A few thousand lines: seconds of a busy log, and nothing beside one client's queue."""

CLOSE_TIMEOUT_S: Final = 0.5
"""For the last lines: a reader that is there needs a millisecond, a forced exit has 2 s in all."""

_POLL_MS: Final = 1000
"""How often a full non-blocking descriptor is looked at again without an event."""


class StderrSink:
    """Writes lines to a descriptor from a thread of its own.

    Args:
        fd: Where to; it stays open.
        dropped_line: Makes the line that tells how many lines were lost.
        max_queued_bytes: Beyond it new lines are dropped.
    """

    def __init__(
        self,
        fd: int,
        *,
        dropped_line: Callable[[int], str],
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._fd = fd
        self._dropped_line = dropped_line
        self._max = max_queued_bytes
        self._lines: deque[bytes] = deque()
        self._queued_bytes = 0
        self._dropped = 0
        self._untold = 0
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<StderrSink fd={self._fd} queued={self._queued_bytes} dropped={self._dropped}>"

    @property
    def dropped(self) -> int:
        """Lines lost so far: no room, or nobody to read them."""
        return self._dropped

    def write_line(self, line: str) -> None:
        """Queue one line, without its newline; never waits, never raises for what is in it."""
        encoded = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._wake:
            if self._closing or self._queued_bytes + len(encoded) > self._max:
                self._dropped += 1
                self._untold += not self._closing  # or the last batch would never be the last
                return
            self._lines.append(encoded)
            self._queued_bytes += len(encoded)
            self._wake.notify()

    def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, at most for `timeout_s`; later lines are dropped."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while lines := self._next_lines():
            try:
                self._write(b"".join(lines))
            except OSError:  # closed pipe, bad descriptor: a log is no reason to end
                with self._wake:
                    self._dropped += len(lines)

    def _next_lines(self) -> list[bytes]:
        """All that is queued, waiting for it; empty at the end."""
        with self._wake:
            while not self._lines and not self._closing:
                self._wake.wait()
            lines = list(self._lines)
            self._lines.clear()
            self._queued_bytes = 0
            untold, self._untold = self._untold, 0
        if untold:
            lines.append(self._dropped_line(untold).encode() + b"\n")
        return lines

    def _write(self, rest: bytes) -> None:
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # somebody else made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(_POLL_MS)
