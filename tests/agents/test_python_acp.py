"""A real agent of the `agent-client-protocol` package behind Jaeger's gateway."""

import contextlib
import json
import signal
from collections.abc import AsyncIterator

import pytest

from tests.agents.gateway import Gateway
from tests.agents.real import needs_package, program
from tests.collector import tree
from tests.e2e.traces import Stage, traced

pytestmark = needs_package("acp", "agent-client-protocol")

OPTIONS = ("--sessions", "per-connection")


@contextlib.asynccontextmanager
async def chat(*options: str) -> AsyncIterator[tuple[Stage, Gateway]]:
    """A chat, opened."""
    async with (
        traced(*OPTIONS, *options, core=program("acp_agent")) as stage,
        stage.proxy.client(initialize=False) as client,
    ):
        gateway = Gateway(client, patience_s=60)
        greeting = await gateway.open()
        assert greeting["agentInfo"]["title"] == "Echo agent"
        yield stage, gateway


@pytest.mark.parametrize("permit", ["allow_once", ""])
async def test_prompts_tools_and_permissions_are_one_trace(permit: str) -> None:
    async with chat() as (stage, gateway):
        assert (await gateway.prompt("run", permit))["stopReason"] == "end_turn"

        await stage.collector.wait_for(6)
        spans = [each for each in stage.collector.spans if each.trace_id == gateway.trace_id]
        assert tree(spans) == [
            "trace-proxy: session/prompt [server]",
            "  core-server: invoke_agent Echo agent [internal]",
            f"    core-server: execute_tool execute [internal]{'' if permit else ' ERROR'}",
            "      client: session/request_permission [client]",
        ]
        turn = next(each for each in spans if each.name == "invoke_agent Echo agent")
        carried = json.loads(gateway.text)["meta"]
        assert f"00-{gateway.trace_id}-{turn.span_id}-01" in json.dumps(carried)
        assert not any(b"CANARY" in each for each in stage.collector.bodies)


async def test_a_prompt_is_cancelled_at_the_deadline() -> None:
    async with chat("--drain-timeout", "0.2") as (stage, gateway):
        prompt = await gateway.begin("wait")
        await gateway.client.wait_for("session/update")
        stage.proxy.signal(signal.SIGTERM)
        assert (await gateway.end(prompt))["stopReason"] == "cancelled"
        assert await gateway.client.closed() == 1012
        assert await stage.proxy.exit_code() == 3
