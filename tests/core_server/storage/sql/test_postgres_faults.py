"""What a PostgreSQL server may do to a store: each fault passes, or is one plain line."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from core_server.storage.base import (
    DiskError,
    NewerSchemaError,
    PutItem,
    PutThread,
    PutTurn,
    StorageError,
    ThreadOwnedError,
)
from core_server.storage.opening import open_store
from core_server.storage.sql.owner import Place
from core_server.storage.sql.store import PostgresStore
from tests import postgres
from tests.core_server.storage.samples import item_row, thread_row, turn_row

LEASE_S = 10


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A server that these tests may do to what they like; it runs when each begins."""
    postgres.needed()
    server = postgres.Server(postgres.new_folder(), options=("fsync=off", "max_connections=12"))
    server.create()
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def opened(url: str, lease_s: float = LEASE_S) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, name="store", place=Place(lease_s=lease_s))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _begin(store: PostgresStore) -> None:
    await store.acquire("t")
    running = PutTurn(turn_row("t", "u", 0, "inProgress"))
    await store.write([PutThread(thread_row("t")), running])


async def test_a_write_in_the_middle_of_a_restart_is_done_afterwards(
    server: postgres.Server,
) -> None:
    async with asyncio.timeout(60), opened(postgres.in_schema(server.url, "restart")) as store:
        await _begin(store)
        await asyncio.to_thread(server.stop, signal.SIGQUIT)

        written = store.write([PutItem(item_row("t", "u", "i"))])
        await asyncio.to_thread(server.start)
        await written

        assert await store.items("t") == (item_row("t", "u", "i"),)
        assert (await store.turns("t"))[0].status == "inProgress"


async def test_a_session_that_an_administrator_ends_is_opened_again(
    server: postgres.Server,
) -> None:
    async with asyncio.timeout(60), opened(postgres.in_schema(server.url, "ended")) as store:
        await _begin(store)
        for number in range(3):
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'core-server'"
            )
            await store.write([PutItem(item_row("t", "u", f"i{number}", number))])

        assert len(await store.items("t")) == 3


async def test_a_server_that_stays_away_fails_the_writes_and_the_thread_is_let_go(
    server: postgres.Server,
) -> None:
    lost: list[str] = []
    async with asyncio.timeout(60), opened(postgres.in_schema(server.url, "away"), 1.0) as store:
        store.watch(lost.append)
        await _begin(store)
        await asyncio.to_thread(server.stop)

        with pytest.raises(DiskError, match=r"thread store postgresql://tests@127\.0\.0\.1"):
            await store.write([PutItem(item_row("t", "u", "i"))])
        async with asyncio.timeout(10):
            while not lost:  # noqa: ASYNC110 - the writer's thread tells it
                await asyncio.sleep(0.02)
        assert not store.holds("t")

        await asyncio.to_thread(server.start)
        with pytest.raises(ThreadOwnedError, match="its lease was not renewed in time"):
            await store.write([PutItem(item_row("t", "u", "i"))])
        await store.acquire("t")
        assert store.holds("t")
        assert [turn.status for turn in await store.turns("t")] == ["interrupted"]


async def test_a_deadlock_or_a_conflict_is_tried_again(server: postgres.Server) -> None:
    url = postgres.in_schema(server.url, "conflict")
    psycopg = pytest.importorskip("psycopg")
    async with asyncio.timeout(60), opened(url) as store:
        await _begin(store)
        with psycopg.connect(url) as other:
            other.execute("SELECT 1 FROM leases FOR UPDATE")
            written = store.write([PutItem(item_row("t", "u", "i"))])
            while not other.execute(  # noqa: ASYNC110 - a lock in a server is no event
                "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype IN ('tuple', 'transactionid')"
            ).fetchone():  # until it waits for us
                await asyncio.sleep(0.02)
            other.rollback()
        await written

        assert len(await store.items("t")) == 1


async def test_a_host_that_stalls_inside_a_transaction_blocks_nobody_for_long(
    server: postgres.Server,
) -> None:
    url = postgres.in_schema(server.url, "stalled")
    psycopg = pytest.importorskip("psycopg")
    async with asyncio.timeout(60), opened(url, lease_s=2) as store:
        await _begin(store)
        # A session with our settings that stops where a host might: holding a lease's row.
        stalled = psycopg.connect(url)
        stalled.execute("SET idle_in_transaction_session_timeout = 1000")
        stalled.execute("SELECT 1 FROM leases FOR UPDATE")

        await store.write([PutItem(item_row("t", "u", "i"))])

        with pytest.raises(psycopg.Error):
            stalled.execute("SELECT 1")
        stalled.close()


async def test_a_full_server_is_waited_for(server: postgres.Server) -> None:
    url = postgres.in_schema(server.url, "crowded")
    store = open_store(url)
    held = _every_place(server)
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        opening = tasks.create_task(store.open())
        done, _ = await asyncio.wait([opening], timeout=0.3)
        assert not done
        for connection in held:
            connection.close()
    await store.close()


def _every_place(server: postgres.Server) -> list[Any]:
    psycopg = pytest.importorskip("psycopg")
    held = []
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            held.append(psycopg.connect(server.url))
    return held


async def test_a_read_only_server_is_no_place_to_write(server: postgres.Server) -> None:
    url = postgres.in_schema(server.url, "readonly")
    async with asyncio.timeout(60), opened(url, lease_s=1) as store:
        await _begin(store)
        server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        server.execute("SELECT pg_reload_conf()")
        try:
            with pytest.raises(StorageError, match=r"read-only|read-write"):
                await _write_on(store)
        finally:
            postgres.psql(
                server.url + "?options=-cdefault_transaction_read_only%3Doff",
                "ALTER SYSTEM RESET default_transaction_read_only",
            )
            server.execute("SELECT pg_reload_conf()")


async def _write_on(store: PostgresStore) -> None:
    while True:
        await store.write([PutItem(item_row("t", "u", "i"))])


async def test_a_promoted_standby_is_found_and_written_to() -> None:
    postgres.needed()
    primary = postgres.Server(postgres.new_folder())
    primary.create()
    primary.start()
    url = postgres.in_schema(primary.url, "threads")
    standby = postgres.Server(postgres.new_folder())
    standby.copy_from(primary)
    standby.start()
    hosts = url.replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{standby.port}/")
    try:
        async with asyncio.timeout(100), opened(hosts, lease_s=30) as store:
            await _begin(store)
            here = primary.execute("SELECT pg_current_wal_lsn()")
            replayed = f"SELECT pg_last_wal_replay_lsn() >= '{here}'"
            while standby.execute(replayed) != "t":  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
            await asyncio.to_thread(primary.stop, signal.SIGQUIT)
            written = store.write([PutItem(item_row("t", "u", "i"))])
            await asyncio.to_thread(standby.promote)

            await written

            assert await store.items("t") == (item_row("t", "u", "i"),)
            assert standby.execute("SELECT count(*) FROM threads.items") == "1"
    finally:
        primary.stop()
        standby.stop()


async def test_what_cannot_get_better_is_said_at_once(server: postgres.Server) -> None:
    wrong = server.url.replace("/postgres", "/no_such_database")
    async with asyncio.timeout(4):
        with pytest.raises(StorageError, match='database "no_such_database" does not exist'):
            await open_store(wrong).open()


async def test_a_newer_schema_and_another_programs_tables_are_refused(
    server: postgres.Server,
) -> None:
    newer = postgres.in_schema(server.url, "newer")
    async with opened(newer):
        server.execute("UPDATE newer.core_server_schema SET version = 99")
    with pytest.raises(NewerSchemaError, match="schema 99, this one knows"):
        await open_store(newer).open()

    foreign = postgres.in_schema(server.url, "foreign_tables")
    server.execute("CREATE TABLE foreign_tables.threads (colour text)")
    with pytest.raises(StorageError, match="another program's tables"):
        await open_store(foreign).open()
    assert server.execute("SELECT count(*) FROM foreign_tables.threads") == "0"


async def test_an_older_schema_is_taken_up_once_by_hosts_that_start_together(
    server: postgres.Server,
) -> None:
    url = postgres.in_schema(server.url, "older")
    async with opened(url) as store:
        await _begin(store)
    for name in ("host_id", "url", "draining", "load"):
        server.execute(f"ALTER TABLE older.cores DROP COLUMN {name}")
    server.execute("UPDATE older.core_server_schema SET version = 1")

    stores = [open_store(url) for _ in range(4)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for each in stores:
            tasks.create_task(each.open())

    assert await stores[0].thread("t") == thread_row("t")
    for each in stores:
        await each.close()


async def test_a_thousand_threads_are_given_up_at_once(server: postgres.Server) -> None:
    url = postgres.in_schema(server.url, "thousand")
    async with asyncio.timeout(100), opened(url) as other:
        async with opened(url) as store:
            for number in range(1000):
                await store.acquire(f"t{number}")
                await store.write([PutThread(thread_row(f"t{number}"))])
            before_s = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before_s < 10
        for number in range(1000):
            await other.acquire(f"t{number}")
        assert all(other.holds(f"t{number}") for number in range(1000))


async def test_text_with_nul_and_its_escape_comes_back_as_it_was() -> None:
    row = thread_row("t", preview="a\0b\x1a0c\x1asd", name="\x1a", cwd="/w\0")
    store = open_store(postgres.new_store_url())
    await store.open()

    await store.write([PutThread(row)])

    assert await store.thread("t") == row
    await store.close()


async def test_hosts_that_start_together_bury_the_same_dead_without_waiting_for_each_other(
    server: postgres.Server,
) -> None:
    url = postgres.in_schema(server.url, "buried")
    for _ in range(3):
        async with opened(url) as store:
            await _begin(store)
            server.execute(
                "INSERT INTO buried.cores SELECT 'dead' || n, 'h', '', '', n, 0, 0"
                " FROM generate_series(1, 50) AS n"
            )
        stores = [open_store(url, Place(lease_s=2)) for _ in range(5)]
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            for each in stores:
                tasks.create_task(each.open())
        for each in stores:
            await each.close()

    assert server.execute("SELECT count(*) FROM buried.cores") == "0"
