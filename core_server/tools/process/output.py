"""What a command wrote, on its way to a reader who may be slow: bounded, in order.

Pure: bytes in, `Output` out. Over the cap everything is dropped, so a command that
writes a gigabyte still ends; under it, `wants_more` says no when the reader lags, the
pipe fills up and the command waits.
"""

from collections import deque
from typing import Literal

from core_server.tools.base import Output

# Enough to keep a reader busy while the command refills it; more only adds memory.
MAX_WAITING_BYTES = 256 * 1024
# One byte a piece is the worst case: without this, 256 Ki objects.
MAX_WAITING_PIECES = 256


class OutputQueue:
    """The pieces that nobody has taken yet.

    Args:
        cap_bytes: Keep so many in all; None for no cap.
    """

    def __init__(self, cap_bytes: int | None) -> None:
        self._left_bytes = cap_bytes
        self._pieces: deque[Output] = deque()
        self._waiting_bytes = 0
        self.truncated = False

    def __repr__(self) -> str:
        state = "truncated" if self.truncated else "open"
        return f"<OutputQueue {state} pieces={len(self._pieces)} bytes={self._waiting_bytes}>"

    @property
    def wants_more(self) -> bool:
        """Whether to read on: there is room, or what comes is dropped anyway."""
        return self.truncated or (
            self._waiting_bytes < MAX_WAITING_BYTES and len(self._pieces) < MAX_WAITING_PIECES
        )

    def put(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """Take what was read; of more than the cap only the part that fits.

        The piece that reaches the cap says so, once; it is empty if nothing fitted.
        """
        if self.truncated:
            return
        if self._left_bytes is not None:
            self.truncated = len(data) > self._left_bytes
            data = data[: self._left_bytes]
            self._left_bytes -= len(data)
        self._append(Output(stream=stream, data=data, cap_reached=self.truncated))

    def put_notice(self, text: str) -> None:
        """Add a line of the core's own to stderr; the cap does not count it."""
        self._append(Output(stream="stderr", data=text.encode()))

    def pop(self) -> Output | None:
        """Return the oldest piece, or None."""
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._waiting_bytes -= len(piece.data)
        return piece

    def clear(self) -> None:
        """Drop what waits."""
        self._pieces.clear()
        self._waiting_bytes = 0

    def _append(self, piece: Output) -> None:
        self._pieces.append(piece)
        self._waiting_bytes += len(piece.data)
