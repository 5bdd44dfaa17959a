"""README's sections about agents, as they are written but for the port.

What stands after `--` is the real program where it is installed, else one that speaks the same.
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.agents.gateway import Gateway
from tests.agents.real import program
from tests.e2e.clients import WebsocketClient
from tests.e2e.proxy import ROOT, trace_proxy

README = (ROOT / "README.md").read_text()


def command(name: str) -> tuple[list[str], str, list[str]]:
    """Options, URL and program of the command behind a marker."""
    block = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None, f"README has no command marked {name}"
    words = shlex.split(block[1])
    assert words[0] == "trace-proxy"
    at, end = words.index("--listen"), words.index("--")
    return [*words[1:at], *words[at + 2 : end]], words[at + 1], words[end + 1 :]


async def greeted(client: WebsocketClient, params: Mapping[str, object]) -> object:
    return await client.request("initialize", params, jsonrpc="2.0")


async def test_behind_jaegers_ai_assistant() -> None:
    options, url, core = command("jaeger")
    assert core == ["npx", "-y", "@agentclientprotocol/codex-acp"]
    assert f'extensions.jaeger_query.ai.agent_url: "{url}"' in README
    async with (
        trace_proxy(*options, core=program("agent")) as proxy,
        proxy.client(initialize=False) as client,
    ):
        gateway = Gateway(client)
        await gateway.open()
        assert (await gateway.prompt("say:hello"))["stopReason"] == "end_turn"


async def test_any_mcp_server_over_websocket() -> None:
    options, url, core = command("mcp")
    assert core[0] == "npx"
    assert f'websocket_client("{url}")' in README
    pytest.importorskip("mcp", reason="the mcp package is not installed")
    async with (
        trace_proxy(*options, core=program("mcp_server")) as proxy,
        proxy.client(initialize=False, protocols=["mcp"]) as client,
    ):
        info = {"name": "readme", "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        assert await greeted(client, params)
        assert client.socket.protocol == "mcp"


async def test_lsp_in_the_browser(tmp_path: Path) -> None:
    options, url, core = command("lsp")
    assert f'new WebSocket("{url}")' in README
    installed = Path(sys.executable).with_name(core[0])
    present = os.access(installed, os.X_OK)
    core = [str(installed)] if present else program("language_server", str(tmp_path / "log"))
    async with (
        trace_proxy(*options, core=core) as proxy,
        proxy.client(initialize=False, origin="https://editor.example.com") as client,
    ):
        params: dict[str, object] = {"processId": None, "rootUri": None, "capabilities": {}}
        assert await greeted(client, params)
