import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.errors import WireError
from core_server.protocol.threads import Active, Idle, SystemError_, ThreadStatus
from core_server.protocol.turns import TokenCounts, TokenUsage, TurnError
from core_server.protocol.wire import FullAccess
from core_server.session.thread import Facts, Settings, ThreadMachine
from core_server.session.turn import TurnMachine


def _thread() -> ThreadMachine:
    return ThreadMachine(
        Facts("id", 100, "offline", "me"), Settings("m", "/w", "never", FullAccess())
    )


def _status(thread: ThreadMachine) -> ThreadStatus:
    return thread.status


def _run(thread: ThreadMachine, preview: str = "", error: TurnError | None = None) -> None:
    turn = TurnMachine(f"t{thread.turns}", thread.turns, 200_000)
    thread.begin(turn, preview)
    if error is not None:
        turn.stop(error)
    thread.end(turn.finish(201_000))


def test_a_turn_makes_it_active_listed_and_recent() -> None:
    thread = _thread()
    turn = TurnMachine("t", 0, 200_000)
    thread.begin(turn, "first words")
    assert (thread.status, thread.listed, thread.preview, thread.recency_at_s) == (
        Active(),
        True,
        "first words",
        200,
    )
    thread.wait(waiting=True)
    assert thread.status == Active(("waitingOnApproval",))
    thread.wait(waiting=False)
    thread.end(turn.finish(202_000))
    assert _status(thread) == Idle()
    assert thread.updated_at_s == 202
    assert repr(thread) == "<ThreadMachine id Idle turns=1>"


def test_the_first_text_stays_the_preview() -> None:
    thread = _thread()
    for words in ("", "a" * 2000, "later"):
        _run(thread, words)
    assert thread.preview == "a" * 1024


def test_a_failed_turn_leaves_a_system_error_and_the_next_one_works() -> None:
    thread = _thread()
    _run(thread, error=TurnError("no"))
    assert _status(thread) == SystemError_()
    _run(thread)
    assert _status(thread) == Idle()


def test_two_turns_at_once_are_a_fault_of_ours() -> None:
    thread = _thread()
    thread.begin(TurnMachine("t", 0, 0), "")
    with pytest.raises(AssertionError):
        thread.begin(TurnMachine("u", 1, 0), "")


def test_a_broken_thread_refuses_work_with_its_first_reason() -> None:
    thread = _thread()
    thread.check_writable()
    thread.break_off("disk full")
    thread.break_off("later")
    with pytest.raises(WireError, match="disk full; the thread is read-only") as error:
        thread.check_writable()
    assert (error.value.code, error.value.data) == (-32603, {"reason": "storage"})


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_tokens_add_up(counts: list[int]) -> None:
    thread = _thread()
    samples = [TokenCounts(2 * count, count, 0, 0, count, 0) for count in counts]
    told = [thread.count_tokens("t", sample, 1000) for sample in samples]
    total = sum(counts)
    expected = TokenUsage(TokenCounts(2 * total, total, 0, 0, total, 0), samples[-1], 1000)
    assert told[-1] == expected == thread.usage
