"""Who hears what happens in a thread."""

from hypothesis import given
from hypothesis import strategies as st

from tests.trace_proxy.recording import NO_CONTEXT, PEER
from trace_proxy.state.connection import Connection
from trace_proxy.state.subscribers import Subscribers


def connections(number: int) -> list[Connection]:
    return [Connection(key, PEER, NO_CONTEXT) for key in range(number)]


def test_subscribers_are_heard_in_order_until_they_leave() -> None:
    one, two = connections(2)
    subscribers = Subscribers()
    for connection in (two, one, two):
        subscribers.add("t", connection)
    subscribers.add("s", two)
    assert list(subscribers.of("t")) == [two, one]
    assert subscribers.threads() == ["t", "s"]
    assert subscribers.leave(two) == ["s", "t"]
    assert (list(subscribers.of("t")), list(subscribers.of("s"))) == ([one], [])
    assert (subscribers.has("t"), subscribers.has("s")) == (True, False)
    assert (subscribers.remove("t", one), subscribers.remove("t", one)) == (True, False)
    assert repr(subscribers) == "<Subscribers threads=0>"


def test_a_replay_is_expected_once_after_each_resume() -> None:
    one, two = connections(2)
    subscribers = Subscribers()
    subscribers.add("t", one)
    subscribers.add("t", two)
    assert subscribers.replayed("t") is None
    subscribers.resumed("t", two)
    assert (subscribers.replayed("t"), subscribers.replayed("t")) == ((two,), None)
    subscribers.resumed("t", None)
    assert subscribers.replayed("t") == ()
    subscribers.resumed("t", two)
    subscribers.leave(two)
    assert subscribers.replayed("t") is None
    subscribers.resumed("t", one)
    subscribers.forget("t")
    assert (subscribers.replayed("t"), one.threads) == (None, set())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "leave", "forget"]),
        st.integers(0, 3),
        st.sampled_from("abc"),
    )
)


@given(STEPS)
def test_both_sides_agree(steps: list[tuple[str, int, str]]) -> None:
    everybody = connections(4)
    subscribers = Subscribers()
    pairs: set[tuple[str, int]] = set()
    for step, key, thread in steps:
        if step == "add":
            subscribers.add(thread, everybody[key])
            pairs.add((thread, key))
        elif step == "remove":
            assert subscribers.remove(thread, everybody[key]) is ((thread, key) in pairs)
            pairs.discard((thread, key))
        elif step == "leave":
            subscribers.leave(everybody[key])
            pairs = {pair for pair in pairs if pair[1] != key}
        else:
            subscribers.forget(thread)
            pairs = {pair for pair in pairs if pair[0] != thread}
    assert {(each, who.key) for who in everybody for each in who.threads} == pairs
    assert {(each, who.key) for each in "abc" for who in subscribers.of(each)} == pairs
