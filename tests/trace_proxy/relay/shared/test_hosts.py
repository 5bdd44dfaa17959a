"""How many hosts serve together, as the page's bar tells it."""

import pytest

from tests.trace_proxy.recording import Json, Proxy
from trace_proxy.relay.shared.hosts import ASK_S

HERE, THERE = "ws://here:4500", "ws://there:4500"


def looked(proxy: Proxy, now_s: float) -> int | None:
    return proxy.hub.hosts(now_s, proxy.tick())


def host(url: str, lease_s: float) -> Json:
    return {"hostId": "", "url": url, "load": 0, "draining": False, "me": False, "leaseS": lease_s}


def asked(proxy: Proxy) -> list[str]:
    return [each["id"] for each in proxy.core.got() if each["method"] == "host/list"]


def test_who_looks_has_a_core_asked_now_and_then_and_is_told_what_it_said_last() -> None:
    proxy = Proxy(advertise_url=HERE).up()

    assert looked(proxy, 1.0) is None
    (first,) = asked(proxy)
    assert looked(proxy, 1.25) is None
    assert asked(proxy) == []
    proxy.core.answer(first, {"data": [host(HERE, 9), host(HERE, 9), host(THERE, 9)]})
    assert looked(proxy, 1.5) == 2  # the two cores of one host are one
    assert looked(proxy, 1 + ASK_S) == 2
    (second,) = asked(proxy)
    proxy.core.answer(second, {"data": [host(HERE, 9), host(THERE, -1)]})

    assert looked(proxy, 2 + ASK_S) == 1


def test_a_proxy_alone_asks_nobody() -> None:
    proxy = Proxy().up()

    assert looked(proxy, 1.0) is None
    assert asked(proxy) == []


def test_without_a_core_the_last_word_stands() -> None:
    proxy = Proxy(advertise_url=HERE).up()
    looked(proxy, 1.0)
    proxy.core.answer(asked(proxy)[0], {"data": [host(HERE, 9)]})
    looked(proxy, 9.0)

    proxy.core.die()

    assert looked(proxy, 19.0) == 1


@pytest.mark.parametrize("answer", [{}, {"data": 7}, {"data": [{"url": 1}]}, [], None])
def test_what_is_no_list_of_hosts_is_no_number(answer: Json) -> None:
    proxy = Proxy(advertise_url=HERE).up()
    looked(proxy, 1.0)

    proxy.core.answer(asked(proxy)[0], answer)

    assert looked(proxy, 2.0) is None


def test_a_core_that_knows_no_hosts_tells_no_number() -> None:
    proxy = Proxy(advertise_url=HERE).up()
    looked(proxy, 1.0)

    proxy.core.fail(asked(proxy)[0], -32601, "method not found")

    assert looked(proxy, 2.0) is None
