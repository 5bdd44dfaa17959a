"""Threads through a served core: fork, archive, names, subscriptions, settings, goals."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from core_server.engines.base import Event, Prompt
from core_server.handlers import execution, turns
from core_server.storage.base import TurnRow
from core_server.storage.memory import MemoryStore
from tests.core_process import completed, run_turn, start_thread, text
from tests.core_server.in_process import served
from tests.core_server.scripted_engine import ScriptedEngine
from tests.stdio_client import RpcError

UNKNOWN = "01a2025f-778c-71c3-83de-000000000000"


async def test_a_fork_has_the_turns_up_to_the_one_that_is_named() -> None:
    async with served(experimental=True) as client:
        thread_id = await start_thread(client)
        turns = [(await run_turn(client, thread_id, f"words {n}"))["turn"]["id"] for n in range(3)]

        async def forked(**params: object) -> list[str]:
            result = await client.request("thread/fork", {"threadId": thread_id, **params})
            assert result["thread"]["forkedFromId"] == thread_id
            return [turn["id"] for turn in result["thread"]["turns"]]

        assert await forked() == turns
        assert await forked(lastTurnId=turns[1]) == turns[:2]
        assert await forked(beforeTurnId=turns[1]) == turns[:1]
        assert await forked(excludeTurns=True) == []
        with pytest.raises(RpcError, match="lastTurnId: no turn nope in the thread"):
            await forked(lastTurnId="nope")


async def test_a_fork_goes_its_own_way() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        await run_turn(client, thread_id, "common")
        fork = (await client.request("thread/fork", {"threadId": thread_id}))["thread"]["id"]
        await run_turn(client, fork, "alone")
        read = {"threadId": thread_id, "includeTurns": True}
        assert len((await client.request("thread/read", read))["thread"]["turns"]) == 1
        assert (
            len(
                (await client.request("thread/read", {**read, "threadId": fork}))["thread"][
                    "turns"
                ]
            )
            == 2
        )


async def test_a_fork_of_a_running_turn_shows_it_as_interrupted() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        await client.request("turn/start", {"threadId": thread_id, "input": text("/slow 30")})
        result = await client.request("thread/fork", {"threadId": thread_id})
        assert [turn["status"] for turn in result["thread"]["turns"]] == ["interrupted"]


async def test_archiving_stops_the_turn_and_hides_the_thread_until_it_is_unarchived() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        named = {"threadId": thread_id}
        turn = (await client.request("turn/start", {**named, "input": text("/slow 30")}))["turn"]
        await client.request("thread/archive", named)
        assert (await completed(client, turn["id"]))["turn"]["status"] == "interrupted"
        assert client.methods()[-2:] == ["thread/status/changed", "thread/archived"]
        assert (await client.request("thread/list", {}))["data"] == []
        assert len((await client.request("thread/list", {"archived": True}))["data"]) == 1
        result = await client.request("thread/unarchive", named)
        assert result["thread"]["status"] == {"type": "notLoaded"}
        await client.wait_for("thread/unarchived")
        with pytest.raises(RpcError, match="thread not found"):
            await client.request("turn/start", {**named, "input": []})
        await client.request("thread/resume", named)
        assert (await run_turn(client, thread_id, "back"))["turn"]["status"] == "completed"


async def test_a_deleted_thread_is_gone() -> None:
    async with served() as client:
        first, second = await start_thread(client), await start_thread(client)
        await run_turn(client, first, "x")
        await client.request("thread/archive", {"threadId": second})
        for thread_id in (first, second):
            await client.request("thread/delete", {"threadId": thread_id})
            await client.wait_for("thread/deleted", threadId=thread_id)
            with pytest.raises(RpcError, match="no rollout found"):
                await client.request("thread/resume", {"threadId": thread_id})


async def test_a_thread_can_be_named_whether_it_is_loaded_or_not() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        for name in ("loaded", "stored ☃"):
            await client.request("thread/name/set", {"threadId": thread_id, "name": name})
            await client.wait_for("thread/name/updated", threadName=name)
            read = await client.request("thread/read", {"threadId": thread_id})
            assert read["thread"]["name"] == name
            await client.request("thread/archive", {"threadId": thread_id})


async def test_without_a_subscription_only_the_status_is_heard() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        named = {"threadId": thread_id}
        answers = [(await client.request("thread/unsubscribe", named))["status"] for _ in range(2)]
        assert answers == ["unsubscribed", "notSubscribed"]
        unknown = await client.request("thread/unsubscribe", {"threadId": UNKNOWN})
        assert unknown == {"status": "notLoaded"}
        before = len(client.methods())
        await client.request("turn/start", {**named, "input": text("hi")})
        await client.wait_for("thread/status/changed", status={"type": "idle"})
        assert client.methods()[before:] == ["thread/status/changed"] * 2
        await client.request("thread/resume", named)
        await run_turn(client, thread_id, "hi")


async def test_an_ephemeral_thread_is_never_listed_and_gone_when_nobody_listens() -> None:
    async with served() as client:
        thread_id = await start_thread(client, ephemeral=True)
        await run_turn(client, thread_id, "hush")
        assert (await client.request("thread/list", {}))["data"] == []
        read = await client.request("thread/read", {"threadId": thread_id, "includeTurns": True})
        assert (read["thread"]["ephemeral"], len(read["thread"]["turns"])) == (True, 1)
        with pytest.raises(RpcError, match="cannot be archived"):
            await client.request("thread/archive", {"threadId": thread_id})
        await client.request("thread/unsubscribe", {"threadId": thread_id})
        with pytest.raises(RpcError, match="thread not loaded"):
            await client.request("thread/read", {"threadId": thread_id})


async def test_what_a_turn_overrides_stays_with_the_thread(tmp_path: Path) -> None:
    async with served(experimental=True) as client:
        thread_id = await start_thread(client, approvalPolicy="never")
        params = {
            "threadId": thread_id,
            "input": text("hi"),
            "cwd": str(tmp_path),
            "effort": "low",
        }
        await client.request("turn/start", {**params, "sandboxPolicy": {"type": "readOnly"}})
        told = await client.wait_for("thread/settings/updated")
        assert told["params"]["threadSettings"]["sandboxPolicy"]["type"] == "readOnly"
        resumed = await client.request(
            "thread/resume", {"threadId": thread_id, "approvalPolicy": "untrusted"}
        )
        kept = {name: resumed[name] for name in ("cwd", "reasoningEffort", "approvalPolicy")}
        assert kept == {
            "cwd": str(tmp_path),
            "reasoningEffort": "low",
            "approvalPolicy": "untrusted",
        }
        with pytest.raises(RpcError, match="cwd is not a directory"):
            await client.request("turn/start", {**params, "cwd": "/nonexistent"})


async def test_a_goal_is_kept_changed_and_cleared() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        named = {"threadId": thread_id}
        with pytest.raises(RpcError, match="missing field `objective`"):
            await client.request("thread/goal/set", {**named, "status": "paused"})
        await client.request("thread/goal/set", {**named, "objective": "win", "tokenBudget": 9})
        changed = await client.request("thread/goal/set", {**named, "status": "complete"})
        goal = changed["goal"]
        assert (goal["objective"], goal["status"], goal["tokenBudget"]) == ("win", "complete", 9)
        assert await client.request("thread/goal/get", named) == {"goal": goal}
        await client.request("thread/resume", named)
        assert await client.request("thread/goal/clear", named) == {"cleared": True}
        assert await client.request("thread/goal/clear", named) == {"cleared": False}
        assert await client.request("thread/goal/get", named) == {"goal": None}


async def test_compaction_and_own_commands_wait_for_no_turn() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        named = {"threadId": thread_id}
        await client.request("turn/start", {**named, "input": text("/slow 30")})
        with pytest.raises(RpcError, match="a turn is running"):
            await client.request("thread/compact/start", named)
        with pytest.raises(RpcError, match="command must not be empty"):
            await client.request("thread/shellCommand", {**named, "command": " "})


async def test_a_turn_started_while_one_stops_begins_after_it() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        named = {"threadId": thread_id}
        first = (await client.request("turn/start", {**named, "input": text("/slow 30")}))["turn"][
            "id"
        ]
        client.begin("turn/interrupt", {**named, "turnId": first})
        second = (await client.request("turn/start", {**named, "input": text("next")}))["turn"][
            "id"
        ]
        assert (await completed(client, second))["turn"]["status"] == "completed"
        assert (await completed(client, first))["turn"]["status"] == "interrupted"
        assert first != second


async def test_requests_of_one_thread_are_served_in_order() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        named = {"threadId": thread_id}
        await client.request("thread/archive", named)
        resumed = client.begin("thread/resume", named)
        started = client.begin("turn/start", {**named, "input": text("at once")})
        await client.answer(resumed)
        turn = (await client.answer(started))["turn"]
        assert (await completed(client, turn["id"]))["turn"]["status"] == "completed"


async def test_a_resume_can_bring_the_first_page_of_turns() -> None:
    async with served(experimental=True) as client:
        thread_id = await start_thread(client)
        ids = [(await run_turn(client, thread_id, f"words {n}"))["turn"]["id"] for n in range(3)]
        params = {"threadId": thread_id, "excludeTurns": True, "initialTurnsPage": {"limit": 2}}
        resumed = await client.request("thread/resume", params)
        assert resumed["thread"]["turns"] == []
        page = resumed["initialTurnsPage"]
        assert [turn["id"] for turn in page["data"]] == ids[:0:-1]
        more = {"threadId": thread_id, "cursor": page["nextCursor"]}
        rest = await client.request("thread/turns/list", more)
        assert [turn["id"] for turn in rest["data"]] == ids[:1]


class SlowReads(MemoryStore):
    """A store in which the first read of a running turn takes as long as a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.go_on = asyncio.Event(), asyncio.Event()

    async def turns(self, thread_id: str) -> tuple[TurnRow, ...]:
        """Read, and be slow to tell."""
        rows = await super().turns(thread_id)
        if any(row.status == "inProgress" for row in rows) and not self.reading.is_set():
            self.reading.set()
            await self.go_on.wait()
        return rows


class HeldEngine(ScriptedEngine):
    """An engine that says nothing before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def sample(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Wait, then say `done`."""
        await self.go_on.wait()
        async for event in super().sample(prompt):
            yield event


@pytest.mark.parametrize("excluded", [False, True])
async def test_a_resume_says_of_no_turn_that_it_runs_whose_end_was_told_before(
    *, excluded: bool
) -> None:
    store, engine = SlowReads(), HeldEngine()
    async with served(store=store, engine=engine, experimental=True) as client:
        thread_id = await start_thread(client)
        named = {"threadId": thread_id}
        turn = (await client.request("turn/start", {**named, "input": text("hi")}))["turn"]
        resumed = client.begin(
            "thread/resume", {**named, "excludeTurns": excluded, "initialTurnsPage": {"limit": 1}}
        )
        async with asyncio.timeout(5):
            await store.reading.wait()
        engine.go_on.set()
        assert (await completed(client, turn["id"]))["turn"]["status"] == "completed"
        store.go_on.set()

        result = await client.answer(resumed)
        shown = [*result["thread"]["turns"], *result["initialTurnsPage"]["data"]]
        assert [each["status"] for each in shown] == ["completed"] * (1 if excluded else 2)


async def test_more_turns_or_commands_than_the_bound_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "MAX_TURNS", 1)
    monkeypatch.setattr(execution, "MAX_RUNNING", 0)
    async with served() as client:
        first, second = await start_thread(client), await start_thread(client)
        await client.request("turn/start", {"threadId": first, "input": text("/slow 30")})
        for method, params in (
            ("turn/start", {"threadId": second, "input": text("hi")}),
            ("command/exec", {"command": ["true"]}),
        ):
            with pytest.raises(RpcError) as error:
                await client.request(method, params)
            assert (error.value.code, error.value.data) == (
                -32001,
                {"reason": "overloaded", "retryable": True},
            )
