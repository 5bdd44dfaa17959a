"""Where a turn's time goes."""

from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.spans.turn_time import TurnTime

MS = 1_000_000


def test_the_human_counts_before_the_tool_that_asks() -> None:
    time = TurnTime(0)
    time.tools(+1, 10 * MS)
    time.asked(+1, 15 * MS)
    time.asked(-1, 45 * MS)
    time.tools(-1, 50 * MS)
    assert time.now == "model"
    assert time.split_ms(60 * MS) == (20, 10, 30)


def test_two_tools_at_once_take_the_time_of_one() -> None:
    time = TurnTime(0)
    time.tools(+1, 0)
    time.tools(+1, 10 * MS)
    time.tools(-1, 20 * MS)
    assert time.now == "tool"
    time.tools(-1, 30 * MS)
    assert time.split_ms(30 * MS) == (0, 30, 0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["tools", "asked"]), st.sampled_from([1, -1]), st.integers(-5, 50))
)


@given(STEPS)
def test_the_parts_are_the_whole_whatever_a_core_says_of_times(
    steps: list[tuple[str, int, int]],
) -> None:
    time, now_ns, latest_ns = TurnTime(0), 0, 0
    for what, change, later in steps:
        now_ns += later * MS
        latest_ns = max(latest_ns, now_ns)
        getattr(time, what)(change, now_ns)
    assert sum(time.split_ms(latest_ns)) == latest_ns // MS
    assert min(time.split_ms(latest_ns)) >= 0
