"""Whatever JSON stands in whatever field: a sample completes with what could be read, or fails once.

The recorded streams of five kinds of endpoint on each wire are mutated and read: most by the
readers alone, some by the whole engine over HTTP.
"""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Self

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_server.engines.base import (
    EngineError,
    Event,
    Prompt,
    Retrying,
    TextPart,
    UserMessage,
)
from core_server.engines.endpoint.address import Address
from core_server.engines.endpoint.answer import AnswerReader
from core_server.engines.endpoint.chat import ChatReader
from core_server.engines.endpoint.engine import OpenAIEngine, Patience, WireName
from core_server.engines.endpoint.responses import ResponseReader
from tests.core_server.engines.endpoint.mutations import (
    OPERATIONS,
    STREAMS,
    Frame,
    Mutation,
    Touched,
    encoded,
    frames_of,
    mutated,
)
from tests.core_server.engines.endpoint.outcomes import Outcome, outcome
from tests.responses_api import Raw, ResponsesApi

QUICK = Patience(max_tries=2, first_backoff_s=0.001, max_wait_s=0.01)
PROMPT = Prompt((UserMessage((TextPart("hi"),)),), model="m")
LIMIT_S = 60

RESPONSES = {
    f"{kind}-{what}": frames_of(STREAMS / "streams" / f"{kind}-{what}.sse")
    for kind in ("openai", "vllm", "ollama", "litellm", "openrouter", "lmstudio")
    for what in ("text", "reasoning", "tool-call", "two-tool-calls", "max-tokens", "failed")
}
CHAT = {path.stem: frames_of(path) for path in sorted((STREAMS / "chat").glob("*.sse"))}

NUMBERS = st.integers(0, 9_999)
MUTATIONS = st.builds(Mutation, st.sampled_from(OPERATIONS), NUMBERS, NUMBERS, NUMBERS)
CUTS = st.lists(NUMBERS, max_size=6)


def read(body: bytes, cuts: list[int], *, chat: bool) -> Outcome:
    """What the readers make of a body, cut there."""
    counter = itertools.count(1)
    wire = ChatReader if chat else ResponseReader
    reader = AnswerReader(
        wire(lambda prefix: f"{prefix}_{next(counter)}", frozenset()), "text/event-stream"
    )
    events: list[Event] = []
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for begin, end in itertools.pairwise(edges):
        if not reader.over:
            events += reader.feed(body[begin:end])
    if not reader.over:
        events += reader.end()
    assert reader.completed != (reader.failure is not None), "it completes or fails"
    return outcome(events, None if reader.failure is None else reader.failure.message)


BASES = {
    (chat, name): read(encoded(frames), [], chat=chat)
    for chat, streams in ((False, RESPONSES), (True, CHAT))
    for name, frames in streams.items()
}


def hold_for_responses(got: Outcome, base: Outcome, touched: list[Touched]) -> None:
    """What is said up to four times survives any one fault, and is never told twice."""
    single = len(touched) == 1
    if got.failure is not None:
        assert not got.calls, "what failed asks for nothing"
        assert got.messages.total() <= base.messages.total() or not single
        return
    if not single or base.failure is not None:
        return
    if any(one.operation == "text" for one in touched):
        # What a field says then is what the endpoint says: as many items, if other ones;
        # a message that was empty, and so none, may have got a text.
        assert got.messages.total() in {base.messages.total(), 1}
        assert got.calls.total() == base.calls.total()
        return
    assert got.messages == base.messages
    assert got.calls == base.calls
    if touched[0].operation in {"repeat_event", "move_event", "reorder", "junk_frame", "nothing"}:
        assert got.usages == base.usages


def hold_for_chat(got: Outcome, base: Outcome, touched: list[Touched]) -> None:
    """What is said once can be lost with its event, but not silently by a field, and not doubled."""
    single = len(touched) == 1
    assert got.messages.total() <= max(1, base.messages.total())
    if got.failure is not None:
        assert not got.calls
        return
    if not single:
        return
    assert got.calls.total() <= base.calls.total() or touched[0].operation == "text"
    if touched[0].operation in {"reorder", "nothing"}:
        assert (got.messages, got.calls) == (base.messages, base.calls)
    lost = touched[0].operation == "no_text" and isinstance(touched[0].before, str)
    if lost and touched[0].member in {"content", "arguments"} and touched[0].before:
        # Null and an empty string are what endpoints send for nothing.
        assert touched[0].after in (None, "", [], [None], {}, [[]])


def check(
    streams: dict[str, list[Frame]], name: str, mutations: list[Mutation], cuts: list[int]
) -> None:
    chat = streams is CHAT
    frames, touched = mutated(streams[name], mutations)
    got = read(encoded(frames), cuts, chat=chat)
    (hold_for_chat if chat else hold_for_responses)(got, BASES[chat, name], touched)


@given(st.sampled_from(sorted(RESPONSES)), MUTATIONS, CUTS)
def test_one_fault_of_a_responses_stream_loses_and_doubles_nothing(
    name: str, mutation: Mutation, cuts: list[int]
) -> None:
    check(RESPONSES, name, [mutation], cuts)


@given(st.sampled_from(sorted(RESPONSES)), st.lists(MUTATIONS, min_size=2, max_size=6), CUTS)
def test_many_faults_of_a_responses_stream_end_it_once(
    name: str, mutations: list[Mutation], cuts: list[int]
) -> None:
    check(RESPONSES, name, mutations, cuts)


@given(st.sampled_from(sorted(CHAT)), st.lists(MUTATIONS, min_size=1, max_size=6), CUTS)
def test_faults_of_a_chat_stream_end_it_once(
    name: str, mutations: list[Mutation], cuts: list[int]
) -> None:
    check(CHAT, name, mutations, cuts)


@given(st.sampled_from(sorted(RESPONSES)), NUMBERS)
def test_a_stream_that_breaks_off_anywhere_never_completes(name: str, cut: int) -> None:
    body = encoded(RESPONSES[name])
    frame = body.rfind(b"response.", 0, body.rfind(b"data: {"))

    got = read(body[: cut % frame], [], chat=False)

    assert got.failure is not None
    assert not got.calls


class Wired:
    """The engine and an endpoint on loopback, with an event loop that stays."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._api = ResponsesApi()
        self._engines: dict[bool, OpenAIEngine] = {}

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._runner.run(self._api.__aenter__())
        address = Address(self._api.url)
        for chat, wire in ((False, "responses"), (True, "chat")):
            self._engines[chat] = OpenAIEngine(
                "m", address=address, wire=msgspec.convert(wire, WireName), patience=QUICK
            )
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines.values():
            self._runner.run(engine.close())
        self._runner.run(self._api.__aexit__())
        self._runner.__exit__(None, None, None)

    def sample(self, raw: Raw, *, chat: bool) -> tuple[Outcome, int]:
        """What a sample comes to when every try gets this answer, and how many tries there were."""
        return self._runner.run(self._sampled(raw, self._engines[chat]))

    async def _sampled(self, raw: Raw, engine: OpenAIEngine) -> tuple[Outcome, int]:
        self._api.script(*[raw] * QUICK.max_tries)
        events: list[Event] = []
        failure = None
        try:
            async with asyncio.timeout(LIMIT_S):
                async for event in engine.sample(PROMPT):
                    events.append(event)  # noqa: PERF401 - kept up to the error
        except EngineError as error:
            failure = str(error)
        tries = len(self._api.seen)
        self._api.seen.clear()
        self._api.forget()
        assert sum(isinstance(event, Retrying) for event in events) == tries - 1
        return outcome(events, failure), tries


@pytest.fixture(scope="module")
def wired() -> Iterator[Wired]:
    with Wired() as both:
        yield both


def through_the_engine(
    wired: Wired, name: tuple[bool, str], mutations: list[Mutation], cuts: list[int]
) -> None:
    chat, stream = name
    frames, _ = mutated((CHAT if chat else RESPONSES)[stream], mutations)
    body = encoded(frames)
    alone = read(body, [], chat=chat)

    got, tries = wired.sample(
        Raw(body, cuts=tuple(cut % (len(body) + 1) for cut in cuts)), chat=chat
    )

    assert 1 <= tries <= QUICK.max_tries
    assert (got.failure is None) == (alone.failure is None)
    if got.failure is None:
        assert (tries, got) == (1, alone)
    elif tries == 1:
        assert (got.messages, got.calls) == (alone.messages, alone.calls)


@settings(max_examples=60)
@given(st.sampled_from(sorted(BASES)), st.lists(MUTATIONS, min_size=1, max_size=4), CUTS)
def test_the_whole_engine_does_over_http_what_its_readers_do(
    wired: Wired, name: tuple[bool, str], mutations: list[Mutation], cuts: list[int]
) -> None:
    through_the_engine(wired, name, mutations, cuts)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(st.sampled_from(sorted(BASES)), st.lists(MUTATIONS, min_size=1, max_size=4), CUTS)
def test_ten_thousand_mutated_streams_over_http(
    wired: Wired, name: tuple[bool, str], mutations: list[Mutation], cuts: list[int]
) -> None:
    through_the_engine(wired, name, mutations, cuts)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(st.sampled_from(sorted(RESPONSES)), MUTATIONS, CUTS)
def test_ten_thousand_single_faults_lose_and_double_nothing(
    name: str, mutation: Mutation, cuts: list[int]
) -> None:
    check(RESPONSES, name, [mutation], cuts)
