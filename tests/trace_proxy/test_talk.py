"""`python -m trace_proxy.talk` against a real proxy."""

import asyncio
import os
import re
import signal
import sys

import pytest

from tests.collector import Collector, tree
from tests.e2e.processes import kill
from tests.e2e.proxy import ROOT, fake_core, trace_proxy

TIMEOUT_S = 20


async def start(url: str, text: str, endpoint: str = "") -> asyncio.subprocess.Process:
    """Start it; traces go to the endpoint, if there is one."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "trace_proxy.talk",
        url,
        text,
        cwd=ROOT,
        env={**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def talk(url: str, text: str, typed: str = "", endpoint: str = "") -> tuple[int, str, str]:
    """Run it; returns its exit code, output and errors."""
    process = await start(url, text, endpoint)
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await process.communicate(typed.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_turn_is_streamed_and_without_a_collector_no_trace_is_named() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy:
        code, out, err = await talk(proxy.url, "hello")
    assert (code, out, err) == (0, "hello\n\nturn completed\n", "")


async def test_a_talk_leaves_one_whole_trace_and_names_it() -> None:
    async with (
        Collector() as collector,
        trace_proxy(env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as proxy,
    ):
        code, out, err = await talk(proxy.url, "hello", endpoint=collector.url)
        spans = await collector.wait_for(6)
    named = re.search(r"\n\nturn completed; trace ([0-9a-f]{32})\n$", out)
    assert named is not None
    assert {span.trace_id for span in spans} == {named[1]}
    assert tree(spans) == [
        "client: talk [client]",
        "  trace-proxy: initialize [server]",
        "  trace-proxy: thread/start [server]",
        "  trace-proxy: turn/start [server]",
        "    core-server: invoke_agent core-server [internal]",
        "      core-server: chat offline [client]",
    ]
    assert (code, err) == (0, "")


async def test_a_collector_that_is_not_there_costs_a_talk_nothing() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy:
        code, out, err = await talk(proxy.url, "hello", endpoint="http://127.0.0.1:9")
    assert code == 0
    assert out.startswith("hello\n\nturn completed; trace ")
    assert err == ""


@pytest.mark.parametrize(
    ("typed", "decision"),
    [("y\n", "accept"), ("yes\n", "accept"), ("n\n", "decline"), ("", "decline")],
)
async def test_an_approval_is_asked_for_and_only_a_yes_is_one(typed: str, decision: str) -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy:
        code, out, _ = await talk(proxy.url, "ask", typed)
    assert f"Allow a file change ? [y/N] decided {decision}" in out
    assert code == 0


async def test_a_refused_command_of_the_real_core_is_not_run() -> None:
    async with trace_proxy() as proxy:
        code, out, _ = await talk(proxy.url, "/run touch forbidden", "no\n")
        assert "touch forbidden' ? [y/N] " in out
        assert code == 0
        assert list((proxy.directory / "workspace").iterdir()) == []


async def test_a_turn_that_does_not_complete_is_a_failure() -> None:
    core = fake_core("fake")
    async with trace_proxy(core=core) as proxy:
        code, out, _ = await talk(proxy.url, "crash")
    assert "turn interrupted" in out
    assert code == 1


async def test_a_proxy_that_goes_away_is_told_in_one_line() -> None:
    async with trace_proxy(
        "--sessions", "per-connection", core=["sh", "-c", "read line; exit 3"]
    ) as proxy:
        code, _, err = await talk(proxy.url, "hello")
    why = "initialize: The core exited before it answered; reconnect to get a new one"
    assert err == f"cannot talk to {proxy.url}: {why}\n"
    assert code == 1


async def test_it_can_be_interrupted_even_while_it_asks() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy:
        process = await start(proxy.url, "ask")
        assert process.stdout is not None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await process.stdout.readuntil(b"[y/N] ")
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
        finally:
            kill(process.pid)


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:1", "ws://no-such-host.invalid:4500", "not a url", "file:///etc"]
)
async def test_a_wrong_url_is_told_in_one_line(url: str) -> None:
    code, out, err = await talk(url, "hello")
    assert (code, out) == (1, "")
    assert err.startswith(f"cannot talk to {url}: ")
    assert err.count("\n") == 1
