"""Which core a thread lives at."""

from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.protocol import methods
from trace_proxy.queues.core_queue import CoreQueue, CoreQueueBounds
from trace_proxy.state.connection import Pending
from trace_proxy.state.core_session import SLACK, CoreSession, CoreState
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


def ask(core: CoreSession, requests: int) -> None:
    for _ in range(requests):
        core.router.admit(Pending(None, b"1", methods.traits("model/list"), 1))


def test_who_was_at_a_core_stays_there_while_it_has_about_as_much_to_do() -> None:
    one, two = pool = cores(CoreState.READY, CoreState.READY)
    placement = Placement(pool)
    ask(one, SLACK)
    assert placement.choose(near=0) is one
    assert placement.choose() is placement.choose(near=1) is two
    ask(one, 1)
    assert placement.choose(near=0) is two
    ask(two, 1)
    assert placement.choose(near=0) is one, "twice as much, and what comes in one piece"


def test_nobody_stays_at_a_core_that_is_not_up_runs_more_turns_or_is_another_hosts() -> None:
    one, two = pool = cores(CoreState.READY, CoreState.READY)
    placement = Placement(pool)
    one.turns = 1
    assert placement.choose(near=0) is two
    one.turns, one.state = 0, CoreState.STARTING
    assert placement.choose(near=0) is two
    assert placement.choose(near=2) is two
    two.state = CoreState.FAILED
    assert placement.choose(near=0) is placement.choose(near=1) is one


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
