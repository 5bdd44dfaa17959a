"""`initialize`: once a client, once a core, each client greeted as if it were alone."""

from tests.trace_proxy.recording import GREETING, Json, Proxy


def hello(name: str = "tui", **capabilities: Json) -> Json:
    return {"clientInfo": {"name": name, "version": "2"}, "capabilities": capabilities}


def test_only_the_first_hello_reaches_the_core_and_each_client_reads_its_own_name() -> None:
    proxy = Proxy().up()
    one, two = proxy.connect(), proxy.connect()
    one.request(1, "initialize", hello("tui"))
    two.request(1, "initialize", hello("ide"))

    assert proxy.core.got() == []
    assert one.heard()[0]["result"] == {
        **GREETING,
        "userAgent": "trace-proxy/1.2 (Linux) xterm (tui; 2)",
    }
    assert two.heard()[0]["result"]["userAgent"] == "trace-proxy/1.2 (Linux) xterm (ide; 2)"


def test_a_core_hears_one_client_that_wants_everything() -> None:
    proxy = Proxy()
    proxy.core.start(greet=False)
    (hello_to_core,) = proxy.core.got()

    assert hello_to_core == {
        "id": 1,
        "method": "initialize",
        "params": {
            "clientInfo": {"name": "trace-proxy", "title": "trace-proxy", "version": "9"},
            "capabilities": {"experimentalApi": True, "modelCalls": True},
        },
    }


def test_a_user_agent_of_another_shape_gets_the_name_behind_it() -> None:
    proxy = Proxy()
    proxy.core.start({"userAgent": "toy (x)", "y": 1})
    client = proxy.connect()
    client.request(1, "initialize", hello())
    assert client.heard()[0]["result"] == {"userAgent": "toy (x) (tui; 2)", "y": 1}


def test_an_answer_without_user_agent_is_passed_on() -> None:
    proxy = Proxy()
    proxy.core.start({"capabilities": {}})
    client = proxy.connect()
    client.request(1, "initialize", hello())
    assert client.heard() == [{"id": 1, "result": {"capabilities": {}}}]


def test_the_gate_speaks_before_and_after() -> None:
    proxy = Proxy().up()
    client = proxy.connect()
    client.request(1, "model/list")
    client.request(2, "initialize", {})
    client.request(3, "initialize", hello())
    client.request(4, "initialize", hello())
    client.request(5, "process/spawn", {"processHandle": "p"})

    heard = client.heard()
    assert [each.get("error", {}).get("message") for each in heard] == [
        "Not initialized",
        "Invalid request: missing field `clientInfo`",
        None,
        "Already initialized",
        "process/spawn requires experimentalApi capability",
    ]
    assert proxy.core.got() == []
    assert proxy.effects.calls == [
        ("model/list", "-32600"),
        ("initialize", "-32600"),
        ("initialize", ""),
        ("initialize", "-32600"),
        ("process/spawn", "-32600"),
    ]


def test_who_comes_before_the_core_is_up_waits_and_keeps_the_order() -> None:
    proxy = Proxy()
    client, gone = proxy.connect(), proxy.connect()
    client.request(1, "initialize", hello())
    client.request(2, "model/list")
    gone.request(1, "initialize", hello())
    gone.leave()
    assert client.heard() == []

    proxy.core.start(greet=False)
    (greeting,) = proxy.core.got()
    proxy.core.answer(greeting["id"], GREETING)
    assert [each["method"] for each in proxy.core.got()] == ["initialized", "model/list"]
    assert [each["id"] for each in client.heard()] == [1]
    assert proxy.hub.board.in_flight == 1


def test_when_no_core_will_ever_be_up_who_waits_is_told() -> None:
    proxy = Proxy(most_restarts=0)
    client = proxy.connect()
    client.request(1, "initialize", hello())
    proxy.core.start(greet=False)
    assert proxy.core.die() is None
    client.request(2, "initialize", hello())

    heard = client.heard()
    assert [(each["id"], each["error"]["code"]) for each in heard] == [(1, -32003), (2, -32003)]
    board = proxy.hub.board
    assert (board.in_flight, board.choosy, len(board.initialized)) == (0, 0, 0)


def test_greeting_notifications_are_repeated_for_later_clients_once_each() -> None:
    proxy = Proxy(cores=2).up()
    first = proxy.client()
    state = {"method": "remoteControl/status/changed", "emittedAtMs": 5}
    warning = {"method": "configWarning", "emittedAtMs": 5}
    for core in proxy.cores:
        core.notify("configWarning", {"summary": "a"})
        core.notify("configWarning", {"summary": "b"})
        core.notify("remoteControl/status/changed", {"status": "disabled"})
    told = [
        {**warning, "params": {"summary": "a"}},
        {**warning, "params": {"summary": "b"}},
        {**state, "params": {"status": "disabled"}},
    ]
    assert first.heard() == told, "the second core says nothing new"

    second = proxy.connect()
    second.request(1, "initialize", hello(optOutNotificationMethods=["configWarning"]))
    assert second.heard()[1:] == told[2:]
    proxy.core.notify("remoteControl/status/changed", {"status": "connected"})
    third = proxy.connect()
    third.request(1, "initialize", hello())
    assert third.heard()[1:] == [*told[:2], {**state, "params": {"status": "connected"}}]


def test_greeting_notifications_are_bounded() -> None:
    proxy = Proxy().up()
    for number in range(100):
        proxy.core.notify("configWarning", {"summary": str(number)})
    client = proxy.connect()
    client.request(1, "initialize", hello())
    assert len(client.heard()) == 1 + 32
