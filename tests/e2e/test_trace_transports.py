"""The same traces over every transport, and for a core of one's own."""

from pathlib import Path
from typing import Any

import aiohttp

from tests.collector import CollectedSpan, Collector
from tests.e2e.proxy import Client, WebsocketClient, leave, trace_proxy, turn_params
from tests.e2e.traces import PARENT_SPAN, Scene, environment, new_trace_id, traced, traceparent

TURN_TREE = (
    "trace-proxy: turn/start [server]",
    "  core-server: invoke_agent core-server [internal]",
)


async def turn_of(client: Client, collector: Collector) -> CollectedSpan:
    """Run a turn in a trace of its own; returns the request's span."""
    scene = Scene(client, collector)
    await scene.turn("hello there")
    request, _ = await scene.becomes(*TURN_TREE)
    assert request.parent_span_id == PARENT_SPAN
    return request


def network(span: CollectedSpan) -> dict[str, Any]:
    return {key: value for key, value in span.attributes.items() if key.startswith("network.")}


async def test_a_unix_socket_has_no_address(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with (
        Collector() as collector,
        trace_proxy(listen=f"unix://{path}", env=environment(collector.url)),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
    ):
        socket = await session.ws_connect("http://localhost/")
        client = WebsocketClient(socket)
        await client.initialize()
        span = await turn_of(client, collector)
        await leave(socket)
    assert network(span) == {
        "network.transport": "unix",
        "network.protocol.name": "websocket",
    }


async def test_a_wrapped_core_is_traced_over_the_clients_pipes() -> None:
    trace_id = new_trace_id()
    async with Collector() as collector:
        env = {**environment(collector.url), "TRACEPARENT": traceparent(trace_id)}
        async with trace_proxy(listen="stdio://", env=env, pipes=True) as proxy:
            client = await proxy.pipe_client()
            span = await turn_of(client, collector)
            hello = await collector.wait_for(
                lambda spans: any(each.trace_id == trace_id for each in spans)
            )
            client.stdin.close()
            assert await proxy.exit_code() == 0
    assert network(span) == {"network.transport": "pipe"}
    assert {each.name for each in hello if each.trace_id == trace_id} >= {"initialize"}


async def test_a_core_of_ones_own_is_traced_like_a_shared_one() -> None:
    async with traced("--sessions", "per-connection") as stage, stage.scene() as scene:
        await scene.turn("/run false", "accept")
        _, turn, tool, approval = await scene.becomes(
            *TURN_TREE,
            "    core-server: execute_tool shell [internal] ERROR",
            "      client: approval command [client]",
        )
        params = turn_params(scene.thread, "hello")
        assert (await scene.client.request("turn/start", params))["turn"]["id"]
    assert turn.attributes["trace_proxy.turn.status"] == "completed"
    assert tool.attributes["process.exit.code"] == 1
    assert approval.attributes["trace_proxy.approval.decision"] == "accept"
