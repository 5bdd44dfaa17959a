r"""Messages behind headers: the base protocol of LSP, bounded, whatever the chunks.

    Content-Length: 17\r\n      <- headers, in any case, others are skipped
    \r\n
    {"jsonrpc":"2.0"}           <- so many bytes, with line breaks or without

https://microsoft.github.io/language-server-protocol, "Base Protocol". A program that
prints something between its messages is not lost: what is no header is skipped, and the
stream goes on behind it. `core_server.jsonrpc.framing` is its sister for lines.
"""

import re
from typing import Final

from core_server.jsonrpc.framing import HEAD_BYTES, Oversized

MAX_HEADER_BYTES: Final = 4096
"""Of one header line; `Content-Length` has 30."""

_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_LENGTH: Final = b"content-length"
_LENGTH_DIGITS: Final = 15
FIRST_BYTES: Final = 16
"""Enough of a program's output to tell its framing."""

_HEADERS: Final = (b"content-length:", b"content-type:")


class ContentLengthSplitter:
    """Collects chunks, gives out whole messages without their headers.

    Args:
        max_message_bytes: The longest message to keep. Memory stays below it plus a chunk.

    Attributes:
        skipped: Sizes of the lines that were no headers; whoever counts them clears it.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max = max_message_bytes
        self.skipped: list[int] = []
        self._header = b""
        self._length: int | None = None
        self._size = 0
        self._left = 0
        self._parts: list[bytes] = []
        self._in_body = False

    def __repr__(self) -> str:
        where = f"{self._left} bytes to come" if self._in_body else "between messages"
        return f"<ContentLengthSplitter {where}>"

    @property
    def unfinished_bytes(self) -> int:
        """How long the message that has begun says it is; it may be over the bound already."""
        return self._size if self._in_body else len(self._header)

    def feed(self, chunk: bytes) -> list[bytes | Oversized]:
        """The messages that `chunk` completes, in order."""
        messages: list[bytes | Oversized] = []
        at = 0
        while at < len(chunk):
            at = self._body(chunk, at, messages) if self._in_body else self._headers(chunk, at)
        return messages

    def _headers(self, chunk: bytes, at: int) -> int:
        """Take one line, or what there is of it; returns where the next one begins."""
        end = chunk.find(b"\n", at)
        if end < 0:
            self._header += chunk[at:]
            if len(self._header) > MAX_HEADER_BYTES:
                self.skipped.append(len(self._header))
                self._header = b""
            return len(chunk)
        line, self._header = (self._header + chunk[at:end]).removesuffix(b"\r"), b""
        found = _HEADER.fullmatch(line)
        if not line:
            self._blank()
        elif found is None:
            self.skipped.append(len(line))
        elif found[1].lower() == _LENGTH:
            usable = found[2].isdigit() and len(found[2]) <= _LENGTH_DIGITS
            self._length = int(found[2]) if usable else None
        return end + 1

    def _blank(self) -> None:
        """The headers are over: a message comes, if they said how long it is."""
        length, self._length = self._length, None
        if length == 0:
            self.skipped.append(0)
        elif length is not None:
            self._in_body, self._left, self._size = True, length, length

    def _body(self, chunk: bytes, at: int, messages: list[bytes | Oversized]) -> int:
        """Take what there is of a message; returns where its end is, or the chunk's."""
        part = chunk[at : at + self._left] if at or len(chunk) > self._left else chunk
        self._left -= len(part)
        too_large = self._size > self._max
        if not too_large:
            self._parts.append(part)
        elif (kept := sum(map(len, self._parts))) < HEAD_BYTES:
            self._parts.append(part[: HEAD_BYTES - kept])
        if not self._left:
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            messages.append(Oversized(self._size, body) if too_large else body)
            self._parts, self._in_body = [], False
        return at + len(part)


def framed(message: bytes) -> bytes:
    """A message with its header before it."""
    return b"Content-Length: %d\r\n\r\n%b" % (len(message), message)


def begins_with_header(data: bytes) -> bool:
    """Whether a program's first `FIRST_BYTES` are one of this framing's headers."""
    return data[:FIRST_BYTES].lower().startswith(_HEADERS)


def begins_with_json(data: bytes) -> bool:
    """Whether it is a message without a header."""
    return data[:1] in (b"{", b"[")
