"""Who is admitted and who is shed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_proxy.protocol.refusal import Refusal
from trace_proxy.queues.admission import Admission, AdmissionBounds, Load


def overloaded(what: str) -> Refusal:
    return Refusal(
        -32001,
        f"{what}; retry when some requests have been answered",
        {"reason": "overloaded", "retryable": True},
    )


def test_a_connection_may_have_so_many_requests_in_flight() -> None:
    a, b = Load(), Load()
    admission = Admission(AdmissionBounds(connection_max_requests=2))
    assert admission.admit(a, 10) is None
    assert admission.admit(a, 10) is None

    assert admission.admit(a, 10) == overloaded(
        "Too many requests of this connection are in flight"
    )
    assert admission.admit(b, 10) is None, "a neighbour is not disturbed"

    admission.release(a, 10)
    assert admission.admit(a, 10) is None


def test_a_connection_may_have_so_many_bytes_in_flight() -> None:
    a = Load()
    admission = Admission(AdmissionBounds(connection_max_bytes=100))
    assert admission.admit(a, 60) is None

    assert admission.admit(a, 41) == overloaded("Too many bytes of this connection are in flight")
    assert admission.admit(a, 40) is None


def test_the_whole_proxy_may_have_so_many_requests_in_flight() -> None:
    a, b, c = Load(), Load(), Load()
    admission = Admission(AdmissionBounds(proxy_max_requests=2))
    assert admission.admit(a, 10) is None
    assert admission.admit(b, 10) is None

    refused = overloaded("Too many requests of all clients are in flight")
    assert admission.admit(c, 10) == refused
    assert admission.admit(a, 10) == refused


def test_the_whole_proxy_may_have_so_many_bytes_in_flight() -> None:
    a, b = Load(), Load()
    admission = Admission(AdmissionBounds(proxy_max_bytes=100))
    assert admission.admit(a, 60) is None

    refused = overloaded("Too many bytes of all clients are in flight")
    assert admission.admit(b, 41) == refused
    assert admission.admit(a, 41) == refused
    assert admission.admit(b, 40) is None


def test_a_message_over_every_bound_in_bytes_passes_alone() -> None:
    a, b = Load(), Load()
    admission = Admission(AdmissionBounds(connection_max_bytes=1, proxy_max_bytes=1))
    assert admission.admit(a, 1_000_000) is None
    assert admission.admit(a, 1) is not None
    assert admission.admit(b, 1) is not None

    admission.release(a, 1_000_000)
    assert admission.admit(b, 1_000_000) is None


def test_with_every_bound_at_one_requests_pass_one_by_one() -> None:
    a, b = Load(), Load()
    admission = Admission(
        AdmissionBounds(
            connection_max_requests=1,
            connection_max_bytes=1,
            proxy_max_requests=1,
            proxy_max_bytes=1,
        )
    )
    for connection in (a, b, a):
        assert admission.admit(connection, 100) is None
        assert admission.admit(a, 100) is not None
        admission.release(connection, 100)


def test_what_was_never_admitted_cannot_be_released() -> None:
    a, b = Load(), Load()
    admission = Admission(AdmissionBounds())
    admission.admit(a, 5)

    with pytest.raises(ValueError, match="more often than admitted"):
        admission.release(b, 5)
    assert repr(admission) == "<Admission requests=1 bytes=5>"
    assert (repr(a), repr(b)) == ("<Load requests=1 bytes=5>", "<Load requests=0 bytes=0>")


BOUNDS = st.builds(
    AdmissionBounds,
    connection_max_requests=st.integers(1, 4),
    connection_max_bytes=st.integers(1, 50),
    proxy_max_requests=st.integers(1, 6),
    proxy_max_bytes=st.integers(1, 80),
)


@settings(deadline=None)
@given(
    BOUNDS,
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 60), st.booleans()), max_size=60),
)
def test_counters_stay_within_bounds_and_return_to_zero(
    bounds: AdmissionBounds, steps: list[tuple[int, int, bool]]
) -> None:
    admission = Admission(bounds)
    loads = [Load() for _ in range(3)]
    in_flight: list[tuple[Load, int]] = []
    for connection, size, settles in steps:
        load = loads[connection - 1]
        if settles and in_flight:
            admission.release(*in_flight.pop(0))
        elif admission.admit(load, size) is None:
            in_flight.append((load, size))
        own = [size for each, size in in_flight if each is load]
        assert load.requests == len(own) <= bounds.connection_max_requests
        assert load.size_bytes == sum(own)
        assert sum(own) <= bounds.connection_max_bytes or 0 < len(own) - own.count(0) <= 1
        assert len(in_flight) == admission.requests <= bounds.proxy_max_requests
    for request in in_flight:
        admission.release(*request)

    assert repr(admission) == "<Admission requests=0 bytes=0>"


@settings(deadline=None)
@given(BOUNDS, st.integers(0, 10**9))
def test_an_idle_proxy_admits_any_request(bounds: AdmissionBounds, size: int) -> None:
    assert Admission(bounds).admit(Load(), size) is None


def greedy(admission: Admission, clients: int, size: int) -> list[Load]:
    """So many connections, each with all that it is admitted, in turns."""
    loads = [Load() for _ in range(clients)]
    asking = list(loads)
    while asking:
        asking = [load for load in asking if admission.admit(load, size) is None]
    return loads


@pytest.mark.parametrize("clients", [1, 2, 7, 8, 20, 63])
def test_whoever_comes_finds_as_many_places_as_the_greedy_have(clients: int) -> None:
    admission = Admission(AdmissionBounds())
    taken = {load.requests for load in greedy(admission, clients, 100)}
    assert min(taken) >= 2048 // (clients + 1) - 1 or min(taken) == 256
    newcomer = Load()
    while admission.admit(newcomer, 100) is None:
        pass
    assert newcomer.requests >= min(taken) // 2


@pytest.mark.parametrize("size", [1000, 900_000, 15_000_000])
@pytest.mark.parametrize("clients", [1, 2, 4, 63])
def test_bytes_of_the_greedy_leave_room_for_who_comes(clients: int, size: int) -> None:
    admission = Admission(AdmissionBounds())
    greedy(admission, clients, size)
    newcomer = Load()
    for _ in range(4):
        assert admission.admit(newcomer, 1000) is None


def test_one_alone_still_has_two_messages_of_the_full_size_under_way() -> None:
    admission, load = Admission(AdmissionBounds()), Load()
    assert admission.admit(load, 16 * 2**20) is None
    assert admission.admit(load, 16 * 2**20) is None


def test_who_is_alone_may_have_all() -> None:
    admission = Admission(AdmissionBounds(proxy_max_requests=10, proxy_max_bytes=5_000))
    admission.alone = True
    load = Load()
    assert [admission.admit(load, 100) for _ in range(10)] == [None] * 10
    assert admission.admit(load, 100) is not None
    for _ in range(9):
        admission.release(load, 100)
    assert admission.admit(load, 4_900) is None
    assert admission.admit(load, 1) is not None
