"""`docker compose up` for real: the first line of the README."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.docker.conftest import MODEL_PORT, OWNER
from tests.docker.stack import BUILD_S, Stack
from tests.e2e.clients import WebsocketClient, turn_params
from tests.e2e.proxy import trace_proxy
from tests.e2e.traces import new_trace_id, traceparent
from tests.jaeger.jaeger import Jaeger

pytestmark = pytest.mark.usefixtures("docker")

DRAINED_S = 29
"""compose.yaml's grace period is 30 s, and then it kills."""


@asynccontextmanager
async def connected(stack: Stack) -> AsyncIterator[WebsocketClient]:
    """A client through the published port."""
    async with aiohttp.ClientSession() as session, session.ws_connect(stack.page_url) as socket:
        client = WebsocketClient(socket)
        await client.initialize()
        yield client


async def in_jaeger(stack: Stack, trace_id: str, operations: set[str]) -> None:
    """Wait until the stack's own Jaeger has these in a trace."""
    jaeger = Jaeger(stack.jaeger_url, stack.otlp_url)
    await jaeger.trace(
        trace_id, until=lambda spans: operations <= {span.name.split()[0] for span in spans}
    )


def exit_code(stack: Stack) -> int:
    """With what the proxy's container has ended."""
    labels = f"project={stack.name}", "service=trace-proxy"
    filters = [
        word for each in labels for word in ("--filter", f"label=com.docker.compose.{each}")
    ]
    listed = subprocess.run(
        ["docker", "ps", "-aq", *filters],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split()
    shown = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", *listed],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split()
    assert shown[0] == "exited"
    return int(shown[1])


async def ran(stack: Stack, commands: str) -> str:
    """What commands printed that a turn ran; a human has accepted them."""
    async with connected(stack) as client:
        thread = await client.thread()
        await client.turn(thread, f"/run {commands}")
        asked = await client.wait(lambda each: "method" in each and "id" in each)
        await client.send({"id": asked["id"], "result": {"decision": "accept"}})
        ended = await client.wait(
            lambda each: (
                each.get("method") == "item/completed"
                and each["params"]["item"]["type"] == "commandExecution"
            )
        )
        await client.wait_for("turn/completed")
    output: str = ended["params"]["item"]["aggregatedOutput"]
    return output


async def test_both_services_become_healthy(stack: Stack) -> None:
    await stack.healthy("trace-proxy")
    await stack.healthy("jaeger")


async def test_the_page_is_at_the_published_port_and_links_to_the_published_jaeger(
    stack: Stack,
) -> None:
    await stack.healthy()
    status, body, headers = await stack.get("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "<title>trace-proxy</title>" in body
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{stack.page_url}/console/events") as events,
    ):
        snapshot = await events.content.readuntil(b"\n\n")
    assert f'"jaegerUrl":"{stack.jaeger_url}"'.encode() in snapshot


async def test_a_turn_through_the_published_port_is_found_in_that_jaeger_by_its_id(
    stack: Stack,
) -> None:
    await stack.healthy()
    trace_id = new_trace_id()
    async with connected(stack) as client:
        thread = await client.thread()
        trace = {"traceparent": traceparent(trace_id)}
        await client.request("turn/start", turn_params(thread, "hello"), trace=trace)
        await client.wait_for("turn/completed")
    await in_jaeger(stack, trace_id, {"turn/start", "invoke_agent"})


async def test_talk_works_inside_and_says_a_trace_that_jaeger_has(stack: Stack) -> None:
    await stack.healthy()
    words = ("exec", "-T", "trace-proxy", "trace-proxy", "talk", "hello there")
    out = await asyncio.to_thread(stack.compose, *words)
    named = re.fullmatch(r"hello there\n\nturn completed; trace ([0-9a-f]{32})\n", out)
    assert named is not None, out
    await in_jaeger(stack, named[1], {"talk", "turn/start", "invoke_agent"})


async def test_a_turn_writes_into_the_bound_workspace_as_its_owner_and_nowhere_else(
    stack: Stack, workspace: Path
) -> None:
    await stack.healthy()
    output = await ran(
        stack, "echo inside > made.txt; echo out > /var/lib/trace-proxy/out; id -u; echo done"
    )
    made = workspace / "made.txt"
    assert made.read_text() == "inside\n", output
    assert "/var/lib/trace-proxy/out: Permission denied" in output
    if os.getuid() == 0:
        assert made.stat().st_uid == OWNER
        assert f"\n{OWNER}\n" in output


async def test_what_the_core_needs_is_passed_on_and_nothing_that_is_not_set(stack: Stack) -> None:
    await stack.healthy()
    shown = await asyncio.to_thread(stack.compose, "exec", "-T", "trace-proxy", "env")
    names = {line.partition("=")[0] for line in shown.splitlines()}
    assert "OPENAI_BASE_URL=http://model.invalid/v1" in shown.splitlines()
    assert names.isdisjoint({"OPENAI_API_KEY", "CORE_SERVER_ENGINE"} - os.environ.keys())


WHO_RUNS = """
import json, pathlib
found = {}
for each in pathlib.Path("/proc").glob("[0-9]*"):
    command = (each / "cmdline").read_bytes().split(b"\\0")
    if any(word.endswith((b"/trace-proxy", b"core_server")) for word in command):
        lines = (each / "status").read_text().splitlines()
        status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
        found[each.name] = [status[name] for name in ("Uid", "CapPrm", "CapBnd", "NoNewPrivs")]
print(json.dumps(found))
"""


async def test_what_runs_is_neither_root_nor_may_become_it_and_writes_to_its_volumes_alone(
    stack: Stack,
) -> None:
    await stack.healthy()
    inside = ("exec", "-T", "trace-proxy", "python")
    shown = await asyncio.to_thread(stack.compose, *inside, "-c", WHO_RUNS)
    processes = json.loads(shown)
    assert processes
    for uids, permitted, bounding, privileges in processes.values():
        assert "0" not in uids.split()
        assert (int(permitted, 16), int(bounding, 16), privileges) == (0, 0, "1")
    write = "import pathlib; pathlib.Path('/opt/venv/x').write_text('')"
    with pytest.raises(AssertionError, match="Read-only file system"):
        await asyncio.to_thread(stack.compose, *inside, "-c", write)


@pytest.mark.parametrize("service", ["trace-proxy", "jaeger"])
async def test_ports_are_open_to_this_machine_alone_and_logs_have_an_end(
    stack: Stack, service: str
) -> None:
    host = (await asyncio.to_thread(stack.container, service))["HostConfig"]
    bound = {each["HostIp"] for ports in host["PortBindings"].values() for each in ports}
    assert bound == {"127.0.0.1"}
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["CapDrop"] == ["ALL"]


async def test_a_model_is_asked_with_what_the_environment_says(with_model: Stack) -> None:
    await asyncio.to_thread(lambda: with_model.compose("up", "--build", "-d", timeout_s=BUILD_S))
    await with_model.healthy()
    fetch = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{MODEL_PORT}/seen').read().decode())"
    with with_model.beside("trace-proxy", "-m", "tests.responses_api", str(MODEL_PORT)) as url:
        assert url == f"http://127.0.0.1:{MODEL_PORT}/v1"
        async with connected(with_model) as client:
            await client.turn(await client.thread(), "hello model")
            done = await client.wait_for("turn/completed")
        words = ("exec", "-T", "trace-proxy", "python", "-c", fetch)
        seen = json.loads(await asyncio.to_thread(with_model.compose, *words))
    assert done["params"]["turn"]["status"] == "completed", done
    assert seen[0]["headers"]["authorization"] == "Bearer k-that-is-passed-on"
    assert seen[0]["body"]["model"] == "a-model"
    logs = await asyncio.to_thread(with_model.compose, "logs", "trace-proxy")
    assert "k-that-is-passed-on" not in logs


async def test_a_stop_in_mid_turn_delivers_it_and_the_next_start_has_its_thread(
    stack: Stack,
) -> None:
    await stack.healthy()
    async with connected(stack) as client:
        thread = await client.thread()
        await client.turn(thread, "/slow 3")
        await client.wait_for("item/agentMessage/delta")
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(asyncio.to_thread(stack.compose, "stop", "trace-proxy"))
            completed = await client.wait_for("turn/completed", DRAINED_S)
            code = await client.closed(DRAINED_S)
            await stopping
    assert completed["params"]["turn"]["status"] == "completed"
    assert (code, exit_code(stack)) == (1012, 0)

    await asyncio.to_thread(stack.compose, "up", "-d")
    await stack.healthy()
    async with connected(stack) as client:
        listed = await client.request("thread/list", {})
        resumed = await client.request("thread/resume", {"threadId": thread})
    assert thread in {each["id"] for each in listed["data"]}
    assert resumed["thread"]["turns"][-1]["status"] == "completed"


async def test_the_real_server_is_a_profile(stack: Stack) -> None:
    await asyncio.to_thread(stack.compose, "stop", "trace-proxy")
    words = ("--profile", "codex", "up", "--build", "-d", "codex")
    await asyncio.to_thread(lambda: stack.compose(*words, timeout_s=BUILD_S))
    await stack.healthy("codex")
    async with connected(stack) as client:
        started = await client.request("thread/start", {})
    assert started["cwd"] == "/workspace"
    assert "codex" in started["thread"]["path"] or "sessions" in started["thread"]["path"]
    await asyncio.to_thread(stack.compose, "--profile", "codex", "stop", "codex")


async def test_jaeger_alone_is_there_for_a_proxy_without_docker(plain: Stack) -> None:
    await asyncio.to_thread(plain.compose, "up", "-d", "jaeger")
    await plain.healthy("jaeger")
    assert await asyncio.to_thread(plain.compose, "ps", "-q", "trace-proxy") == ""
    trace_id = new_trace_id()
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": plain.otlp_url}
    async with trace_proxy(env=env) as proxy, proxy.client() as client:
        thread = await client.thread()
        trace = {"traceparent": traceparent(trace_id)}
        await client.request("turn/start", turn_params(thread, "hello"), trace=trace)
        await client.wait_for("turn/completed")
        await in_jaeger(plain, trace_id, {"turn/start", "invoke_agent"})


async def test_who_names_no_workspace_has_a_volume_that_is_kept(plain: Stack) -> None:
    await asyncio.to_thread(lambda: plain.compose("up", "--build", "-d", timeout_s=BUILD_S))
    await plain.healthy()
    assert "made here" in await ran(plain, "echo made here > made.txt; cat made.txt")
    await asyncio.to_thread(plain.compose, "stop")
    await asyncio.to_thread(plain.compose, "up", "-d")
    await plain.healthy()
    assert "made here" in await ran(plain, "cat made.txt")
