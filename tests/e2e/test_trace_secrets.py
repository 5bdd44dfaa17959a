"""Nothing that a client, a core or the operator keeps to himself shows anywhere outside.

Every canary is its own word, so that a find says which way it came out.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from tests.collector import Collector
from tests.e2e.proxy import Proxy, RpcError, WebsocketClient, fake_core, leave, turn_params
from tests.e2e.traces import new_trace_id, traced, traceparent

CANARY = "CANARY"
LOUD = {
    "LOG_LEVEL": "debug",
    "CORE_SERVER_LOG_LEVEL": "debug",
    "A_SECRET": f"{CANARY}-environment",
}
HEADERS = {
    "Authorization": f"Bearer {CANARY}-authorization",
    "Cookie": f"session={CANARY}-cookie",
    "Baggage": f"user={CANARY}-baggage",
    "User-Agent": f"{CANARY}-agent",
    "Traceparent": f"00-{CANARY}-traceparent-01",
    "B3": f"{CANARY}-b3",
    "X-B3-Traceid": f"{CANARY}-multi",
}


@contextlib.asynccontextmanager
async def secretive(proxy: Proxy) -> AsyncIterator[WebsocketClient]:
    """A client with secrets in all that a handshake has."""
    url = f"{proxy.url}/?token={CANARY}-query"
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(
            url, headers=HEADERS, protocols=[f"bearer.{CANARY}-protocol"]
        )
        client = WebsocketClient(socket)
        await client.initialize(experimental=True)
        yield client
        await leave(socket)


async def run_turns(client: WebsocketClient) -> None:
    """Secrets in prompts, commands, output, files, reasons, answers."""
    thread = await client.thread()
    turns = {
        f"a prompt with {CANARY}-prompt": "",
        f"/think {CANARY}-reasoning": "",
        f"/run echo {CANARY}-output; echo {CANARY}-stderr >&2; exit 3": "accept",
        f"/run echo {CANARY}-declined": f"{CANARY}-decision",
        f"/write {CANARY}-path.txt {CANARY}-content": "accept",
        f"/fail {CANARY}-failure": "",
    }
    for text, decision in turns.items():
        await client.request("turn/start", turn_params(thread, text))
        if decision:
            asked = await client.wait(lambda each: "method" in each and "id" in each)
            await client.send({"id": asked["id"], "result": {"decision": decision}})
        await client.wait_for("turn/completed")
    await client.request("thread/name/set", {"threadId": thread, "name": f"{CANARY}-name"})
    await client.request("thread/read", {"threadId": thread, "includeTurns": True})
    exec_params = {"command": ["echo", f"{CANARY}-exec"], "processId": f"{CANARY}-handle"}
    await client.request("command/exec", exec_params)


async def make_errors(client: WebsocketClient) -> None:
    """Secrets in what is refused."""
    secret = {"key": f"{CANARY}-params", f"{CANARY}-member": 1}
    for method in ("no/such/method", "turn/start", "thread/start", "model/list", "initialize"):
        with contextlib.suppress(RpcError):
            await client.request(method, {"threadId": secret, "input": secret, **secret})
    trace = {"traceparent": f"{CANARY}-trace", "tracestate": f"{CANARY}-state"}
    await client.request("model/list", {}, trace=trace)
    await client.send({"method": "a/notification", "params": secret})
    await client.send({"id": 99, "result": secret})
    await client.send({"id": 99, "error": {"code": 5, "message": f"{CANARY}-error"}})
    for text in (f"{CANARY}-text", f'{{"id":1,"x":"{CANARY}-json"', f'["{CANARY}-array"]'):
        await client.socket.send_str(text)
        await client.wait(lambda each: "error" in each)
    await client.socket.close(message=f"{CANARY}-reason".encode())


async def outside(proxy: Proxy) -> str:
    """All that the proxy tells the world, but for spans."""
    pages = [await proxy.get(path) for path in ("/metrics", "/readyz", "/healthz", "/")]
    return proxy.stderr + "".join(body for _, body, _ in pages)


def found(text: str) -> list[str]:
    """The places of a text where a canary sings."""
    return [part[:40] for part in text.split(CANARY)[1:]]


async def test_nothing_secret_reaches_a_collector_a_log_or_a_page() -> None:
    async with Collector() as collector:
        secret_url = collector.url.replace("//", f"//user:{CANARY}-password@")
        env = {
            **LOUD,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"{secret_url}/",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={CANARY}-header",
        }
        async with traced(collector=collector, env=env) as stage:
            async with secretive(stage.proxy) as client:
                await run_turns(client)
                await make_errors(client)
            await stage.metric_becomes("trace_proxy_connections_active", 0)
            await collector.wait_for(lambda spans: len(spans) >= 29)
            told = await outside(stage.proxy)
        bodies = b"".join(collector.bodies).decode(errors="replace")
    assert "execute_tool apply_patch" in bodies
    assert found(bodies) == []
    assert found(told) == []


async def test_nothing_secret_reaches_the_trace_file(tmp_path: Path) -> None:
    path = tmp_path / "traces"
    env = {**LOUD, "OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    async with traced("--trace-file", str(path), env=env) as stage:
        async with secretive(stage.proxy) as client:
            await run_turns(client)
            await make_errors(client)
        await stage.metric_becomes("trace_proxy_connections_active", 0)
        async with asyncio.timeout(10):
            while "execute_tool apply_patch" not in path.read_text():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)
        told = await outside(stage.proxy)
    assert found(path.read_text()) == []
    assert found(told) == []


async def test_garbage_of_a_core_is_told_by_length_and_reason_only() -> None:
    async with traced(core=fake_core("fake"), env=LOUD) as stage, stage.scene() as scene:
        await scene.turn("garbage 3")
        await stage.proxy.logged("core.fault", times=3)
        faults, stderr = stage.proxy.log("core.fault"), stage.proxy.stderr
    assert [fault["bytes"] for fault in faults] == [len("this is {no json")] * 3
    assert "no json" not in stderr


async def test_content_is_recorded_when_it_is_asked_for_and_the_log_warns() -> None:
    async with traced("--record-content") as stage, stage.scene() as scene:
        warned = await stage.proxy.logged("content.recorded")
        await scene.turn(f"/run echo {CANARY}-output", "accept")
        request, turn, tool, approval = await scene.becomes(
            "trace-proxy: turn/start [server]",
            "  core-server: invoke_agent core-server [internal]",
            "    core-server: execute_tool shell [internal]",
            "      client: approval command [client]",
        )
        trace_id = new_trace_id()
        unknown = await scene.client.begin(
            "no/such", {"x": "y" * 5000}, trace={"traceparent": traceparent(trace_id)}
        )
        await scene.client.wait(lambda each: each.get("id") == unknown)
        spans = await stage.collector.wait_for(
            lambda spans: any(each.trace_id == trace_id for each in spans)
        )
    assert warned["level"] == "warning"
    keys = {
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.tool.call.arguments",
        "gen_ai.tool.call.result",
        "trace_proxy.content.params",
        "trace_proxy.content.result",
    }
    content = {
        span.name: keys & span.attributes.keys() for span in (request, turn, tool, approval)
    }
    assert content == {
        request.name: set(),
        turn.name: {"gen_ai.input.messages", "gen_ai.output.messages"},
        tool.name: {"gen_ai.tool.call.arguments", "gen_ai.tool.call.result"},
        approval.name: {"trace_proxy.content.params", "trace_proxy.content.result"},
    }
    (asked,) = json.loads(turn.attributes["gen_ai.input.messages"])
    assert asked["parts"][0]["content"] == f"/run echo {CANARY}-output"
    assert "exit code 0" in turn.attributes["gen_ai.output.messages"]
    assert (
        f"{CANARY}-output" in json.loads(tool.attributes["gen_ai.tool.call.arguments"])["command"]
    )
    result = json.loads(tool.attributes["gen_ai.tool.call.result"])
    assert f"{CANARY}-output" in result["aggregatedOutput"]
    assert '"accept"' in approval.attributes["trace_proxy.content.result"]
    (failed,) = [span for span in spans if span.trace_id == trace_id]
    assert len(failed.attributes["trace_proxy.content.params"]) == 1024
    assert "-32601" in failed.attributes["trace_proxy.content.error"]


async def test_what_is_not_sampled_has_no_content_either() -> None:
    async with traced("--record-content") as stage, stage.scene() as scene:
        off = {"traceparent": traceparent(new_trace_id(), sampled=False)}
        await scene.client.request("model/list", {"x": CANARY}, trace=off)
        scene.thread = await scene.client.thread()
        params = turn_params(scene.thread, CANARY)
        await scene.client.request("turn/start", params, trace=off)
        await scene.client.wait_for("turn/completed")
        await scene.request("model/list", {})
        await scene.becomes("trace-proxy: model/list [server]")
        assert found(b"".join(stage.collector.bodies).decode(errors="replace")) == []
