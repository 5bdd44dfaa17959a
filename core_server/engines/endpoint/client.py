"""The `openai` package at work: a request in, the answer's bytes out, failures named.

The only module that imports `openai`, which costs most of a second: it is itself imported
late and in a thread, by `engine`. It neither retries nor reads what the bytes mean: the
package's own stream gives up at the first odd line, and its typed events are built without
validation, so they would have to be checked again anyway.
"""

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

import openai

from core_server.engines.endpoint.address import Address, shown
from core_server.engines.endpoint.failures import (
    Answer,
    Failure,
    SampleFailedError,
    disconnected,
    not_connected,
    refused,
)
from core_server.engines.endpoint.values import Json

# `openai` 3 stands on httpx2, older ones on httpx, whose errors they let through mid-stream.
_HTTP = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
_TRANSPORT_ERRORS: tuple[type[Exception], ...] = (
    openai.APIConnectionError,
    *(module.HTTPError for module in _HTTP),
)
_ERRORS: tuple[type[Exception], ...] = (
    *_TRANSPORT_ERRORS,
    *(module.InvalidURL for module in _HTTP),
    *(module.StreamError for module in _HTTP),
    openai.OpenAIError,
    UnicodeError,
)

# Statuses that keep the method and the body (RFC 9110, 15.4.8 and 15.4.9).
_KEEPING = frozenset({307, 308})
_MAX_HOPS = 3

# An error answer tells the cause in its head, and no endpoint fills our memory.
_MAX_ERROR_BYTES = 64 * 1024


class _RefusedError(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, url: str) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body
        self.url = url


_ALL_ERRORS: tuple[type[Exception], ...] = (_RefusedError, *_ERRORS)


async def _refuse(response: Any) -> None:
    """Read the head of an error answer; the package would read all of it, without end."""
    if response.status_code < HTTPStatus.MULTIPLE_CHOICES:
        return
    body = bytearray()
    with contextlib.suppress(*_ERRORS):  # what came before tells enough
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) >= _MAX_ERROR_BYTES:
                break
    url = str(response.request.url)
    raise _RefusedError(response.status_code, response.headers, bytes(body), url)


class OpenAnswer:
    """An answer with a good status whose body is being read.

    Attributes:
        status: HTTP status.
        content_type: As sent, or empty.
    """

    def __init__(self, stream: openai.AsyncStream[object]) -> None:
        self.status = stream.response.status_code
        self.content_type = stream.response.headers.get("content-type", "")
        self._chunks = stream.response.aiter_bytes()

    async def chunk(self, timeout_s: float) -> bytes:
        """Return the next bytes; empty at the end.

        Raises:
            SampleFailedError: the connection broke.
            TimeoutError: nothing came for so long.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await anext(self._chunks, b"")
        except _ERRORS as error:
            reason = str(error.__cause__ or error) or type(error).__name__
            # Not `from error`: it holds the request with its key.
            raise SampleFailedError(disconnected(reason)) from None


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
        self._path = f"{path}?{address.query}" if address.query else path
        self.url = f"{self._shown.rstrip('/')}{path}"
        tls = address.tls()
        self._client = openai.AsyncOpenAI(
            base_url=address.base_url,
            # The package insists on a key.
            api_key=api_key or "none",
            max_retries=0,  # our own loop announces each
            timeout=openai.Timeout(None, connect=connect_timeout_s),
            http_client=openai.DefaultAsyncHttpxClient(
                trust_env=False,  # `address` read what matters
                proxy=address.proxy,
                verify=True if tls is None else tls,
                follow_redirects=False,
                event_hooks={"response": [_refuse]},
                timeout=openai.Timeout(None, connect=connect_timeout_s),
            ),
        )

    @asynccontextmanager
    async def answer(
        self, body: Json, headers: Mapping[str, str]
    ) -> AsyncGenerator[OpenAnswer, None]:
        """Ask; leaving it closes the HTTP stream.

        Raises:
            SampleFailedError: instead of any error of the package or the network.
        """
        stream = await self._asked(body, headers)
        try:
            yield OpenAnswer(stream)
        finally:
            await stream.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def _asked(self, body: Json, headers: Mapping[str, str]) -> openai.AsyncStream[object]:
        path = self._path
        for hop in range(_MAX_HOPS + 1):
            try:
                return await self._open(path, body, headers)
            except TimeoutError:
                reason = f"no answer for {self._idle_timeout_s:g} s"
                raise SampleFailedError(disconnected(reason)) from None
            except _ALL_ERRORS as error:
                # Older packages make it the cause of a connection error.
                cause = error if isinstance(error, _RefusedError) else error.__cause__
                if not isinstance(cause, _RefusedError):
                    # Not `from error`: it holds the request with its key.
                    raise SampleFailedError(self._failure(error)) from None
                refusal = cause
            target = self._next(refusal)
            if target is None or hop == _MAX_HOPS:
                raise SampleFailedError(self._refused(refusal))
            path = target
        raise AssertionError("the last hop returns or raises")

    async def _open(
        self, path: str, body: Json, headers: Mapping[str, str]
    ) -> openai.AsyncStream[object]:
        async with asyncio.timeout(self._idle_timeout_s):
            return await self._client.post(
                path,
                cast_to=object,
                body=body,
                options={"headers": {"Accept": "text/event-stream", **headers}},
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )

    def _next(self, refusal: _RefusedError) -> str | None:
        """Where to ask instead; never another host: the key and the history are for this one."""
        location = refusal.headers.get("location", "")
        if refusal.status not in _KEEPING or not location:
            return None
        target = urljoin(refusal.url, location)
        same = urlsplit(refusal.url)[:2] == urlsplit(target)[:2]
        return target if same and target != refusal.url else None

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, openai.APITimeoutError):
            return not_connected(
                f"{self._shown} did not accept a connection within {self._connect_timeout_s:g} s"
            )
        reason = str(error.__cause__ or error) or type(error).__name__
        return not_connected(f"{self._shown}: {reason}")

    def _refused(self, refusal: _RefusedError) -> Failure:
        location = refusal.headers.get("location", "")
        return refused(
            Answer(
                status=refusal.status,
                body=refusal.body[:_MAX_ERROR_BYTES],
                retry_after_s=retry_after_s(refusal.headers, now_s=time.time()),
                url=self.url,
                location=shown(urljoin(self.url, location)) if location else "",
            )
        )


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
