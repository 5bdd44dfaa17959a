"""Input that is held: of all together no more than the bound, and the largest goes first."""

from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.queues.admission import HeldInput


def test_the_largest_is_named_when_all_together_are_too_much() -> None:
    held = HeldInput(max_bytes=100)
    assert held.hold(1, 60) is None
    assert held.hold(2, 40) is None
    assert held.hold(2, 41) == 1
    held.leave(1)
    assert repr(held) == "<HeldInput clients=1 bytes=41>"
    assert held.hold(3, 59) is None
    assert held.hold(2, 0) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 200)), max_size=50))
def test_who_is_named_and_leaves_makes_room(steps: list[tuple[int, int]]) -> None:
    held, sizes = HeldInput(max_bytes=300), dict[int, int]()
    for key, size in steps:
        sizes[key] = size
        largest = held.hold(key, size)
        while largest is not None:
            assert sizes[largest] == max(sizes.values())
            sizes[largest] = 0
            largest = held.hold(largest, 0)
        assert held.size_bytes == sum(sizes.values()) <= 300
