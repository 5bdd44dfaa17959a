"""How a drain ends when it must: deadlines, force, peers and cores that resist."""

import asyncio
import signal
import time

import pytest

from tests.e2e.draining import address, draining, stopped, upgrade_request
from tests.e2e.proxy import fake_core, trace_proxy

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@pytest.mark.parametrize(("second", "code"), [(TERM, 143), (INT, 130)])
async def test_a_second_signal_ends_everything_at_once(second: signal.Signals, code: int) -> None:
    core = fake_core("fake", "--ignore-eof", "--ignore-term", "--with-child")
    async with trace_proxy(core=core) as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "hold")
        await draining(proxy)
        await asyncio.sleep(0.15)  # or it would be one signal said twice
        began_s = time.monotonic()
        proxy.signal(second)
        assert await proxy.exit_code() == code
        assert await proxy.survivors(within_s=1) == {}
        assert time.monotonic() - began_s < 2


async def test_two_signals_at_once_are_one() -> None:
    async with trace_proxy() as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "/slow 0.6")
        await client.wait_for("item/agentMessage/delta")
        proxy.signal(INT)
        proxy.signal(TERM)
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "completed"
        await stopped(proxy)


async def test_hangups_never_force() -> None:
    async with trace_proxy() as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "/slow 1")
        await client.wait_for("item/agentMessage/delta")
        for _ in range(3):
            proxy.signal(HUP)
            await asyncio.sleep(0.15)  # beyond what counts as one signal
        assert (await client.wait_for("turn/completed"))["params"]["turn"]["status"] == "completed"
        await stopped(proxy)


async def test_at_the_deadline_turns_are_interrupted_and_the_exit_code_says_so() -> None:
    async with trace_proxy("--drain-timeout", "0.4") as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "/slow 60")
        await client.wait_for("item/agentMessage/delta")
        proxy.signal(TERM)
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "interrupted"
        assert await client.closed() == 1012
        await stopped(proxy, code=3)


async def test_a_turn_that_ignores_its_interrupt_holds_nothing_up() -> None:
    core = fake_core("fake", "--ignore-eof", "--ignore-term")
    async with trace_proxy("--drain-timeout", "0.2", core=core) as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "hang")
        proxy.signal(TERM)
        assert await client.closed() == 1012
        done = await proxy.exit_code(timeout_s=8)
        assert done == 3
        assert await proxy.survivors(within_s=0.5) == {}


@pytest.mark.parametrize("after_ms", [0, 30, 60, 100, 150, 200, 250, 300, 400])
async def test_a_signal_while_it_starts_is_never_lost(after_ms: int) -> None:
    async with trace_proxy(wait=False) as proxy:
        await asyncio.sleep(after_ms / 1000)  # the moment is the test
        proxy.signal(TERM)
        # Before the first instruction of ours, the kernel's default action ends Python.
        assert await proxy.exit_code() in (143, -TERM, 0), proxy.stderr
        assert await proxy.survivors(within_s=2) == {}


async def test_a_signal_before_the_core_is_up_forces() -> None:
    core = fake_core("fake", "--never-greet")
    async with trace_proxy(core=core, wait=False) as proxy:
        await proxy.logged("core.started")
        proxy.signal(TERM)
        assert await proxy.exit_code(timeout_s=2) == 143
        assert await proxy.survivors(within_s=1) == {}


async def test_an_approval_that_nobody_is_left_to_give_is_not_given() -> None:
    async with trace_proxy("--drain-timeout", "30") as proxy:
        async with proxy.client() as client:
            await client.turn(await client.thread(), "/run touch it-ran")
            await client.wait_for("item/commandExecution/requestApproval")
            await draining(proxy)
        began_s = time.monotonic()
        await stopped(proxy, code=3)
        assert time.monotonic() - began_s < 5
        assert not (proxy.directory / "workspace" / "it-ran").exists()


async def test_an_approval_waits_for_a_client_that_is_resuming_its_thread() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as back:
        async with proxy.client() as gone:
            thread = await gone.thread()
            await gone.turn(thread, "ask")
            await gone.wait_for("item/commandExecution/requestApproval")
        await proxy.logged("connection.closed")
        own = await back.thread()
        await back.begin("thread/compact/start", {"threadId": own})  # the core is busy with it
        resumed = await back.begin("thread/resume", {"threadId": thread})
        await back.request("thread/unsubscribe", {"threadId": "answered by the proxy, in order"})
        await draining(proxy)

        await back.answer(resumed)
        asked = await back.wait_for("item/commandExecution/requestApproval")
        await back.send({"id": asked["id"], "result": {"decision": "accept"}})
        assert await back.closed() == 1012
        ended = [
            each["params"]["turn"]["status"]
            for each in back.received
            if each.get("method") == "turn/completed" and each["params"]["threadId"] == thread
        ]
        assert ended == ["completed"]
        await stopped(proxy)


async def test_an_approval_is_not_given_at_the_deadline_either() -> None:
    async with trace_proxy("--drain-timeout", "0.5") as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "/run touch it-ran")
        await client.wait_for("item/commandExecution/requestApproval")
        proxy.signal(TERM)
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "interrupted"
        await stopped(proxy, code=3)
        assert not (proxy.directory / "workspace" / "it-ran").exists()


async def test_a_peer_that_never_reads_its_close_costs_a_second() -> None:
    async with trace_proxy() as proxy:
        reader, writer = await asyncio.open_connection(*address(proxy))
        writer.write(upgrade_request(proxy))
        await reader.readuntil(b"\r\n\r\n")
        await proxy.logged("connection.opened")
        began_s = time.monotonic()
        proxy.signal(TERM)
        await stopped(proxy)
        assert time.monotonic() - began_s < 3
        writer.close()


async def test_a_core_that_ignores_eof_and_term_is_killed() -> None:
    core = fake_core("fake", "--ignore-eof", "--ignore-term", "--with-child")
    async with trace_proxy(core=core) as proxy, proxy.client() as client:
        await client.thread()
        began_s = time.monotonic()
        proxy.signal(TERM)
        await stopped(proxy)
        assert time.monotonic() - began_s < 4


async def test_an_address_in_use_is_one_line_and_exit_code_1() -> None:
    core = fake_core("fake")
    async with (
        trace_proxy(core=core) as first,
        trace_proxy(listen=first.url, core=core, wait=False) as second,
    ):
        assert await second.exit_code() == 1
        assert second.stderr == (
            f"trace-proxy: cannot listen on {first.url}: Address already in use;"
            " choose another with --listen\n"
        )
        assert await second.survivors(within_s=0.5) == {}
