"""HTTP to one endpoint: a request in, the answer's bytes out, failures named.

The only module that imports an HTTP library, which takes a moment: it is itself imported
late and in a thread, by `engine`. It neither retries nor reads what the bytes mean. It
stands on aiohttp rather than on the `openai` package, of which nothing was left in use but
its way to the network: a request and its stream cost seven times the CPU there, and twenty
clients waited twice as long for their first word.

Connections are kept for the next sample: to make one costs two to four round trips.
"""

import asyncio
import contextlib
import math
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import aiohttp
import msgspec
from yarl import URL

from core_server.engines.endpoint.address import Address, shown
from core_server.engines.endpoint.failures import (
    Answer,
    SampleFailedError,
    disconnected,
    not_connected,
    refused,
)
from core_server.engines.endpoint.values import Json

_ERRORS: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, ValueError)
"""Of the network, of the peer's HTTP, and of what no header or URL can hold."""

# Statuses that keep the method and the body (RFC 9110, 15.4.8 and 15.4.9).
_KEEPING = frozenset({307, 308})
_MAX_HOPS = 3

# An error answer tells the cause in its head, and no endpoint fills our memory.
_MAX_ERROR_BYTES = 64 * 1024

_SOCKS_PORT: Final = 1080  # IANA's

KEPT_S: Final = 60.0
"""How long a connection waits for the next sample: a person reads and types that long, and
servers that keep it shorter say so by closing it."""

_MAX_HEADER_BYTES: Final = 64 * 1024
"""Of a line of the answer's head: gateways send cookies and policies."""


class OpenAnswer:
    """An answer with a good status whose body is being read.

    Attributes:
        status: HTTP status.
        content_type: As sent, or empty.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.content_type = response.headers.get("content-type", "")
        self._content = response.content

    async def chunk(self, timeout_s: float) -> bytes:
        """Return the next bytes, all that are there; empty at the end.

        Raises:
            SampleFailedError: the connection broke.
            TimeoutError: nothing came for so long.
        """
        try:
            if here := self._content.read_nowait():
                return here
            async with asyncio.timeout(timeout_s):
                return await self._content.readany()
        except TimeoutError:
            raise
        except _ERRORS as error:
            # Not `from error`: it may hold the request with its key.
            raise SampleFailedError(disconnected(_reason(error))) from None


class EndpointClient:
    """One endpoint.

    Args:
        address: Where.
        api_key: May be empty: local servers want none.
        path: What is asked there, e.g. `/responses`.
        connect_timeout_s: For the connection alone.
        idle_timeout_s: Until the answer's head.

    Raises:
        ValueError: with one line, when the CA file cannot be used.
    """

    def __init__(
        self,
        address: Address,
        api_key: str,
        path: str,
        *,
        connect_timeout_s: float,
        idle_timeout_s: float,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._shown = address.shown
        self.url = f"{self._shown.rstrip('/')}{path}"
        parts = urlsplit(address.base_url)
        asked = _without_user(parts).geturl().rstrip("/") + path
        self._asked = f"{asked}?{address.query}" if address.query else asked
        self._proxy = address.proxy
        self._tls = address.tls()
        self._headers = {
            "Accept": "text/event-stream",
            "Authorization": _authorization(parts, api_key),
            "Content-Type": "application/json",
            "User-Agent": "core-server",
        }
        self._errors = _ERRORS
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def answer(
        self, body: Json, headers: Mapping[str, str]
    ) -> AsyncGenerator[OpenAnswer, None]:
        """Ask; leaving it before the answer's end closes the connection.

        Raises:
            SampleFailedError: instead of any error of the library or the network.
        """
        response = await self._opened(msgspec.json.encode(body), {**self._headers, **headers})
        try:
            yield OpenAnswer(response)
        finally:
            response.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _opened(self, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The answer to follow, redirects on this host done."""
        url = self._asked
        for hop in range(_MAX_HOPS + 1):
            response = await self._post(url, body, headers)
            if response.status < HTTPStatus.MULTIPLE_CHOICES:
                return response
            async with response:
                target = self._next(url, response)
                if target is None or hop == _MAX_HOPS:
                    raise await self._refused(response)
            url = target
        raise AssertionError("the last hop returns or raises")

    async def _post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                return await self._opened_session().post(
                    URL(url, encoded=True),
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    proxy=self._proxy if self._is_http_proxy else None,
                )
        except aiohttp.ConnectionTimeoutError:
            late = f"did not accept a connection within {self._connect_timeout_s:g} s"
            failure = not_connected(f"{self._shown} {late}")
        except TimeoutError:
            failure = disconnected(f"no answer for {self._idle_timeout_s:g} s")
        except self._errors as error:
            failure = not_connected(f"{self._shown}: {_reason(error)}")
        # Not from the error: it may hold the request with its key.
        raise SampleFailedError(failure)

    @property
    def _is_http_proxy(self) -> bool:
        return self._proxy is not None and not self._proxy.startswith("socks")

    def _opened_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=self._connect_timeout_s,
                    sock_connect=self._connect_timeout_s,
                ),
                max_line_size=_MAX_HEADER_BYTES,
                max_field_size=_MAX_HEADER_BYTES,
            )
        return self._session

    def _connector(self) -> aiohttp.BaseConnector:
        tls = True if self._tls is None else self._tls
        if self._proxy is None or self._is_http_proxy:
            return aiohttp.TCPConnector(limit=0, ssl=tls, keepalive_timeout=KEPT_S)
        import aiohttp_socks as socks  # noqa: PLC0415 - `address` saw that it is there

        self._errors = (
            *_ERRORS,
            socks.ProxyError,
            socks.ProxyConnectionError,
            socks.ProxyTimeoutError,
        )
        parts = urlsplit(self._proxy)
        return socks.ProxyConnector(
            parts.hostname or "",
            parts.port or _SOCKS_PORT,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            rdns=parts.scheme == "socks5h",
            limit=0,
            ssl=tls,
            keepalive_timeout=KEPT_S,
        )

    def _next(self, url: str, response: aiohttp.ClientResponse) -> str | None:
        """Where to ask instead; never another host: the key and the history are for this one."""
        location = response.headers.get("location", "")
        if response.status not in _KEEPING or not location:
            return None
        target = urljoin(url, location)
        same = urlsplit(url)[:2] == urlsplit(target)[:2]
        return target if same and target != url else None

    async def _refused(self, response: aiohttp.ClientResponse) -> SampleFailedError:
        """What an error answer says, of which no more than the head is read."""
        body = bytearray()
        with contextlib.suppress(TimeoutError, *_ERRORS):  # what came before tells enough
            async with asyncio.timeout(self._idle_timeout_s):
                while len(body) < _MAX_ERROR_BYTES and (chunk := await response.content.readany()):
                    body += chunk
        location = response.headers.get("location", "")
        return SampleFailedError(
            refused(
                Answer(
                    status=response.status,
                    body=bytes(body[:_MAX_ERROR_BYTES]),
                    retry_after_s=retry_after_s(response.headers, now_s=time.time()),
                    url=self.url,
                    location=shown(urljoin(self.url, location)) if location else "",
                )
            )
        )


def _without_user(parts: SplitResult) -> SplitResult:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2])


def _authorization(parts: SplitResult, api_key: str) -> str:
    """Who asks: user and password of the URL where it has them, else the key."""
    if parts.username is None and parts.password is None:
        return f"Bearer {api_key or 'none'}"  # some servers insist on a key, whatever it is
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def _reason(error: Exception) -> str:
    if "payload is not completed" in str(error):  # the library's words are its parser's
        return "the connection was closed before the answer's end"
    return str(error) or type(error).__name__


def retry_after_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Return what `Retry-After` asks for (RFC 9110, 10.2.3), or None; never negative.

    `retry-after-ms`, which some endpoints send along, is more exact and wins.

    Args:
        headers: With lower-case lookup.
        now_s: Unix time, to count a date from.
    """
    for name, per_s in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / per_s
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, moment.timestamp() - now_s)
    except (ValueError, OverflowError):
        return None
