import asyncio
from collections.abc import Awaitable, Sequence

import pytest

from core_server.storage.base import (
    ItemRow,
    Operation,
    PutItem,
    PutThread,
    PutTurn,
    StorageError,
    ThreadPage,
    ThreadQuery,
    thread_of,
)
from core_server.storage.memory import MemoryStore
from tests.core_process import run_turn, start_thread, text
from tests.core_server.in_process import served
from tests.stdio_client import RpcError


class FullDisk(MemoryStore):
    """A store whose writes fail as soon as `full` says so, and what is queued behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.full: tuple[type, ...] = ()
        self._unheard: list[str] = []

    def write(self, operations: Sequence[Operation]) -> Awaitable[None]:
        threads = [thread_of(operation) for operation in operations]
        behind = not set(threads).isdisjoint(self._unheard)
        if behind or any(isinstance(operation, self.full) for operation in operations):
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(self._fail, failed, threads)
            self._unheard += threads
            return failed
        return super().write(operations)

    def _fail(self, failed: asyncio.Future[None], threads: list[str]) -> None:
        for thread_id in threads:
            self._unheard.remove(thread_id)
        failed.set_exception(StorageError("disk full"))


class Confused(MemoryStore):
    """A store with a fault of its own, and one that cannot read."""

    async def threads(self, query: ThreadQuery) -> ThreadPage:  # noqa: ARG002 - the contract
        raise RuntimeError("a fault")

    async def items(
        self,
        thread_id: str,  # noqa: ARG002 - the contract
        turn_id: str | None = None,  # noqa: ARG002
    ) -> tuple[ItemRow, ...]:
        raise StorageError("unreadable")


async def test_a_fault_of_ours_is_an_internal_error_and_no_more() -> None:
    async with served(store=Confused()) as client:
        with pytest.raises(RpcError) as error:
            await client.request("thread/list", {})
        assert (error.value.code, error.value.message) == (
            -32603,
            "Internal error; see the server's log",
        )
        thread_id = await start_thread(client)
        with pytest.raises(RpcError, match="storage failed: unreadable"):
            await client.request("thread/items/list", {"threadId": thread_id})
        done = await run_turn(client, thread_id, "hi")
        assert done["turn"]["error"]["message"] == "storage failed: unreadable"


@pytest.mark.parametrize(
    "method", ["thread/start", "turn/start", "thread/name/set", "thread/goal/set"]
)
async def test_what_could_not_be_written_is_not_acknowledged(method: str) -> None:
    store = FullDisk()
    async with served(store=store) as client:
        thread_id = await start_thread(client)
        store.full = (PutThread,)
        params = {"threadId": thread_id, "input": text("hi"), "name": "n", "objective": "o"}
        with pytest.raises(RpcError) as error:
            await client.request(method, params)
        assert (error.value.code, error.value.data) == (-32603, {"reason": "storage"})
        assert "turn/started" not in client.methods()


async def test_a_thread_whose_write_failed_is_read_only_until_it_is_resumed() -> None:
    store = FullDisk()
    async with served(store=store) as client:
        thread_id = await start_thread(client)
        store.full = (PutItem,)
        turn = {"threadId": thread_id, "input": text("hi")}
        for _ in range(2):
            with pytest.raises(RpcError) as error:
                await client.request("turn/start", turn)
            assert error.value.data == {"reason": "storage"}
        store.full = ()
        with pytest.raises(RpcError, match="read-only"):
            await client.request("turn/start", turn)
        other = await start_thread(client)
        assert (await run_turn(client, other, "hi"))["turn"]["status"] == "completed"
        await client.request("thread/resume", {"threadId": thread_id})
        assert (await run_turn(client, thread_id, "hi"))["turn"]["status"] == "completed"


async def test_a_turn_whose_item_could_not_be_written_ends_as_failed_without_it() -> None:
    store = FullDisk()
    async with served(store=store) as client:
        thread_id = await start_thread(client)
        params = {"threadId": thread_id, "input": text("/slow 0.3")}
        turn = (await client.request("turn/start", params))["turn"]
        await client.wait_for("item/agentMessage/delta")
        store.full = (PutItem,)
        done = await client.wait_for("turn/completed")
    assert done["params"]["turn"]["id"] == turn["id"]
    assert done["params"]["turn"]["status"] == "failed"
    assert done["params"]["turn"]["error"]["message"].startswith("storage failed")
    completed = [
        m["params"]["item"]["type"] for m in client.received if m.get("method") == "item/completed"
    ]
    assert completed == ["userMessage"]


async def test_a_turn_whose_end_could_not_be_written_says_so() -> None:
    store = FullDisk()
    async with served(store=store) as client:
        thread_id = await start_thread(client)
        await client.request("turn/start", {"threadId": thread_id, "input": text("/slow 0.3")})
        await client.wait_for("item/agentMessage/delta")
        store.full = (PutTurn,)
        done = await client.wait_for("turn/completed")
    assert done["params"]["turn"]["status"] == "failed"
    assert "storage failed" in done["params"]["turn"]["error"]["message"]
