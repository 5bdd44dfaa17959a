"""Clients and cores that do not read, or write too much."""

import asyncio
import contextlib
import signal
import time
from collections import Counter

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.e2e.clients import text_of
from tests.e2e.processes import kill
from tests.e2e.proxy import Client, fake_core, trace_proxy
from tests.e2e.proxy import turn_params as params

FAST = ("--restart-backoff-min", "0.05", "--restart-backoff-max", "0.1")
CORE = fake_core("fake")


async def undisturbed(neighbour: Client, times: int = 20) -> float:
    """A neighbour gets its answers; returns the slowest, in seconds."""
    slowest_s = 0.0
    for number in range(times):
        began_s = time.monotonic()
        assert await neighbour.request("model/list", {"n": number}) == {"n": number}
        slowest_s = max(slowest_s, time.monotonic() - began_s)
    return slowest_s


def answers(client: Client) -> Counter[object]:
    """How often each request was answered."""
    return Counter(each["id"] for each in client.received if "method" not in each)


async def test_a_client_that_does_not_read_is_cut_and_may_resume() -> None:
    bound = ("--max-client-queue-bytes", "1000000")
    async with trace_proxy(*bound, core=CORE) as proxy, proxy.client() as neighbour:
        async with proxy.client() as slow:
            thread = await slow.thread()
            await slow.begin("turn/start", params(thread, "flood 20000 1000"))
            await proxy.logged("connection.cut")
            assert await undisturbed(neighbour) < 2
            assert await slow.closed() == 1013
        await proxy.logged("connection.closed")
        await neighbour.request("thread/resume", {"threadId": thread})
        await neighbour.turn(thread, "hello")
        await neighbour.wait_for("turn/completed")
        assert (await proxy.get("/readyz"))[0] == 200


async def test_a_cut_client_that_never_reads_its_close_is_gone_all_the_same() -> None:
    bounds = ("--max-client-queue-bytes", "1000000", "--slow-close-timeout", "0.5")
    async with trace_proxy(*bounds, core=CORE) as proxy, proxy.client() as slow:
        await slow.begin("turn/start", params(await slow.thread(), "flood 20000 1000"))
        await proxy.logged("connection.cut")
        await proxy.logged("connection.closed", timeout_s=3)


async def test_a_client_without_progress_is_cut_below_every_bound_in_bytes() -> None:
    bounds = ("--client-stall", "0.5", "--max-client-queue-bytes", "100000000")
    async with trace_proxy(*bounds, core=CORE) as proxy, proxy.client() as slow:
        await slow.begin("turn/start", params(await slow.thread(), "flood 30000 1000"))
        await proxy.logged("connection.cut")
        assert await slow.closed() == 1013


async def test_deltas_of_a_slow_reader_are_joined_and_nothing_is_lost() -> None:
    bounds = (
        *("--soft-client-queue-timeout", "0.3", "--max-client-queue-bytes", "100000000"),
        *("--max-client-queue-messages", "100000"),
    )
    async with trace_proxy(*bounds, core=CORE) as proxy, proxy.client() as slow:
        thread = await slow.thread()
        await slow.begin("turn/start", params(thread, "flood 30000 1000"))
        await asyncio.sleep(3)  # it reads late: that is the test
        await slow.wait_for("turn/completed")
        assert text_of(slow) == "".join(f"{n:06d}" + "x" * 994 for n in range(30000))
        assert len(slow.received) < 25_000
        assert proxy.log("connection.cut") == []


async def test_one_frame_larger_than_the_bound_is_delivered_to_who_reads() -> None:
    bound = ("--max-client-queue-bytes", "100000")
    async with trace_proxy(*bound, core=CORE) as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "big 5000000")
        await client.wait_for("turn/completed")
        assert text_of(client) == "x" * 5_000_000


async def test_the_queues_of_all_clients_together_are_bounded() -> None:
    # Wide bounds of one client, so that only this one can cut.
    wide = ("--max-client-queue-bytes", "1000000000", "--max-client-queue-messages", "1000000")
    bounds = (*wide, "--client-stall", "600", "--max-client-queues-bytes", "3000000")
    async with (
        trace_proxy(*bounds, core=CORE) as proxy,
        proxy.client() as neighbour,
        proxy.client() as one,
        proxy.client() as other,
    ):
        for client in (one, other):
            await client.begin("turn/start", params(await client.thread(), "flood 60000 1000"))
        await proxy.logged("connection.cut")
        await undisturbed(neighbour)


async def test_requests_over_the_bound_are_shed_at_once_and_each_is_answered_once() -> None:
    async with trace_proxy(*FAST, core=CORE) as proxy, proxy.client() as client:
        ids = [await client.begin("account/read", {}) for _ in range(300)]
        for _ in range(44):
            shed = await client.wait(lambda each: "error" in each, timeout_s=2)
            assert shed["error"]["code"] == -32001
            assert shed["error"]["data"] == {"reason": "overloaded", "retryable": True}
        # Reading goes on, and what frees others is admitted when there is room again.
        refused = await client.error("model/list")
        assert refused.code == -32001
        kill(proxy.core_pid())
        for _ in range(256):
            lost = await client.wait(lambda each: "error" in each)
            assert lost["error"]["code"] == -32003
        counted = answers(client)
        assert {each: counted[each] for each in ids} == dict.fromkeys(ids, 1)
        await proxy.logged("core.ready", times=2)
        await undisturbed(client)


async def test_clients_without_answers_leave_room_for_others_at_the_reference_server() -> None:
    async with trace_proxy(core=CORE) as proxy, proxy.client() as neighbour:
        async with contextlib.AsyncExitStack() as stack:
            stuck = [await stack.enter_async_context(proxy.client()) for _ in range(5)]
            for client in stuck:
                for _ in range(100):
                    await client.begin("account/read", {})
                assert await undisturbed(neighbour) < 2
        assert await undisturbed(neighbour) < 2
        kill(proxy.core_pid())
        await proxy.logged("core.ready", times=2)
        await undisturbed(neighbour)


async def test_the_whole_proxy_has_its_own_bound() -> None:
    async with (
        trace_proxy("--max-in-flight", "10", core=CORE) as proxy,
        proxy.client() as one,
        proxy.client() as other,
    ):
        for _ in range(10):
            await one.begin("account/read", {})
        assert (await one.error("model/list")).code == -32001
        for _ in range(3):  # half is the other's, and he leaves half of that
            assert await other.request("model/list") == {}
            await other.begin("account/read", {})
        assert (await other.error("model/list")).code == -32001


async def test_bytes_in_flight_are_bounded_too() -> None:
    bound = ("--max-in-flight-bytes-per-connection", "100000")
    async with trace_proxy(*bound, core=CORE) as proxy, proxy.client() as client:
        for _ in range(3):
            await client.begin("account/read", {"text": "x" * 30_000})
        refused = await client.error("model/list", {"text": "x" * 30_000})
        assert refused.data == {"reason": "overloaded", "retryable": True}


async def test_a_message_over_the_limit_is_answered_and_the_connection_lives() -> None:
    bound = ("--max-message-bytes", "10000")
    async with trace_proxy(*bound, core=CORE) as proxy, proxy.client() as client:
        refused = await client.error("model/list", {"text": "x" * 20_000})
        assert refused.data == {"reason": "messageTooLarge", "limitBytes": 10_000}
        await undisturbed(client)
        await client.begin("model/list", {"text": "x" * 50_000})
        assert await client.closed() == 1009


async def test_the_default_limit_holds_images() -> None:
    async with trace_proxy(core=CORE) as proxy, proxy.client() as client:
        image = "x" * (15 * 1024 * 1024)
        assert await client.request("model/list", {"image": image}) == {"image": image}
        refused = await client.error("model/list", {"image": image + image})
        assert refused.data == {"reason": "messageTooLarge", "limitBytes": 16 * 1024 * 1024}
        await undisturbed(client, 1)


@pytest.mark.parametrize("size", [14 * 1024 * 1024, 8 * 1024])
async def test_large_messages_wait_for_their_turn_and_small_ones_for_nothing(size: int) -> None:
    slowly = ("--large-message-bytes-per-second", "1")
    text = {"text": "x" * size}
    async with (
        trace_proxy(*slowly, core=CORE) as proxy,
        proxy.client() as large,
        asyncio.TaskGroup() as tasks,
    ):
        async with proxy.client() as neighbour:
            began_s = time.monotonic()
            assert await large.request("model/list", text) == text
            first_s = time.monotonic() - began_s
            await undisturbed(neighbour)
            second = tasks.create_task(large.request("model/list", text))
            until_s = time.monotonic() + max(0.5, 5 * first_s)
            while time.monotonic() < until_s:
                await undisturbed(neighbour)
            assert not second.done(), "at some bytes a second it waits for an hour"
        assert await second == text, "alone, it waits for nothing"


@pytest.mark.parametrize(
    ("payload", "kind", "code"),
    [(b'{"id":1001}', WSMsgType.BINARY, 1003), (b'"\xff\xfe"', WSMsgType.TEXT, 1007)],
)
async def test_what_is_no_text_closes_with_its_code(
    payload: bytes, kind: WSMsgType, code: int
) -> None:
    async with trace_proxy(core=CORE) as proxy, proxy.client() as neighbour:
        async with proxy.client() as client:
            await client.socket.send_frame(payload, kind)
            assert await client.closed() == code
        await undisturbed(neighbour, 1)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"id":1001}', '{"method":7,"id":1002}', "[" * 500]
)
async def test_what_is_no_request_is_answered_and_the_connection_lives(text: str) -> None:
    async with trace_proxy(core=CORE) as proxy, proxy.client() as client:
        await client.write(text)
        await undisturbed(client, 3)
        for error in (each["error"] for each in client.received if "error" in each):
            assert error["code"] in (-32700, -32600)


async def test_a_flood_of_pings_without_reading_stops_nobody() -> None:
    async with trace_proxy(core=CORE) as proxy, proxy.client() as neighbour:
        async with proxy.client() as flooder:
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(5):
                    for _ in range(200_000):
                        await flooder.socket.ping(b"x" * 125)
            assert await undisturbed(neighbour) < 2
        assert (await proxy.get("/healthz"))[0] == 200


async def test_full_pipes_both_ways_deadlock_nothing() -> None:
    bounds = ("--max-client-queue-bytes", "2000000", "--core-stall", "1", *FAST)
    async with trace_proxy(*bounds, core=CORE) as proxy, proxy.client() as neighbour:
        async with proxy.client() as client:
            thread = await client.thread()
            await client.begin("turn/start", params(thread, "flood 20000 1000"))
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(3):
                    for _ in range(400):
                        await client.begin("model/list", {"text": "x" * 30_000})
            await undisturbed(neighbour)
        await undisturbed(neighbour)
        proxy.signal(signal.SIGTERM)
        assert await proxy.exit_code() == 0


async def test_a_core_that_does_not_read_sheds_and_is_ended_and_each_is_answered_once() -> None:
    bounds = ("--core-stall", "1", "--max-core-queue-bytes", "500000", *FAST)
    async with trace_proxy(*bounds, core=CORE) as proxy, proxy.client() as client:
        thread = await client.thread()
        ids = [await client.begin("turn/start", params(thread, "hang"))]
        ids += [await client.begin("model/list", {"text": "x" * 30_000}) for _ in range(60)]
        await proxy.logged("core.ready", times=2)
        await undisturbed(client)
        counted = answers(client)
        assert {each: counted[each] for each in ids} == dict.fromkeys(ids, 1)
        codes = Counter(each["error"]["code"] for each in client.received if "error" in each)
        assert set(codes) == {-32001, -32003}


async def test_notifications_that_a_core_does_not_take_end_their_client() -> None:
    bounds = ("--max-client-answers", "5", "--core-stall", "60")
    async with trace_proxy(*bounds, core=CORE) as proxy, proxy.client() as neighbour:
        async with proxy.client() as client:
            await client.turn(await client.thread(), "hang")
            for _ in range(60):
                await client.send({"method": "fake/note", "params": {"text": "x" * 30_000}})
            assert await client.closed() == 1008
        assert (await proxy.get("/readyz"))[0] == 200
        assert proxy.log("core.exited") == []
        await neighbour.begin("model/list", {})


async def test_who_does_not_initialize_in_time_is_closed() -> None:
    async with (
        trace_proxy("--initialize-timeout", "0.3", core=CORE) as proxy,
        proxy.client() as good,
        proxy.client(initialize=False) as silent,
    ):
        assert await silent.closed() == 1008
        await undisturbed(good, 3)


@pytest.mark.parametrize("option", ["--max-connections", "--max-connections-per-ip"])
async def test_one_connection_too_many_is_told_to_come_back(option: str) -> None:
    async with trace_proxy(option, "2", core=CORE) as proxy, proxy.client() as client:
        async with proxy.client():
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await proxy.connect()
            assert refused.value.status == 503
            assert refused.value.headers is not None
            assert int(refused.value.headers["Retry-After"]) >= 1
        await proxy.logged("connection.closed")
        async with proxy.client() as third:
            await undisturbed(third, 1)
        await undisturbed(client, 1)


async def test_two_hundred_slow_handshakes_hold_nobody_up() -> None:
    async with trace_proxy("--handshake-timeout", "1", core=CORE) as proxy:
        host, _, port = proxy.url.removeprefix("ws://").partition(":")
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
        try:
            for _, writer in slow:
                writer.write(b"GET / HTTP/1.1\r\nHost:")
            began_s = time.monotonic()
            async with proxy.client() as client:
                await undisturbed(client, 3)
            assert time.monotonic() - began_s < 1
            async with asyncio.timeout(5):
                for reader, _ in slow:
                    with contextlib.suppress(ConnectionError):
                        await reader.read()
        finally:
            for _, writer in slow:
                writer.close()
