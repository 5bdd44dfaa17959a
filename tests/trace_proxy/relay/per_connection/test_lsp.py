"""LSP seen from the wire: names, nothing added, and a farewell."""

import json

import pytest

from tests.trace_proxy.relay.per_connection.pair_world import Client, Proxy
from trace_proxy.relay.per_connection.lsp import answers_farewell

INITIALIZE = {"processId": 1, "rootUri": "file:///CANARY", "clientInfo": {"name": "editor"}}


def server(proxy: Proxy, *, initialized: bool = True) -> Client:
    """An editor and its server, perhaps past their greeting."""
    client = proxy.client()
    client.say(jsonrpc="2.0", id=0, method="initialize", params=INITIALIZE)
    if initialized:
        client.core_says(jsonrpc="2.0", id=0, result={"capabilities": {}})
        proxy.spans()
    client.got()
    return client


def farewell(client: Client) -> list[str]:
    lines = client.proxy.machine.farewell(client.core)
    return [json.loads(line)["method"] for line in lines]


def test_requests_show_by_name_and_nothing_is_added_to_them() -> None:
    proxy = Proxy()
    client = server(proxy)
    hover = b'{"jsonrpc":"2.0","id":1,"method":"textDocument/hover","params":{"x":"CANARY"}}'
    client.raw(hover)
    assert client.got() == [hover]
    client.core_says(jsonrpc="2.0", id=1, result={"contents": "CANARY"})
    client.say(jsonrpc="2.0", id=2, method="rust-analyzer/expandMacro", params={})
    client.core_says(jsonrpc="2.0", id=2, result=None)
    client.core_says(jsonrpc="2.0", id=7, method="workspace/configuration", params={})
    client.say(jsonrpc="2.0", id=7, result=[])
    spans = proxy.spans()
    assert [each.name for each in spans] == [
        "textDocument/hover",
        "jsonrpc",
        "workspace/configuration",
    ]
    assert "CANARY" not in repr(spans)


def test_a_context_in_meta_counts_here_too_but_stays_as_it_is() -> None:
    proxy = Proxy()
    client = server(proxy)
    parent = f"00-{'ab' * 16}-00f067aa0ba902b7-01"
    params = {"_meta": {"traceparent": parent}}
    client.say(jsonrpc="2.0", id=1, method="shutdown", params=params)
    assert json.loads(client.got()[0])["params"] == params
    client.core_says(jsonrpc="2.0", id=1, result=None)
    (span,) = proxy.spans()
    assert span.parent is not None


def test_a_server_is_asked_to_shut_down_before_it_is_told_to_exit() -> None:
    client = server(Proxy())
    words = client.proxy.machine.farewell(client.core)
    assert [json.loads(line)["method"] for line in words] == ["shutdown", "exit"]
    key = json.loads(words[0])["id"]
    assert answers_farewell(json.dumps({"jsonrpc": "2.0", "id": key, "result": None}).encode())
    assert not answers_farewell(b'{"jsonrpc":"2.0","id":1,"result":null}')
    assert farewell(client) == [], "once"


def test_the_farewell_is_the_same_when_its_client_has_left_first() -> None:
    client = server(Proxy())
    client.leave()
    assert farewell(client) == ["shutdown", "exit"]
    assert farewell(client) == []


def test_a_server_that_its_client_has_shut_down_is_only_told_to_exit() -> None:
    client = server(Proxy())
    client.say(jsonrpc="2.0", id=5, method="shutdown")
    client.core_says(jsonrpc="2.0", id=5, result=None)
    assert farewell(client) == ["exit"]


@pytest.mark.parametrize("initialized", [True, False])
def test_a_server_that_is_ending_or_never_began_is_told_nothing(*, initialized: bool) -> None:
    client = server(Proxy(), initialized=initialized)
    if initialized:
        client.say(jsonrpc="2.0", method="exit")
    client.leave()
    assert farewell(client) == []


def test_at_the_deadline_what_is_not_answered_is_cancelled() -> None:
    client = server(Proxy())
    client.say(jsonrpc="2.0", id="a", method="textDocument/references", params={})
    client.got()
    client.proxy.machine.deadline()
    (line,) = client.got()
    expected = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "a"}}
    assert json.loads(line) == expected


def test_nothing_is_refused_while_draining() -> None:
    client = server(Proxy())
    client.proxy.drain.signal("TERM", 0)
    client.say(jsonrpc="2.0", id=1, method="textDocument/hover", params={})
    assert len(client.got()) == 1
