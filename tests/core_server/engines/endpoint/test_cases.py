"""Every recorded kind of stream, through the engine and a real HTTP server.

`streams/` holds bodies of HTTP answers shaped as nine kinds of endpoint send them
(`streams/`, Responses API), five for Chat Completions (`chat/`), and with one fault each
(`odd/`); `expected.json` says what an engine must make of each.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from core_server.engines.base import (
    EngineError,
    Event,
    MessageDone,
    MessageStarted,
    Prompt,
    ReasoningDelta,
    ReasoningDone,
    ReasoningStarted,
    Retrying,
    TextDelta,
    TextPart,
    ToolCall,
    Usage,
    UserMessage,
)
from core_server.engines.endpoint.address import Address
from core_server.engines.endpoint.engine import OpenAIEngine, Patience, WireName
from tests.responses_api import Raw, ResponsesApi

STREAMS = Path(__file__).parent / "streams"
TYPES = {".sse": "text/event-stream", ".json": "application/json", ".html": "text/html"}
TRIES = 3
LIMIT_S = 30


class Expected(msgspec.Struct):
    """What must come of a file."""

    messages: list[str]
    calls: list[tuple[str, list[str], str]]
    reasoning: list[str] = []
    usage: tuple[int, int, int, int] | None = None
    error: str | None = None
    requests: int | None = None


EXPECTED = msgspec.json.decode((STREAMS / "expected.json").read_bytes(), type=dict[str, Expected])


@pytest.fixture
async def api() -> AsyncIterator[ResponsesApi]:
    async with ResponsesApi() as endpoint:
        yield endpoint


async def sampled(
    api: ResponsesApi, wire: WireName, raw: Raw
) -> tuple[list[Event], EngineError | None, int]:
    """What a sample gives, how it fails, and how often it asked."""
    api.script(*[raw] * TRIES)
    before = len(api.seen)
    patience = Patience(max_tries=TRIES, first_backoff_s=0.001, ending_timeout_s=5)
    engine = OpenAIEngine("m", address=Address(api.url), wire=wire, patience=patience)
    prompt = Prompt((UserMessage((TextPart("hi"),)),), model="m")
    events: list[Event] = []
    failed: EngineError | None = None
    try:
        async with asyncio.timeout(LIMIT_S):
            async for event in engine.sample(prompt):
                events.append(event)  # noqa: PERF401 - kept up to the error
    except EngineError as error:
        failed = error
    await engine.close()
    api.forget()
    return events, failed, len(api.seen) - before


def told(events: list[Event]) -> tuple[list[str], list[str]]:
    """Messages and reasoning that were told to their end, each once, as the sum of deltas."""
    open_items: dict[str, str] = {}
    messages: list[str] = []
    reasoning: list[str] = []
    for event in events:
        match event:
            case MessageStarted(item_id) | ReasoningStarted(item_id):
                assert item_id not in open_items
                open_items[item_id] = ""
            case TextDelta(item_id, text) | ReasoningDelta(item_id, _, text):
                open_items[item_id] += text
            case MessageDone(item_id, text):
                assert open_items.pop(item_id) == text
                messages.append(text)
            case ReasoningDone(item_id, summary):
                assert open_items.pop(item_id) == "".join(summary)
                reasoning.append("".join(summary))
            case Retrying():
                open_items.clear()
            case _:
                pass
    return messages, reasoning


@pytest.mark.parametrize("name", EXPECTED)
async def test_a_stream_gives_what_is_in_it(api: ResponsesApi, name: str) -> None:
    expected, path = EXPECTED[name], STREAMS / name
    wire: WireName = "chat" if name.startswith("chat/") else "responses"

    events, failed, requests = await sampled(api, wire, Raw(path.read_bytes(), TYPES[path.suffix]))

    messages, reasoning = told(events)
    assert messages == expected.messages
    if expected.error is None or expected.requests == 1:
        assert reasoning == expected.reasoning
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [
        (call.name, json.loads(call.arguments)["command"], call.call_id) for call in calls
    ] == expected.calls
    usages = [
        msgspec.structs.replace(event, response_id="")
        for event in events
        if isinstance(event, Usage)
    ]
    assert usages == ([] if expected.usage is None else [usage(expected.usage)])
    if expected.error is None:
        assert failed is None
        assert requests == 1
    else:
        assert failed is not None
        assert expected.error in str(failed)
        assert len(str(failed)) > 10
    if expected.requests is not None:
        assert requests == expected.requests


def usage(counts: tuple[int, int, int, int]) -> Usage:
    read, written, cached, reasoned = counts
    return Usage(read, written, cached, reasoned)


def test_every_file_has_its_expectation() -> None:
    files = {path.relative_to(STREAMS).as_posix() for path in STREAMS.glob("*/*")}

    assert files == set(EXPECTED)


@pytest.mark.parametrize("name", ["streams/openai-two-tool-calls.sse", "chat/vllm-reasoning.sse"])
async def test_a_stream_may_be_cut_into_single_bytes(api: ResponsesApi, name: str) -> None:
    body = (STREAMS / name).read_bytes()
    wire: WireName = "chat" if name.startswith("chat/") else "responses"
    whole, _, _ = await sampled(api, wire, Raw(body))

    events, failed, _ = await sampled(api, wire, Raw(body, cuts=tuple(range(1, len(body), 7))))

    assert failed is None
    assert [type(event) for event in events] == [type(event) for event in whole]
    assert told(events) == told(whole)
