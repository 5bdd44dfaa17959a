import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.session.lifecycle import Lifecycle, Signal, State, waiting_for


def test_a_first_signal_drains_and_a_second_forces() -> None:
    life = Lifecycle()
    admitted = [life.admits_work]
    assert life.signal("TERM", now_s=10) == "drain"
    admitted.append(life.admits_work)
    assert admitted == [True, False]
    assert life.signal("INT", now_s=11) == "force"


def test_two_signals_at_once_are_one() -> None:
    life = Lifecycle()
    life.signal("INT", now_s=10)
    assert life.signal("TERM", now_s=10.09) is None


def test_hup_drains_and_never_forces() -> None:
    life = Lifecycle()
    assert life.signal("HUP", now_s=1) == "drain"
    assert life.signal("HUP", now_s=5) is None
    assert life.signal("TERM", now_s=9) == "force"


def test_a_signal_after_the_end_of_input_does_not_force() -> None:
    life = Lifecycle()
    life.input_ended()
    assert life.signal("TERM", now_s=1) == "drain"
    assert repr(life) == "<Lifecycle CLOSING>"


def test_draining_ends_when_idle() -> None:
    life = Lifecycle()
    states = []
    life.idle()
    states.append(life.state)
    life.signal("TERM", now_s=0)
    life.idle()
    states.append(life.state)
    assert states == [State.SERVING, State.CLOSING]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["end", "idle"]),
            st.tuples(st.sampled_from(["TERM", "INT", "HUP"]), st.floats(0, 1)),
        )
    )
)
def test_work_that_was_refused_once_is_never_admitted_again(
    steps: list[str | tuple[Signal, float]],
) -> None:
    life = Lifecycle()
    now_s = 0.0
    refused = False
    for step in steps:
        match step:
            case "end":
                life.input_ended()
            case "idle":
                life.idle()
            case (which, passed_s):
                now_s += passed_s
                life.signal(which, now_s=now_s)
            case _:
                raise AssertionError(step)
        assert not (refused and life.admits_work)
        refused = not life.admits_work


@pytest.mark.parametrize(
    ("turns", "requests", "words"),
    [
        (0, 0, "nothing runs; ending now"),
        (
            1,
            2,
            "waiting for 1 turn and 2 requests, no limit; Ctrl-C (or SIGTERM) again stops now",
        ),
    ],
)
def test_whoever_presses_ctrl_c_is_told_what_is_waited_for(
    turns: int, requests: int, words: str
) -> None:
    assert waiting_for(turns, requests) == words
