"""Subprotocols of the handshake: what is offered and spoken is selected, nothing else."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.agents.real import program
from tests.e2e.proxy import fake_core, trace_proxy

PRIVATE = ("--sessions", "per-connection")
AGENT = program("agent")


@pytest.mark.parametrize(
    ("options", "offers", "selected"),
    [
        (PRIVATE, ["mcp"], "mcp"),
        (PRIVATE, ["acp"], "acp"),
        (PRIVATE, ["other", "acp", "mcp"], "acp"),
        (PRIVATE, ["other"], None),
        (PRIVATE, [], None),
        ((*PRIVATE, "--protocol", "mcp"), ["acp", "mcp"], "mcp"),
        ((*PRIVATE, "--protocol", "lsp"), ["acp", "mcp"], None),
        ((*PRIVATE, "--subprotocol", "jsonrpc", "--subprotocol", "lsp"), ["lsp"], "lsp"),
        ((), ["mcp"], None),
        (("--subprotocol", "codex"), ["codex"], "codex"),
    ],
)
async def test_what_is_offered_and_spoken_is_selected(
    options: tuple[str, ...], offers: list[str], selected: str | None
) -> None:
    core = AGENT if options[:1] == PRIVATE[:1] else fake_core("fake")
    async with trace_proxy(*options, core=core) as proxy:
        socket = await proxy.connect(protocols=offers)
        assert socket.protocol == selected
        await socket.close()


_NODE = """
const socket = new WebSocket(process.argv[2], JSON.parse(process.argv[3]));
socket.onopen = () => {
  socket.send('{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1}}');
};
socket.onmessage = (event) => {
  const info = JSON.parse(event.data).result.agentInfo;
  console.log(JSON.stringify({name: info.name, protocol: socket.protocol}));
  socket.close();
};
socket.onerror = () => { console.log('"refused"'); process.exit(0); };
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize(
    ("offers", "heard"),
    [
        ([], {"name": "scripted", "protocol": ""}),
        (["acp"], {"name": "scripted", "protocol": "acp"}),
        (["other", "mcp"], {"name": "scripted", "protocol": "mcp"}),
    ],
)
async def test_the_websocket_of_browsers_and_node_connects(
    tmp_path: Path, offers: list[str], heard: object
) -> None:
    """Node's is the one of the WHATWG standard, which hangs up on a wrong subprotocol."""
    script = tmp_path / "client.js"
    script.write_text(_NODE)
    async with trace_proxy(*PRIVATE, core=AGENT) as proxy:
        command = ["node", "--experimental-websocket", str(script), proxy.url, json.dumps(offers)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: ASYNC221 - the proxy is another process
    assert json.loads(told.stdout) == heard, told.stderr
