"""Threads of other hosts: who is asked, what comes back, and that nothing goes round."""

import msgspec
import pytest

from tests.trace_proxy.recording import GREETING, PEER, Client, Core, Json, Proxy
from trace_proxy.context.span_record import Kind
from trace_proxy.relay.shared.peers import IDLE_S, MAX_HOPS
from trace_proxy.state.core_session import CoreState

HERE, THERE, THIRD = "ws://here:4500", "ws://there:4500", "ws://third:4500"
HOP = msgspec.structs.replace(PEER, hop=True)


def fleet() -> Proxy:
    """A host of a fleet, whose core is up."""
    return Proxy(advertise_url=HERE).up()


def peer(proxy: Proxy, *, start: bool = True) -> Core:
    """The host that was connected to last; what waited for it has been written."""
    core = Core(proxy, proxy.effects.peers_opened[-1])
    if start:
        core.start(greet=False)
        core.answer(core.got()[-1]["id"], GREETING)
    return core


def relayed(proxy: Proxy, client: Client, method: str = "thread/resume") -> tuple[Core, Json]:
    """A request about a thread of another host, as that host got it."""
    client.request(7, method, {"threadId": "t"})
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THERE)
    there = peer(proxy)
    return there, there.got()[-1]


def subscribed(proxy: Proxy, *, experimental: bool = False) -> tuple[Client, Core]:
    """A client that hears a thread of another host."""
    client = proxy.client(experimental=experimental)
    there, asked = relayed(proxy, client)
    there.answer(asked["id"], {"thread": {"id": "t"}, "model": "m"})
    client.heard()
    return client, there


def test_a_request_for_a_thread_that_another_host_owns_is_asked_there() -> None:
    proxy = fleet()
    client = proxy.client()

    there, asked = relayed(proxy, client)
    there.answer(asked["id"], {"thread": {"id": "t"}, "model": "m"})

    assert there.session.url == THERE
    assert (asked["method"], asked["params"]) == ("thread/resume", {"threadId": "t"})
    assert client.heard() == [{"id": 7, "result": {"thread": {"id": "t"}, "model": "m"}}]
    assert proxy.effects.relays == 1


def test_what_follows_goes_there_at_once_and_events_come_back() -> None:
    proxy = fleet()
    client, there = subscribed(proxy)

    client.request(8, "turn/start", {"threadId": "t", "input": []})
    asked = there.got()[-1]
    there.answer(asked["id"], {"turn": {"id": "u"}})
    there.notify("item/agentMessage/delta", {"threadId": "t", "turnId": "u", "delta": "x"})
    client.request(9, "thread/list")

    assert [each.get("method", each.get("id")) for each in client.heard()] == [
        8,
        "item/agentMessage/delta",
    ]
    assert [each["method"] for each in proxy.core.got()] == ["thread/list"]
    assert there.got() == []


def test_a_hop_is_a_client_span_between_two_server_spans_and_the_turn_is_not_ours() -> None:
    proxy = fleet()
    client, there = subscribed(proxy)
    proxy.effects.spans.clear()

    client.request(8, "turn/start", {"threadId": "t", "input": []})
    asked = there.got()[-1]
    there.answer(asked["id"], {"turn": {"id": "u"}})
    there.notify("turn/started", {"threadId": "t", "turn": {"id": "u", "status": "inProgress"}})
    there.notify("turn/completed", {"threadId": "t", "turn": {"id": "u", "status": "completed"}})

    hop, request = proxy.effects.spans
    _, trace, span, _ = asked["trace"]["traceparent"].split("-")
    assert (hop.kind, request.kind) == (Kind.CLIENT, Kind.SERVER)
    assert (f"{hop.context.trace_id:032x}", f"{hop.context.span_id:016x}") == (trace, span)
    assert hop.parent == request.context
    assert hop.attributes["server.address"] == "there"
    assert hop.attributes["server.port"] == 4500


def test_a_request_that_was_relayed_is_cancelled_where_it_is() -> None:
    proxy = fleet()
    client, there = subscribed(proxy, experimental=True)

    client.request(8, "thread/read", {"threadId": "t"})
    named = there.got()[-1]["id"]
    client.request(9, "thread/search/cancel", {"requestId": 8})
    (cancel,) = there.got()

    assert (cancel["method"], cancel["params"]) == (
        "thread/search/cancel",
        {"requestId": named},
    )
    assert proxy.core.got() == []


def test_what_a_peer_asks_goes_no_further() -> None:
    proxy = fleet()
    relaying = proxy.client(peer=HOP)

    relaying.request(7, "thread/resume", {"threadId": "t"})
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THIRD)

    (answer,) = relaying.heard()
    assert (answer["error"]["code"], answer["error"]["data"]["url"]) == (-32010, THIRD)
    assert proxy.effects.peers_opened == []


def test_a_peer_hears_of_its_threads_and_of_nothing_else() -> None:
    proxy = fleet()
    relaying, client = proxy.client(peer=HOP), proxy.client()
    proxy.thread(relaying)

    proxy.core.notify("thread/name/updated", {"threadId": "t", "threadName": "x"})
    proxy.core.notify("thread/name/updated", {"threadId": "other", "threadName": "x"})
    proxy.core.notify("account/updated", {})

    assert len(client.heard()) == 3
    assert [each["params"].get("threadId") for each in relaying.heard()] == ["t"]


@pytest.mark.parametrize(
    "url",
    [
        HERE,
        "",
        "ws://",
        "ws://[",
        "ws://[::1",
        "ws://a b",
        "ws://h:99999",
        "ws://u:p@h",
        "http://h",
        "x",
    ],
)
def test_what_is_no_other_hosts_url_is_not_connected_to(url: str) -> None:
    proxy = fleet()
    client = proxy.client()

    client.request(7, "thread/resume", {"threadId": "t"})
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], url)

    assert client.heard()[0]["error"]["code"] == -32010
    assert proxy.effects.peers_opened == []
    assert ("thread.owner_has_our_url" in proxy.effects.logged) == (url == HERE)


def test_a_thread_that_moved_on_is_asked_for_again_but_not_for_ever() -> None:
    proxy = fleet()
    client = proxy.client()
    there, asked = relayed(proxy, client)

    for _ in range(MAX_HOPS // 2):
        there.owned_elsewhere(asked["id"], THIRD)
        proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THERE)
        asked = there.got()[-1]
    there.owned_elsewhere(asked["id"], THIRD)

    assert client.heard()[0]["error"]["code"] == -32010
    assert proxy.core.got() == []


def test_without_a_fleet_the_error_is_handed_on() -> None:
    proxy = Proxy().up()
    client = proxy.client()

    client.request(7, "thread/resume", {"threadId": "t"})
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THERE)

    assert client.heard()[0]["error"]["code"] == -32010
    assert proxy.effects.peers_opened == []


@pytest.mark.parametrize("reached", [True, False])
def test_a_host_that_is_gone_or_never_there_is_a_core_that_is_lost(*, reached: bool) -> None:
    proxy = fleet()
    client = proxy.client()
    client.request(7, "thread/resume", {"threadId": "t"})
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THERE)
    there = peer(proxy, start=reached)

    proxy.hub.peer_lost(there.session, proxy.tick())
    proxy.hub.peer_lost(there.session, proxy.tick())

    (answer,) = client.heard()
    assert (answer["error"]["code"], answer["error"]["data"]["retryable"]) == (-32003, True)
    assert there.session.state is CoreState.FAILED
    client.request(8, "thread/resume", {"threadId": "t"})
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THERE)
    assert proxy.effects.peers_opened[-1] is not there.session


def test_subscribers_of_a_lost_host_stay_until_the_thread_is_found() -> None:
    proxy = fleet()
    client, there = subscribed(proxy)
    there.notify("turn/started", {"threadId": "t", "turn": {"id": "u", "status": "inProgress"}})
    client.heard()

    proxy.hub.peer_lost(there.session, proxy.tick())
    assert [each["method"] for each in client.heard()] == ["turn/completed"]
    proxy.hub.tick(1.0, proxy.tick())
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THERE)
    proxy.hub.peer_lost(peer(proxy, start=False).session, proxy.tick())
    proxy.hub.tick(2.0, proxy.tick())
    asked = proxy.core.got()[-1]
    proxy.core.answer(asked["id"], {"thread": {"id": "t"}, "model": "m"})
    proxy.core.notify("item/agentMessage/delta", {"threadId": "t", "turnId": "v", "delta": "x"})

    assert (asked["method"], asked["params"]["threadId"]) == ("thread/resume", "t")
    assert [each["method"] for each in client.heard()] == ["item/agentMessage/delta"]
    proxy.hub.tick(9.0, proxy.tick())
    assert [each["method"] for each in proxy.core.got()] == ["host/list"]


def test_a_thread_that_is_nowhere_any_more_is_closed() -> None:
    proxy = fleet()
    client, there = subscribed(proxy)
    proxy.hub.peer_lost(there.session, proxy.tick())

    proxy.hub.tick(1.0, proxy.tick())
    proxy.core.fail(proxy.core.got()[-1]["id"], -32600, "no rollout found")

    assert [each["method"] for each in client.heard()] == ["thread/closed"]


def test_work_for_a_host_that_drains_waits_until_its_thread_is_free() -> None:
    proxy = fleet()
    client, there = subscribed(proxy)
    client.request(8, "turn/start", {"threadId": "t", "input": []})
    draining = {"code": -32001, "message": "draining", "data": {"reason": "draining"}}
    there.say({"id": there.got()[-1]["id"], "error": draining})
    assert client.heard() == []

    proxy.hub.tick(1.0, proxy.tick())
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THERE)
    there.say({"id": there.got()[-1]["id"], "error": draining})
    proxy.hub.tick(2.0, proxy.tick())
    proxy.core.answer(proxy.core.got()[-1]["id"], {"thread": {"id": "t"}, "model": "m"})
    asked = proxy.core.got()[-1]
    proxy.core.answer(asked["id"], {"turn": {"id": "u"}})

    assert (asked["method"], asked["params"]["threadId"]) == ("turn/start", "t")
    assert client.heard() == [{"id": 8, "result": {"turn": {"id": "u"}}}]


def test_who_leaves_while_his_request_waits_is_forgotten() -> None:
    proxy = fleet()
    client, there = subscribed(proxy)
    other = proxy.client()
    other.request(3, "thread/resume", {"threadId": "t"})
    there.answer(there.got()[-1]["id"], {"thread": {"id": "t"}, "model": "m"})
    client.request(8, "turn/start", {"threadId": "t", "input": []})
    draining = {"code": -32001, "message": "draining", "data": {"reason": "draining"}}
    there.say({"id": there.got()[-1]["id"], "error": draining})

    client.leave()
    proxy.hub.tick(1.0, proxy.tick())
    proxy.core.answer(proxy.core.got()[-1]["id"], {"thread": {"id": "t"}, "model": "m"})

    assert proxy.core.got() == []
    assert proxy.hub.board.in_flight == 0


def test_a_thread_that_our_own_core_lost_is_followed() -> None:
    proxy = fleet()
    client = proxy.client()
    proxy.thread(client)

    proxy.core.notify("thread/status/changed", {"threadId": "t", "status": {"type": "notLoaded"}})
    proxy.hub.tick(1.0, proxy.tick())
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THERE)
    there = peer(proxy)
    there.answer(there.got()[-1]["id"], {"thread": {"id": "t"}, "model": "m"})
    there.notify("item/agentMessage/delta", {"threadId": "t", "turnId": "v", "delta": "x"})

    methods = [each["method"] for each in client.heard()]
    assert methods == ["thread/status/changed", "item/agentMessage/delta"]


def moved_there() -> tuple[Proxy, Client, Client, Core]:
    """A thread that both hosts' clients hear, just after it has moved from here to there."""
    proxy = fleet()
    client, relaying = proxy.client(), proxy.client(peer=HOP)
    proxy.thread(client)
    relaying.request(7, "thread/resume", {"threadId": "t"})
    proxy.core.answer(proxy.core.got()[-1]["id"], {"thread": {"id": "t"}, "model": "m"})
    proxy.core.notify("thread/status/changed", {"threadId": "t", "status": {"type": "notLoaded"}})
    proxy.hub.tick(1.0, proxy.tick())
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THERE)
    there = peer(proxy)
    there.answer(there.got()[-1]["id"], {"thread": {"id": "t"}, "model": "m"})
    return proxy, client, relaying, there


@pytest.mark.parametrize(
    "params",
    [
        {"method": "item/agentMessage/delta", "turnId": "u", "delta": "x"},
        {"method": "turn/started", "turn": {"id": "u", "status": "inProgress"}},
        {"method": "turn/completed", "turn": {"id": "u", "status": "completed"}},
        {"method": "item/completed", "turnId": "u", "item": {"id": "i", "type": "agentMessage"}},
        {"method": "thread/status/changed", "status": {"type": "idle"}},
        {"method": "thread/name/updated", "threadName": "x"},
        {"method": "unheard/of"},
    ],
    ids=lambda params: params["method"],
)
@pytest.mark.parametrize("resubscribed", [False, True])
def test_what_another_host_tells_is_told_to_no_other_host(
    params: Json, *, resubscribed: bool
) -> None:
    proxy, client, relaying, there = moved_there()
    if resubscribed:  # whatever has led to it
        proxy.hub.board.subscribers.add("t", relaying.connection)
    client.heard()
    relaying.heard()

    there.notify(params["method"], {**params, "threadId": "t"})

    assert [each["method"] for each in client.heard()] == [params["method"]]
    assert relaying.heard() == []


def test_what_another_host_asks_is_asked_of_no_other_host() -> None:
    proxy, client, relaying, there = moved_there()
    proxy.hub.board.subscribers.add("t", relaying.connection)
    client.heard()
    relaying.heard()

    there.ask(5, "item/commandExecution/requestApproval", {"threadId": "t", "turnId": "u"})

    assert len(client.heard()) == 1
    assert relaying.heard() == []


def test_a_thread_that_only_another_host_hears_is_not_looked_for() -> None:
    proxy = fleet()
    relaying = proxy.client(peer=HOP)
    proxy.thread(relaying)

    proxy.core.notify("thread/status/changed", {"threadId": "t", "status": {"type": "notLoaded"}})
    proxy.hub.tick(1.0, proxy.tick())

    assert [each["method"] for each in relaying.heard()] == ["thread/status/changed"]
    assert [each["method"] for each in proxy.core.got()] == ["host/list"]


def test_a_thread_that_another_host_took_while_our_core_was_away_is_followed() -> None:
    proxy = fleet()
    client = proxy.client()
    proxy.thread(client)

    proxy.core.die()
    proxy.core.start(greet=False)
    proxy.core.answer(proxy.core.got()[-1]["id"], GREETING)
    proxy.core.owned_elsewhere(proxy.core.got()[-1]["id"], THERE)
    proxy.hub.tick(1.0, proxy.tick())
    resumed = next(each for each in proxy.core.got() if each["method"] == "thread/resume")
    proxy.core.owned_elsewhere(resumed["id"], THERE)
    there = peer(proxy)
    there.answer(there.got()[-1]["id"], {"thread": {"id": "t"}, "model": "m"})
    there.notify("item/agentMessage/delta", {"threadId": "t", "turnId": "v", "delta": "x"})

    assert [each["method"] for each in client.heard()] == ["item/agentMessage/delta"]


def test_a_drain_asks_our_cores_to_give_their_threads_up() -> None:
    proxy = fleet()

    proxy.hub.drain_began(proxy.tick())
    (asked,) = proxy.core.got()
    before = proxy.hub.board.releasing
    proxy.core.answer(asked["id"], {})

    assert (asked["method"], before, proxy.hub.board.releasing) == ("host/drain", 1, 0)


def test_a_host_that_nobody_needs_is_left() -> None:
    proxy = fleet()
    client, there = subscribed(proxy)
    client.leave()

    proxy.hub.tick(1.0, proxy.tick())
    proxy.hub.tick(IDLE_S, proxy.tick())
    assert proxy.effects.peers_closed == []
    proxy.hub.tick(IDLE_S + 1, proxy.tick())

    assert proxy.effects.peers_closed == [there.session]
