"""`trace-proxy talk` against a real proxy."""

import asyncio
import os
import re
import signal
import sys

import pytest

from tests.collector import Collector, tree
from tests.e2e.processes import kill
from tests.e2e.proxy import ROOT, fake_core, trace_proxy
from trace_proxy.cli.talk import _url_and_text

TIMEOUT_S = 20


async def start(*words: str, collector: str = "") -> asyncio.subprocess.Process:
    """Start it."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "trace_proxy",
        "talk",
        *words,
        cwd=ROOT,
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def talk(
    url: str, text: str = "", typed: str = "", collector: str = ""
) -> tuple[int, str, str]:
    """Run it; returns its exit code, output and errors."""
    process = await start(url, *([text] if text else []), collector=collector)
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
        code, out, err = await talk(proxy.url, "hello", collector=collector.url)
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
        code, out, err = await talk(proxy.url, "hello", collector="http://127.0.0.1:9")
    assert code == 0
    assert out.startswith("hello\n\nturn completed; trace ")
    assert err == ""


async def test_without_a_text_each_line_is_a_turn_of_one_thread() -> None:
    async with trace_proxy() as proxy:
        code, out, err = await talk(proxy.url, typed="hello\n\n/think deep\nlast without an end")
        async with proxy.client() as client:
            threads = (await client.request("thread/list", {}))["data"]
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("turn ")] == [
        "turn completed"
    ] * 3
    assert len(threads) == 1


async def test_an_approval_shows_all_that_is_to_be_changed() -> None:
    async with trace_proxy() as proxy:
        code, out, _ = await talk(proxy.url, "/write deep/file.txt some words", "y\n")
        written = (proxy.directory / "workspace/deep/file.txt").read_text()
    asked = out.partition("Allow this file change ? [y/N] ")[0]
    assert re.search(r"add \S*/workspace/deep/file\.txt\n +some words\n", asked)
    assert written.startswith("some words")
    assert code == 0


async def test_a_command_is_shown_with_where_it_runs_and_cannot_move_the_cursor() -> None:
    async with trace_proxy() as proxy:
        _, out, _ = await talk(proxy.url, "/run echo \x1b[2Kharmless", "n\n")
    asked = out.partition("? [y/N] ")[0]
    assert f"in {proxy.directory}/workspace\n" in asked
    assert "echo \\x1b[2Kharmless" in asked


async def test_a_draining_proxy_is_called_so() -> None:
    async with trace_proxy() as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "/slow 60")
        proxy.signal(signal.SIGTERM)
        await proxy.logged("drain.started")
        code, out, err = await talk(proxy.url, "hello")
    assert (code, out) == (1, "")
    assert err.startswith(f"cannot talk to {proxy.url}: draining: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("ws://127.0.0.1:4500", None)),
        (["hello"], ("ws://127.0.0.1:4500", "hello")),
        (["ws://127.0.0.1:5000"], ("ws://127.0.0.1:5000", None)),
        (["wss://host", "hello"], ("wss://host", "hello")),
        (["not a url", "hello"], ("not a url", "hello")),
        (["see http://x"], ("ws://127.0.0.1:4500", "see http://x")),
    ],
)
def test_one_word_is_a_url_or_a_text(words: list[str], expected: tuple[str, str | None]) -> None:
    assert _url_and_text(words) == expected


@pytest.mark.parametrize(
    ("typed", "decision"),
    [("y\n", "accept"), ("yes\n", "accept"), ("n\n", "decline"), ("", "decline")],
)
async def test_an_approval_is_asked_for_and_only_a_yes_is_one(typed: str, decision: str) -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy:
        code, out, _ = await talk(proxy.url, "ask", typed)
    assert f"Allow this file change ? [y/N] decided {decision}" in out
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
