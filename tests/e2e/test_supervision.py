"""Cores that crash, hang and babble, on real processes."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from tests.e2e.clients import has_id
from tests.e2e.processes import kill, marked, nobody_left
from tests.e2e.proxy import Client, Closed, Proxy, RpcError, fake_core, trace_proxy, turn_params

FAST = ("--restart-backoff-min", "0.05", "--restart-backoff-max", "0.1")
"""Back at once, so that a test need not wait."""

UNCONFINED = {"CORE_SERVER_SANDBOX": "none"}
"""Whatever this machine can confine: what a sandbox would end must end without it too."""

LOST = {"reason": "coreLost", "retryable": True}


async def crash(client: Client, thread: str, how: str = "crash") -> None:
    """Start a turn that ends its core."""
    await client.begin("turn/start", turn_params(thread, how))


async def test_each_request_in_flight_gets_one_error_at_once() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        silent = [await client.begin("account/read", {}) for _ in range(30)]
        began_s = time.monotonic()
        await crash(client, thread)
        for each in silent:
            message = await client.wait(partial(has_id, each))
            assert message["error"]["code"] == -32003
            assert message["error"]["data"] == LOST
        assert time.monotonic() - began_s < 1
        await proxy.logged("core.ready", times=2)
        assert await client.request("model/list", {"still": "here"}) == {"still": "here"}
        answered = [each["id"] for each in client.received if "error" in each]
        assert sorted(answered) == silent


async def test_turns_of_a_lost_core_end_as_interrupted_and_marked() -> None:
    async with trace_proxy(*FAST, core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        turn = await client.turn(thread, "hold")
        await client.wait_for("turn/started")
        kill(proxy.core_pid())
        params = (await client.wait_for("turn/completed", timeout_s=1))["params"]
        assert (params["threadId"], params["synthesized"]) == (thread, True)
        assert (params["turn"]["id"], params["turn"]["status"]) == (turn, "interrupted")


async def test_a_restarted_core_gets_its_subscribed_threads_back() -> None:
    async with trace_proxy(*FAST, core=fake_core("fake")) as proxy, proxy.client() as client:
        heard = await client.thread()
        left = await client.thread()
        await client.request("thread/unsubscribe", {"threadId": left})
        kill(proxy.core_pid())
        resumed = await client.wait_for("fake/resumed")
        assert resumed["params"]["threadId"] == heard
        await proxy.logged("core.ready", times=2)
        await client.turn(heard, "hello")
        await client.wait_for("turn/completed")
        assert client.methods().count("fake/resumed") == 1


async def test_a_real_thread_goes_on_after_its_core_was_killed() -> None:
    async with trace_proxy(*FAST) as proxy, proxy.client() as client:
        thread = await client.thread()
        await client.turn(thread, "before")
        await client.wait_for("turn/completed")
        kill(proxy.core_pid())
        await proxy.logged("core.ready", times=2)
        await client.turn(thread, "after")
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "completed"
        read = await client.request("thread/read", {"threadId": thread, "includeTurns": True})
        assert len(read["thread"]["turns"]) == 2


async def test_a_thread_can_be_resumed_while_its_core_comes_back() -> None:
    """The TUI gives a thread up for good when `thread/resume` fails with -32600."""
    async with trace_proxy(*FAST) as proxy, proxy.client() as client, proxy.client() as other:
        thread = await client.thread()
        await client.turn(thread, "before")
        await client.wait_for("turn/completed")
        for times in range(1, 4):
            kill(proxy.core_pid(times))
            for each in (client, other):
                try:
                    answer = await each.request("thread/resume", {"threadId": thread})
                except RpcError as error:  # it was given to the core that died
                    assert (error.code, error.data) == (-32003, LOST)  # noqa: PT017
                    answer = await each.request("thread/resume", {"threadId": thread})
                assert answer["thread"]["id"] == thread
            await proxy.logged("core.ready", times=times + 1)
        await client.turn(thread, "after")
        await client.wait_for("turn/completed")


async def test_a_request_while_the_core_is_down_waits_for_it() -> None:
    options = ("--restart-backoff-min", "0.5", "--restart-backoff-max", "0.5")
    async with trace_proxy(*options, core=fake_core("fake")) as proxy, proxy.client() as client:
        kill(proxy.core_pid())
        await proxy.logged("core.exited")
        assert (await proxy.get("/readyz"))[0] == 503
        assert await client.request("model/list", {"a": 1}) == {"a": 1}
        assert (await proxy.get("/readyz"))[0] == 200


async def test_a_drain_does_not_wait_for_a_core_that_is_down() -> None:
    options = ("--restart-backoff-min", "5", "--restart-backoff-max", "5")
    async with trace_proxy(*options, core=fake_core("fake")) as proxy, proxy.client() as client:
        kill(proxy.core_pid())
        await proxy.logged("core.exited")
        waiting = await client.begin("model/list", {})
        assert (await proxy.get("/readyz"))[0] == 503
        proxy.signal(signal.SIGTERM)
        refused = await client.wait(partial(has_id, waiting), timeout_s=2)
        assert refused["error"]["data"] == LOST
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 0


async def test_a_core_that_keeps_crashing_ends_the_proxy_with_one_line() -> None:
    options = (*FAST, "--max-restarts", "3")
    with_flag = "down"
    async with trace_proxy(*options, core=[*fake_core("fake"), "--once", with_flag]) as proxy:
        async with proxy.client() as client:
            (proxy.directory / with_flag).touch()
            kill(proxy.core_pid())
            assert await client.closed() == 1011
        assert await proxy.exit_code() == 1
        assert proxy.stderr.splitlines()[-1] == (
            "trace-proxy: a core does not stay up: exit code 7; run its command by hand to see why"
        )
        assert len(proxy.log("core.started")) == 3, "what cannot start twice is not tried again"


async def test_a_core_that_never_starts_ends_the_proxy_with_one_line() -> None:
    options = (*FAST, "--max-restarts", "2")
    async with trace_proxy(
        *options, core=fake_core("fake", "--exit-at-start"), wait=False
    ) as proxy:
        assert await proxy.exit_code() == 1
        assert proxy.stderr.splitlines()[-1] == (
            "trace-proxy: cannot start the core: exit code 7; run its command by hand to see why"
        )


async def test_a_core_that_cannot_start_says_why_in_the_last_line() -> None:
    store = "sqlite:////proc/none/threads.db"
    core = [sys.executable, "-m", "core_server", "--store", store]
    async with trace_proxy(core=core, wait=False) as proxy:
        assert await proxy.exit_code() == 1
        last = proxy.stderr.splitlines()[-1]
        assert last.startswith(
            "trace-proxy: cannot start the core: exit code 1: core-server: thread store"
        ), last
        assert len(proxy.log("core.started")) == 2
        assert proxy.log("proxy.ready") == []
        told = [event["line"] for event in proxy.log("core.stderr")]
        assert told == [last.partition("exit code 1: ")[2]] * 2


@pytest.mark.parametrize(("shown", "lines"), [("tail", 1), ("none", 0)])
async def test_wrong_options_of_a_core_are_not_tried_again(shown: str, lines: int) -> None:
    core = [sys.executable, "-m", "core_server", "--engine", "magic"]
    async with trace_proxy("--core-stderr", shown, core=core, wait=False) as proxy:
        assert await proxy.exit_code() == 1
        last = proxy.stderr.splitlines()[-1]
        assert ("magic" in last) is (shown == "tail"), last
        assert len(proxy.log("core.started")) == 1
        assert len(proxy.log("core.stderr")) == lines
        assert ("magic" in proxy.stderr) is (shown == "tail")


async def test_a_hung_core_is_ended_and_started_again() -> None:
    options = (*FAST, "--core-stall", "0.5")
    core = fake_core("fake", "--ignore-term")
    async with trace_proxy(*options, core=core) as proxy, proxy.client() as client:
        thread = await client.thread()
        turn = await client.turn(thread, "hang")
        lost = await client.begin("model/list", {})
        answer = await client.wait(partial(has_id, lost))
        assert answer["error"]["data"] == LOST
        assert (await client.wait_for("turn/completed"))["params"]["turn"]["id"] == turn
        await proxy.logged("core.hung", times=1)
        assert len(proxy.log("core.hung")) == 1
        await proxy.logged("core.ready", times=2)
        assert await client.request("model/list", {"a": 1}) == {"a": 1}


async def test_a_core_that_never_says_hello_is_given_up() -> None:
    options = (*FAST, "--core-start-timeout", "0.3", "--max-restarts", "1")
    core = fake_core("fake", "--never-greet")
    async with trace_proxy(*options, core=core, wait=False) as proxy:
        assert await proxy.exit_code() == 1
        reasons = [event["reason"] for event in proxy.log("core.hung")]
        assert reasons == ["no answer to initialize"] * 2
        assert proxy.stderr.splitlines()[-1].startswith("trace-proxy: cannot start the core: ")


async def test_a_stopped_core_is_a_hung_core() -> None:
    options = (*FAST, "--core-stall", "0.5")
    async with trace_proxy(*options, core=fake_core("fake")) as proxy, proxy.client() as client:
        kill(proxy.core_pid(), signal.SIGSTOP)
        assert (await client.error("model/list")).data == LOST
        await proxy.logged("core.ready", times=2)


async def test_a_silent_core_with_a_running_turn_has_not_hung() -> None:
    options = (*FAST, "--core-stall", "0.3")
    async with trace_proxy(*options, core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        await client.turn(thread, "hold")
        await asyncio.sleep(1)  # three times what a hung core gets
        await client.request("turn/interrupt", {"threadId": thread, "turnId": "x"})
        await client.wait_for("turn/completed")
        assert len(proxy.log("core.started")) == 1


async def test_garbage_is_counted_and_reaches_nobody() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        before = len(client.received)
        await client.turn(thread, "garbage 90")
        await client.wait_for("turn/completed")
        assert [each.get("method", "answer") for each in client.received[before:]] == [
            "answer",
            "turn/started",
            "turn/completed",
        ]
        await proxy.logged("core.fault", times=90)
        assert len(proxy.log("core.fault")) == 90
        assert "no json" not in proxy.stderr
        assert len(proxy.log("core.started")) == 1


async def test_too_much_garbage_restarts_the_core() -> None:
    async with trace_proxy(*FAST, core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        await client.begin("turn/start", turn_params(thread, "garbage 1000"))
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "interrupted"
        await proxy.logged("core.ready", times=2)
        await proxy.logged("core.fault", times=101)
        assert len(proxy.log("core.fault")) == 101
        await proxy.logged("core.faulty", times=1)
        assert len(proxy.log("core.faulty")) == 1


async def test_unknown_and_repeated_answers_reach_nobody() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        before = len(client.received)
        await client.turn(thread, "unknown")
        await client.wait_for("turn/completed")
        assert len([each for each in client.received[before:] if "id" in each]) == 1
        await proxy.logged("core.fault", times=3)
        assert {each["reason"] for each in proxy.log("core.fault")} == {
            "an answer to no request in flight"
        }


async def test_a_partial_line_at_the_end_is_dropped() -> None:
    async with trace_proxy(*FAST, core=fake_core("fake")) as proxy, proxy.client() as client:
        await crash(client, await client.thread(), "partial")
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "interrupted"
        await proxy.logged("core.ready", times=2)


async def test_a_line_over_the_bound_restarts_the_core() -> None:
    options = (*FAST, "--max-core-line-bytes", "100000")
    async with trace_proxy(*options, core=fake_core("fake")) as proxy, proxy.client() as client:
        await client.begin("turn/start", turn_params(await client.thread(), "big 200000"))
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["status"] == "interrupted"
        assert (await proxy.logged("core.faulty"))["reason"] == "line over --max-core-line-bytes"
        await proxy.logged("core.ready", times=2)


async def test_an_approval_of_a_lost_core_is_withdrawn_and_its_answer_ignored() -> None:
    async with trace_proxy(*FAST, core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        await client.turn(thread, "ask")
        asked = await client.wait_for("item/commandExecution/requestApproval")
        kill(proxy.core_pid())
        resolved = await client.wait_for("serverRequest/resolved")
        assert resolved["params"] == {"threadId": thread, "requestId": asked["id"]}
        await proxy.logged("core.ready", times=2)
        await client.send({"id": asked["id"], "result": {"decision": "accept"}})
        await client.turn(thread, "hello")
        await client.wait_for("turn/completed")
        texts = [each["params"].get("delta") for each in client.received if "params" in each]
        assert "decided accept" not in texts


async def test_a_flood_of_stderr_disturbs_nobody() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        await client.turn(thread, "chatter 100000")
        await client.wait_for("turn/completed")
        assert await client.request("model/list", {"a": 1}) == {"a": 1}
        assert len(proxy.stderr) < 100_000


async def test_what_a_dead_core_leaves_behind_is_ended() -> None:
    async with trace_proxy(*FAST, core=fake_core("fake")) as proxy, proxy.client() as client:
        await crash(client, await client.thread(), "crash-with-child")
        await proxy.logged("core.ready", times=2)
        assert await nobody_left(proxy.mark, within_s=1, like="time.sleep") == {}


@pytest.mark.parametrize("options", [(), ("--ignore-eof",), ("--ignore-eof", "--ignore-term")])
async def test_nothing_is_left_of_a_killed_proxy(options: tuple[str, ...]) -> None:
    async with trace_proxy(core=fake_core("fake", "--with-child", *options)) as proxy:
        async with proxy.client() as client:
            await client.turn(await client.thread(), "keep-child")
            await client.wait_for("turn/completed")
            kill(proxy.pid)
            with pytest.raises(Closed):
                await client.wait_for("never")
        assert await proxy.survivors(within_s=3) == {}


async def a_killed_core(proxy: Proxy, _client: Client) -> None:
    kill(proxy.core_pid())


async def a_crash(_proxy: Proxy, client: Client) -> None:
    await crash(client, await client.thread())


async def a_drain(proxy: Proxy, _client: Client) -> None:
    proxy.signal(signal.SIGTERM)
    assert await proxy.exit_code() == 0


async def a_forced_end(proxy: Proxy, client: Client) -> None:
    await client.turn(await client.thread(), "hold")
    proxy.signal(signal.SIGTERM)
    await proxy.logged("drain.started")
    await asyncio.sleep(0.15)  # or it would be one signal said twice
    proxy.signal(signal.SIGTERM)
    assert await proxy.exit_code() == 143


async def a_killed_proxy(proxy: Proxy, _client: Client) -> None:
    kill(proxy.pid)


@pytest.mark.parametrize("end", [a_killed_core, a_crash, a_drain, a_forced_end, a_killed_proxy])
@pytest.mark.parametrize("sessions", ["shared", "per-connection"])
async def test_what_a_core_has_started_in_a_session_of_its_own_ends_with_it(
    sessions: str, end: Callable[[Proxy, Client], Awaitable[None]]
) -> None:
    options = (*FAST, "--sessions", sessions)
    async with trace_proxy(*options, core=fake_core("fake")) as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "leave-child")
        await client.wait_for("turn/completed")
        assert "sleep 3600" in str(marked(proxy.mark))
        await end(proxy, client)
        assert await nobody_left(proxy.mark, within_s=3, like="sleep 3600") == {}


async def test_what_a_core_has_started_ends_when_its_only_client_leaves() -> None:
    core = fake_core("fake")
    async with trace_proxy("--sessions", "per-connection", core=core) as proxy:
        async with proxy.client() as client:
            await client.turn(await client.thread(), "leave-child")
            await client.wait_for("turn/completed")
        assert await nobody_left(proxy.mark, within_s=3, like="sleep 3600") == {}


async def test_nothing_is_left_of_a_killed_proxy_with_a_command_running() -> None:
    async with trace_proxy(env=UNCONFINED) as proxy, proxy.client() as client:
        await running_command(client)
        kill(proxy.pid)
        assert await proxy.survivors(within_s=3) == {}


async def test_nothing_is_left_of_a_killed_core_with_a_command_running() -> None:
    async with trace_proxy(*FAST, env=UNCONFINED) as proxy, proxy.client() as client:
        await running_command(client)
        kill(proxy.core_pid())
        await proxy.logged("core.ready", times=2)
        assert await nobody_left(proxy.mark, within_s=3, like="sleep 300") == {}


async def test_a_forced_end_leaves_no_command_running() -> None:
    async with trace_proxy(env=UNCONFINED) as proxy, proxy.client() as client:
        await running_command(client)
        proxy.signal(signal.SIGTERM)
        await proxy.logged("drain.started")
        await asyncio.sleep(0.15)  # or it would be one signal said twice
        proxy.signal(signal.SIGTERM)
        assert await proxy.exit_code(timeout_s=2) == 143
        assert await proxy.survivors(within_s=1) == {}


async def test_a_core_of_several_that_dies_disturbs_only_its_own_threads() -> None:
    options = (*FAST, "--cores", "2")
    async with trace_proxy(*options, core=fake_core("fake")) as proxy, proxy.client() as client:
        await proxy.logged("core.ready", times=2)
        threads = [await client.thread() for _ in range(2)]
        pids = [int(each.split("-")[1]) for each in threads]
        assert len(set(pids)) == 2
        for thread in threads:
            await client.turn(thread, "hold")
        kill(pids[0])
        done = await client.wait_for("turn/completed")
        assert done["params"]["threadId"] == threads[0]
        await proxy.logged("core.ready", times=3)
        await client.request("turn/interrupt", {"threadId": threads[1], "turnId": "x"})
        done = await client.wait_for("turn/completed")
        assert (done["params"]["threadId"], "synthesized" in done["params"]) == (threads[1], False)


async def running_command(client: Client) -> None:
    """A turn that runs a command which outlives all patience."""
    await client.turn(await client.thread(), "/run sleep 300")
    asked = await client.wait_for("item/commandExecution/requestApproval")
    await client.send({"id": asked["id"], "result": {"decision": "accept"}})
    await client.wait_for("item/started")


async def test_a_core_that_closes_its_stdout_is_lost_and_a_drain_ends() -> None:
    async with trace_proxy(*FAST, core=fake_core("fake")) as proxy, proxy.client() as client:
        thread = await client.thread()
        await client.turn(thread, "mute")
        asked = await client.begin("model/list")
        ended = await client.wait_for("turn/completed")
        assert ended["params"]["turn"]["status"] == "interrupted"
        answer = await client.wait(partial(has_id, asked))
        assert answer["error"]["data"]["reason"] == "coreLost"
        await proxy.logged("core.mute")
        proxy.signal(signal.SIGTERM)
        assert await proxy.exit_code() == 0


async def test_a_stopped_core_at_the_deadline_costs_no_turn_its_end() -> None:
    options = ("--drain-timeout", "0.5")
    async with trace_proxy(*options, core=fake_core("fake")) as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "hold")
        os.kill(proxy.core_pid(), signal.SIGSTOP)
        proxy.signal(signal.SIGTERM)
        ended = await client.wait_for("turn/completed")
        assert ended["params"]["turn"]["status"] == "interrupted"
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 3
