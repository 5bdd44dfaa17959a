"""Client ids and core ids: each request settles once, whatever the core answers."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.trace_proxy.recording import NO_CONTEXT, PEER
from trace_proxy.protocol.methods import traits
from trace_proxy.state.connection import Connection, Pending
from trace_proxy.state.router import Router, orphan


def ask(connection: Connection | None, name: bytes = b"1") -> Pending:
    return Pending(connection, name, traits("m"), 1)


def test_a_request_settles_once_and_ids_are_never_given_again() -> None:
    router, client = Router(), Connection(0, PEER, NO_CONTEXT)
    first, second = ask(client), ask(client)
    one, two = router.admit(first), router.admit(second)
    assert repr(router) == "<Router in_flight=2>"
    assert (router.settle(two), router.settle(two), router.settle(str(one))) == (
        second,
        None,
        None,
    )
    assert list(client.in_flight.values()) == [first]
    assert router.lose_all() == [first]
    assert (len(router), client.in_flight, router.settle(one)) == (0, {}, None)
    assert router.admit(ask(None)) not in (one, two)


def test_what_waits_cannot_be_answered_but_withdrawn() -> None:
    router, client = Router(), Connection(0, PEER, NO_CONTEXT)
    waiting, sent = ask(client), ask(client)
    first, second = router.admit(waiting), router.admit(sent)
    router.wait(first)
    router.wait(second)
    router.sent(second)
    assert (router.settle(first), router.settle(second)) == (None, sent)
    assert (router.withdraw(first), router.withdraw(first)) == (waiting, None)
    assert len(router) == 0


def test_orphans_keep_their_place_and_lose_their_asker() -> None:
    router, client = Router(), Connection(0, PEER, NO_CONTEXT)
    pending = ask(client)
    core_id = router.admit(pending)
    assert orphan(client) == [pending]
    assert (pending.connection, client.in_flight, router.requests()) == (None, {}, [pending])
    assert router.settle(core_id) is pending


EVENTS = st.lists(
    st.tuples(st.sampled_from(["admit", "settle", "lose", "leave"]), st.integers(0, 40))
)


@given(EVENTS)
def test_every_request_is_taken_exactly_once(events: list[tuple[str, int]]) -> None:
    router, clients = Router(), [Connection(n, PEER, NO_CONTEXT) for n in range(3)]
    admitted: list[Pending] = []
    taken: list[Pending] = []
    for event, number in events:
        if event == "admit":
            admitted.append(ask(clients[number % 3]))
            assert router.admit(admitted[-1]) == len(admitted)
        elif event == "settle":
            pending = router.settle(number)
            taken += [] if pending is None else [pending]
        elif event == "lose":
            taken += router.lose_all()
        else:
            orphan(clients[number % 3])
    taken += router.lose_all()
    assert Counter(map(id, taken)) == Counter(map(id, admitted))
    assert all(client.in_flight == {} for client in clients)
