import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.protocol.items import (
    AgentMessageItem,
    InputItem,
    TextInput,
    UserMessageItem,
)
from core_server.protocol.turns import Turn, TurnError
from core_server.session.turn import State, TurnMachine


def _entry(number: int) -> UserMessageItem:
    return UserMessageItem(f"u{number}", None, (TextInput(f"text {number}"),), 0, 0)


def _machine(*entries: UserMessageItem) -> TurnMachine:
    return TurnMachine("t", 0, 5_500, entries)


def test_a_turn_that_said_something_shows_its_last_message() -> None:
    turn = _machine()
    turn.said(AgentMessageItem("a", "first", 0, 0))
    last = AgentMessageItem("b", "last", 0, 0)
    turn.said(last)
    assert turn.finish(7_000) == Turn("t", "t", (last,), "summary", "completed", None, 5, 7, 1_500)
    assert turn.state is State.ENDED


def test_an_interrupted_turn_shows_no_items() -> None:
    turn = _machine()
    turn.said(AgentMessageItem("a", "text", 0, 0))
    turn.stop()
    assert turn.stopping
    assert turn.finish(5_500) == Turn("t", "t", (), "notLoaded", "interrupted", None, 5, 5, 0)


def test_the_first_reason_to_stop_counts() -> None:
    turn = _machine()
    error = TurnError("why")
    turn.stop(error)
    turn.stop(TurnError("later"))
    turn.stop()
    finished = turn.finish(5_000)
    assert (finished.status, finished.error, finished.duration_ms) == ("failed", error, 0)


def test_how_it_is_told_while_it_runs() -> None:
    turn = _machine(_entry(1))
    assert turn.accepted() == Turn("t", "t")
    assert turn.running() == Turn("t", "t", started_at=5)
    assert repr(turn) == "<TurnMachine t RUNNING waiting=1>"


def test_an_ended_turn_takes_no_input() -> None:
    turn = _machine()
    turn.finish(6_000)
    with pytest.raises(AssertionError):
        turn.join(_entry(1))


@given(st.lists(st.booleans()))
def test_all_input_is_taken_once_and_in_order(steps: list[bool]) -> None:
    turn = _machine(_entry(0))
    joined: list[InputItem] = [_entry(0)]
    taken: list[InputItem] = []
    for number, join in enumerate(steps, 1):
        if join:
            turn.join(_entry(number))
            joined.append(_entry(number))
        else:
            taken += turn.take_input()
            assert not turn.has_input
    taken += turn.take_input()
    assert taken == joined
