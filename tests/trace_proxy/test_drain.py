"""The drain, told as little stories. No event loop, no sleeping."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trace_proxy.drain import (
    AnnounceDraining,
    CloseConnections,
    CloseIdleConnections,
    Command,
    Drain,
    EndWithin,
    Exit,
    FlushSpans,
    Force,
    InterruptTurn,
    InterruptTurns,
    SignalName,
    State,
    StopCores,
    waiting_for,
)
from trace_proxy.protocol.refusal import Refusal


def serving(timeout_s: float = 0) -> Drain:
    drain = Drain(timeout_s=timeout_s)
    drain.serving()
    return drain


def closing(*, websocket_code: int = 1012, exit_code: int = 0) -> list[Command]:
    return [
        EndWithin(8, exit_code),
        CloseConnections(websocket_code),
        StopCores(),
        FlushSpans(),
    ]


def test_it_is_ready_while_serving_and_takes_new_work_until_the_first_signal() -> None:
    drain = Drain(timeout_s=0)
    assert (drain.ready, drain.accepts_new_work) == (False, True)
    drain.serving()
    assert (drain.ready, drain.accepts_new_work) == (True, True)
    drain.signal("TERM", 100)
    assert (drain.ready, drain.accepts_new_work) == (False, False)


def test_an_idle_proxy_stops_at_the_first_signal() -> None:
    drain = serving()

    assert drain.signal("TERM", 100) == [AnnounceDraining("SIGTERM", None), CloseIdleConnections()]
    assert drain.work(turns=0, requests=0, unflushed=0) == closing()
    assert drain.closed() == [Exit(0)]
    assert drain.state is State.STOPPED


def test_a_busy_proxy_waits_until_the_end_of_its_turn_is_on_the_wire() -> None:
    drain = serving()
    drain.signal("TERM", 100)

    assert drain.work(turns=1, requests=1, unflushed=0) == []
    assert drain.work(turns=1, requests=0, unflushed=0) == []
    assert drain.work(turns=0, requests=0, unflushed=300) == []
    assert drain.tick(10_000) == [], "without a deadline it waits as long as turns run"
    assert drain.work(turns=0, requests=0, unflushed=0) == closing()


def test_work_is_nobodys_business_while_serving() -> None:
    drain = serving()

    assert drain.work(turns=0, requests=0, unflushed=0) == []
    assert drain.state is State.SERVING


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_the_first_signal_drains_whichever_it_is(name: SignalName) -> None:
    drain = serving(timeout_s=30)

    assert drain.signal(name, 100) == [
        AnnounceDraining(f"SIG{name}", 130),
        CloseIdleConnections(),
    ]
    assert drain.state is State.DRAINING


def test_the_deadline_interrupts_turns_and_gives_them_two_seconds() -> None:
    drain = serving(timeout_s=30)
    drain.signal("TERM", 100)
    drain.work(turns=1, requests=0, unflushed=0)

    assert drain.tick(129.9) == []
    assert drain.tick(130) == [InterruptTurns()]
    assert drain.tick(131.9) == []
    assert drain.tick(132) == closing(exit_code=3)
    assert drain.closed() == [Exit(3)]


def test_interrupted_turns_that_end_early_end_the_wait() -> None:
    drain = serving(timeout_s=30)
    drain.signal("TERM", 100)
    drain.work(turns=1, requests=0, unflushed=0)
    drain.tick(130)

    assert drain.work(turns=0, requests=0, unflushed=0) == closing(exit_code=3)


@pytest.mark.parametrize("again", ["HUP", "TERM", "INT"])
def test_no_later_signal_moves_the_deadline(again: SignalName) -> None:
    drain = serving(timeout_s=30)
    drain.signal("HUP", 100)
    drain.signal(again, 100.05)

    assert drain.tick(130) == [InterruptTurns()]


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130)])
@pytest.mark.parametrize("state", [State.DRAINING, State.INTERRUPTING, State.CLOSING])
def test_a_second_signal_forces(name: SignalName, code: int, state: State) -> None:
    drain = serving(timeout_s=1)
    drain.signal("TERM", 0)
    if state is not State.DRAINING:
        drain.tick(1)
    if state is State.CLOSING:
        drain.tick(3)
    assert drain.state is state

    assert drain.signal(name, 3) == [Force(code)]
    assert (drain.state, drain.exit_code) == (State.FORCED, code)
    assert drain.signal(name, 4) == [], "forcing is said once"
    assert drain.closed() == []
    assert drain.tick(100) == []


def test_two_signals_within_a_tenth_of_a_second_are_one() -> None:
    drain = serving()
    drain.signal("INT", 0.0)

    assert drain.signal("TERM", 0.099) == []
    assert drain.signal("TERM", 0.1) == [Force(143)]


def test_hangup_never_forces() -> None:
    drain = serving()
    drain.signal("TERM", 100)

    assert drain.signal("HUP", 105) == []
    assert drain.state is State.DRAINING


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130), ("HUP", 143)])
def test_a_signal_before_it_serves_ends_it_at_once(name: SignalName, code: int) -> None:
    drain = Drain(timeout_s=30)

    assert drain.signal(name, 0) == [Force(code)]
    drain.serving()
    assert drain.state is State.FORCED, "a core that comes up too late changes nothing"


def test_a_stopped_proxy_hears_no_signal() -> None:
    drain = serving()
    drain.signal("TERM", 0)
    drain.work(turns=0, requests=0, unflushed=0)
    drain.closed()

    assert drain.signal("TERM", 5) == []
    assert drain.state is State.STOPPED


def test_the_end_of_input_drains_like_a_signal() -> None:
    drain = serving(timeout_s=5)

    assert drain.input_ended(100) == [
        AnnounceDraining("end of input", 105),
        CloseIdleConnections(),
    ]
    assert drain.input_ended(101) == []
    assert drain.signal("TERM", 102) == [InterruptTurns()]
    assert drain.signal("TERM", 103) == [Force(143)]


def test_a_signal_and_the_end_of_input_together_mean_that_nobody_waits() -> None:
    left = [InterruptTurns()]
    ended_first, signalled_first = serving(), serving(timeout_s=30)
    ended_first.input_ended(100)
    signalled_first.signal("TERM", 100)

    assert ended_first.signal("TERM", 101) == left
    assert signalled_first.input_ended(101) == left
    assert ended_first.tick(101.5) == closing(exit_code=3)


def test_when_the_one_client_hears_no_more_nothing_is_worth_waiting_for() -> None:
    drain = serving()
    assert drain.output_ended(99) == [], "its input ends first"
    drain.input_ended(100)
    assert drain.work(turns=1, requests=0, unflushed=0) == []
    assert drain.output_ended(101) == [InterruptTurns()]
    assert drain.work(turns=0, requests=0, unflushed=0) == closing(exit_code=3)


def test_without_a_core_everything_ends_with_exit_code_1() -> None:
    drain = serving()

    assert drain.failed() == closing(websocket_code=1011, exit_code=1)
    assert drain.failed() == []
    assert drain.closed() == [Exit(1)]


def test_an_orphaned_approval_interrupts_its_turn_only_while_draining() -> None:
    drain = serving()
    assert drain.approval_orphaned("t", "u") == [], "somebody may come back for it"
    drain.signal("TERM", 100)

    assert drain.approval_orphaned("t", "u") == [InterruptTurn("t", "u")]
    assert drain.exit_code == 3


def test_serving_twice_is_a_bug_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="twice"):
        serving().serving()


@pytest.mark.parametrize(
    ("timeout_s", "now_s", "retry_after_ms"),
    [(0, 100, 5000), (60, 100, 5000), (60, 158, 2000), (60, 159.9, 1000), (60, 170, 1000)],
)
def test_a_refusal_guesses_when_the_successor_is_there(
    timeout_s: float, now_s: float, retry_after_ms: int
) -> None:
    drain = serving(timeout_s)
    drain.signal("TERM", 100)

    assert drain.refusal(now_s) == Refusal(
        -32001,
        "The server is draining; reconnect and retry",
        {"reason": "draining", "retryable": True, "retryAfterMs": retry_after_ms},
    )


def test_readiness_tells_how_far_the_drain_is() -> None:
    drain = serving(timeout_s=30)
    drain.signal("TERM", 100)
    drain.work(turns=2, requests=3, unflushed=4)

    assert drain.details(110.5) == {
        "state": "draining",
        "turns": 2,
        "requests": 3,
        "deadline": 19.5,
    }
    assert drain.details(200)["deadline"] == 0
    assert repr(drain) == "<Drain DRAINING turns=2 requests=3 exit_code=0>"
    assert serving().details(0)["deadline"] is None


class DrainLife(RuleBasedStateMachine):
    """Any events in any order, as a shell may deliver them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.drain = Drain(timeout_s=5)
        self.said: list[Command] = []
        self.signalled = False

    @rule()
    def serve(self) -> None:
        if self.drain.state is not State.SERVING:
            self.drain.serving()

    @rule(name=st.sampled_from(["TERM", "INT", "HUP"]))
    def signal(self, name: SignalName) -> None:
        self.said += self.drain.signal(name, self.now_s)
        self.signalled = True

    @rule(turns=st.integers(0, 2), requests=st.integers(0, 2), unflushed=st.integers(0, 2))
    def work(self, turns: int, requests: int, unflushed: int) -> None:
        self.said += self.drain.work(turns, requests, unflushed)

    @rule(elapsed_s=st.sampled_from([0.01, 0.09, 1, 2, 6]))
    def tick(self, elapsed_s: float) -> None:
        self.now_s += elapsed_s
        self.said += self.drain.tick(self.now_s)

    @rule()
    def input_ends(self) -> None:
        self.said += self.drain.input_ended(self.now_s)

    @rule()
    def cores_fail(self) -> None:
        self.said += self.drain.failed()

    @rule()
    @precondition(lambda self: self.drain.state is State.CLOSING)
    def close(self) -> None:
        self.said += self.drain.closed()

    @invariant()
    def it_ends_exactly_once(self) -> None:
        ends = [command for command in self.said if isinstance(command, Exit | Force)]
        assert len(ends) == (self.drain.state in (State.STOPPED, State.FORCED))
        closes = [command for command in self.said if isinstance(command, CloseConnections)]
        assert len(closes) <= 1

    @invariant()
    def nothing_new_comes_in_after_a_signal(self) -> None:
        assert not (self.signalled and self.drain.accepts_new_work)

    @invariant()
    def the_exit_code_tells_the_truth(self) -> None:
        interrupted = InterruptTurns() in self.said
        if self.drain.state is State.STOPPED:
            assert self.drain.exit_code in ((1, 3) if interrupted else (0, 1))


TestDrainLife = DrainLife.TestCase


@settings(deadline=None)
@given(
    timeout_s=st.sampled_from([0.0, 1.0]),
    busy=st.lists(st.tuples(*[st.integers(0, 2)] * 3), max_size=5),
)
def test_once_signalled_it_stops_when_work_ends_or_the_deadline_passes(
    timeout_s: float, busy: list[tuple[int, int, int]]
) -> None:
    drain = serving(timeout_s)
    drain.signal("TERM", 0)
    for turns, requests, unflushed in busy:
        drain.work(turns, requests, unflushed)
    if timeout_s:
        drain.tick(1)
        drain.tick(3)
    else:
        drain.work(0, 0, 0)

    assert drain.state is State.CLOSING
    assert drain.closed() == [Exit(drain.exit_code)]


@pytest.mark.parametrize(
    ("turns", "requests", "left_s", "words"),
    [
        (0, 0, None, "nothing runs; ending now"),
        (1, 0, None, "waiting for 1 turn, no limit; Ctrl-C (or SIGTERM) again stops now"),
        (
            2,
            1,
            30.0,
            "waiting for 2 turns and 1 request, at most 30 s; Ctrl-C (or SIGTERM) again stops now",
        ),
    ],
)
def test_whoever_presses_ctrl_c_is_told_what_is_waited_for(
    turns: int, requests: int, left_s: float | None, words: str
) -> None:
    assert waiting_for(turns, requests, left_s) == words
