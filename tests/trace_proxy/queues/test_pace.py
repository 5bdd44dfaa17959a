"""Large messages of one client come in at a bounded speed, whatever others send."""

from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.queues.pace import ASK_AGAIN_S, BURST_S, Pace

BURST_BYTES = int(BURST_S * 100)


def test_after_a_quiet_time_a_large_message_waits_for_nothing() -> None:
    pace = Pace(bytes_per_s=100)
    assert pace.read(1, BURST_BYTES, now_s=50, begins=True) == 0
    assert pace.read(1, 100, now_s=50, begins=False) == 0
    assert repr(pace) == "<Pace bytes left={1: -100}>"


def test_the_next_one_waits_until_what_was_read_is_paid_for() -> None:
    pace = Pace(bytes_per_s=100)
    assert pace.read(1, BURST_BYTES + 300, now_s=0, begins=True) == 0
    assert pace.read(1, 1, now_s=1, begins=True) == ASK_AGAIN_S
    assert pace.read(1, 1, now_s=2.9, begins=True) > 0
    assert pace.read(1, 1, now_s=3.1, begins=True) == 0


def test_a_message_that_was_let_in_is_read_to_its_end() -> None:
    pace = Pace(bytes_per_s=100)
    for begins in (True, False, False):
        assert pace.read(1, 10_000, now_s=0, begins=begins) == 0


def test_one_that_was_let_in_by_nobody_is_counted_all_the_same() -> None:
    pace = Pace(bytes_per_s=100)
    assert pace.read(1, 10_000, now_s=0, begins=False) == 0
    assert pace.read(1, 1, now_s=0, begins=True) == ASK_AGAIN_S


def test_nobody_waits_for_what_others_sent() -> None:
    pace = Pace(bytes_per_s=100)
    pace.read(1, 10_000, now_s=0, begins=True)
    assert pace.read(2, 10_000, now_s=0, begins=True) == 0


def test_nothing_is_kept_of_who_has_left() -> None:
    pace = Pace(bytes_per_s=100)
    pace.read(1, 10_000, now_s=0, begins=True)
    pace.leave(1)
    pace.leave(2)
    assert repr(pace) == "<Pace bytes left={}>"


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 400)), max_size=60))
def test_everybody_is_let_in_and_never_faster_than_agreed(asks: list[tuple[int, int]]) -> None:
    pace = Pace(bytes_per_s=100)
    now_s, read, most = 0.0, dict.fromkeys(range(5), 0), 0
    for key, size in asks:
        tries = 0
        while wait_s := pace.read(key, size, now_s, begins=True):
            now_s += wait_s
            tries += 1
            assert tries < 400
        read[key], most = read[key] + size, max(most, size)
        assert read[key] <= 100 * (now_s + BURST_S) + most
