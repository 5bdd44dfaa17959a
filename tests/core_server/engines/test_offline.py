import asyncio
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.engines.base import (
    AgentMessage,
    CompactedHistory,
    EngineError,
    Event,
    HistoryEntry,
    ImagePart,
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
from core_server.engines.offline import OfflineEngine
from core_server.engines.offline_directives import HELP
from core_server.engines.offline_script import Pause, Script, Step


def user(*texts: str) -> UserMessage:
    return UserMessage(tuple(TextPart(text) for text in texts))


def script(*history: HistoryEntry, compact: bool = False, word_delay_s: float = 0.5) -> list[Step]:
    """The answer, with ids that count: msg_1, msg_2, …."""
    counter = itertools.count(1)
    writer = Script(lambda prefix: f"{prefix}_{next(counter)}", word_delay_s)
    return list(writer.answer(Prompt(history, model="offline", compact=compact)))


def said(steps: list[Step]) -> str:
    return "|".join(step.text for step in steps if isinstance(step, MessageDone))


def test_plain_text_is_streamed_back_word_by_word() -> None:
    assert script(user("one  two\n")) == [
        MessageStarted("msg_1"),
        TextDelta("msg_1", "one  "),
        Pause(0.5),
        TextDelta("msg_1", "two\n"),
        MessageDone("msg_1", "one  two\n"),
    ]


@given(st.text().filter(lambda text: text.strip() != "" and not text.startswith("/")))
def test_the_words_joined_are_exactly_the_text(text: str) -> None:
    steps = script(user(text))

    assert "".join(step.text for step in steps if isinstance(step, TextDelta)) == text
    assert said(steps) == text


def test_a_long_text_takes_half_a_minute_at_most_and_a_long_word_is_cut() -> None:
    steps = script(user("word " * 100_000))
    assert sum(step.seconds for step in steps if isinstance(step, Pause)) <= 30

    deltas = [step for step in script(user("x" * 10_000)) if isinstance(step, TextDelta)]
    assert [len(delta.text) for delta in deltas] == [4096, 4096, 10_000 - 2 * 4096]


def test_run_proposes_the_command_and_asks_for_approval() -> None:
    (call,) = script(user("/run echo 'a b' | wc"))

    assert isinstance(call, ToolCall)
    assert (call.call_id, call.name) == ("call_1", "shell")
    assert msgspec.json.decode(call.arguments) == {
        "command": "echo 'a b' | wc",
        "escalated": True,
        "justification": "You asked for it with /run.",
    }


def test_write_proposes_a_new_file() -> None:
    (call,) = script(user("/write dir/a.txt first line\nsecond"))

    assert isinstance(call, ToolCall)
    assert (call.call_id, call.name) == ("call_1", "apply_patch")
    assert msgspec.json.decode(call.arguments) == {
        "patch": "*** Begin Patch\n*** Add File: dir/a.txt\n+first line\n+second\n*** End Patch\n"
    }


@pytest.mark.parametrize(
    ("name", "output", "answer"),
    [
        ("shell", "exit code 0\nhi\n", "Result of the command: exit code 0 hi"),
        ("apply_patch", "", "There was no output of the file change."),
        ("shell", "x" * 300, f"Result of the command: {'x' * 200}…"),
    ],
)
def test_an_output_is_answered_with_a_short_message(name: str, output: str, answer: str) -> None:
    call = ToolCall("c", name, "{}")

    assert said(script(user("/run x"), call, ToolOutput("c", output))) == answer


def test_a_steer_while_a_command_runs_is_what_gets_answered() -> None:
    call = ToolCall("c", "shell", "{}")

    steps = script(user("/run sleep 9"), call, user("never mind"), ToolOutput("c", "killed"))

    assert said(steps) == "never mind"


def test_the_latest_of_several_messages_counts() -> None:
    assert (
        said(script(user("first"), AgentMessage("first"), user("second"), user("third")))
        == "third"
    )


def test_slow_streams_five_deltas_a_second() -> None:
    steps = script(user("/slow 0.5"))

    assert steps == [
        MessageStarted("msg_1"),
        TextDelta("msg_1", "tick 1\n"),
        Pause(0.2),
        TextDelta("msg_1", "tick 2\n"),
        Pause(0.2),
        TextDelta("msg_1", "tick 3\n"),
        Pause(0.5 - 2 * 0.2),
        MessageDone("msg_1", "tick 1\ntick 2\ntick 3\n"),
    ]


@given(st.integers(1, 100))
def test_slow_makes_no_extra_delta_by_rounding(fifths: int) -> None:
    steps = script(user(f"/slow {fifths * 0.2}"))

    assert sum(isinstance(step, TextDelta) for step in steps) == fifths
    assert sum(step.seconds for step in steps if isinstance(step, Pause)) == pytest.approx(
        fifths * 0.2
    )


def test_think_reasons_before_it_answers() -> None:
    steps = [step for step in script(user("/think hard")) if not isinstance(step, Pause)]

    assert steps == [
        ReasoningStarted("rs_1"),
        ReasoningDelta("rs_1", 0, "Thinking "),
        ReasoningDelta("rs_1", 0, "about: "),
        ReasoningDelta("rs_1", 0, "hard"),
        ReasoningDone("rs_1", ("Thinking about: hard",)),
        MessageStarted("msg_2"),
        *(TextDelta("msg_2", word) for word in ("I ", "have ", "thought ", "about: ", "hard")),
        MessageDone("msg_2", "I have thought about: hard"),
    ]


def test_tokens_never_waits_but_lets_others_run() -> None:
    steps = script(user("/tokens 1000"))

    assert sum(isinstance(step, TextDelta) for step in steps) == 1000
    assert {step for step in steps if isinstance(step, Pause)} == {Pause(0)}
    assert said(steps) == "tok " * 1000


def test_fail_fails() -> None:
    with pytest.raises(EngineError, match=r"^on purpose$"):
        script(user("/fail on purpose"))


@pytest.mark.parametrize("history", [(), (UserMessage(()),), (user(" \n"),)])
def test_no_text_is_answered_with_help(history: tuple[HistoryEntry, ...]) -> None:
    assert said(script(*history)) == f"There was no text in your message.\n{HELP}"


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ((ImagePart("data:image/png;base64,AA=="),), "I see 1 image."),
        ((TextPart("look"), ImagePart("u"), ImagePart("v")), "look\nI see 2 images."),
        ((TextPart("/fail no"), ImagePart("u")), None),
    ],
)
def test_images_are_acknowledged_in_words(
    parts: tuple[TextPart | ImagePart, ...], answer: str | None
) -> None:
    if answer is None:
        with pytest.raises(EngineError):
            script(UserMessage(parts))
    else:
        assert said(script(UserMessage(parts))) == answer


def test_several_texts_are_lines_of_one() -> None:
    assert said(script(user("one", "two"))) == "one\ntwo"


@pytest.mark.parametrize(
    ("history", "summary"),
    [
        (
            (user("a"), AgentMessage("a"), user("b  c")),
            "Summary. Messages so far: 3. The user's last one: b c",
        ),
        (
            (user("a"), CompactedHistory("old"), AgentMessage("x")),
            "Summary. Messages so far: 1. The user's last one: (none)",
        ),
    ],
)
def test_compaction_is_a_short_summary(history: tuple[HistoryEntry, ...], summary: str) -> None:
    assert said(script(*history, compact=True)) == summary


async def sample(engine: OfflineEngine, *history: HistoryEntry) -> list[Event]:
    async with asyncio.timeout(20):
        return [event async for event in engine.sample(Prompt(history, model="offline"))]


async def test_words_are_its_tokens() -> None:
    engine = OfflineEngine(word_delay_s=0)
    call = ToolCall("c", "shell", '{"command": "ls -l"}')
    history = (
        user("dropped by the compaction"),
        CompactedHistory("two words"),
        AgentMessage("one"),
        UserMessage((TextPart("/run ls"), ImagePart("u"))),
        call,
        ToolOutput("c", "exit code 0"),
    )

    assert (await sample(engine, *history))[-1] == Usage(
        input_tokens=2 + 1 + 2 + 3 + 3,
        output_tokens=len("Result of the command: exit code 0".split()),
    )
    assert (await sample(engine, user("/think a b")))[-1] == Usage(
        input_tokens=3, output_tokens=4 + 6, reasoning_output_tokens=4
    )
    assert (await sample(engine, user("/tokens 50")))[-1] == Usage(2, 50)


async def test_pauses_are_kept() -> None:
    loop = asyncio.get_running_loop()
    begun_s = loop.time()

    await sample(OfflineEngine(), user("/slow 0.3"))

    assert loop.time() - begun_s >= 0.3


async def test_it_lets_others_run_while_it_streams_at_full_speed() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(other())
        events = await sample(OfflineEngine(), user("/tokens 10000"))
        running.cancel()

    assert sum(isinstance(event, TextDelta) for event in events) == 10_000
    assert turns >= 10_000 // 128
