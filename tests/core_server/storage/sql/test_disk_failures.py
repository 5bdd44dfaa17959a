"""When the disk does not take it: nobody is told that it did, and life goes on."""

import asyncio
import resource
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from core_server.storage.base import (
    DiskError,
    PutItem,
    PutThread,
    PutTurn,
    StorageError,
    Store,
    ThreadQuery,
)
from core_server.storage.sql import sqlite_file
from core_server.storage.sql.store import SqliteStore
from tests.core_server.storage.samples import all_ids, item_row, thread_row, turn_row

LARGE = "x" * 300_000


@contextmanager
def no_file_grows_beyond(size_bytes: int) -> Iterator[None]:
    """A disk that is full for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    return tmp_path / "threads.db"


async def _opened(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    return store


async def _item_ids(store: Store) -> list[str]:
    return [item.item_id for item in await store.items("t")]


async def test_a_full_disk_fails_the_write_and_later_ones_go_well(path: Path) -> None:
    store = await _opened(path)
    await store.write([PutThread(thread_row("t")), PutTurn(turn_row("t", "u"))])

    with no_file_grows_beyond(100_000), pytest.raises(DiskError, match="disk"):
        await store.write([PutItem(item_row("t", "u", "lost", 0, LARGE))])
    await store.write([PutItem(item_row("t", "u", "kept", 1, LARGE))])
    await store.close()

    store = await _opened(path)
    assert await _item_ids(store) == ["kept"]
    await store.close()


async def test_what_is_queued_together_fails_together_on_a_full_disk(path: Path) -> None:
    store = await _opened(path)
    await store.write([PutThread(thread_row("t")), PutTurn(turn_row("t", "u"))])

    with no_file_grows_beyond(100_000):
        writes = [
            store.write([PutItem(item_row("t", "u", f"i{number}", number, LARGE))])
            for number in range(5)
        ]
        for write in writes:
            with pytest.raises(StorageError):
                await write

    assert await _item_ids(store) == []
    await store.close()


async def test_reading_works_on_a_full_disk(path: Path) -> None:
    store = await _opened(path)
    await store.write([PutThread(thread_row("t"))])

    with no_file_grows_beyond(100):
        with pytest.raises(DiskError):
            await store.write([PutThread(thread_row("t2"))])

        assert await all_ids(store, ThreadQuery(limit=1)) == ["t"]
        with pytest.raises(StorageError):
            await store.acquire("t")

    await store.acquire("t")
    await store.close()


async def test_a_thread_gets_no_hole_after_a_failed_write(path: Path) -> None:
    store = await _opened(path)
    await store.write([PutThread(thread_row("t")), PutTurn(turn_row("t", "u"))])

    at_fault = store.write([PutItem(item_row("t", "no such turn", "a"))])
    behind_it = store.write([PutItem(item_row("t", "u", "b"))])
    elsewhere = store.write([PutThread(thread_row("other"))])

    await elsewhere
    with pytest.raises(StorageError, match="FOREIGN KEY"):
        await at_fault
    with pytest.raises(StorageError, match="a write before it failed in t"):
        await behind_it
    await store.write([PutItem(item_row("t", "u", "c"))])
    assert await _item_ids(store) == ["c"]
    await store.close()


@pytest.mark.parametrize("value", ["\ud800", 2**70])
async def test_a_value_that_no_file_can_hold_fails_alone(path: Path, value: str | int) -> None:
    store = await _opened(path)
    changes = {"preview": value} if isinstance(value, str) else {"updated_at_s": value}

    unheld = store.write([PutThread(thread_row("t", **changes))])
    held = store.write([PutThread(thread_row("other"))])

    await held
    with pytest.raises(StorageError):
        await unheld
    await store.close()


async def test_a_store_locked_by_another_program_fails_and_recovers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.05)
    store = await _opened(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        for _ in range(2):
            with pytest.raises(DiskError, match="another process has held it locked"):
                await store.write([PutThread(thread_row("t"))])
        assert await store.thread("t") is None

    await store.write([PutThread(thread_row("t"))])
    await store.close()


async def test_closing_on_a_full_disk_says_so_and_closes(path: Path) -> None:
    before = set(threading.enumerate())
    store = await _opened(path)
    await store.acquire("t")

    with no_file_grows_beyond(100), pytest.raises(DiskError):
        await store.close()

    await store.close()
    assert set(threading.enumerate()) <= before


async def test_a_heartbeat_that_fails_is_tried_again(path: Path) -> None:
    store = SqliteStore(path, heartbeat_s=0.01)
    await store.open()
    with no_file_grows_beyond(100):
        await asyncio.sleep(0.05)  # some heartbeats, of which no call would tell

    await store.acquire("t")
    await store.close()


async def test_writes_that_outrun_the_disk_are_refused_at_once(path: Path) -> None:
    store = SqliteStore(path, max_queued_jobs=2)
    await store.open()
    first = store.write([PutThread(thread_row("a")), PutThread(thread_row("b"))])
    refused = store.write([PutThread(thread_row("c"))])

    with pytest.raises(StorageError, match="the disk is too slow, 2 operations wait"):
        await refused
    with pytest.raises(StorageError, match="the disk is too slow"):
        await store.thread("a")
    await first
    await store.write([PutThread(thread_row("c"))])

    assert await all_ids(store, ThreadQuery(limit=9)) == ["c", "b", "a"]
    assert repr(store) == f"<SqliteStore {path} open queued=0>"
    await store.close()


async def test_the_queue_is_bounded_in_bytes_but_takes_any_write_when_empty(path: Path) -> None:
    store = SqliteStore(path, max_queued_bytes=100)
    await store.open()
    large = store.write([PutThread(thread_row("t", body=LARGE))])
    refused = store.write([PutThread(thread_row("u"))])

    with pytest.raises(StorageError, match="the disk is too slow"):
        await refused
    await large
    await store.close()


@pytest.fixture
def occupied(path: Path) -> Path:
    path.write_text("in the way" * 100)
    return path


async def test_what_was_asked_while_opening_failed_fails_with_the_same_reason(
    occupied: Path,
) -> None:
    store = SqliteStore(occupied)
    results: list[str] = []

    async def hear(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(StorageError, match="not a database") as caught:
            await call()
        results.append(str(caught.value))

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        # all begin in one turn of the loop, before the failure can be heard
        group.create_task(hear(store.open))
        group.create_task(hear(lambda: store.write([PutThread(thread_row("t"))])))
        group.create_task(hear(lambda: store.thread("t")))
        group.create_task(hear(lambda: store.acquire("t")))
        group.create_task(hear(store.close))

    assert len(set(results)) == 1
    assert len(results) == 5
    with pytest.raises(StorageError, match="not open"):
        await store.thread("t")


async def test_calls_made_while_it_opens_are_served_afterwards(path: Path) -> None:
    store = SqliteStore(path)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(store.open())
        await asyncio.sleep(0)
        await store.write([PutThread(thread_row("t"))])
        await store.open()

    assert await store.thread("t") == thread_row("t")
    await store.close()


def test_a_store_whose_loop_is_gone_ends_its_thread(path: Path) -> None:
    before = set(threading.enumerate())
    store = SqliteStore(path, heartbeat_s=0.01)

    async def leave_it() -> None:
        await store.open()
        await store.write([PutThread(thread_row("t"))])

    asyncio.run(leave_it())

    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_each_failure_of_sqlite_has_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("PRAGMA max_page_count=2")
        with pytest.raises(sqlite3.OperationalError) as full:
            connection.execute("INSERT INTO t VALUES (zeroblob(99999))")
        with pytest.raises(sqlite3.OperationalError) as other:
            connection.execute("SELECT * FROM no_such_table")

    assert str(sqlite_file.explain(path, full.value)) == (
        f"thread store {path}: the disk is full: free some space"
    )
    assert str(sqlite_file.explain(path, other.value)) == (
        f"thread store {path}: no such table: no_such_table"
    )
