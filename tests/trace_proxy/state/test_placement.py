"""Which core a thread lives at."""

from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.queues.core_queue import CoreQueue, CoreQueueBounds
from trace_proxy.state.core_session import CoreSession, CoreState
from trace_proxy.state.placement import Placement


def cores(*states: CoreState) -> list[CoreSession]:
    made = [CoreSession(index, CoreQueue(CoreQueueBounds())) for index in range(len(states))]
    for core, state in zip(made, states, strict=True):
        core.state = state
    return made


def test_new_work_goes_to_who_is_up_then_to_who_has_least() -> None:
    down, starting, busy, idle = pool = cores(
        CoreState.DOWN, CoreState.STARTING, CoreState.READY, CoreState.READY
    )
    placement = Placement(pool)
    busy.turns = 1
    idle.threads = 5
    assert placement.choose() is idle
    idle.state = CoreState.FAILED
    assert placement.choose() is busy
    busy.state = CoreState.FAILED
    assert placement.choose() is down
    down.state = CoreState.FAILED
    assert placement.choose() is starting
    starting.state = CoreState.FAILED
    assert placement.choose() is None


def test_the_only_core_is_chosen_unless_it_has_failed() -> None:
    (core,) = pool = cores(CoreState.DOWN)
    placement = Placement(pool)
    assert placement.choose() is core
    core.state = CoreState.FAILED
    assert placement.choose() is None


def test_a_thread_is_placed_moved_and_forgotten() -> None:
    one, two = pool = cores(CoreState.READY, CoreState.READY)
    placement = Placement(pool)
    placement.place("t", one)
    placement.place("t", one)
    assert (placement.home("t"), one.threads) == (one, 1)
    placement.place("t", two)
    assert (placement.home("t"), one.threads, two.threads) == (two, 0, 1)
    assert (list(placement.of(one)), list(placement.of(two))) == ([], ["t"])
    placement.forget("t")
    placement.forget("t")
    assert (placement.home("t"), two.threads) == (None, 0)
    assert repr(placement) == "<Placement threads=0 cores=2>"


def test_a_thread_that_is_being_loaded_has_a_home_until_the_last_has_its_answer() -> None:
    one, two = pool = cores(CoreState.READY, CoreState.READY)
    placement = Placement(pool)
    placement.expect("t", one)
    placement.expect("t", two)
    assert placement.home("t") is one
    placement.expected_no_more("t")
    assert placement.home("t") is one
    placement.expected_no_more("t")
    assert placement.home("t") is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2))))
def test_counts_are_what_is_placed(steps: list[tuple[int, int]]) -> None:
    pool = cores(*[CoreState.READY] * 2)
    placement = Placement(pool)
    homes: dict[str, int] = {}
    for thread, core in steps:
        if core == 2:
            placement.forget(str(thread))
            homes.pop(str(thread), None)
        else:
            placement.place(str(thread), pool[core])
            homes[str(thread)] = core
    assert [core.threads for core in pool] == [list(homes.values()).count(n) for n in (0, 1)]
