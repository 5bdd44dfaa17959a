"""What every engine promises, whichever it is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

import msgspec
import pytest

from core_server.engines.base import (
    AgentMessage,
    Engine,
    EngineError,
    Event,
    MessageDone,
    MessageStarted,
    Prompt,
    ReasoningDelta,
    ReasoningDone,
    ReasoningStarted,
    TextDelta,
    TextPart,
    ToolCall,
    ToolOutput,
    Usage,
    UserMessage,
)
from core_server.engines.endpoint.address import Address
from core_server.engines.endpoint.engine import OpenAIEngine
from core_server.engines.offline import OfflineEngine
from tests.responses_api import ResponsesApi

LIMIT_S = 20


@dataclass(frozen=True)
class Case:
    """An engine, and how to ask it for things."""

    engine: Engine
    text: Callable[[str], str]
    think: Callable[[str], str]
    run: Callable[[str], str]
    fail: Callable[[str], str]
    slow: str


@pytest.fixture(params=["offline", "responses", "chat"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    async with AsyncExitStack() as stack:
        engine: Engine
        if request.param == "offline":
            engine = OfflineEngine(word_delay_s=0.0005)
            yield Case(
                engine, str, "/think {}".format, "/run {}".format, "/fail {}".format, "/slow 60"
            )
        else:
            api = await stack.enter_async_context(ResponsesApi())
            engine = OpenAIEngine("some-model", address=Address(api.url), wire=request.param)
            yield Case(
                engine,
                "text: {}".format,
                "think: {}".format,
                "run: {}".format,
                "fail: {}".format,
                "slow: 60",
            )
        await engine.close()


def user(text: str) -> UserMessage:
    return UserMessage((TextPart(text),))


async def ask(
    engine: Engine, *history: UserMessage | AgentMessage | ToolCall | ToolOutput
) -> list[Event]:
    prompt = Prompt(history, model=engine.models[0].id)
    async with asyncio.timeout(LIMIT_S):
        return [event async for event in engine.sample(prompt)]


async def test_a_message_is_the_sum_of_its_deltas_under_one_id(case: Case) -> None:
    events = await ask(case.engine, user(case.text("three little words")))

    started, *deltas, done, usage = events
    assert isinstance(started, MessageStarted)
    assert isinstance(done, MessageDone)
    assert isinstance(usage, Usage)
    assert deltas == [
        TextDelta(started.item_id, word.text) for word in deltas if isinstance(word, TextDelta)
    ]
    assert len(deltas) == 3
    joined = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert done == MessageDone(started.item_id, joined)
    assert joined == "three little words"


async def test_usage_is_told_once_and_last(case: Case) -> None:
    events = await ask(case.engine, user(case.text("hi")))

    usages = [event for event in events if isinstance(event, Usage)]
    assert usages == [events[-1]]
    assert usages[0].input_tokens > 0
    assert usages[0].output_tokens > 0


async def test_reasoning_comes_in_summary_parts_before_the_answer(case: Case) -> None:
    events = await ask(case.engine, user(case.think("about it")))

    done = [event for event in events if isinstance(event, ReasoningDone)]
    assert events[0] == ReasoningStarted(done[0].item_id)
    deltas = [event for event in events if isinstance(event, ReasoningDelta)]
    assert {(delta.item_id, delta.index) for delta in deltas} == {(done[0].item_id, 0)}
    assert done == [ReasoningDone(done[0].item_id, ("".join(delta.text for delta in deltas),))]
    assert "about it" in done[0].summary[0]
    assert isinstance(events[events.index(done[0]) + 1], MessageStarted)


async def test_a_tool_call_and_its_output_lead_to_a_final_message(case: Case) -> None:
    asked = user(case.run("echo hi"))

    call, usage = await ask(case.engine, asked)
    assert isinstance(call, ToolCall)
    assert isinstance(usage, Usage)
    assert call.name == "shell"
    assert "echo hi" in str(msgspec.json.decode(call.arguments)["command"])

    events = await ask(case.engine, asked, call, ToolOutput(call.call_id, "exit code 0\nhi\n"))
    messages = [event for event in events if isinstance(event, MessageDone)]
    assert len(messages) == 1
    assert messages[0].text
    assert not [event for event in events if isinstance(event, ToolCall)]


async def test_ids_do_not_repeat_between_samples(case: Case) -> None:
    asked = user(case.text("hi"))

    ids = [
        event.item_id
        for _ in range(3)
        for event in await ask(case.engine, asked)
        if isinstance(event, MessageDone)
    ]

    assert len(set(ids)) == 3


async def test_call_ids_do_not_repeat_in_a_thread(case: Case) -> None:
    asked = user(case.run("true"))

    first = (await ask(case.engine, asked))[0]
    assert isinstance(first, ToolCall)
    second = (await ask(case.engine, asked, first, ToolOutput(first.call_id, ""), asked))[0]

    assert isinstance(second, ToolCall)
    assert first.call_id != second.call_id


async def test_a_failure_is_an_engine_error_with_its_message(case: Case) -> None:
    with pytest.raises(EngineError, match=r"^no such luck$") as caught:
        await ask(case.engine, user(case.fail("no such luck")))

    assert caught.value.info == "other"


async def test_compaction_answers_with_a_summary(case: Case) -> None:
    prompt = Prompt((user("hello"), AgentMessage("hello")), model="m", compact=True)

    async with asyncio.timeout(LIMIT_S):
        events = [event async for event in case.engine.sample(prompt)]

    messages = [event.text for event in events if isinstance(event, MessageDone)]
    assert len(messages) == 1
    assert messages[0]


async def test_closing_it_mid_stream_ends_it_at_once(case: Case) -> None:
    prompt = Prompt((user(case.slow),), model="m")

    async with asyncio.timeout(5), aclosing(case.engine.sample(prompt)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break


async def test_cancelling_it_mid_stream_ends_it_at_once(case: Case) -> None:
    prompt = Prompt((user(case.slow),), model="m")
    begun = asyncio.Event()

    async def consume() -> None:
        async with aclosing(case.engine.sample(prompt)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    begun.set()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(consume())
        await begun.wait()
        running.cancel()

    assert running.cancelled()


async def test_two_samples_at_once_do_not_mix(case: Case) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(ask(case.engine, user(case.text(f"answer {n}")))) for n in range(4)
        ]

    texts = [
        event.text for task in running for event in task.result() if isinstance(event, MessageDone)
    ]
    assert texts == [f"answer {n}" for n in range(4)]


def test_it_offers_a_default_model(case: Case) -> None:
    assert case.engine.models[0].default_effort in case.engine.models[0].efforts
    assert case.engine.provider in {"offline", "openai"}
