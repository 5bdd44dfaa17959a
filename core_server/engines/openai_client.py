"""The `openai` package at work: a request in, decoded events out, failures named.

The only module that imports `openai`, which costs most of a second: it is itself
imported late and in a thread, by `openai_responses`. It neither retries nor reads what
the events mean. Events stay plain data: the package's own typed events are built
without validation, so they would have to be checked again anyway.
"""

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import openai

from core_server.engines.openai_failures import (
    Answer,
    Failure,
    SampleFailedError,
    disconnected,
    not_connected,
    refused,
    reported,
)
from core_server.engines.openai_request import Json

# `openai` 3 stands on httpx2, older ones on httpx, whose errors they let through mid-stream.
_TRANSPORT_ERRORS: tuple[type[Exception], ...] = (
    openai.APIConnectionError,
    *(sys.modules[name].HTTPError for name in ("httpx", "httpx2") if name in sys.modules),
)

_ERRORS: tuple[type[Exception], ...] = (
    *_TRANSPORT_ERRORS,
    openai.OpenAIError,
    UnicodeError,
    json.JSONDecodeError,
)


class ResponsesClient:
    """One endpoint.

    Args:
        base_url: Up to and with `/v1`.
        api_key: May be empty: local servers want none.
        connect_timeout_s: For the connection alone.
        idle_timeout_s: Without any event for so long, the stream counts as cut.
    """

    def __init__(
        self, base_url: str, api_key: str, *, connect_timeout_s: float, idle_timeout_s: float
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            # The package insists on a key.
            api_key=api_key or "none",
            max_retries=0,  # our own loop announces each
            timeout=openai.Timeout(None, connect=connect_timeout_s),
        )
        parts = urlsplit(base_url)
        self._url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    async def events(self, body: Json, headers: Mapping[str, str]) -> AsyncGenerator[object, None]:
        """Stream the events of one response; closing it closes the HTTP stream.

        Raises:
            SampleFailedError: instead of any error of the package or the network.
        """
        stream = None
        try:
            stream = await self._open(body, headers)
            while True:
                async with asyncio.timeout(self._idle_timeout_s):
                    event = await anext(stream, None)
                if event is None:
                    return
                yield _unwrapped(event)
        except TimeoutError:
            failure = disconnected(f"no event for {self._idle_timeout_s:g} s")
            raise SampleFailedError(failure) from None
        except _ERRORS as error:
            failure = self._failure(error, streaming=stream is not None)
            # Not `from error`: it holds the request with its key.
            raise SampleFailedError(failure) from None
        finally:
            if stream is not None:
                await stream.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def _open(self, body: Json, headers: Mapping[str, str]) -> openai.AsyncStream[object]:
        async with asyncio.timeout(self._idle_timeout_s):
            return await self._client.post(
                "/responses",
                cast_to=object,
                body=body,
                options={"headers": {"Accept": "text/event-stream", **headers}},
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )

    def _failure(self, error: Exception, *, streaming: bool) -> Failure:
        if isinstance(error, openai.APIStatusError):
            return self._refused(error)
        if isinstance(error, openai.APITimeoutError):
            return not_connected(
                f"{self._url} did not accept a connection within {self._connect_timeout_s:g} s"
            )
        if isinstance(error, _TRANSPORT_ERRORS):
            reason = str(error.__cause__ or error) or type(error).__name__
            return disconnected(reason) if streaming else not_connected(f"{self._url}: {reason}")
        if isinstance(error, openai.APIError):
            return reported(error.code or "", error.message)
        return disconnected(f"the endpoint sent what is not JSON: {error}")

    def _refused(self, error: openai.APIStatusError) -> Failure:
        body = error.response.text
        message = error.body.get("message") if isinstance(error.body, dict) else None
        return refused(
            Answer(
                status=error.status_code,
                body=body,
                message=message if isinstance(message, str) else body,
                code=error.code or "",
                retry_after_s=retry_after_s(error.response.headers, now_s=time.time()),
                url=f"{self._url}/responses",
            )
        )


def _unwrapped(event: object) -> object:
    """Undo what older packages do to events that are not named `response.…`."""
    if isinstance(event, dict) and event.keys() == {"data", "event"}:
        return event["data"]
    return event


def retry_after_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Return what `Retry-After` asks for (RFC 9110, 10.2.3), or None; never negative.

    Args:
        headers: With lower-case lookup.
        now_s: Unix time, to count a date from.
    """
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now_s
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
