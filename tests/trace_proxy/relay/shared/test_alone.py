"""The hub with one client for life, the wrapper on stdio: the core hears the client's own hello."""

from tests.trace_proxy.recording import Json, Proxy

HELLO: Json = {
    "clientInfo": {"name": "ide", "title": None, "version": "7"},
    "capabilities": {"requestAttestation": True, "optOutNotificationMethods": ["warning"]},
    "future": [1],
}
GREETING: Json = {"userAgent": "ide/0.163.0 (Linux) xterm (ide; 7)", "platformOs": "linux"}


def test_the_core_hears_the_clients_own_greeting_and_the_client_the_cores() -> None:
    proxy = Proxy(alone=True)
    proxy.core.start(greet=False)
    assert (proxy.core.got(), proxy.effects.waiting) == ([], [0])

    client = proxy.connect()
    client.request(1, "initialize", HELLO)
    (hello,) = proxy.core.got()
    told = {**HELLO, "capabilities": {"requestAttestation": True, "modelCalls": True}}
    assert (hello["method"], hello["params"]) == ("initialize", told)

    proxy.core.answer(hello["id"], GREETING)
    assert client.heard() == [{"id": 1, "result": GREETING}]
    assert proxy.effects.ready == [0]


def test_what_it_asks_before_the_core_is_up_waits_behind_its_greeting() -> None:
    proxy = Proxy(alone=True)
    client = proxy.connect()
    client.request(1, "initialize", HELLO)
    client.request(2, "thread/list", {})
    proxy.core.start(greet=False)
    (hello,) = proxy.core.got()
    proxy.core.answer(hello["id"], GREETING)
    assert [each["method"] for each in proxy.core.got()] == ["initialized", "thread/list"]


def test_a_core_that_comes_back_hears_the_same_greeting() -> None:
    proxy = Proxy(alone=True)
    proxy.core.start(greet=False)
    client = proxy.connect()
    client.request(1, "initialize", HELLO)
    (hello,) = proxy.core.got()
    proxy.core.answer(hello["id"], GREETING)
    proxy.core.got()

    proxy.core.die()
    proxy.core.start(greet=False)
    (again,) = proxy.core.got()
    assert (again["method"], again["params"]) == ("initialize", hello["params"])


def test_a_core_that_dies_unspoken_to_waits_again_when_it_is_back() -> None:
    proxy = Proxy(alone=True)
    proxy.core.start(greet=False)
    proxy.core.die()
    client = proxy.connect()
    client.request(1, "initialize", HELLO)
    assert proxy.core.got() == []
    proxy.core.start(greet=False)
    assert [each["method"] for each in proxy.core.got()] == ["initialize"]
