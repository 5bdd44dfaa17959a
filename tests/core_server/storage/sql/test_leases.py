"""Two cores on one store: who may write to a thread, and what a lost lease forbids."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from core_server.storage.base import (
    DeleteThread,
    PutItem,
    PutThread,
    PutTurn,
    ThreadOwnedError,
    ThreadQuery,
)
from core_server.storage.sql.owner import Owner, this_process
from core_server.storage.sql.store import SqliteStore
from tests.core_server.storage.samples import all_ids, item_row, thread_row, turn_row


class Clock:
    """Unix seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def elsewhere(name: str) -> Owner:
    """A process of another machine, of which only its lease is known."""
    return replace(this_process(), host=name, boot_id=name, pid=4711)


def dead_process() -> Owner:
    """A process of this machine that has ended."""
    return replace(this_process(), pid=2**22 + 1)


@asynccontextmanager
async def opened(
    path: Path, owner: Owner, clock: Clock, *, heartbeat_s: float = 3_600
) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, owner=owner, now_s=clock, heartbeat_s=heartbeat_s)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _begin_turn(store: SqliteStore, thread_id: str = "t") -> None:
    await store.acquire(thread_id)
    running = PutTurn(turn_row(thread_id, "u", 0, "inProgress"))
    await store.write([PutThread(thread_row(thread_id)), running])


async def _statuses(store: SqliteStore, thread_id: str = "t") -> list[str]:
    return [turn.status for turn in await store.turns(thread_id)]


def _epoch(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT epoch FROM leases").fetchone()[0])


async def test_a_living_owner_is_not_disturbed(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with opened(path, elsewhere("a"), clock) as a, opened(path, elsewhere("b"), clock) as b:
        await _begin_turn(a)

        with pytest.raises(ThreadOwnedError) as caught:
            await b.acquire("t")
        with pytest.raises(ThreadOwnedError):
            await b.write([PutThread(thread_row("t", 9))])
        with pytest.raises(ThreadOwnedError):
            await b.write([DeleteThread("t")])

        message = "thread t is owned by another core (process 4711 on a)"
        assert (str(caught.value), caught.value.owner) == (message, "process 4711 on a")
        assert await b.thread("t") == thread_row("t")
        assert await _statuses(b) == await _statuses(a) == ["inProgress"]


async def test_two_stores_of_one_process_are_two_cores(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with opened(path, this_process(), clock) as a, opened(path, this_process(), clock) as b:
        await _begin_turn(a)

        with pytest.raises(ThreadOwnedError):
            await b.acquire("t")


async def test_both_cores_list_all_threads(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with opened(path, elsewhere("a"), clock) as a, opened(path, elsewhere("b"), clock) as b:
        await _begin_turn(a, "t1")
        await _begin_turn(b, "t2")

        query = ThreadQuery(limit=1)
        assert await all_ids(a, query) == await all_ids(b, query) == ["t2", "t1"]


async def test_a_released_thread_can_be_acquired_by_another(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with opened(path, elsewhere("a"), clock) as a, opened(path, elsewhere("b"), clock) as b:
        await _begin_turn(a)
        await a.release("t")

        await b.acquire("t")

        assert _epoch(path) == 2
        with pytest.raises(ThreadOwnedError):
            await a.write([PutThread(thread_row("t", 9))])


async def test_a_closed_core_owns_nothing(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with opened(path, elsewhere("b"), clock) as b:
        async with opened(path, elsewhere("a"), clock) as a:
            await _begin_turn(a)

        assert await _statuses(b) == ["interrupted"]
        await b.acquire("t")


async def test_a_core_that_stalled_loses_its_threads_and_cannot_write(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with opened(path, elsewhere("a"), clock) as a, opened(path, elsewhere("b"), clock) as b:
        await _begin_turn(a)
        clock.now_s += 30
        assert await _statuses(b) == ["interrupted"], "even before it is taken over"

        await b.acquire("t")

        item = PutItem(item_row("t", "u", "i"))
        for _ in range(2):
            with pytest.raises(ThreadOwnedError):
                await a.write([item])
        await b.write([PutTurn(turn_row("t", "v", 1, "inProgress"))])
        assert await _statuses(a) == ["interrupted", "inProgress"]
        assert await a.items("t") == ()


async def test_a_lost_lease_stays_lost_after_the_other_gave_it_up(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with opened(path, elsewhere("a"), clock) as a, opened(path, elsewhere("b"), clock) as b:
        await _begin_turn(a)
        clock.now_s += 30
        await b.acquire("t")
        await b.write([DeleteThread("t")])
        await b.release("t")

        with pytest.raises(ThreadOwnedError, match="it was taken over and then given up"):
            await a.write([PutThread(thread_row("t"))])
        assert await a.thread("t") is None

        await a.acquire("t")
        await a.write([PutThread(thread_row("t"))])


async def test_a_core_whose_lease_is_lost_still_writes_its_other_threads(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with opened(path, elsewhere("a"), clock) as a, opened(path, elsewhere("b"), clock) as b:
        await _begin_turn(a, "lost")
        await _begin_turn(a, "kept")
        clock.now_s += 30
        await b.acquire("lost")

        lost = a.write([PutItem(item_row("lost", "u", "i"))])
        kept = a.write([PutItem(item_row("kept", "u", "i"))])

        await kept
        with pytest.raises(ThreadOwnedError):
            await lost
        assert await a.items("kept") == (item_row("kept", "u", "i"),)


async def test_a_heartbeat_keeps_the_lease(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with (
        opened(path, elsewhere("a"), clock, heartbeat_s=0.01) as a,
        opened(path, elsewhere("b"), clock) as b,
    ):
        await _begin_turn(a)
        async with asyncio.timeout(10):
            for _ in range(4):
                clock.now_s += 20
                await _renewed(path, "a", clock.now_s + 30)

        with pytest.raises(ThreadOwnedError):
            await b.acquire("t")


async def _renewed(path: Path, host: str, expires_at_s: float) -> None:
    """Look until the lease lasts that long."""
    query = "SELECT max(expires_at_s) FROM cores WHERE host = ?"
    with closing(sqlite3.connect(path)) as connection:
        while connection.execute(query, [host]).fetchone()[0] < expires_at_s:  # noqa: ASYNC110 - a commit elsewhere is no event
            await asyncio.sleep(0.005)


async def test_a_dead_owner_of_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with (
        opened(path, this_process(), clock) as b,
        opened(path, dead_process(), clock) as a,
    ):
        await _begin_turn(a)
        assert await _statuses(b) == ["interrupted"], "it never shows as running"

        await b.acquire("t")

        assert _epoch(path) == 2
        assert await _statuses(a) == ["interrupted"], "durably"
        with pytest.raises(ThreadOwnedError):
            await a.write([PutTurn(turn_row("t", "u"))])


async def test_opening_interrupts_the_turns_of_dead_owners_only(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with (
        opened(path, dead_process(), clock) as dead,
        opened(path, elsewhere("a"), clock) as living,
    ):
        await _begin_turn(dead, "t1")
        await _begin_turn(living, "t2")

        async with opened(path, this_process(), clock):
            pass

        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT thread_id, status FROM turns ORDER BY 1").fetchall()
        assert found == [("t1", "interrupted"), ("t2", "inProgress")]


async def test_leases_of_deleted_threads_do_not_stay(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with opened(path, elsewhere("a"), clock) as a:
        await _begin_turn(a)
        await a.write([DeleteThread("t")])
        await a.release("t")

        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM leases").fetchone() == (0,)


async def test_a_core_that_wakes_up_and_acquires_counts_as_living(tmp_path: Path) -> None:
    path, clock = tmp_path / "threads.db", Clock()
    async with opened(path, elsewhere("a"), clock) as a:
        clock.now_s += 30
        async with opened(path, elsewhere("b"), clock) as b:
            await a.acquire("t")

            with pytest.raises(ThreadOwnedError):
                await b.acquire("t")
