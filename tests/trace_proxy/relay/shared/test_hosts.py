"""All hosts of a fleet: what is known of them, counted of ours, and where new threads go."""

import msgspec
import pytest

from tests.trace_proxy.recording import GREETING, PEER, Core, Json, Proxy
from trace_proxy.relay.shared.hosts import ASK_S, LOST_S

HERE, THERE, THIRD = "ws://here:4500", "ws://there:4500", "ws://third:4500"


def row(url: str, load: int = 0, **more: Json) -> Json:
    return {"hostId": "", "url": url, "load": load, "draining": False, "me": url == HERE, **more}


def fleet(*rows: Json, cores: int = 1) -> Proxy:
    """A host whose core has said who there is."""
    proxy = Proxy(cores, advertise_url=HERE, least_loaded=True).up()
    told(proxy, *rows, now_s=100.0)
    return proxy


def told(proxy: Proxy, *rows: Json, now_s: float) -> None:
    proxy.hub.tick(now_s, proxy.tick())
    for core in proxy.cores:
        asked = core.got()[-1]
        assert asked["method"] == "host/list"
        core.answer(asked["id"], {"data": list(rows)})


def placed(proxy: Proxy, count: int) -> list[str]:
    """Where the threads go that a client starts."""
    client = proxy.client()
    went = []
    for number in range(count):
        client.request(number, "thread/start")
        if proxy.core.got():
            went.append(HERE)
        else:
            waits = [each for each in proxy.hub.board.peers.values() if len(each.router)]
            (new,) = [each.url for each in waits if went.count(each.url) < len(each.router)]
            went.append(new)
    return went


def test_new_threads_go_to_the_host_with_the_fewest_and_a_burst_is_spread() -> None:
    proxy = fleet(row(HERE, 3), row(THERE, 2), row(THIRD, 5))

    assert placed(proxy, 6) == [THERE, HERE, THERE, HERE, THERE, HERE]


def test_without_a_reason_to_go_a_thread_stays_here() -> None:
    assert placed(fleet(row(HERE), row(THERE)), 1) == [HERE]
    assert placed(Proxy(advertise_url=HERE, least_loaded=True).up(), 2) == [HERE, HERE]


@pytest.mark.parametrize("other", [row(THERE, draining=True), row(""), row("ws://["), row("x")])
def test_nothing_new_goes_to_a_host_that_ends_or_that_nobody_can_reach(other: Json) -> None:
    assert placed(fleet(row(HERE, 9), other), 2) == [HERE, HERE]


def host_that_is_asked(proxy: Proxy) -> Core:
    """The other host, connected and greeted."""
    there = Core(proxy, proxy.effects.peers_opened[-1])
    there.start(greet=False)
    there.answer(there.got()[-1]["id"], GREETING)
    return there


def test_a_thread_that_was_started_elsewhere_is_heard_here() -> None:
    proxy = fleet(row(HERE, 1), row(THERE))
    client = proxy.client()
    client.request(7, "thread/start")
    there = host_that_is_asked(proxy)
    asked = there.got()[-1]
    there.answer(asked["id"], {"thread": {"id": "t"}, "model": "m"})
    there.notify("thread/name/updated", {"threadId": "t", "threadName": "x"})
    client.request(8, "turn/start", {"threadId": "t", "input": []})

    assert asked["method"] == "thread/start"
    assert [each.get("id", each.get("method")) for each in client.heard()] == [
        7,
        "thread/name/updated",
    ]
    assert [each["method"] for each in there.got()] == ["turn/start"]


def test_what_another_host_places_here_stays_here() -> None:
    proxy = fleet(row(HERE, 9), row(THERE))
    relaying = proxy.client(peer=msgspec.structs.replace(PEER, hop=True))

    relaying.request(1, "thread/start")

    assert [each["method"] for each in proxy.core.got()] == ["thread/start"]


def test_a_host_that_was_lost_gets_nothing_new_until_its_leases_are_over() -> None:
    rows = row(HERE, 1), row(THERE)
    proxy = fleet(*rows)
    client = proxy.client()
    client.request(1, "thread/start")
    (lost,) = proxy.hub.board.peers.values()
    proxy.hub.peer_lost(lost, proxy.tick())

    told(proxy, *rows, now_s=100.0 + ASK_S)
    assert placed(proxy, 1) == [HERE]
    told(proxy, *rows, now_s=100.0 + LOST_S)
    assert placed(proxy, 1) == [THERE]


def test_a_thread_that_a_host_was_to_have_and_never_heard_of_is_made_here() -> None:
    proxy = fleet(row(HERE, 1), row(THERE))
    client = proxy.client()
    client.request(1, "thread/start", {"cwd": "/w"})
    (gone,) = proxy.hub.board.peers.values()

    proxy.hub.peer_lost(gone, proxy.tick())
    (asked,) = proxy.core.got()
    proxy.core.answer(asked["id"], {"thread": {"id": "t"}, "model": "m"})

    assert (asked["method"], asked["params"]) == ("thread/start", {"cwd": "/w"})
    assert [each["id"] for each in client.heard()] == [1]
    assert [span.name for span in proxy.effects.spans] == ["thread/start"]


def test_a_thread_that_a_lost_host_may_have_made_is_not_made_twice() -> None:
    proxy = fleet(row(HERE, 1), row(THERE))
    client = proxy.client()
    client.request(1, "thread/start")
    there = host_that_is_asked(proxy)
    assert there.got()[-1]["method"] == "thread/start"

    proxy.hub.peer_lost(there.session, proxy.tick())

    (answer,) = client.heard()
    assert answer["error"]["data"]["reason"] == "coreLost"
    assert proxy.core.got() == []


def test_who_leaves_before_his_thread_is_made_elsewhere_gets_none_here() -> None:
    proxy = fleet(row(HERE, 1), row(THERE))
    client = proxy.client()
    client.request(1, "thread/start")
    (gone,) = proxy.hub.board.peers.values()

    client.leave()
    proxy.hub.peer_lost(gone, proxy.tick())

    assert proxy.core.got() == []


def test_all_hosts_are_shown() -> None:
    proxy = fleet(row(HERE, 3, hostId="one"), row(THERE, 2, draining=True))

    assert proxy.hub.hosts.details() == [
        {"id": "one", "url": HERE, "threads": 3, "draining": False, "me": True},
        {"id": "", "url": THERE, "threads": 2, "draining": True, "me": False},
    ]


def test_our_counters_go_on_when_those_of_a_core_begin_anew() -> None:
    proxy = fleet(row(HERE, 3, takenOver=2, fenced=1))
    told(proxy, row(HERE, 4, takenOver=5, fenced=1), now_s=110.0)
    assert proxy.effects.counted == (4, 5, 1)

    proxy.core.die()
    proxy.core.start()
    told(proxy, row(HERE, 1, takenOver=1, fenced=0), now_s=120.0)

    assert proxy.effects.counted == (1, 6, 1)


@pytest.mark.parametrize("odd", [{}, {"data": None}, {"data": [{"load": "many"}]}, []])
def test_an_odd_answer_changes_nothing(odd: Json) -> None:
    proxy = fleet(row(HERE, 3), row(THERE, 2))
    proxy.hub.tick(110.0, proxy.tick())
    proxy.core.answer(proxy.core.got()[-1]["id"], odd)
    proxy.hub.tick(120.0, proxy.tick())
    proxy.core.fail(proxy.core.got()[-1]["id"], -32601, "unknown method")

    assert [each["url"] for each in proxy.hub.hosts.details()] == [HERE, THERE]


def test_how_many_hosts_live_is_told_once_a_core_has_said_so() -> None:
    alone = Proxy(advertise_url=HERE).up()
    three = fleet(row(HERE, leaseS=9), row(HERE, leaseS=9), row(THERE, leaseS=2))
    told(three, row(HERE, leaseS=9), row(THERE, leaseS=-1), now_s=200.0)

    assert alone.hub.hosts.living is None
    assert (
        fleet(row(HERE, leaseS=9), row(HERE, leaseS=9), row(THERE, leaseS=2)).hub.hosts.living == 2
    )
    assert three.hub.hosts.living == 1  # the two cores of one host are one
