"""Large messages of all clients come in at a bounded speed, first come, first served."""

from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.queues.pace import ASK_AGAIN_S, BURST_S, Pace


def test_after_a_quiet_time_a_large_message_waits_for_nothing() -> None:
    pace = Pace(bytes_per_s=100)
    assert pace.begin(1, now_s=50) == 0
    pace.charge(int(BURST_S * 100) + 100)
    assert repr(pace) == "<Pace level=-100 bytes, 0 waiting>"


def test_the_next_one_waits_until_what_was_read_is_paid_for() -> None:
    pace = Pace(bytes_per_s=100)
    pace.begin(1, now_s=0)
    pace.charge(int(BURST_S * 100) + 300)
    assert pace.begin(1, now_s=1) == ASK_AGAIN_S
    assert pace.begin(1, now_s=2.9) > 0
    assert pace.begin(1, now_s=3.1) == 0


def test_who_came_first_is_first() -> None:
    pace = Pace(bytes_per_s=100)
    pace.begin(1, now_s=0)
    pace.charge(500)
    assert pace.begin(2, now_s=1) > 0
    assert pace.begin(3, now_s=1) > 0
    assert pace.begin(3, now_s=10) > 0, "two is before it"
    assert pace.begin(2, now_s=10) == 0
    assert pace.begin(3, now_s=10) == 0


def test_nobody_waits_for_one_that_has_left() -> None:
    pace = Pace(bytes_per_s=100)
    pace.begin(1, now_s=0)
    pace.charge(500)
    pace.begin(2, now_s=1)
    pace.begin(3, now_s=1)
    pace.leave(2)
    assert pace.begin(3, now_s=10) == 0


def test_who_went_on_because_it_was_alone_stands_in_nobodys_way() -> None:
    pace = Pace(bytes_per_s=100)
    pace.begin(1, now_s=0)
    pace.charge(500)
    assert pace.begin(1, now_s=1) > 0
    assert pace.begin(1, now_s=1, alone=True) == 0
    assert pace.begin(2, now_s=10) == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 400)), max_size=60))
def test_everybody_is_let_in_and_never_faster_than_agreed(asks: list[tuple[int, int]]) -> None:
    pace = Pace(bytes_per_s=100)
    now_s, read, most = 0.0, 0, 0
    for key, size in asks:
        tries = 0
        while wait_s := pace.begin(key, now_s):
            now_s += wait_s
            tries += 1
            assert tries < 400
        pace.charge(size)
        read, most = read + size, max(most, size)
        assert read <= 100 * (now_s + BURST_S) + most
