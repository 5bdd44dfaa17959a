"""The engine `openai`: tries, waits and tells.

It owns the retry loop. A try that fails is announced (`Retrying`) and made again; what it
had finished saying is kept and sent along, what it was still saying is cut: that message
gets no MessageDone. Tool calls come out only with a complete response.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import msgspec

from core_server.engines.base import (
    EngineError,
    Event,
    MessageDone,
    Model,
    Prompt,
    Retrying,
    ToolCall,
)
from core_server.engines.endpoint.address import Address
from core_server.engines.endpoint.answer import AnswerReader, Reader
from core_server.engines.endpoint.chat import ChatReader
from core_server.engines.endpoint.chat_request import chat_body, chat_body_with
from core_server.engines.endpoint.failures import Failure, SampleFailedError, disconnected
from core_server.engines.endpoint.responses import ResponseReader
from core_server.engines.endpoint.responses_request import (
    request_body,
    said_body,
    trace_headers,
)
from core_server.engines.endpoint.values import Json
from core_server.engines.item_ids import new_id

if TYPE_CHECKING:
    from core_server.engines.endpoint.client import EndpointClient, OpenAnswer

WireName = Literal["responses", "chat"]

# A stream that is read to its end leaves its connection for the next sample; the end
# comes with the last event or the connection is not worth waiting for.
_DRAIN_S = 0.1

# An error page can be long; so much of it tells the cause.
_MAX_MESSAGE_CHARS = 2_000

# Keys that local servers are given ("none", "ollama") are words, and no secret.
_MIN_SECRET_CHARS = 8


class _Wire(msgspec.Struct, frozen=True):
    """One API: where it is asked, how, and who reads the answer."""

    path: str
    body: Callable[[Prompt], Json]
    body_with: Callable[[Json, str], Json]
    reader: Callable[[Callable[[str], str], frozenset[str]], Reader]


_WIRES: dict[WireName, _Wire] = {
    "responses": _Wire("/responses", request_body, said_body, ResponseReader),
    "chat": _Wire("/chat/completions", chat_body, chat_body_with, ChatReader),
}


class Patience(msgspec.Struct, frozen=True):
    """How long and how often to try; the first three as the reference server.

    Attributes:
        max_tries: The first included.
        first_backoff_s: Before the second try, doubled each time, ± 10 %.
        max_wait_s: An endpoint that asks to wait for longer is not asked again.
        connect_timeout_s: For the connection alone.
        idle_timeout_s: Without a byte: models may think for minutes.
        quiet_timeout_s: Without an event, while comments keep the connection alive.
        ending_timeout_s: For the usage behind a complete answer.
    """

    max_tries: int = 6
    first_backoff_s: float = 0.2
    max_wait_s: float = 60.0
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 300.0
    quiet_timeout_s: float = 1800.0
    ending_timeout_s: float = 5.0


class OpenAIEngine:
    """Asks one endpoint.

    Args:
        model: Model name; the one that is offered.
        address: Where.
        wire: Which API it speaks.
        api_key: May be empty: local servers want none. Never part of an error.
        patience: Retries and timeouts.
    """

    def __init__(
        self,
        model: str,
        *,
        address: Address,
        wire: WireName = "responses",
        api_key: str = "",
        patience: Patience | None = None,
    ) -> None:
        self._address = address
        self._wire = _WIRES[wire]
        self._api_key = api_key
        self._patience = patience or Patience()
        self._client: EndpointClient | None = None
        self._opening = asyncio.Lock()
        self._secrets = _shapes((api_key, *address.secrets()))
        self._models = (
            Model(
                id=model,
                display_name=model,
                description="Served by an OpenAI-compatible endpoint.",
                efforts=("low", "medium", "high"),
                modalities=("text", "image"),
            ),
        )

    def __repr__(self) -> str:
        return f"<OpenAIEngine model={self._models[0].id!r} path={self._wire.path}>"

    @property
    def provider(self) -> str:
        """Return `openai`."""
        return "openai"

    @property
    def models(self) -> tuple[Model, ...]:
        """Return the one model that it was told of."""
        return self._models

    async def sample(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Stream one response.

        Raises:
            EngineError: refused, out of tries, or `output_schema` is not JSON.
        """
        body = self._wire.body(prompt)
        tries = 0
        while True:
            tries += 1
            try:
                async with aclosing(self._try(prompt, body)) as events:
                    async for event in events:
                        if isinstance(event, MessageDone):
                            body = self._wire.body_with(body, event.text)
                        yield event
            except SampleFailedError as error:
                failure = self._told(error.failure)
            else:
                return
            wait_s = self._wait_s(failure, tries)
            if wait_s is None:
                raise self._last_word(failure)
            repeats = self._patience.max_tries - 1
            yield Retrying(failure.message, failure.info, failure.http_status, tries, repeats)
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    async def _try(self, prompt: Prompt, body: Json) -> AsyncGenerator[Event, None]:
        client = await self._opened()
        last: list[Event] = []
        reader = self._wire.reader(new_id, _call_ids(prompt))
        async with client.answer(body, trace_headers(prompt)) as answer:
            read = AnswerReader(reader, answer.content_type, answer.status, client.url)
            quiet = _Quiet(self._patience)
            while not read.over:
                events = await quiet.next_events(answer, read)
                if read.completed:
                    last = events
                    await _drain(answer)
                    break
                for event in events:
                    yield event
        if read.failure is not None:
            raise SampleFailedError(read.failure)
        # Only now: the calls that these hold may take long, and no stream waits for them.
        for event in last:
            yield event

    async def _opened(self) -> "EndpointClient":
        async with self._opening:
            if self._client is None:
                try:
                    self._client = await asyncio.to_thread(self._open)
                except ImportError as error:
                    raise EngineError(f"the HTTP library does not load: {error}") from error
                except ValueError as error:
                    raise EngineError(str(error)) from None
            return self._client

    def _open(self) -> "EndpointClient":
        from core_server.engines.endpoint.client import (  # noqa: PLC0415 - a third of a second
            EndpointClient,
        )

        return EndpointClient(
            self._address,
            self._api_key,
            self._wire.path,
            connect_timeout_s=self._patience.connect_timeout_s,
            idle_timeout_s=self._patience.idle_timeout_s,
        )

    def _told(self, failure: Failure) -> Failure:
        """The failure as people see it: no secret in it, and not too long."""
        # Some endpoints quote the key that they refuse, and proxies whole requests.
        message = failure.message
        for secret in self._secrets:
            message = message.replace(secret, "[secret]")
        return msgspec.structs.replace(failure, message=message[:_MAX_MESSAGE_CHARS])

    def _last_word(self, failure: Failure) -> EngineError:
        error = failure.error()
        wait_s = failure.retry_after_s
        if not failure.retry or wait_s is None or wait_s <= self._patience.max_wait_s:
            return error
        message = f"{error} (the endpoint asks to wait {wait_s:g} s)"
        return EngineError(message, error.info, error.http_status, error.details)

    def _wait_s(self, failure: Failure, tries: int) -> float | None:
        """How long to wait before the next try; None: there is none."""
        if not failure.retry or tries >= self._patience.max_tries:
            return None
        if failure.retry_after_s is not None:
            return (
                failure.retry_after_s
                if failure.retry_after_s <= self._patience.max_wait_s
                else None
            )
        backoff_s: float = self._patience.first_backoff_s * 2 ** (tries - 1)
        jitter = random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, hides nothing
        return min(backoff_s * jitter, self._patience.max_wait_s)


class _Quiet:
    """How long an answer may be silent."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._now_s = asyncio.get_running_loop().time
        self._events_read = 0
        self._since_s = self._now_s()

    async def next_events(self, answer: "OpenAnswer", read: AnswerReader) -> list[Event]:
        """Read on; at the end, or when nothing more is to be waited for, the reader is over.

        Raises:
            SampleFailedError: silent for too long.
        """
        patience = self._patience
        timeout_s = patience.ending_timeout_s if read.ending else patience.idle_timeout_s
        try:
            chunk = await answer.chunk(timeout_s)
        except TimeoutError:
            if read.ending:
                return read.end()
            reason = f"nothing came for {timeout_s:g} s"
            raise SampleFailedError(disconnected(reason)) from None
        events = read.feed(chunk) if chunk else read.end()
        if read.events_read != self._events_read:
            self._events_read = read.events_read
            self._since_s = self._now_s()
        elif self._now_s() - self._since_s > patience.quiet_timeout_s:
            reason = f"no event for {patience.quiet_timeout_s:g} s"
            raise SampleFailedError(disconnected(reason))
        return events


async def _drain(answer: "OpenAnswer") -> None:
    try:
        async with asyncio.timeout(_DRAIN_S):
            while await answer.chunk(_DRAIN_S):
                pass
    except (TimeoutError, SampleFailedError):
        return  # the response is complete: how its connection ends does not matter


def _call_ids(prompt: Prompt) -> frozenset[str]:
    return frozenset(entry.call_id for entry in prompt.history if isinstance(entry, ToolCall))


def _shapes(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """The secrets in all shapes in which they may be quoted, long ones first."""
    long = {secret for secret in secrets if len(secret) >= _MIN_SECRET_CHARS}
    shapes = {shape for one in long for shape in (one, quote(one), quote(one, safe=""))}
    return tuple(sorted(shapes, key=len, reverse=True))
