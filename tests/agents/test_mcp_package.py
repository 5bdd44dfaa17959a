"""A real server and client of the `mcp` package, and the proxy between them.

The client is the package's own for websockets, which speaks the subprotocol `mcp`.
"""

import contextlib
import json
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.agents.real import needs_package, program
from tests.collector import tree
from tests.e2e.clients import WebsocketClient
from tests.e2e.traces import Stage, new_trace_id, traced, traceparent

if TYPE_CHECKING:
    from mcp import ClientSession

pytestmark = [
    needs_package("mcp.client.websocket", "mcp[ws]<2"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the package, for itself
]

OPTIONS = ("--sessions", "per-connection")


@contextlib.asynccontextmanager
async def session(*options: str) -> AsyncIterator[tuple[Stage, "ClientSession"]]:
    """A proxy around the real server, and a greeted client of it."""
    from mcp import ClientSession, types  # noqa: PLC0415 - it may not be installed
    from mcp.client.websocket import websocket_client  # noqa: PLC0415

    async def say_yes(context: Any, params: Any) -> types.ElicitResult:  # noqa: ARG001 - as the package calls it
        return types.ElicitResult(action="accept", content={"sure": True})

    async with (
        traced(*OPTIONS, *options, core=program("mcp_server")) as stage,
        websocket_client(stage.proxy.url) as (incoming, outgoing),
        ClientSession(incoming, outgoing, elicitation_callback=say_yes) as client,
    ):
        await client.initialize()
        yield stage, client


async def test_tools_prompts_and_elicitations_are_spans() -> None:
    async with session() as (stage, client):
        listed = await client.list_tools()
        assert {each.name for each in listed.tools} == {"add", "fail", "slow", "ask", "meta"}
        assert (await client.call_tool("add", {"a": 1, "b": 2})).structuredContent == {"result": 3}
        assert (await client.call_tool("fail")).isError
        assert (await client.call_tool("ask")).structuredContent == {"result": "accept"}
        await client.get_prompt("greeting", {"name": "CANARY"})
        await stage.collector.wait_for(7)

    assert tree(stage.collector.spans) == [
        "trace-proxy: initialize [server]",
        "trace-proxy: tools/list [server]",
        "trace-proxy: tools/call add [server]",
        "trace-proxy: tools/call fail [server] ERROR",
        "trace-proxy: tools/call ask [server]",
        "  client: elicitation/create [client]",
        "trace-proxy: prompts/get greeting [server]",
    ]
    named = {each.name: each.attributes for each in stage.collector.spans}
    assert named["tools/call fail"]["error.type"] == "tool_error"
    assert named["tools/call add"]["mcp.protocol.version"] == "2025-11-25"
    assert named["elicitation/create"]["trace_proxy.approval.decision"] == "accept"
    assert not any(b"CANARY" in body for body in stage.collector.bodies)


async def test_a_context_in_meta_comes_in_and_goes_out() -> None:
    trace_id = new_trace_id()
    async with session() as (stage, client):
        meta = {"traceparent": traceparent(trace_id), "mine": "kept"}
        told = await client.call_tool("meta", meta=meta)
        await stage.collector.wait_for(lambda spans: any(s.trace_id == trace_id for s in spans))
        (span,) = [each for each in stage.collector.spans if each.trace_id == trace_id]

    carried = json.loads(json.loads(told.model_dump_json())["content"][0]["text"])
    assert carried["mine"] == "kept"
    assert carried["traceparent"] == f"00-{trace_id}-{span.span_id}-01"


@contextlib.asynccontextmanager
async def sleeper(seconds: float, *options: str) -> AsyncIterator[tuple[Stage, WebsocketClient]]:
    """A client of ours whose tool call runs; the package's raises when a server restarts."""
    async with (
        traced(*OPTIONS, *options, core=program("mcp_server")) as stage,
        stage.proxy.client(initialize=False) as client,
    ):
        params = {"protocolVersion": "2025-11-25", "capabilities": {}}
        params["clientInfo"] = {"name": "sleeper", "version": "1"}
        await client.request("initialize", params, jsonrpc="2.0")
        await client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        call = {"name": "slow", "arguments": {"seconds": seconds}}
        await client.begin("tools/call", call, jsonrpc="2.0")
        await client.request("ping", jsonrpc="2.0")  # so the call has begun
        yield stage, client


async def test_a_tool_call_finishes_before_the_proxy_stops() -> None:
    async with sleeper(1) as (stage, client):
        stage.proxy.signal(signal.SIGTERM)
        done = await client.wait(lambda each: "result" in each)
        assert done["result"]["content"][0]["text"] == "slept"
        assert await client.closed() == 1012
        assert await stage.proxy.exit_code() == 0


async def test_a_tool_call_is_cancelled_at_the_deadline() -> None:
    async with sleeper(60, "--drain-timeout", "0.2") as (stage, client):
        stage.proxy.signal(signal.SIGTERM)
        refused = await client.wait(lambda each: "error" in each)
        assert refused["error"]["message"] == "Request cancelled"
        assert await client.closed() == 1012
        assert await stage.proxy.exit_code() == 3
