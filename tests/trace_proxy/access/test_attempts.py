import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.access.attempts import MAX_ADDRESSES, MOST, WINDOW_S, Attempts


def refuse(attempts: Attempts, ip: str, times: int, now_s: float) -> None:
    for _ in range(times):
        attempts.refused(ip, now_s)


def test_the_twenty_first_within_a_minute_has_to_wait_for_the_first_to_be_over() -> None:
    attempts = Attempts()
    refuse(attempts, "10.0.0.1", MOST - 1, now_s=100)
    assert attempts.check("10.0.0.1", 110) is None
    attempts.refused("10.0.0.1", 110)
    waits = attempts.check("10.0.0.1", 120.5)
    assert waits is not None
    assert (waits.status, waits.retry_after_s) == (429, 40)
    assert attempts.check("10.0.0.1", 100 + WINDOW_S) is None


def test_others_do_not_notice() -> None:
    attempts = Attempts()
    refuse(attempts, "10.0.0.1", 1000, now_s=0)
    assert attempts.check("10.0.0.2", 1) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_an_address_counts_with_its_network(one: str, other: str, *, same: bool) -> None:
    attempts = Attempts()
    refuse(attempts, one, MOST, now_s=0)
    assert (attempts.check(other, 1) is not None) is same


def test_a_walk_through_addresses_fills_no_memory() -> None:
    attempts = Attempts()
    for number in range(MAX_ADDRESSES + 100):
        attempts.refused(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0)
    assert repr(attempts) == f"<Attempts addresses={MAX_ADDRESSES}>"


@given(st.lists(st.floats(min_value=0, max_value=50), max_size=60))
def test_never_more_than_so_many_are_looked_at_in_a_minute(gaps: list[float]) -> None:
    attempts, now_s, looked = Attempts(), 0.0, list[float]()
    for gap in gaps:
        now_s += gap
        if attempts.check("10.0.0.1", now_s) is None:
            attempts.refused("10.0.0.1", now_s)
            looked.append(now_s)
    for at in looked:
        assert sum(at <= other < at + WINDOW_S for other in looked) <= MOST
