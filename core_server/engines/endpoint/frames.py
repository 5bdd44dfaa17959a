"""Server-sent events out of bytes (HTML Living Standard, 9.2.6), cut anywhere. Pure.

More lenient than the standard in two things: an event that the end of the stream finds
without its empty line counts, and a frame without data is no event for us.
"""

import msgspec

_BOM = b"\xef\xbb\xbf"

# As long as the longest message that may leave us; it holds a whole response.
MAX_FRAME_BYTES = 16 * 1024 * 1024


class Frame(msgspec.Struct, frozen=True):
    """One event: its name, and its data lines, not empty all of them."""

    name: str
    data: tuple[bytes, ...]


class FrameTooLongError(Exception):
    """A frame without end."""


class FrameReader:
    """Cuts one stream into frames."""

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        self._bytes = 0
        self._first = True
        self._after_cr = False
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take more bytes; returns the frames that they complete.

        Raises:
            FrameTooLongError: the frame at hand is longer than `MAX_FRAME_BYTES`.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._bytes += len(chunk)
        if b"\n" not in chunk:
            self._tail.append(chunk)
            self._check()
            return []
        first, *lines = chunk.split(b"\n")
        lines.insert(0, b"".join(self._tail) + first)
        self._tail = [lines.pop()]
        frames = [frame for line in lines if (frame := self._line(line)) is not None]
        if frames:
            self._bytes = len(self._tail[0])
        self._check()
        return frames

    def end(self) -> list[Frame]:
        """The stream is over: return what it did not end properly."""
        found = [self._line(b"".join(self._tail)), self._line(b"")]
        self._tail = []
        return [frame for frame in found if frame is not None]

    def _check(self) -> None:
        if self._bytes > MAX_FRAME_BYTES:
            raise FrameTooLongError

    def _line(self, line: bytes) -> Frame | None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatched()
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.decode("utf-8", "replace").strip()
        return None

    def _dispatched(self) -> Frame | None:
        name, data = self._name, tuple(self._data)
        self._name, self._data = "", []
        return Frame(name, data) if any(data) else None
