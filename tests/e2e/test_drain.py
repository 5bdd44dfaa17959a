"""Nothing lost in a drain, on real processes."""

import json
import signal
import time

import aiohttp
import pytest

from tests.e2e.draining import draining, stopped
from tests.e2e.processes import kill
from tests.e2e.proxy import fake_core, trace_proxy, turn_params

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@pytest.mark.parametrize("number", [TERM, INT, HUP])
async def test_a_running_turn_finishes_before_the_proxy_stops(number: signal.Signals) -> None:
    async with trace_proxy() as proxy, proxy.client() as client:
        thread = await client.thread()
        turn = await client.turn(thread, "/slow 1")
        await client.wait_for("item/agentMessage/delta")

        await draining(proxy, number)
        status, text, _ = await proxy.get("/readyz")
        assert status == 503
        state = json.loads(text)
        assert (state["state"], state["turns"], state["connections"], state["deadline"]) == (
            "draining",
            1,
            1,
            None,
        )
        assert (await proxy.get("/healthz"))[0] == 200

        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["id"] == turn
        assert done["params"]["turn"]["status"] == "completed"
        assert await client.closed() == 1012
        await stopped(proxy)


async def test_an_idle_proxy_closes_its_clients_and_stops() -> None:
    async with trace_proxy() as proxy, proxy.client() as one, proxy.client() as other:
        proxy.signal(TERM)
        assert await one.closed() == 1012
        assert await other.closed() == 1012
        await stopped(proxy)


async def test_while_draining_new_work_is_refused_and_all_else_goes_on() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        await client.turn(thread, "hold")
        await draining(proxy)

        for method in ("turn/start", "thread/start", "thread/resume", "thread/fork", "turn/steer"):
            refused = await client.error(method, turn_params(thread, "more"))
            assert refused.code == -32001
            assert 1_000 <= refused.data.pop("retryAfterMs") <= 5_000
            assert refused.data == {"reason": "draining", "retryable": True}
        assert await client.request("model/list", {"a": 1}) == {"a": 1}

        await client.request("turn/interrupt", {"threadId": thread, "turnId": "x"})
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "interrupted"
        assert await client.closed() == 1012
        await stopped(proxy)


async def test_while_draining_an_upgrade_is_told_to_come_back() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        await client.turn(thread, "hold")
        await draining(proxy)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await proxy.connect()
        assert refused.value.status == 503
        assert refused.value.headers is not None
        assert int(refused.value.headers["Retry-After"]) >= 1
        await client.request("turn/interrupt", {"threadId": thread, "turnId": "x"})
        await stopped(proxy)


async def test_a_pending_approval_may_be_given_during_the_drain() -> None:
    async with trace_proxy() as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "/run echo approved-in-time")
        asked = await client.wait_for("item/commandExecution/requestApproval")
        await draining(proxy)
        await client.send({"id": asked["id"], "result": {"decision": "decline"}})
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] in ("completed", "interrupted")
        assert await client.closed() == 1012
        await stopped(proxy)


async def test_a_turn_whose_client_has_left_is_still_finished() -> None:
    async with trace_proxy() as proxy:
        async with proxy.client() as client:
            thread = await client.thread()
            await client.turn(thread, "/slow 1")
            await client.wait_for("item/agentMessage/delta")
        await draining(proxy)
        await stopped(proxy)
        assert [each["status"] for each in proxy.log("turn.ended")] == ["completed"]


async def test_a_core_that_dies_during_the_drain_ends_its_turns_and_is_not_restarted() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "hold")
        await draining(proxy)
        kill(proxy.core_pid())
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "interrupted"
        assert await client.closed() == 1012
        await stopped(proxy)
        assert len(proxy.log("core.started")) == 1


async def test_experimental_clients_are_told_when_to_come_back() -> None:
    async with (
        trace_proxy("--drain-timeout", "20", core=fake_core("fake")) as proxy,
        proxy.client(experimental=True) as told,
        proxy.client() as plain,
    ):
        for client in (told, plain):
            await client.turn(await client.thread(), "hold")
        before_s = time.time()
        await draining(proxy)
        params = (await told.wait_for("server/draining"))["params"]
        assert 0 < params.pop("reconnectAfterMs") <= 5_000
        assert abs(params.pop("deadlineAt") - before_s - 20) < 2
        assert params == {"reason": "SIGTERM"}
        for client in (told, plain):
            thread = next(
                each for each in client.received if "result" in each and "thread" in each["result"]
            )
            await client.request(
                "turn/interrupt", {"threadId": thread["result"]["thread"]["id"], "turnId": "x"}
            )
            assert await client.closed() == 1012
        assert "server/draining" not in plain.methods()
        await stopped(proxy)


async def test_idle_clients_leave_first_and_those_with_turns_last() -> None:
    async with (
        trace_proxy(core=fake_core("fake")) as proxy,
        proxy.client() as busy,
        proxy.client() as idle,
    ):
        thread = await busy.thread()
        await busy.turn(thread, "hold")
        await draining(proxy)
        assert await idle.closed() == 1012
        assert await busy.request("model/list", {}) == {}
        await busy.request("turn/interrupt", {"threadId": thread, "turnId": "x"})
        assert await busy.closed() == 1012
        await stopped(proxy)


async def test_a_burst_of_turns_at_the_signal_is_admitted_or_refused_never_lost() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as client:
        threads = [await client.thread() for _ in range(20)]
        ids = [
            await client.begin("turn/start", turn_params(each, "hello")) for each in threads[:10]
        ]
        proxy.signal(TERM)
        ids += [
            await client.begin("turn/start", turn_params(each, "hello")) for each in threads[10:]
        ]
        assert await client.closed() == 1012
        answers = [
            each for each in client.received if each.get("id") in ids and "method" not in each
        ]
        assert sorted(each["id"] for each in answers) == sorted({each["id"] for each in answers})
        admitted = [each for each in answers if "result" in each]
        ended = [each for each in client.received if each.get("method") == "turn/completed"]
        assert len(ended) == len(admitted)
        assert all(
            each["error"]["data"]["reason"] == "draining" for each in answers if "error" in each
        )
        await stopped(proxy)


async def test_a_turn_that_was_promised_but_has_not_begun_is_waited_for() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        await client.request("thread/compact/start", {"threadId": thread})
        await draining(proxy)
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "completed"
        assert await client.closed() == 1012
        await stopped(proxy)


async def test_end_of_input_drains_a_wrapper() -> None:
    async with trace_proxy(listen="stdio://", pipes=True) as proxy:
        client = await proxy.pipe_client()
        await client.turn(await client.thread(), "/slow 0.5")
        client.stdin.close()
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "completed"
        assert await client.closed() is None
        await stopped(proxy)


async def test_a_signal_drains_a_wrapper_whose_client_is_not_told_to_come_back() -> None:
    async with trace_proxy(listen="stdio://", pipes=True) as proxy:
        client = await proxy.pipe_client(experimental=True)
        await client.turn(await client.thread(), "/slow 0.5")
        proxy.signal(TERM)
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "completed"
        assert await client.closed() is None
        assert "server/draining" not in client.methods()
        await stopped(proxy)


async def test_end_of_input_drains_the_websockets_next_to_it() -> None:
    async with (
        trace_proxy("--listen", "stdio://", pipes=True) as proxy,
        proxy.client() as other,
    ):
        client = await proxy.pipe_client()
        await other.turn(await other.thread(), "/slow 0.5")
        client.stdin.close()
        assert (await other.wait_for("turn/completed"))["params"]["turn"]["status"] == "completed"
        assert await other.closed() == 1012
        await stopped(proxy)


async def test_until_the_cores_are_gone_late_clients_hear_503_and_not_a_refusal() -> None:
    core = fake_core("fake", "--ignore-eof", "--ignore-term")
    async with trace_proxy(core=core) as proxy, proxy.client() as client:
        proxy.signal(TERM)
        assert await client.closed() == 1012
        status, text, _ = await proxy.get("/readyz")
        assert (status, json.loads(text)["state"]) == (503, "closing")
        assert (await proxy.get("/healthz"))[0] == 200
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await proxy.connect()
        assert refused.value.status == 503
        await stopped(proxy)


async def test_a_request_whose_client_has_left_holds_nothing_up() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy:
        async with proxy.client() as client:
            await client.begin("account/read", {})  # never answered
            await client.request("model/list", {})
        await proxy.logged("connection.closed")
        proxy.signal(TERM)
        await stopped(proxy)
