"""Who comes and goes without end waits in order, and nobody else does."""

from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.access.arrivals import BURST_S, Arrivals
from trace_proxy.access.attempts import MAX_ADDRESSES


def test_as_many_as_may_be_there_come_at_once_and_then_one_after_the_other() -> None:
    arrivals = Arrivals(per_s=4)
    assert [arrivals.comes("10.0.0.1", now_s=100) for _ in range(7)] == [
        0,
        0,
        0,
        0,
        0.25,
        0.5,
        0.75,
    ]
    assert arrivals.comes("10.0.0.2", now_s=100) == 0
    assert arrivals.comes("::ffff:10.0.0.1", now_s=100) == 1
    assert arrivals.comes("10.0.0.1", now_s=103) == 0
    assert arrivals.comes(None, now_s=100) == 0


def test_a_walk_through_addresses_fills_no_memory() -> None:
    arrivals = Arrivals(per_s=4)
    for number in range(MAX_ADDRESSES + 10):
        arrivals.comes(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", now_s=1)
    assert repr(arrivals) == f"<Arrivals addresses={MAX_ADDRESSES}>"


@given(st.lists(st.floats(0, 2), max_size=60))
def test_nobody_comes_in_faster_than_agreed_or_waits_for_longer_than_the_others(
    pauses_s: list[float],
) -> None:
    arrivals, now_s, came_s = Arrivals(per_s=8), 50.0, list[float]()
    for pause_s in pauses_s:
        now_s += pause_s / 20
        came_s.append(now_s + arrivals.comes("10.0.0.1", now_s))
    assert came_s == sorted(came_s)
    for first, at_s in enumerate(came_s):
        within = [each for each in came_s[first:] if each < at_s + 1]
        assert len(within) <= 8 * (1 + BURST_S) + 1
