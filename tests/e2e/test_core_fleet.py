"""Cores of several hosts on one PostgreSQL, as their clients see them."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import pytest

from tests import postgres
from tests.core_process import completed, core, run_turn, start_thread, text
from tests.postgres import new_store_url, psql
from tests.stdio_client import Json, RpcError, StdioClient

LEASE_S = 2


@contextlib.asynccontextmanager
async def host(url: str, name: str, lease_s: int = LEASE_S) -> AsyncIterator[StdioClient]:
    place = ("--host-id", name, "--advertise-url", f"ws://{name}:4500")
    async with core(*place, "--lease-seconds", str(lease_s), store=url) as client:
        yield client


@pytest.fixture
async def two() -> AsyncIterator[tuple[StdioClient, StdioClient]]:
    url = new_store_url()
    async with asyncio.timeout(60), host(url, "one") as one, host(url, "two") as two:
        yield one, two


async def _refusal(client: StdioClient, method: str, params: Json) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await client.request(method, params)
    return caught.value


async def test_any_host_lists_and_reads_and_says_who_owns_a_thread(
    two: tuple[StdioClient, StdioClient],
) -> None:
    one, other = two
    thread_id = await start_thread(one)
    await run_turn(one, thread_id, "hello")

    listed = await other.request("thread/list", {})
    read = await other.request("thread/read", {"threadId": thread_id, "includeTurns": True})
    refusals = [
        await _refusal(other, method, {"threadId": thread_id, **params})
        for method, params in (
            ("thread/resume", {}),
            ("turn/start", {"input": text("x")}),
            ("turn/steer", {"input": text("x"), "expectedTurnId": "u"}),
            ("turn/interrupt", {"turnId": "u"}),
            ("thread/name/set", {"name": "x"}),
            ("thread/archive", {}),
            ("thread/goal/get", {}),
        )
    ]

    assert [thread["id"] for thread in listed["data"]] == [thread_id]
    assert [turn["status"] for turn in read["thread"]["turns"]] == ["completed"]
    data = {"reason": "ownedElsewhere", "url": "ws://one:4500", "epoch": 1}
    assert [(error.code, error.data) for error in refusals] == [(-32010, data)] * 7


async def test_a_thread_that_nobody_knows_is_not_found(
    two: tuple[StdioClient, StdioClient],
) -> None:
    thread_id = "00000000-0000-7000-8000-000000000000"

    error = await _refusal(two[0], "turn/start", {"threadId": thread_id, "input": text("x")})

    assert (error.code, error.message) == (-32600, f"thread not found: {thread_id}")


async def test_the_next_turn_claims_the_thread_of_a_dead_host(
    two: tuple[StdioClient, StdioClient],
) -> None:
    one, other = two
    thread_id = await start_thread(one)
    await one.request("turn/start", {"threadId": thread_id, "input": text("/slow 30")})
    await one.wait_for("item/agentMessage/delta")
    await other.request("thread/list", {})  # its store is open: what dies now, it has to take
    one.process.kill()
    await one.process.wait()

    done = await run_turn(other, thread_id, "on")

    read = await other.request("thread/read", {"threadId": thread_id, "includeTurns": True})
    hosts = (await other.request("host/list", {}))["data"]
    assert [(each["load"], each["takenOver"]) for each in hosts if each["me"]] == [(1, 1)]
    assert done["turn"]["status"] == "completed"
    assert [turn["status"] for turn in read["thread"]["turns"]] == ["interrupted", "completed"]


async def test_a_turn_that_comes_before_the_loss_is_known_is_sent_to_the_new_owner() -> None:
    url = new_store_url()
    async with asyncio.timeout(60), host(url, "one") as one, host(url, "two") as other:
        await other.request("thread/list", {})  # its store is open, and it is known
        thread_id = await start_thread(one)
        await run_turn(one, thread_id, "hello")
        psql(
            url,
            "UPDATE leases SET epoch = epoch + 1, owner_id ="
            " (SELECT owner_id FROM cores WHERE owner_id <> leases.owner_id)",
        )

        error = await _refusal(one, "turn/start", {"threadId": thread_id, "input": text("x")})

        assert (error.code, error.data["url"]) == (-32010, "ws://two:4500")
        await run_turn(other, thread_id, "on")
        read = await other.request("thread/read", {"threadId": thread_id, "includeTurns": True})
        assert [turn["status"] for turn in read["thread"]["turns"]] == ["completed"] * 2


async def test_a_host_that_stalled_says_nothing_of_what_it_lost(
    two: tuple[StdioClient, StdioClient],
) -> None:
    one, other = two
    thread_id = await start_thread(one)
    await one.request("turn/start", {"threadId": thread_id, "input": text("/slow 30")})
    await one.wait_for("item/agentMessage/delta")

    one.process.send_signal(signal.SIGSTOP)
    done = await _claimed(other, thread_id)
    before = len(one.received)
    one.process.send_signal(signal.SIGCONT)
    ended = await one.wait_for("turn/completed")
    error = await _refusal(one, "turn/start", {"threadId": thread_id, "input": text("x")})

    assert done["turn"]["status"] == "completed"
    assert ended["params"]["turn"]["status"] == "interrupted"
    statuses = [m for m in one.received if m.get("method") == "thread/status/changed"]
    assert statuses[-1]["params"]["status"] == {"type": "notLoaded"}, "whoever hears it may go on"
    deltas = [m for m in one.received[before:] if m.get("method", "").endswith("/delta")]
    # What it had written before it stalled, a pipe may still hold; nothing comes after it.
    assert len(deltas) <= 1
    assert (error.code, error.data["url"]) == (-32010, "ws://two:4500")


async def test_a_thread_that_idles_at_a_host_that_stalled_is_said_to_be_loaded_there_no_more(
    two: tuple[StdioClient, StdioClient],
) -> None:
    one, other = two
    thread_id = await start_thread(one)
    await run_turn(one, thread_id, "hello")

    one.process.send_signal(signal.SIGSTOP)
    await _claimed(other, thread_id)
    one.process.send_signal(signal.SIGCONT)

    await one.wait(
        lambda each: (
            each.get("method") == "thread/status/changed"
            and each["params"]["status"] == {"type": "notLoaded"}
        )
    )


async def _claimed(client: StdioClient, thread_id: str) -> Json:
    """Run a turn as soon as the lease is over."""
    while True:
        try:
            return await run_turn(client, thread_id, "on")
        except RpcError as error:
            if error.code != -32010:
                raise
            await asyncio.sleep(0.1)


async def test_after_a_failover_that_lost_what_was_acknowledged_cores_go_on_by_themselves() -> (
    None
):
    postgres.needed()
    primary, standby = (postgres.Server(postgres.new_folder()) for _ in range(2))
    primary.create()
    primary.start()
    url = postgres.in_schema(primary.url, "threads")
    standby.copy_from(primary)
    standby.start()
    both = url.replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{standby.port}/")
    try:
        async with (
            asyncio.timeout(120),
            host(both, "one", 30) as one,
            host(both, "two", 30) as two,
        ):
            kept, other = await start_thread(one), await start_thread(two)
            for client, thread_id in ((one, kept), (two, other)):
                await run_turn(client, thread_id, "kept")
            here = primary.execute("SELECT pg_current_wal_lsn()")
            replayed = f"SELECT pg_last_wal_replay_lsn() >= '{here}'"
            while standby.execute(replayed) != "t":  # noqa: ASYNC110 - a server tells nobody
                await asyncio.sleep(0.05)
            await asyncio.to_thread(standby.stop, signal.SIGINT)  # from here on it is behind
            lost = await start_thread(one)
            await run_turn(one, lost, "lost with its thread")
            await run_turn(one, kept, "lost")
            running = await one.request("turn/start", {"threadId": kept, "input": text("/slow 1")})

            await asyncio.to_thread(primary.stop, signal.SIGQUIT)
            await asyncio.to_thread(standby.start)
            await asyncio.to_thread(standby.promote)

            ended = await completed(one, running["turn"]["id"])
            assert ended["turn"]["status"] == "failed", "it is not said to be done: it is not kept"
            for client, thread_id in ((one, kept), (two, other)):
                assert (await run_turn(client, thread_id, "on"))["turn"]["status"] == "completed"
            params = {"threadId": lost, "input": text("x")}
            while (gone := await _refusal(one, "turn/start", params)).data:
                assert gone.data[
                    "retryable"
                ]  # until it has noticed that the lease is lost as well
                await asyncio.sleep(0.1)
            assert gone.message == f"thread not found: {lost}"
            read = await two.request("thread/read", {"threadId": kept, "includeTurns": True})
            assert [turn["status"] for turn in read["thread"]["turns"]] == ["completed"] * 2
    finally:
        primary.stop()
        standby.stop()


async def test_a_drained_host_gives_its_threads_up_when_their_turns_are_over(
    two: tuple[StdioClient, StdioClient],
) -> None:
    one, other = two
    idle, busy = await start_thread(one), await start_thread(one)
    await run_turn(one, idle, "hello")
    answer = await one.request("turn/start", {"threadId": busy, "input": text("/slow 1")})

    await one.request("host/drain", {})

    assert (await completed(one, answer["turn"]["id"]))["turn"]["status"] == "completed"
    hosts = (await other.request("host/list", {}))["data"]
    assert [(each["hostId"], each["draining"], each["me"]) for each in hosts] == [
        ("one", True, False),
        ("two", False, True),
    ]
    for thread_id in (idle, busy):
        assert (await run_turn(other, thread_id, "on"))["turn"]["status"] == "completed"


async def test_without_a_fleet_there_are_no_hosts() -> None:
    async with core() as client:
        error = await _refusal(client, "host/list", {})

    assert error.code == -32601
