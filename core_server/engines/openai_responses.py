"""The `openai` engine: any endpoint that speaks the Responses API, streaming.

It owns the retry loop. A try that fails is announced (`Retrying`) and made again; what
it had finished saying is kept and sent along, what it was still saying is cut: that
message gets no MessageDone. Tool calls come out only with a complete response.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

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
from core_server.engines.item_ids import new_id
from core_server.engines.openai_events import ResponseReader
from core_server.engines.openai_failures import Failure, SampleFailedError, disconnected
from core_server.engines.openai_request import (
    Json,
    agent_item,
    request_body,
    trace_headers,
    with_message,
)

if TYPE_CHECKING:
    from core_server.engines.openai_client import ResponsesClient

PUBLIC_BASE_URL = "https://api.openai.com/v1"

# A stream that is read to its end leaves its connection for the next sample; the end
# comes with the last event or the connection is not worth waiting for.
_DRAIN_S = 0.1


class Patience(msgspec.Struct, frozen=True):
    """How long and how often to try.

    Attributes:
        max_tries: The first included; five cover a restart of an endpoint.
        first_backoff_s: Before the second try, doubled each time, ± 10 %.
        max_wait_s: Neither backoff nor `Retry-After` holds a turn up for longer.
        connect_timeout_s: For the connection alone.
        idle_timeout_s: Without any event: models may think for minutes.
    """

    max_tries: int = 5
    first_backoff_s: float = 0.5
    max_wait_s: float = 60.0
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 300.0


class OpenAIEngine:
    """Asks one endpoint.

    Args:
        model: Model name; the one that is offered.
        base_url: Up to and with `/v1`.
        api_key: May be empty: local servers want none. Never part of an error.
        patience: Retries and timeouts.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = PUBLIC_BASE_URL,
        api_key: str = "",
        patience: Patience | None = None,
    ) -> None:
        self._base_url = base_url
        self._api_key = api_key
        self._patience = patience or Patience()
        self._client: ResponsesClient | None = None
        self._opening = asyncio.Lock()
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
        return f"<OpenAIEngine model={self._models[0].id!r}>"

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
        body = request_body(prompt)
        tries = 0
        while True:
            tries += 1
            try:
                async with aclosing(self._try(prompt, body)) as events:
                    async for event in events:
                        if isinstance(event, MessageDone):
                            body = with_message(body, agent_item(event.text))
                        yield event
            except SampleFailedError as error:
                failure = self._without_key(error.failure)
            else:
                return
            if not failure.retry or tries >= self._patience.max_tries:
                raise failure.error()
            yield Retrying(failure.message, failure.info, failure.http_status)
            await asyncio.sleep(self._wait_s(failure, tries))

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    async def _try(self, prompt: Prompt, body: Json) -> AsyncGenerator[Event, None]:
        client = await self._opened()
        reader = ResponseReader(new_id, _call_ids(prompt))
        last: list[Event] = []
        async with aclosing(client.events(body, trace_headers(prompt))) as raw_events:
            async for raw in raw_events:
                events = reader.feed(raw)
                if reader.completed:
                    last = events
                    await _drain(raw_events)
                    break
                for event in events:
                    yield event
                if reader.failure:
                    raise SampleFailedError(reader.failure)
        if not reader.completed:
            raise SampleFailedError(disconnected("stream closed before response.completed"))
        # Only now: the calls that these hold may take long, and no stream waits for them.
        for event in last:
            yield event

    async def _opened(self) -> "ResponsesClient":
        async with self._opening:
            if self._client is None:
                try:
                    self._client = await asyncio.to_thread(self._open)
                except ImportError as error:
                    raise EngineError(f"the openai package does not load: {error}") from error
            return self._client

    def _open(self) -> "ResponsesClient":
        from core_server.engines.openai_client import (  # noqa: PLC0415 - costs most of a second
            ResponsesClient,
        )

        return ResponsesClient(
            self._base_url,
            self._api_key,
            connect_timeout_s=self._patience.connect_timeout_s,
            idle_timeout_s=self._patience.idle_timeout_s,
        )

    def _without_key(self, failure: Failure) -> Failure:
        # Some endpoints quote the key that they refuse, and proxies whole requests.
        if not self._api_key:
            return failure
        message = failure.message.replace(self._api_key, "[api key]")
        return msgspec.structs.replace(failure, message=message)

    def _wait_s(self, failure: Failure, tries: int) -> float:
        backoff_s = self._patience.first_backoff_s * 2 ** (tries - 1)
        jitter = random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, hides nothing
        wait_s = backoff_s * jitter if failure.retry_after_s is None else failure.retry_after_s
        return min(wait_s, self._patience.max_wait_s)


async def _drain(raw_events: AsyncGenerator[object, None]) -> None:
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for _ in raw_events:
                pass
    except (TimeoutError, SampleFailedError):
        return  # the response is complete: how its connection ends does not matter


def _call_ids(prompt: Prompt) -> frozenset[str]:
    return frozenset(entry.call_id for entry in prompt.history if isinstance(entry, ToolCall))
