"""A byte stream into lines: newline-delimited JSON, bounded, whatever the chunks.

Our own instead of `StreamReader.readline`, which drops a line over its limit and
everything behind it. A line that is too long becomes one `Oversized` in its place;
the stream goes on with the next line.
"""

from typing import Final

import msgspec

HEAD_BYTES: Final = 4096
"""How much of a line that is too long is kept: enough to read its id, if it comes first."""


class Oversized(msgspec.Struct, frozen=True):
    """A line over the bound, in place of its bytes.

    Attributes:
        size: Its length in bytes, without the newline.
        head: Its first bytes, at most `HEAD_BYTES`.
    """

    size: int
    head: bytes

    def __len__(self) -> int:
        return self.size


class LineSplitter:
    """Collects chunks, gives out whole lines without their newline.

    Args:
        max_line_bytes: The longest line to keep. Memory stays below it plus a chunk.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._head = b""

    def __repr__(self) -> str:
        return f"<LineSplitter {self._size} bytes of an unfinished line>"

    @property
    def unfinished_bytes(self) -> int:
        """How long the line is whose end has not come; it may be over the bound already."""
        return self._size

    def feed(self, chunk: bytes) -> list[bytes | Oversized]:
        """The lines that `chunk` completes, in order."""
        first, *rest = chunk.split(b"\n")
        if not rest:
            self._keep(chunk)
            return []
        self._keep(first)
        last = rest.pop()
        lines: list[bytes | Oversized] = [self._take()]
        if len(chunk) <= self._max:
            lines += rest
        else:
            lines += [
                line if len(line) <= self._max else Oversized(len(line), line[:HEAD_BYTES])
                for line in rest
            ]
        self._keep(last)
        return lines

    def close(self) -> list[bytes | Oversized]:
        """The last line, if the stream ended without a newline behind it."""
        return [self._take()] if self._size else []

    def _keep(self, part: bytes) -> None:
        if not part:
            return
        self._size += len(part)
        if self._size <= self._max:
            self._parts.append(part)
        elif len(self._head) < HEAD_BYTES:
            self._head = b"".join((self._head, *self._parts, part))[:HEAD_BYTES]
            self._parts.clear()

    def _take(self) -> bytes | Oversized:
        size, head, parts = self._size, self._head, self._parts
        self._size, self._head, self._parts = 0, b"", []
        if size > self._max:
            return Oversized(size, head)
        return parts[0] if len(parts) == 1 else b"".join(parts)
