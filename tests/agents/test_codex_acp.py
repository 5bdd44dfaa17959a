"""The real codex-acp around the real codex, behind Jaeger's gateway.

Its model is scripted, all else is what people run: `npx @agentclientprotocol/codex-acp`.
"""

import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.agents.gateway import Gateway, spans_of
from tests.agents.real import codex_acp, needs_codex_acp
from tests.collector import tree
from tests.compat.real_codex import codex_home, needs_codex
from tests.e2e.traces import PARENT_SPAN, Stage, traced
from tests.responses_api import ResponsesApi

pytestmark = [needs_codex_acp(), needs_codex]

AGENT = "invoke_agent Codex"
COMMAND = {
    "cmd": "touch made",
    "login": False,
    "sandbox_permissions": "require_escalated",
    "justification": "The test wants it",
}
ASK = f"call: exec_command {json.dumps(COMMAND)}"


@contextlib.asynccontextmanager
async def chat(directory: Path, *options: str) -> AsyncIterator[tuple[Stage, Gateway]]:
    """A chat of Jaeger's with codex-acp, opened; commands outside the sandbox are asked for."""
    core = codex_acp() or ["codex-acp"]
    async with ResponsesApi() as api:
        env = {
            **codex_home(directory, api.url),
            "NO_BROWSER": "1",
            "CODEX_API_KEY": "none",
            "INITIAL_AGENT_MODE": "read-only",
        }
        async with (
            traced("--sessions", "per-connection", *options, core=core, env=env) as stage,
            stage.proxy.client(initialize=False) as client,
        ):
            gateway = Gateway(client, patience_s=60)
            await gateway.open(str(directory / "workspace"))
            yield stage, gateway


async def test_a_chat_of_jaeger_is_below_its_own_span(tmp_path: Path) -> None:
    async with chat(tmp_path) as (stage, gateway):
        done = await gateway.prompt("text: here is what I found")
        spans = await spans_of(stage, gateway, 2)

        assert done["stopReason"] == "end_turn"
        assert "here is what I found" in gateway.text
        assert tree(spans) == [
            "trace-proxy: session/prompt [server]",
            f"  core-server: {AGENT} [internal]",
        ]
        named = {each.name: each for each in spans}
        assert named["session/prompt"].parent_span_id == PARENT_SPAN
        assert named["session/prompt"].attributes["trace_proxy.client.name"] == "jaeger"
        turn = named[AGENT].attributes
        assert turn["gen_ai.conversation.id"] == gateway.session
        assert turn["trace_proxy.turn.stop_reason"] == "end_turn"
        assert (turn["gen_ai.usage.input_tokens"], turn["gen_ai.usage.output_tokens"]) == (90, 20)
        assert not any(b"here is what I found" in each for each in stage.collector.bodies)


@pytest.mark.parametrize(("permit", "made"), [("allow_once", True), ("", False)])
async def test_a_permission_hangs_below_its_command(
    tmp_path: Path, permit: str, *, made: bool
) -> None:
    async with chat(tmp_path) as (stage, gateway):
        await gateway.prompt(ASK, permit=permit)
        spans = await spans_of(stage, gateway, 4)

        assert (tmp_path / "workspace" / "made").exists() is made
        assert tree(spans) == [
            "trace-proxy: session/prompt [server]",
            f"  core-server: {AGENT} [internal]",
            f"    core-server: execute_tool execute [internal]{'' if made else ' ERROR'}",
            "      client: session/request_permission [client]",
        ]
        named = {each.name: each for each in spans}
        asked = named["session/request_permission"].attributes
        assert asked["trace_proxy.approval.decision"] == ("allow_once" if made else "cancelled")
        assert not any(b"touch made" in each for each in stage.collector.bodies)


async def test_a_prompt_finishes_before_the_proxy_stops(tmp_path: Path) -> None:
    async with chat(tmp_path) as (stage, gateway):
        prompt = await gateway.begin("slow: 1")
        await gateway.client.wait_for("session/update")
        stage.proxy.signal(signal.SIGTERM)
        assert (await gateway.end(prompt))["stopReason"] == "end_turn"
        assert gateway.text.count("word") == 5
        assert await gateway.client.closed() == 1012
        assert await stage.proxy.exit_code() == 0
        assert await stage.proxy.survivors(within_s=1) == {}


async def test_a_prompt_is_cancelled_at_the_deadline(tmp_path: Path) -> None:
    async with chat(tmp_path, "--drain-timeout", "0.5") as (stage, gateway):
        prompt = await gateway.begin("slow: 60")
        await gateway.client.wait_for("session/update")
        stage.proxy.signal(signal.SIGTERM)
        assert (await gateway.end(prompt))["stopReason"] == "cancelled"
        assert await gateway.client.closed() == 1012
        assert await stage.proxy.exit_code() == 3
        assert await stage.proxy.survivors(within_s=1) == {}
