"""POSTs to one plain HTTP server over one kept connection, by hand.

What a collector's answer means to us is its status and `retry-after`, so nothing else of
HTTP is read: `http.client` takes 70 µs of Python for that, and each step of a thread in
Python is one that the event loop waits for.  A body that does not say its length is not
read either; the connection ends there, which is always right and seldom happens.
"""

import contextlib
import math
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

MAX_HEAD_BYTES: Final = 65_536
"""Of an answer's status line and headers; `http.client` takes as much for one line."""

MAX_BODY_BYTES: Final = 65_536
"""Of an answer: a collector says nothing, or a sentence. A longer one costs the connection."""

_MAX_BUFFERS: Final = 512
"""The kernel takes 1,024 at once."""

_timeval = struct.Struct("@ll").pack

_SLACK_S: Final = 0.05
"""How far a socket's time-out may be off: setting it is a system call."""


class NoAnswerError(Exception):
    """No answer, or none in time; the message says why, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said.

    Attributes:
        status: 200 to 599 mean something.
        retry_after: The header as it came, empty when there was none.
    """

    status: int
    retry_after: str = ""


class DirectPost:
    """One URL, one connection at most; opened when needed, opened again when it was lost.

    Posts come from one thread at a time; `close` may come from any.

    Args:
        url: `http://host[:port][/path][?query]`, ASCII.
        headers: Sent with every request; lower-case names, ASCII. Those that frame the
            request (`content-length` and such) are ours.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, "checked when the destination was chosen"
        self._address = (parts.hostname, parts.port or 80)
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        lines = {"host": parts.netloc, "accept-encoding": "identity", **headers}
        head = "".join([f"{name}: {value}\r\n" for name, value in lines.items()])
        self._head = f"POST {target} HTTP/1.1\r\n{head}content-length: ".encode()
        self._connection: socket.socket | None = None
        self._timeout_s = math.inf
        self._busy = threading.Lock()
        self._closed = False

    def post(self, parts: Sequence[bytes], timeout_s: float) -> Answer:
        """Send a request, whose body comes in parts, and wait for its answer.

        A connection that was kept may have been closed by the server in the meantime, so
        the first failure on such a one is followed by a second try, on a new one.

        Raises:
            NoAnswerError: See there.
        """
        end_s = time.monotonic() + timeout_s
        head = b"%b%d\r\n\r\n" % (self._head, sum(map(len, parts)))
        try:
            with self._busy:
                return self._exchange_or_again((head, *parts), end_s)
        finally:
            self._close_if_closed()

    def close(self) -> None:
        """End a request that is under way, and take no more; returns at once."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):  # it ended by itself
                connection.shutdown(socket.SHUT_RDWR)  # wakes who waits for it; close() would not
        self._close_if_closed()

    def _close_if_closed(self) -> None:
        """Whoever is last, the thread that posts or the one that closes, closes the socket."""
        if self._closed and self._busy.acquire(blocking=False):
            self._drop()
            self._busy.release()

    def _exchange_or_again(self, request: Sequence[bytes], end_s: float) -> Answer:
        kept = self._connection is not None
        try:
            return self._exchange(request, end_s)
        except (TimeoutError, BlockingIOError):  # our clock, or the socket's
            self._drop()
            raise NoAnswerError("no answer in time") from None
        except OSError:
            self._drop()
            if kept and not self._closed:
                return self._exchange_or_again(request, end_s)
            raise NoAnswerError("the connection was lost") from None
        except NoAnswerError:
            self._drop()
            raise

    def _exchange(self, request: Sequence[bytes], end_s: float) -> Answer:
        connection = self._connection or self._connect(end_s)
        if self._closed:
            raise NoAnswerError("shut down meanwhile")
        self._send(connection, request, end_s)
        status, headers, content = self._head_of_answer(connection, end_s)
        length = _length(status, headers)
        if length is None:
            self._drop()
        else:
            while len(content) < length:
                content += self._receive(connection, end_s)
            if len(content) > length:  # it talks out of turn
                self._drop()
        return Answer(status, headers.get(b"retry-after", b"").decode("latin-1"))

    def _connect(self, end_s: float) -> socket.socket:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise NoAnswerError("cannot connect in time")
        try:
            connection = socket.create_connection(self._address, left_s)
        except TimeoutError:
            raise NoAnswerError("cannot connect in time") from None
        except OSError:
            raise NoAnswerError("cannot connect") from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Blocking, with the kernel's own time-outs: Python's would poll before each call,
        # and let go of the interpreter twice for one.
        connection.settimeout(None)
        self._timeout_s = math.inf
        self._connection = connection
        return connection

    def _allow(self, connection: socket.socket, end_s: float) -> None:
        """Let the next call on the socket take as long as there is time."""
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if abs(left_s - self._timeout_s) > _SLACK_S:
            timeval = _timeval(int(left_s), int(left_s % 1 * 1e6) or 1)  # 0.0 would be for ever
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            self._timeout_s = left_s

    def _send(self, connection: socket.socket, request: Sequence[bytes], end_s: float) -> None:
        self._allow(connection, end_s)
        if len(request) > _MAX_BUFFERS:
            request = (b"".join(request),)
        left = sum(map(len, request)) - connection.sendmsg(request)
        if left:  # seldom: a signal, or the time is over
            rest = memoryview(b"".join(request))[-left:]
            while rest:
                self._allow(connection, end_s)
                rest = rest[connection.send(rest) :]

    def _receive(self, connection: socket.socket, end_s: float) -> bytes:
        self._allow(connection, end_s)
        received = connection.recv(MAX_BODY_BYTES)
        if not received:
            raise ConnectionResetError
        return received

    def _head_of_answer(
        self, connection: socket.socket, end_s: float
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers, and what came of the body; answers that are none yet are skipped."""
        data = self._receive(connection, end_s)
        while True:
            head, end, body = data.partition(b"\r\n\r\n")
            if not end:
                if len(data) > MAX_HEAD_BYTES:
                    raise NoAnswerError("the answer is not HTTP")
                data += self._receive(connection, end_s)
                continue
            status, headers = _parse(head)
            if status >= 200:
                return status, headers, body
            data = body or self._receive(connection, end_s)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _parse(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    status_line, *lines = head.split(b"\r\n")
    status = status_line[9:12]
    if not status_line.startswith(b"HTTP/1.") or not status.isdigit() or len(status) < 3:
        raise NoAnswerError("the answer is not HTTP")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    if status_line[7:8] == b"0":
        headers.setdefault(b"connection", b"close")
    return int(status), headers


def _length(status: int, headers: Mapping[bytes, bytes]) -> int | None:
    """How much more to read before the connection is free again; None ends it."""
    if b"transfer-encoding" in headers or b"close" in headers.get(b"connection", b"").lower():
        return None
    if status in {204, 304}:
        return 0
    text = headers.get(b"content-length", b"")
    length = int(text) if text.isdigit() and len(text) < 9 else MAX_BODY_BYTES + 1
    return length if length <= MAX_BODY_BYTES else None
