"""Several cores on one store: one owner a thread, one list for all."""

import signal
from pathlib import Path

import pytest

from tests.core_process import completed, core, run_turn, start_thread, text
from tests.stdio_client import RpcError


def _store(path: Path) -> str:
    return f"sqlite:///{path}/threads.db"


async def test_a_thread_has_one_owner_and_lists_are_alike(tmp_path: Path) -> None:
    async with core(store=_store(tmp_path)) as first, core(store=_store(tmp_path)) as second:
        thread_id = await start_thread(first)
        await run_turn(first, thread_id, "mine")
        with pytest.raises(RpcError) as error:
            await second.request("thread/resume", {"threadId": thread_id})
        assert error.value.code == -32600
        assert (error.value.data["reason"], error.value.data["retryable"]) == ("threadOwned", True)
        lists = [await each.request("thread/list", {}) for each in (first, second)]
        assert [[thread["id"] for thread in each["data"]] for each in lists] == [[thread_id]] * 2
        read = await second.request("thread/read", {"threadId": thread_id, "includeTurns": True})
        assert [turn["status"] for turn in read["thread"]["turns"]] == ["completed"]


async def test_a_dead_owners_thread_is_taken_over_at_once(tmp_path: Path) -> None:
    async with core(store=_store(tmp_path)) as second:
        async with core(store=_store(tmp_path)) as first:
            thread_id = await start_thread(first)
            params = {"threadId": thread_id, "input": text("/slow 30")}
            await first.request("turn/start", params)
            await first.wait_for("item/agentMessage/delta")
            first.process.send_signal(signal.SIGKILL)
            await first.process.wait()
        resumed = await second.request("thread/resume", {"threadId": thread_id})
        assert [turn["status"] for turn in resumed["thread"]["turns"]] == ["interrupted"]
        assert (await run_turn(second, thread_id, "on"))["turn"]["status"] == "completed"


async def test_a_core_that_ends_gives_its_threads_up(tmp_path: Path) -> None:
    async with core(store=_store(tmp_path)) as second:
        async with core(store=_store(tmp_path)) as first:
            thread_id = await start_thread(first)
        resumed = await second.request("thread/resume", {"threadId": thread_id})
        assert resumed["thread"]["id"] == thread_id
        answer = await second.request("turn/start", {"threadId": thread_id, "input": text("hi")})
        assert (await completed(second, answer["turn"]["id"]))["turn"]["status"] == "completed"
