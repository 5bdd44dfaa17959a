"""The checker finds what it is there to find."""

import pytest

from core_server.storage.base import ItemRow, TurnRow
from tests.core_server.storage.samples import item_row, turn_row
from tests.history import Event, events_of, faults

OWN_A = Event("own", 1.0, "a", "t")
OWN_B = Event("own", 5.0, "b", "t")
TURNS = (turn_row("t", "u", 0, "interrupted"), turn_row("t", "v", 1))


def _items(*tenures: str) -> tuple[ItemRow, ...]:
    return tuple(item_row("t", "u", f"i{n}", n, tenure) for n, tenure in enumerate(tenures))


def test_a_history_in_which_all_is_well() -> None:
    journal = [
        OWN_A,
        Event("turn", 1.1, "a", "t", "u"),
        Event("delta", 1.2, "a", "t"),
        Event("item", 1.3, "a", "t", "i0"),
        OWN_B,
        Event("delta", 5.1, "b", "t"),
        Event("end", 5.2, "b", "t", "v"),
        Event("item", 9.0, "z", "another thread", "elsewhere"),
    ]

    assert faults("t", TURNS, _items("a", "a", "b"), journal) == []
    assert events_of(b"".join(event.line() for event in journal) + b'["cut') == journal


@pytest.mark.parametrize(
    ("turns", "items", "event", "fault"),
    [
        (TURNS, (item_row("t", "u", "x", 3), *_items("")), None, "do not rise"),
        (TURNS, (item_row("t", "u", "x", 0), item_row("t", "u", "y", 0)), None, "do not rise"),
        (TURNS, _items("a", "b", "a"), None, "a wrote in 2 places"),
        (TURNS, _items(), Event("item", 2, "a", "t", "i0"), "promised and not stored"),
        (TURNS, _items(), Event("turn", 2, "a", "t", "w"), "promised and not stored"),
        (TURNS, _items(), Event("end", 2, "a", "t", "u"), "and is interrupted"),
        ((turn_row("t", "u", 0, "inProgress"),), (), None, "runs for ever"),
        (TURNS, _items(), Event("delta", 6, "a", "t"), "when b owned the thread"),
    ],
)
def test_each_fault_is_found(
    turns: tuple[TurnRow, ...], items: tuple[ItemRow, ...], event: Event | None, fault: str
) -> None:
    journal = [OWN_A, OWN_B, *([event] if event else [])]

    (found,) = faults("t", turns, items, journal)

    assert fault in found


def test_a_turn_that_ends_twice_is_found() -> None:
    end = Event("end", 2, "b", "t", "v")

    assert faults("t", TURNS, (), [OWN_B, end, end]) == ["turn v ended 2 times"]
