"""`--sessions per-connection`: a core process for each client, over real processes."""

import asyncio
import contextlib
import json
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.collector import Collector, tree
from tests.e2e.processes import kill, marked, resident_bytes
from tests.e2e.proxy import PipeClient, Proxy, WebsocketClient, fake_core, leave, trace_proxy
from trace_proxy.settings.limits import Limits, option_of

TERM = signal.SIGTERM
MCP = fake_core("mcp")


@contextlib.asynccontextmanager
async def private(*options: str, core: list[str] = MCP, **more: Any) -> AsyncIterator[Proxy]:
    """A proxy in this mode."""
    async with trace_proxy("--sessions", "per-connection", *options, core=core, **more) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def connected(*options: str, core: list[str] = MCP) -> AsyncIterator[WebsocketClient]:
    """One client of such a proxy."""
    async with private(*options, core=core) as proxy, proxy.client(initialize=False) as client:
        yield client


async def call(client: WebsocketClient | PipeClient, name: str, **arguments: object) -> int:
    """Call a tool; returns the request's id."""
    return await client.begin("tools/call", {"name": name, "arguments": arguments})


async def core_of(client: WebsocketClient | PipeClient) -> int:
    """The pid of a client's core."""
    pid: int = (await client.request("initialize", {}))["serverInfo"]["pid"]
    return pid


def cores(proxy: Proxy) -> list[int]:
    """The living cores of a proxy."""
    living = marked(proxy.mark).items()
    return [
        pid
        for pid, argv in living
        if "mcp.py" in argv and "launch_script.py" not in argv and pid != proxy.pid
    ]


async def until(holds: Callable[[], bool], within_s: float = 5) -> None:
    """Poll what only the operating system knows."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def no_core_left(proxy: Proxy) -> None:
    await until(lambda: not cores(proxy))


def descriptors(proxy: Proxy) -> int:
    """How many the proxy has open."""
    return len(list(Path(f"/proc/{proxy.pid}/fd").iterdir()))


# ---- everything passes


@pytest.mark.parametrize("request_id", [1, "one", "\u00e9", -5, 1.5, 2**60])
async def test_ids_come_back_as_they_were_sent(request_id: object) -> None:
    async with connected() as client:
        await client.send({"jsonrpc": "2.0", "id": request_id, "method": "echo"})
        assert json.loads(await client.read()) == {
            "jsonrpc": "2.0",
            "id": request_id,
            "result": {},
        }


async def test_batches_null_ids_notifications_and_unknown_members_pass_both_ways() -> None:
    async with connected() as client:
        await client.send({"id": None, "method": "echo", "params": {"a": 1}})
        assert json.loads(await client.read()) == {
            "jsonrpc": "2.0",
            "id": None,
            "result": {"a": 1},
        }
        note = {"jsonrpc": "2.0", "method": "notifications/initialized", "_meta": {"x": []}}
        await client.send(note)
        assert (await client.wait_for("notifications/heard"))["params"] == note
        await client.write(
            '[{"id":1,"method":"echo","params":{"n":1}},\n\n {"id":"b","method":"nope"}]'
        )
        assert json.loads(await client.read()) == [
            {"jsonrpc": "2.0", "id": 1, "result": {"n": 1}},
            {
                "jsonrpc": "2.0",
                "id": "b",
                "error": {"code": -32601, "message": "Method not found"},
            },
        ]


async def test_a_core_may_ask_and_hears_the_clients_answer() -> None:
    async with connected() as client:
        await call(client, "ask")
        asked = await client.wait_for("sampling/createMessage")
        assert asked["id"] == "ask"
        answer = {"jsonrpc": "2.0", "id": "ask", "result": {"role": "assistant"}}
        await client.send(answer)
        assert (await client.wait_for("notifications/heard"))["params"] == answer


async def test_each_client_has_a_core_of_its_own() -> None:
    async with (
        private() as proxy,
        proxy.client(initialize=False) as one,
        proxy.client(initialize=False) as other,
    ):
        first, second = await core_of(one), await core_of(other)
        assert first != second
        assert sorted(cores(proxy)) == sorted([first, second])
        await call(one, "slow", seconds=3)
        assert await other.request("echo", {"quick": True}) == {"quick": True}


async def test_with_every_bound_at_one_a_client_with_one_request_at_a_time_is_served() -> None:
    ones = Limits.all_ones()
    options = [
        f"{option_of(each.name)}={getattr(ones, each.name):g}"
        for each in fields(Limits)
        if getattr(ones, each.name) == 1 and not each.name.endswith("_s")
    ]
    async with connected(*options) as client:
        for number in range(20):
            assert await client.request("echo", {"number": number}) == {"number": number}
        assert (
            len((await client.answer(await call(client, "big", size=100_000)))["data"]) == 100_000
        )


async def test_bad_input_is_answered_and_the_connection_lives() -> None:
    async with connected("--max-message-bytes", "1000") as client:
        await client.write("{nope")
        assert json.loads(await client.read())["error"]["code"] == -32700
        await client.write(json.dumps({"id": "big", "method": "echo", "params": "x" * 1500}))
        refused = json.loads(await client.read())
        assert (refused["id"], refused["error"]["data"]) == (
            "big",
            {"reason": "messageTooLarge", "limitBytes": 1000},
        )
        assert await client.request("echo", {}) == {}


async def test_a_large_answer_and_a_flood_arrive_whole_and_in_order() -> None:
    async with connected() as client:
        request = await call(client, "flood", count=5000, size=200)
        await client.answer(request)
        numbers = [each["params"]["number"] for each in client.received if "params" in each]
        assert numbers == list(range(5000))
        answer = await client.answer(await call(client, "big", size=5_000_000))
        assert len(answer["data"]) == 5_000_000


async def test_a_core_that_floods_waits_for_its_client() -> None:
    async with private() as proxy, proxy.client(initialize=False) as client:
        request = await call(client, "flood", count=4000, size=10_000)
        resident = resident_bytes(proxy.pid)
        await asyncio.sleep(1.5)  # for 40 MB to come in, if anybody took them
        assert resident_bytes(proxy.pid) - resident < 16 * 1024 * 1024
        await client.answer(request)
        numbers = [each["params"]["number"] for each in client.received if "params" in each]
        assert numbers == list(range(4000))
        assert await client.request("echo", {}) == {}


async def test_a_client_that_takes_nothing_is_cut_and_its_core_ended() -> None:
    async with private("--client-stall", "0.5") as proxy, proxy.client(initialize=False) as client:
        await call(client, "flood", count=4000, size=10_000)
        assert (await proxy.logged("connection.cut"))["reason"] == "slow_consumer"
        await leave(client.socket)
        await no_core_left(proxy)
        assert (await proxy.get("/healthz"))[0] == 200


async def test_nobody_has_to_say_initialize() -> None:
    async with connected("--initialize-timeout", "0.2") as client:
        await client.answer(await call(client, "slow", seconds=0.6))
        assert await client.request("echo", {}) == {}


async def test_stdio_is_a_client_too() -> None:
    async with private(listen="stdio://", pipes=True) as proxy:
        client = PipeClient(proxy.process)
        assert await client.request("echo", {"a": 1}) == {"a": 1}
        request = await call(client, "slow", seconds=0.3)
        client.stdin.close()
        assert await client.answer(request) == {"slept": 0.3}
        assert await client.closed() is None
        assert await proxy.exit_code() == 0
        assert await proxy.survivors(within_s=0.5) == {}


@pytest.mark.parametrize("code", [0, 3])
async def test_behind_stdio_the_end_of_the_core_is_the_end_of_the_proxy(code: int) -> None:
    async with private(listen="stdio://", pipes=True) as proxy:
        client = PipeClient(proxy.process)
        await call(client, "stop", code=code)
        assert await client.closed() is None
        assert await proxy.exit_code() == (1 if code else 0)
        assert ("the core ended: exit code 3" in proxy.stderr) is (code == 3)


async def test_ready_comes_at_once_and_no_core_runs_before_somebody_needs_it() -> None:
    async with private() as proxy:
        assert (await proxy.get("/readyz"))[0] == 200
        assert cores(proxy) == []


async def test_a_command_that_does_not_exist_is_told_at_the_start() -> None:
    async with private(core=["/no/such/program"], wait=False) as proxy:
        assert await proxy.exit_code() == 1
        assert "cannot start the core: /no/such/program" in proxy.stderr


# ---- cores that end, misbehave, or do not


@pytest.mark.parametrize(("code", "close"), [(0, 1000), (3, 1011)])
async def test_when_a_core_exits_its_client_hears_why_and_others_nothing(
    code: int, close: int
) -> None:
    async with private() as proxy, proxy.client(initialize=False) as other:
        survivor = await core_of(other)
        async with proxy.client(initialize=False) as client:
            request = await call(client, "stop", code=code)
            refused = json.loads(await client.read())
            assert (refused["id"], refused["error"]["code"]) == (request, -32003)
            assert await client.closed() == close
        assert await core_of(other) == survivor


async def test_a_killed_core_closes_its_client() -> None:
    async with private() as proxy, proxy.client(initialize=False) as client:
        kill(await core_of(client))
        message = await client.socket.receive()
        assert (message.data, message.extra) == (1011, "the core has exited")
        exited = await proxy.logged("core.exited")
        assert exited["exit_code"] == -signal.SIGKILL


async def test_a_core_that_crashes_at_once_costs_one_connection_each_time() -> None:
    core = [*MCP[:2], "/dev/null"]
    async with private(core=core) as proxy:
        for _ in range(3):
            async with proxy.client(initialize=False) as client:
                assert await client.closed() == 1000
        broken = ["sh", "-c", "exit 127"]
    async with private(core=broken) as proxy, proxy.client(initialize=False) as client:
        assert await client.closed() == 1011
        assert (await proxy.get("/healthz"))[0] == 200


async def test_a_core_that_cannot_be_started_for_want_of_descriptors_closes_its_client() -> None:
    async with private() as proxy:
        async with proxy.client(initialize=False) as client:
            await core_of(client)
        await no_core_left(proxy)
        before = descriptors(proxy)
        limit = before + 20  # for one client and its core, perhaps two
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (limit, limit))
        async with contextlib.AsyncExitStack() as stack:
            closed = None
            for _ in range(4):
                client = await stack.enter_async_context(proxy.client(initialize=False))
                await client.begin("echo", {})
                message = await client.socket.receive()
                if message.type.name == "CLOSE":
                    closed = (message.data, message.extra)
                    break
            assert closed == (1011, "the core cannot be started")
        await until(lambda: descriptors(proxy) <= before)
        async with proxy.client(initialize=False) as client:
            assert await client.request("echo", {}) == {}


async def test_garbage_is_counted_and_too_much_of_it_ends_the_core() -> None:
    async with private() as proxy, proxy.client(initialize=False) as client:
        await client.answer(await call(client, "garbage", count=5))
        await proxy.logged("core.fault", times=5)
        assert len(proxy.log("core.fault")) == 5
        metrics = (await proxy.get("/metrics"))[1]
        assert 'trace_proxy_core_faults_total{reason="line"} 5' in metrics
        await call(client, "garbage", count=200)
        assert await client.closed() == 1011
        assert await proxy.survivors(within_s=0) != {}  # the proxy itself


async def test_a_core_that_never_reads_costs_its_own_client_only() -> None:
    async with (
        private("--max-core-queue-messages", "10") as proxy,
        proxy.client(initialize=False) as client,
        proxy.client(initialize=False) as other,
    ):
        await call(client, "stop_reading", seconds=30)
        params = "x" * 100_000
        for _ in range(100):
            with contextlib.suppress(ConnectionError):
                await client.send({"method": "notifications/x", "params": params})
        assert await client.closed() == 1008
        assert await other.request("echo", {}) == {}


async def test_a_core_that_takes_nothing_and_says_nothing_has_hung() -> None:
    async with connected("--core-stall", "0.5") as client:
        await call(client, "slow", seconds=60)
        await client.begin("echo", "x" * 500_000)
        assert await client.closed() == 1011


# ---- nothing is left behind


async def test_twenty_clients_one_after_another_leave_no_child_and_no_descriptor() -> None:
    async with private() as proxy:
        async with proxy.client(initialize=False) as client:
            await core_of(client)
        await no_core_left(proxy)
        before = descriptors(proxy)
        for number in range(20):
            async with proxy.client(initialize=False) as client:
                await core_of(client)
                if number % 2:
                    await client.socket.close()
        await no_core_left(proxy)
        await proxy.logged("core.exited", times=21)
        await until(lambda: descriptors(proxy) <= before)
        assert json.loads((await proxy.get("/readyz"))[1])["connections"] == 0
        assert json.loads((await proxy.get("/readyz"))[1])["cores"] == []


async def test_a_core_that_ignores_the_end_of_input_and_term_is_killed() -> None:
    async with private(core=[*MCP, "--stubborn"]) as proxy:
        async with proxy.client(initialize=False) as client:
            await core_of(client)
        began_s = time.monotonic()
        await no_core_left(proxy)
        assert time.monotonic() - began_s < 4
        assert (await proxy.logged("core.exited"))["exit_code"] == -signal.SIGKILL


# ---- drain


async def test_a_request_in_flight_is_answered_before_the_proxy_stops() -> None:
    async with (
        private() as proxy,
        proxy.client(initialize=False) as client,
        proxy.client(initialize=False) as idle,
    ):
        await core_of(idle)
        request = await call(client, "slow", seconds=0.7)
        await proxy.logged("core.started", times=2)
        await asyncio.sleep(0.2)  # or the signal may come before the request
        proxy.signal(TERM)
        assert await idle.closed() == 1012
        assert await client.answer(request) == {"slept": 0.7}
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 0
        assert await proxy.survivors(within_s=0.5) == {}


async def test_what_is_not_done_by_the_deadline_is_cut_off_with_its_core() -> None:
    async with (
        private("--drain-timeout", "0.3", core=[*MCP, "--stubborn"]) as proxy,
        proxy.client(initialize=False) as client,
    ):
        await call(client, "slow", seconds=60)
        await asyncio.sleep(0.2)  # or the signal may come before the request
        proxy.signal(TERM)
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 3
        assert await proxy.survivors(within_s=0.5) == {}


async def test_a_killed_proxy_leaves_no_core_behind() -> None:
    async with private() as proxy, proxy.client(initialize=False) as client:
        await core_of(client)
        proxy.signal(signal.SIGKILL)
        await proxy.exit_code()
        assert await proxy.survivors(within_s=4) == {}


# ---- spans


async def test_requests_of_any_program_are_traced() -> None:
    async with Collector() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        async with private(env=env) as proxy, proxy.client(initialize=False) as client:
            await core_of(client)
            await client.request("echo", {})
            await call(client, "ask")
            await client.wait_for("sampling/createMessage")
            await client.send({"id": "ask", "result": {}})
            spans = await collector.wait_for(4)
        originals = {span.name: span.attributes.get("rpc.method_original") for span in spans}
        assert "initialize" in originals
        assert {span.attributes.get("rpc.method_original") for span in spans} >= {
            "echo",
            "tools/call",
            "sampling/createMessage",
        }


async def test_core_server_as_a_private_core_runs_a_whole_traced_turn() -> None:
    async with Collector() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        async with (
            trace_proxy("--sessions", "per-connection", env=env) as proxy,
            proxy.client() as client,
        ):
            thread = await client.thread()
            turn = await client.turn(thread, "hello there")
            done = await client.wait_for("turn/completed")
            assert (done["params"]["turn"]["id"], done["params"]["turn"]["status"]) == (
                turn,
                "completed",
            )
            spans = await collector.wait_for(
                lambda spans: any("invoke_agent" in span.name for span in spans)
            )
        drawn = "\n".join(tree(spans))
        assert "trace-proxy: turn/start [server]\n  core-server: invoke_agent" in drawn


async def test_a_running_turn_of_a_private_core_finishes_before_the_proxy_stops() -> None:
    async with trace_proxy("--sessions", "per-connection") as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "/slow 1")
        await client.wait_for("item/agentMessage/delta")
        proxy.signal(TERM)
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "completed"
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 0


async def test_a_turn_of_a_private_core_is_interrupted_at_the_deadline() -> None:
    options = ("--sessions", "per-connection", "--drain-timeout", "0.3")
    async with trace_proxy(*options) as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "/slow 30")
        await client.wait_for("item/agentMessage/delta")
        proxy.signal(TERM)
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "interrupted"
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 3
        assert all("trace-proxy" not in str(each.get("id")) for each in client.received)
