"""Many websocket clients share one real `codex app-server`, which knows only one: the proxy."""

import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.compat.cores import Core, running_core
from tests.compat.real_codex import needs_codex, needs_newest_codex, newest_codex
from tests.e2e.proxy import Client, Json, Proxy, trace_proxy, turn_params

pytestmark = needs_codex


@contextlib.asynccontextmanager
async def _shared(
    directory: Path, binary: Path | None = None
) -> AsyncIterator[tuple[Core, Proxy]]:
    """The proxy in front of a codex: the packaged one, or this."""
    async with running_core("codex", directory) as core:
        command = core.command if binary is None else (str(binary), *core.command[1:])
        async with trace_proxy(core=command, env=core.env) as proxy:
            yield core, proxy


async def _text_of(client: Client, turn: str) -> str:
    """What was streamed until the turn is completed."""

    def done(message: Json) -> bool:
        params = message.get("params", {})
        return message.get("method") == "turn/completed" and params["turn"]["id"] == turn

    assert (await client.wait(done))["params"]["turn"]["status"] == "completed"
    deltas = (each for each in client.received if each.get("method") == "item/agentMessage/delta")
    return "".join(each["params"]["delta"] for each in deltas if each["params"]["turnId"] == turn)


async def test_equal_ids_and_two_threads_stay_apart(tmp_path: Path) -> None:
    async with _shared(tmp_path) as (core, proxy), proxy.client() as one, proxy.client() as two:
        first, second = await one.thread(), await two.thread()
        assert first != second
        red = await one.turn(first, core.say("red red red"))
        blue = await two.turn(second, core.say("blue blue"))
        assert await _text_of(one, red) == "red red red"
        assert await _text_of(two, blue) == "blue blue"
        answered = [
            [each["id"] for each in client.received if "method" not in each]
            for client in (one, two)
        ]
        assert answered == [[1, 2, 3], [1, 2, 3]]
        told = {each["params"]["threadId"] for each in two.received if _of_a_turn(each)}
        assert told == {second}


def _of_a_turn(message: Json) -> bool:
    return str(message.get("method")).startswith(("turn/", "item/"))


async def test_who_resumes_a_running_thread_sees_the_rest_of_its_turn(tmp_path: Path) -> None:
    async with _shared(tmp_path) as (core, proxy), proxy.client() as one, proxy.client() as two:
        thread = await one.thread()
        turn = await one.turn(thread, core.slow(1.6))
        await one.wait_for("item/agentMessage/delta")

        resumed = await two.request("thread/resume", {"threadId": thread})
        assert resumed["thread"]["status"]["type"] == "active"
        seen, whole = await _text_of(two, turn), await _text_of(one, turn)
        assert whole.endswith(seen)
        assert whole == "word " * 8
        ends = [
            next(each for each in client.received if each.get("method") == "turn/completed")
            for client in (one, two)
        ]
        assert ends[0] == ends[1]


async def test_an_approval_is_answered_by_one_and_resolved_at_the_other(tmp_path: Path) -> None:
    async with _shared(tmp_path) as (core, proxy), proxy.client() as one, proxy.client() as two:
        thread = await one.thread()
        await one.turn(thread, core.run("echo it ran > proof"))
        asked = await one.wait_for("item/commandExecution/requestApproval")

        await two.request("thread/resume", {"threadId": thread})
        again = await two.wait_for("item/commandExecution/requestApproval")
        assert again == asked, "one id on every connection"
        await two.send({"id": again["id"], "result": {"decision": "accept"}})

        for client in (one, two):
            resolved = await client.wait_for("serverRequest/resolved")
            assert resolved["params"] == {"threadId": thread, "requestId": asked["id"]}
            done = await client.wait_for("turn/completed")
            assert done["params"]["turn"]["status"] == "completed"
        assert (proxy.directory / "proof").read_text() == "it ran\n"


async def test_a_turn_goes_on_when_its_client_leaves(tmp_path: Path) -> None:
    async with _shared(tmp_path) as (core, proxy), proxy.client() as two:
        async with proxy.client() as one:
            thread = await one.thread()
            turn = await one.turn(thread, core.slow(1))
            await one.wait_for("item/agentMessage/delta")
        await proxy.logged("connection.closed")
        await two.request("thread/resume", {"threadId": thread})
        done = await two.wait_for("turn/completed")
        assert (done["params"]["turn"]["id"], done["params"]["turn"]["status"]) == (
            turn,
            "completed",
        )


async def test_a_drain_waits_for_the_turn_and_delivers_its_end(tmp_path: Path) -> None:
    async with _shared(tmp_path) as (core, proxy), proxy.client() as one, proxy.client() as two:
        thread = await one.thread()
        turn = await one.turn(thread, core.slow(1))
        await one.wait_for("item/agentMessage/delta")
        proxy.signal(signal.SIGTERM)
        assert await two.closed() == 1012, "idle"
        refused = await one.error("turn/start", turn_params(thread, "more"))
        assert (refused.code, refused.data["reason"]) == (-32001, "draining")

        assert await _text_of(one, turn) == "word " * 5
        assert await one.closed() == 1012
        assert await proxy.exit_code() == 0
        assert await proxy.survivors() == {}


async def _review(core: Core, client: Client) -> str:
    """Start a review that streams for a while; returns the id in its answer."""
    target = {"type": "custom", "instructions": core.slow(1)}
    params = {"threadId": await client.thread(), "target": target}
    turn: str = (await client.request("review/start", params))["turn"]["id"]
    return turn


NEWEST = pytest.param(newest_codex(), marks=needs_newest_codex)


@pytest.mark.parametrize("binary", [None, NEWEST], ids=["packaged", "newest"])
async def test_a_drain_waits_for_a_review_and_ends(tmp_path: Path, binary: Path | None) -> None:
    async with _shared(tmp_path, binary) as (core, proxy), proxy.client() as client:
        turn = await _review(core, client)
        started = await client.wait_for("turn/started")
        proxy.signal(signal.SIGTERM)
        done = await client.wait_for("turn/completed")
        assert done["params"]["turn"]["id"] == turn, started
        assert done["params"]["turn"]["status"] == "completed"
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 0


@pytest.mark.parametrize("binary", [None, NEWEST], ids=["packaged", "newest"])
async def test_an_interrupted_review_leaves_no_turn_behind(
    tmp_path: Path, binary: Path | None
) -> None:
    async with _shared(tmp_path, binary) as (core, proxy), proxy.client() as client:
        await _review(core, client)
        started = (await client.wait_for("turn/started"))["params"]
        params = {"threadId": started["threadId"], "turnId": started["turn"]["id"]}
        await client.request("turn/interrupt", params)
        await client.wait_for("turn/completed")
        proxy.signal(signal.SIGTERM)
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 0


async def test_the_core_behaves_as_if_each_client_were_its_only_one(tmp_path: Path) -> None:
    """Greetings, the experimental gate and what a client opted out of are each client's own."""
    async with _shared(tmp_path) as (_, proxy), proxy.client() as plain:
        async with proxy.client(experimental=True) as bold:
            error = await plain.error("collaborationMode/list", {})
            assert error.message == "collaborationMode/list requires experimentalApi capability"
            assert (await bold.request("collaborationMode/list", {}))["data"]
            assert (await plain.error("thread/loaded/list")).message.startswith("Invalid request")
        agent = next(each["result"]["userAgent"] for each in plain.received if "result" in each)
        assert agent.endswith("(e2e; 1)")
        again = await plain.error("initialize", {"clientInfo": {"name": "e2e", "version": "2"}})
        assert again.message == "Already initialized"
