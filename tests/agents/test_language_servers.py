"""Language servers: messages behind headers, a farewell, and what a wrong framing says."""

import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.agents.real import needs_package, program
from tests.collector import tree
from tests.e2e.clients import WebsocketClient
from tests.e2e.proxy import Proxy, trace_proxy
from tests.e2e.traces import Stage, traced
from trace_proxy.runtime.cores.per_connection import GOODBYE_S

HEADERS = ("--sessions", "per-connection", "--framing", "content-length")
LINES = ("--sessions", "per-connection")
INITIALIZE: dict[str, Any] = {"processId": None, "rootUri": "file:///tmp", "capabilities": {}}


@contextlib.asynccontextmanager
async def editor(
    core: Sequence[str], *options: str
) -> AsyncIterator[tuple[Proxy, WebsocketClient]]:
    """An editor with its language server, not greeted yet."""
    async with (
        trace_proxy(*HEADERS, *options, core=core) as proxy,
        proxy.client(initialize=False) as client,
    ):
        yield proxy, client


async def ask(client: WebsocketClient, method: str, params: Any = None) -> Any:
    return await client.request(method, params, jsonrpc="2.0")


def heard(log: Path) -> list[str]:
    return log.read_text().split("\n")[:-1]


async def test_a_message_is_one_frame_whatever_its_framing(tmp_path: Path) -> None:
    async with editor(program("language_server", str(tmp_path / "log"))) as (_, client):
        big = {"text": "é\n" * 300_000}
        assert await ask(client, "initialize", INITIALIZE) == INITIALIZE
        assert await ask(client, "textDocument/hover", big) == big
        await client.write('{"jsonrpc": "2.0",\n "id": 9,\r\n "method": "x", "params": {}}')
        assert json.loads(await client.read()) == {"jsonrpc": "2.0", "id": 9, "result": {}}


async def test_a_banner_is_counted_and_the_server_goes_on(tmp_path: Path) -> None:
    core = program("language_server", str(tmp_path / "log"), "--banner")
    async with editor(core) as (proxy, client):
        assert await ask(client, "initialize", INITIALIZE) == INITIALIZE
        fault = await proxy.logged("core.fault")
        assert (fault["reason"], fault["bytes"]) == ("no header", 20)


@pytest.mark.parametrize("end", ["drain", "client leaves"])
async def test_a_server_is_shut_down_before_its_input_ends(tmp_path: Path, end: str) -> None:
    log = tmp_path / "log"
    core = program("language_server", str(log), "--slow-shutdown", "0.3")
    async with editor(core) as (proxy, client):
        await ask(client, "initialize", INITIALIZE)
        if end == "drain":
            proxy.signal(signal.SIGTERM)
            assert await client.closed() == 1012
        else:
            await client.socket.close()
        exited = await proxy.logged("core.exited")
        assert exited["exit_code"] == 0
        assert heard(log) == ["initialize", "shutdown", "exit"]
        if end == "drain":
            assert await proxy.exit_code() == 0


async def test_a_server_that_does_not_answer_its_shutdown_is_not_waited_for(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    core = program("language_server", str(log), "--slow-shutdown", "60")
    async with editor(core) as (proxy, client):
        await ask(client, "initialize", INITIALIZE)
        began_s = time.monotonic()
        proxy.signal(signal.SIGTERM)
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 0
        assert GOODBYE_S < time.monotonic() - began_s < 8
        assert await proxy.survivors(within_s=0.5) == {}


async def test_a_server_that_its_editor_ends_is_left_to_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with editor(program("language_server", str(log))) as (_, client):
        await ask(client, "initialize", INITIALIZE)
        await ask(client, "shutdown")
        await client.send({"jsonrpc": "2.0", "method": "exit"})
        assert await client.closed() == 1000
        assert heard(log) == ["initialize", "shutdown", "exit"]


async def test_at_the_deadline_requests_are_cancelled(tmp_path: Path) -> None:
    core = program("language_server", str(tmp_path / "log"))
    async with editor(core, "--drain-timeout", "0.2") as (proxy, client):
        await ask(client, "initialize", INITIALIZE)
        slow = await client.begin("slow", {}, jsonrpc="2.0")
        await ask(client, "textDocument/hover", {})
        proxy.signal(signal.SIGTERM)
        answer = await client.wait(lambda each: each.get("id") == slow)
        assert answer["error"]["code"] == -32800
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 3


# ---- a wrong framing is said


async def closed_with(client: WebsocketClient) -> tuple[int, str]:
    message = await client.socket.receive(timeout=30)
    return message.data, message.extra or ""


async def test_a_core_that_answers_in_lines_names_the_option() -> None:
    core = ["sh", "-c", 'echo \'{"jsonrpc":"2.0","method":"hello"}\'; cat >/dev/null']
    async with editor(core) as (proxy, client):
        code, reason = await closed_with(client)
        assert code == 1011
        assert "--framing lines" in reason
        assert "--framing lines" in (await proxy.logged("core.faulty"))["reason"]
        assert len(proxy.log("core.faulty")) == 1


async def test_a_core_that_answers_behind_headers_names_the_option() -> None:
    core = ["sh", "-c", r"printf 'Content-Length: 2\r\n\r\n{}'; cat >/dev/null"]
    async with trace_proxy(*LINES, core=core) as proxy, proxy.client(initialize=False) as client:
        code, reason = await closed_with(client)
        assert code == 1011
        assert "--framing content-length" in reason
        assert "--framing content-length" in (await proxy.logged("core.faulty"))["reason"]


async def test_a_language_server_that_waits_for_headers_in_silence_names_it_too(
    tmp_path: Path,
) -> None:
    core = program("language_server", str(tmp_path / "log"))
    async with trace_proxy(*LINES, core=core) as proxy, proxy.client(initialize=False) as client:
        await client.begin("initialize", INITIALIZE, jsonrpc="2.0")
        code, reason = await closed_with(client)
        assert code == 1011
        assert "--framing content-length" in reason


async def test_shared_cores_that_speak_headers_fail_with_a_reason() -> None:
    core = ["sh", "-c", r"printf 'Content-Length: 2\r\n\r\n{}'; cat >/dev/null"]
    async with trace_proxy("--max-restarts", "1", core=core, wait=False) as proxy:
        assert (await proxy.logged("core.faulty"))["reason"] == "it speaks the other --framing"


# ---- a real one


@pytest.fixture
async def pylsp() -> AsyncIterator[tuple[Stage, WebsocketClient]]:
    """The real python-lsp-server and an editor."""
    core = [sys.executable, "-m", "pylsp"]
    async with (
        traced(*HEADERS, core=core) as stage,
        stage.proxy.client(initialize=False) as client,
    ):
        yield stage, client


@needs_package("pylsp", "python-lsp-server")
async def test_python_lsp_server_completes_and_ends_in_order(
    pylsp: tuple[Stage, WebsocketClient],
) -> None:
    stage, client = pylsp
    params = {**INITIALIZE, "clientInfo": {"name": "editor", "version": "1"}}
    greeting = await ask(client, "initialize", params)
    assert greeting["serverInfo"]["name"] == "pylsp"
    await client.send({"jsonrpc": "2.0", "method": "initialized", "params": {}})
    document = {
        "uri": "file:///tmp/a.py",
        "languageId": "python",
        "version": 1,
        "text": "import os\nos.path.is",
    }
    opened = {"textDocument": document}
    await client.send({"jsonrpc": "2.0", "method": "textDocument/didOpen", "params": opened})
    where = {"textDocument": {"uri": document["uri"]}, "position": {"line": 1, "character": 10}}
    found = await client.answer(
        await client.begin("textDocument/completion", where, jsonrpc="2.0"), timeout_s=60
    )
    assert "isdir(s)" in [each["label"] for each in found["items"]]
    await client.wait_for("textDocument/publishDiagnostics", timeout_s=60)  # it is idle now
    stage.proxy.signal(signal.SIGTERM)
    assert await client.closed() == 1012
    exited = await stage.proxy.logged("core.exited")
    assert exited["stopped"]
    assert exited["exit_code"] in (0, -signal.SIGTERM)  # its linters may take longer than it gets
    assert await stage.proxy.exit_code() == 0
    await stage.collector.wait_for(2)
    assert tree(stage.collector.spans) == [
        "trace-proxy: initialize [server]",
        "trace-proxy: textDocument/completion [server]",
    ]
