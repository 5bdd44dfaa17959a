"""MCP seen from the wire: tool calls are spans, and what a server asks while one runs."""

import json
from typing import Any

import pytest

from tests.trace_proxy.relay.per_connection.pair_world import Client, Proxy
from trace_proxy.context.trace_context import format_traceparent
from trace_proxy.relay.per_connection.mcp import TARGETS_KEPT
from trace_proxy.spans import semconv

VERSION = "2025-11-25"


class Server:
    """A client and its server, past their greeting."""

    def __init__(self, proxy: Proxy | None = None) -> None:
        self.proxy = proxy or Proxy()
        self.client: Client = self.proxy.client()
        params = {"protocolVersion": VERSION, "clientInfo": {"name": "c", "version": "2"}}
        self.client.say(jsonrpc="2.0", id=0, method="initialize", params=params)
        self.client.core_says(jsonrpc="2.0", id=0, result={"protocolVersion": VERSION})
        self.proxy.spans()
        self.client.got()

    def call(self, tool: object = "add", key: int = 1) -> dict[str, Any]:
        """The client calls a tool; returns what came to the server."""
        params = {"name": tool, "arguments": {"secret": "CANARY"}}
        self.client.say(jsonrpc="2.0", id=key, method="tools/call", params=params)
        (line,) = self.client.got()
        got: dict[str, Any] = json.loads(line)
        return got

    def result(self, key: int = 1, **result: Any) -> None:
        self.client.core_says(jsonrpc="2.0", id=key, result={"content": [], **result})


def test_a_tool_call_is_named_after_its_tool() -> None:
    server = Server()
    got = server.call()
    server.result()
    (span,) = server.proxy.spans()

    assert span.name == "tools/call add"
    assert span.error == ""
    expected = {
        semconv.RPC_METHOD: "tools/call",
        semconv.MCP_METHOD: "tools/call",
        semconv.TOOL_NAME: "add",
        semconv.OPERATION: "execute_tool",
        semconv.MCP_SESSION: "0",
        semconv.MCP_VERSION: VERSION,
    }
    assert {name: {**span.shared, **span.attributes}[name] for name in expected} == expected
    assert got["params"]["_meta"] == {"traceparent": format_traceparent(span.context)}
    assert "CANARY" not in repr(span)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"result": {"isError": True, "content": [{"text": "CANARY"}]}}, "tool_error"),
        ({"result": {"isError": False}}, None),
        ({"result": {"isError": "yes"}}, None),
        ({"error": {"code": -32602, "message": "CANARY"}}, "-32602"),
    ],
)
def test_a_tool_that_failed_is_an_error(answer: dict[str, Any], error: str | None) -> None:
    server = Server()
    server.call()
    server.client.core_says(jsonrpc="2.0", id=1, **answer)
    (span,) = server.proxy.spans()
    assert span.attributes.get(semconv.ERROR_TYPE) == error
    assert bool(span.error) is (error is not None)
    assert "CANARY" not in repr(span)


def test_span_names_are_bounded_whatever_tools_a_client_calls() -> None:
    proxy = Proxy()
    server = Server(proxy)
    names = set()
    for number in range(TARGETS_KEPT + 100):
        server = Server(proxy) if number % 50 == 0 else server
        server.call(f"tool-{number}")
        server.result()
        (span,) = server.proxy.spans()
        names.add(span.name)
        assert span.attributes[semconv.TOOL_NAME] == f"tool-{number}"
    assert len(names) == TARGETS_KEPT + 1
    assert "tools/call" in names


@pytest.mark.parametrize("tool", [5, None, "", ["x"]])
def test_a_tool_without_a_name_has_none(tool: object) -> None:
    server = Server()
    server.call(tool)
    server.result()
    (span,) = server.proxy.spans()
    assert span.name == "tools/call"


def test_long_names_are_cut_and_a_prompt_has_one_too() -> None:
    server = Server()
    server.call("t" * 500)
    server.result()
    server.client.say(jsonrpc="2.0", id=2, method="prompts/get", params={"name": "greet"})
    server.client.core_says(jsonrpc="2.0", id=2, result={})
    server.client.say(jsonrpc="2.0", id=3, method="vendor/x", params={})
    server.client.core_says(jsonrpc="2.0", id=3, result={})
    call, prompt, other = server.proxy.spans()
    assert call.name == f"tools/call {'t' * 64}"
    assert prompt.name == "prompts/get greet"
    assert prompt.attributes[semconv.PROMPT_NAME] == "greet"
    assert other.name == "jsonrpc"
    assert other.shared[semconv.RPC_METHOD_ORIGINAL] == "vendor/x"
    assert semconv.MCP_METHOD not in other.attributes


@pytest.mark.parametrize(
    ("method", "result", "word"),
    [
        ("elicitation/create", {"action": "decline", "content": "CANARY"}, "decline"),
        ("elicitation/create", {"action": "CANARY"}, "other"),
        ("sampling/createMessage", {"content": "CANARY"}, "answered"),
        ("roots/list", {"roots": []}, "answered"),
    ],
)
def test_what_a_server_asks_while_a_tool_runs_hangs_below_it(
    method: str, result: dict[str, Any], word: str
) -> None:
    server = Server()
    server.call()
    server.client.core_says(jsonrpc="2.0", id=9, method=method, params={"x": "CANARY"})
    server.client.say(jsonrpc="2.0", id=9, result=result)
    server.result()
    asked, call = server.proxy.spans()
    assert (asked.name, asked.parent) == (method, call.context)
    assert asked.attributes[semconv.APPROVAL_DECISION] == word
    assert "CANARY" not in repr(asked)


def test_with_two_calls_nobody_knows_which_of_them_asks() -> None:
    server = Server()
    server.call(key=1)
    server.call(key=2)
    server.client.core_says(jsonrpc="2.0", id=9, method="roots/list")
    server.client.say(jsonrpc="2.0", id=9, result={})
    (asked,) = server.proxy.spans()
    assert asked.parent is None


def test_calls_are_refused_while_draining_and_cancelled_at_the_deadline() -> None:
    server = Server()
    server.call(key=1)
    server.proxy.drain.signal("TERM", 0)
    server.client.heard()
    server.client.say(jsonrpc="2.0", id=2, method="tools/call", params={"name": "add"})
    assert server.client.error()["error"]["data"]["reason"] == "draining"
    server.client.say(jsonrpc="2.0", id=3, method="tools/list")
    server.client.got()
    server.proxy.machine.deadline()
    (line,) = server.client.got()
    cancelled = json.loads(line)
    assert cancelled["method"] == "notifications/cancelled"
    assert cancelled["params"]["requestId"] == 1


def test_a_client_of_2026_says_its_version_in_each_request() -> None:
    proxy = Proxy()
    client = proxy.client()
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    client.say(jsonrpc="2.0", id=1, method="tools/list", params={"_meta": meta})
    client.core_says(jsonrpc="2.0", id=1, result={"tools": []})
    (span,) = proxy.spans()
    assert (span.name, span.attributes[semconv.MCP_METHOD]) == ("tools/list", "tools/list")
