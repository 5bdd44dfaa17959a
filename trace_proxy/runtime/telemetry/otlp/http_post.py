"""POSTs to one HTTP server over one kept connection, with TLS and through a proxy if asked to.

`http.client` speaks HTTP; here is what it leaves open: a time for the whole exchange, a
second try where a kept connection turns out to be dead, an end from another thread, and
words for what went wrong that quote nothing.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

MAX_BODY_BYTES: Final = 65_536
"""Of an answer: a collector says nothing, or a sentence. A longer one costs the connection."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_SAFE_IN_URL: Final = "/%:@!$&'()*+,;=~[]?"
"""What RFC 3986 lets stand in a path and a query; the rest is percent-encoded."""


class NoAnswerError(Exception):
    """No answer, or none in time; the message says why, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said.

    Attributes:
        status: 200 to 599 mean something.
        retry_after: The header as it came, empty when there was none.
        location: The same.
        content_type: The same, lower case, without parameters.
        body: Its first `MAX_BODY_BYTES`.
    """

    status: int
    retry_after: str = ""
    location: str = ""
    content_type: str = ""
    body: bytes = b""


class HttpPost:
    """One URL, one connection at most; opened when needed, opened again when it was lost.

    Posts come from one thread at a time; `close` may come from any.

    Args:
        url: `http[s]://[user:password@]host[:port][/path][?query]`.
        headers: Sent with every request; lower-case names, values of one line.
        tls: For `https`; None takes the system's certificates.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], tls: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, "checked when the destination was chosen"
        self._headers = {"host": parts.netloc.rpartition("@")[2], **headers}
        if parts.username is not None and "authorization" not in headers:
            self._headers["authorization"] = _basic(parts)
        self._target = quote(parts.path or "/", safe=_SAFE_IN_URL)
        if parts.query:
            self._target += "?" + quote(parts.query, safe=_SAFE_IN_URL)
        self._connection = self._prepared(parts, tls)
        self._busy = threading.Lock()
        self._closed = False

    def _prepared(
        self, parts: SplitResult, tls: ssl.SSLContext | None
    ) -> http.client.HTTPConnection:
        """The connection, not opened yet; `http_proxy` and its relatives are followed."""
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
        proxies = {} if proxy_bypass(f"{host}:{port}") else getproxies()
        proxy = urlsplit(proxies.get(parts.scheme) or proxies.get("all") or "")
        login = {} if proxy.username is None else {"proxy-authorization": _basic(proxy)}
        server = (host, port)
        if proxy.hostname is not None:
            server = (proxy.hostname, proxy.port or 80)
        if parts.scheme == "https":
            secure = http.client.HTTPSConnection(*server, context=tls)
            if proxy.hostname is not None:
                secure.set_tunnel(host, port, login)
            return secure
        if proxy.hostname is not None:
            self._target = f"http://{self._headers['host']}{self._target}"
            self._headers.update(login)
        return http.client.HTTPConnection(*server)

    def post(self, body: bytes, timeout_s: float) -> Answer:
        """Send a request and wait for its answer.

        A connection that was kept may have been closed by the server in the meantime, so
        the first failure on such a one is followed by a second try, on a new one.

        Args:
            body: All of it.
            timeout_s: For each wait until the answer is there; who drips it byte by byte
                may take longer.

        Raises:
            NoAnswerError: See there.
        """
        end_s = time.monotonic() + timeout_s
        try:
            with self._busy:
                return self._exchange_or_again(body, end_s)
        finally:
            self._close_if_closed()

    def close(self) -> None:
        """End a request that is under way, and take no more; returns at once."""
        self._closed = True
        connected = self._connection.sock
        if connected is not None:
            with contextlib.suppress(OSError, ValueError):  # it ended by itself
                connected.shutdown(socket.SHUT_RDWR)  # wakes who waits for it; close() would not
        self._close_if_closed()

    def _close_if_closed(self) -> None:
        """Whoever is last, the thread that posts or the one that closes, closes the socket."""
        if self._closed and self._busy.acquire(blocking=False):
            self._connection.close()
            self._busy.release()

    def _exchange_or_again(self, body: bytes, end_s: float) -> Answer:
        kept = self._connection.sock is not None
        try:
            return self._exchange(body, end_s)
        except TimeoutError:
            self._connection.close()
            raise NoAnswerError("no answer in time") from None
        except NoAnswerError:
            self._connection.close()
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            if kept and not self._closed:
                return self._exchange_or_again(body, end_s)
            lost = isinstance(error, (OSError, http.client.IncompleteRead)) or self._closed
            why = "the connection was lost" if lost else "the answer is not HTTP"
            raise NoAnswerError(why) from None

    def _exchange(self, body: bytes, end_s: float) -> Answer:
        if self._closed:
            raise NoAnswerError("shut down meanwhile")
        connection = self._connection
        if connection.sock is None:
            self._connect(end_s)
        self._allow(end_s)
        connection.request("POST", self._target, body, self._headers)
        answer = connection.getresponse()
        content = answer.read(MAX_BODY_BYTES)
        if not answer.isclosed():  # there is more of it than we want to know
            connection.close()
        return Answer(
            answer.status,
            answer.headers.get("retry-after", ""),
            answer.headers.get("location", ""),
            answer.headers.get_content_type() if "content-type" in answer.headers else "",
            content,
        )

    def _connect(self, end_s: float) -> None:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise NoAnswerError("cannot connect in time")
        self._connection.timeout = left_s
        try:
            self._connection.connect()
        except TimeoutError:
            raise NoAnswerError("cannot connect in time") from None
        except ssl.SSLError:
            raise NoAnswerError("the TLS handshake failed") from None
        except (OSError, http.client.HTTPException, UnicodeError):
            raise NoAnswerError("cannot connect") from None

    def _allow(self, end_s: float) -> None:
        """Let the next call on the socket take as long as there is time."""
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connected = self._connection.sock
        if connected is not None:  # the answer's end may have closed it
            connected.settimeout(left_s)


def _basic(parts: SplitResult) -> str:
    """What a user and a password in a URL mean: RFC 7617."""
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return "Basic " + b64encode(login.encode()).decode()
