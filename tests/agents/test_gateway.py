"""A scripted agent behind Jaeger's gateway: one trace, drains, and nothing left behind."""

import contextlib
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.agents.gateway import Gateway, spans_of
from tests.agents.real import program
from tests.collector import Collector, tree
from tests.e2e.traces import PARENT_SPAN, Stage, traced

AGENT = program("agent")
PRIVATE = ("--sessions", "per-connection")


@contextlib.asynccontextmanager
async def chat(
    *options: str, collector: Collector | None = None, **more: Any
) -> AsyncIterator[tuple[Stage, Gateway]]:
    """A proxy that exports, and a chat through it, opened."""
    async with (
        traced(*PRIVATE, *options, core=AGENT, collector=collector) as stage,
        stage.proxy.client(initialize=False, **more) as client,
    ):
        gateway = Gateway(client)
        await gateway.open()
        yield stage, gateway


async def test_one_trace_goes_from_the_gateway_through_us_into_the_agent() -> None:
    async with chat() as (stage, gateway):
        done = await gateway.prompt(
            "say:Hello meta tool:search sleep:0.05 ask:edit sleep:0.05 read", permit="allow_once"
        )
        spans = await spans_of(stage, gateway, 6)

        assert done["stopReason"] == "end_turn"
        assert tree(spans) == [
            "trace-proxy: session/prompt [server]",
            "  core-server: invoke_agent scripted [internal]",
            "    core-server: execute_tool search [internal]",
            "    core-server: execute_tool edit [internal]",
            "      client: session/request_permission [client]",
            "    client: fs/read_text_file [client] ERROR",
        ]
        named = {each.name: each for each in spans}
        assert named["session/prompt"].parent_span_id == PARENT_SPAN
        turn = named["invoke_agent scripted"]
        meta = json.loads(gateway.text.removeprefix("Hello"))
        assert meta["jaeger"] == {"tab": 1}
        assert meta["traceparent"] == f"00-{gateway.trace_id}-{turn.span_id}-01"
        permission = named["session/request_permission"].attributes
        assert permission["trace_proxy.approval.decision"] == "allow_once"
        assert permission["trace_proxy.approval.answered_by"] == "0"
        assert 0 < permission["trace_proxy.approval.wait"] < 60
        assert not any(b"CANARY" in body for body in stage.collector.bodies)


async def test_the_gateway_denies_and_closes_as_jaeger_does() -> None:
    async with chat() as (stage, gateway):
        await gateway.prompt("ask:execute")
        await gateway.client.socket.close()
        spans = await spans_of(stage, gateway, 4)
        named = {each.name: each for each in spans}
        asked = named["session/request_permission"]
        assert asked.attributes["trace_proxy.approval.decision"] == "cancelled"
        assert named["execute_tool execute"].status == "error"
        assert named["invoke_agent scripted"].status == "unset"
        await stage.proxy.logged("core.exited")


@pytest.mark.parametrize("path", ["/acp", "/", "/a/b?x=1"])
async def test_any_path_is_the_agents(path: str) -> None:
    async with (
        traced(*PRIVATE, core=AGENT) as stage,
        stage.proxy.client(initialize=False, path=path) as client,
    ):
        assert (await Gateway(client).open())["protocolVersion"] == 1


async def test_without_a_context_of_its_own_a_prompt_inherits_the_handshakes() -> None:
    parent = f"00-{'cd' * 16}-{PARENT_SPAN}-01"
    async with chat(headers={"traceparent": parent}) as (stage, gateway):
        params = {"sessionId": gateway.session, "prompt": [{"type": "text", "text": "say:x"}]}
        await gateway.client.request("session/prompt", params, jsonrpc="2.0")
        await stage.collector.wait_for(4)
        assert {each.trace_id for each in stage.collector.spans} == {"cd" * 16}


# ---- drain


async def running(gateway: Gateway, text: str) -> int:
    """A prompt that is surely under way: it has said something."""
    prompt = await gateway.begin(f"say:begun {text}")
    await gateway.client.wait_for("session/update")
    return prompt


async def test_a_drain_waits_for_a_prompt_and_refuses_the_next() -> None:
    async with chat() as (stage, gateway):
        prompt = await running(gateway, "ask:edit say:end")
        asked = await gateway.client.wait_for("session/request_permission")
        stage.proxy.signal(signal.SIGTERM)
        await stage.proxy.logged("drain.started")
        refused = await gateway.client.begin(
            "session/prompt", {"sessionId": gateway.session, "prompt": []}, jsonrpc="2.0"
        )
        error = await gateway.client.wait(lambda each: each.get("id") == refused)
        assert error["error"]["data"]["reason"] == "draining"
        outcome = {"outcome": {"outcome": "selected", "optionId": "yes"}}
        await gateway.client.send({"jsonrpc": "2.0", "id": asked["id"], "result": outcome})
        assert (await gateway.end(prompt))["stopReason"] == "end_turn"
        assert gateway.text == "begunend"
        assert await gateway.client.closed() == 1012
        assert await stage.proxy.exit_code() == 0


async def test_at_the_deadline_a_prompt_is_cancelled_and_the_client_hears_of_it() -> None:
    async with (
        Collector() as collector,
        chat("--drain-timeout", "0.2", collector=collector) as (
            stage,
            gateway,
        ),
    ):
        prompt = await running(gateway, "wait")
        stage.proxy.signal(signal.SIGTERM)
        assert (await gateway.end(prompt))["stopReason"] == "cancelled"
        assert await gateway.client.closed() == 1012
        assert await stage.proxy.exit_code() == 3
        named = {each.name: each for each in await spans_of(stage, gateway, 2)}
        turn = named["invoke_agent scripted"].attributes
        assert turn["trace_proxy.ended_by"] == "drain"
        assert turn["trace_proxy.turn.stop_reason"] == "cancelled"


async def test_an_agent_that_hears_nothing_is_ended_two_seconds_later() -> None:
    async with chat("--drain-timeout", "0.2") as (stage, gateway):
        await running(gateway, "deaf")
        stage.proxy.signal(signal.SIGTERM)
        assert await gateway.client.closed() == 1012
        assert await stage.proxy.exit_code() == 3
        named = {each.name: each for each in await spans_of(stage, gateway, 2)}
        assert named["session/prompt"].status == "error"
        assert named["invoke_agent scripted"].attributes["trace_proxy.ended_by"] == "drain"
        assert await stage.proxy.survivors(within_s=0.5) == {}


async def test_an_agent_that_dies_in_a_prompt_is_told_and_seen() -> None:
    async with chat() as (stage, gateway):
        prompt = await gateway.begin("open:execute exit:3")
        lost = await gateway.client.wait(lambda each: each.get("id") == prompt)
        assert lost["error"]["code"] == -32003
        assert await gateway.client.closed() == 1011
        spans = await spans_of(stage, gateway, 3)
        assert {each.status for each in spans} == {"error"}
