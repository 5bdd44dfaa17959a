"""What a PostgreSQL server may do to a store: each fault passes, or is one plain line."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
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
PLACES = 12
"""How many sessions the server takes."""


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A server that these tests may do to what they like; it runs when each begins."""
    postgres.needed()
    server = postgres.Server(
        postgres.new_folder(), options=("fsync=off", f"max_connections={PLACES}")
    )
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


def _writing(store: PostgresStore) -> "asyncio.Future[None]":
    written = store.write([PutItem(item_row("t", "u", "i"))])
    assert isinstance(written, asyncio.Future)
    return written


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
        with pytest.raises(ThreadOwnedError, match=r"not renewed in time|given up"):
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
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        with _every_place(server):
            opening = tasks.create_task(store.open())
            done, _ = await asyncio.wait([opening], timeout=0.3)
            assert not done
    await store.close()


@contextlib.contextmanager
def _every_place(server: postgres.Server) -> Iterator[None]:
    """Hold every place of the server, those of stores too: their sessions are ended."""
    psycopg = pytest.importorskip("psycopg")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    end += " WHERE application_name = 'core-server'"
    with contextlib.ExitStack() as held:
        keeper = held.enter_context(psycopg.connect(server.url, autocommit=True))
        taken = 1
        while taken < PLACES:  # a store may be quicker to a place that its session has left
            keeper.execute(end)
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    held.enter_context(psycopg.connect(server.url))
                    taken += 1
        yield


async def test_a_read_only_server_is_no_place_to_write(server: postgres.Server) -> None:
    url = postgres.in_schema(server.url, "readonly")
    async with asyncio.timeout(60), opened(url, lease_s=3) as store:
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


async def test_a_server_that_stands_still_is_waited_for_as_long_as_the_lease_lasts(
    server: postgres.Server,
) -> None:
    async with asyncio.timeout(60), opened(postgres.in_schema(server.url, "still")) as store:
        await _begin(store)
        with server.standing_still():
            written = _writing(store)
            await asyncio.wait([written], timeout=0.5)
            assert not written.done()
        await written

        assert store.holds("t")
        assert await store.items("t") == (item_row("t", "u", "i"),)


@pytest.mark.parametrize("by_psycopg", [True, False])
async def test_nobody_waits_for_a_server_that_stands_still_longer_than_that(
    server: postgres.Server, monkeypatch: pytest.MonkeyPatch, *, by_psycopg: bool
) -> None:
    lost: list[str] = []
    if not by_psycopg:  # as before its version 3.3
        monkeypatch.setattr("core_server.storage.sql.postgres._KNOWS_TIMEOUTS", False)
    url = postgres.in_schema(server.url, f"stiller_{by_psycopg}")
    async with asyncio.timeout(100), opened(url, lease_s=2) as store:
        store.watch(lost.append)
        await _begin(store)
        with server.standing_still():
            asked: list[Awaitable[Any]] = [store.turns("t") for _ in range(50)]
            answers = await _answers(_writing(store), *asked)

            assert all(isinstance(each, DiskError) for each in answers), answers
            assert {"no answer", "timeout expired"} & _words(answers)
            assert not store.holds("t")
            await _until(lambda: lost == ["t"])
        await _until_it_goes_well(lambda: store.acquire("t"))
        await store.write([PutTurn(turn_row("t", "v", 1, "completed"))])

        assert [turn.status for turn in await store.turns("t")] == ["interrupted", "completed"]


async def _answers(*asked: Awaitable[Any]) -> list[Any]:
    """What came of each: its value, or the error."""

    async def answer(one: Awaitable[Any]) -> Any:
        try:
            return await one
        except StorageError as error:
            return error

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(answer(one)) for one in asked]
    return [task.result() for task in running]


def _words(answers: list[Any]) -> set[str]:
    known = ("no answer", "timeout expired")
    return {words for words in known for each in answers if words in str(each)}


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - the writer's thread tells it
            await asyncio.sleep(0.02)


async def _until_it_goes_well(ask: Callable[[], Awaitable[None]]) -> None:
    """As clients do."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(StorageError):
                return await ask()
            await asyncio.sleep(0.05)


async def test_a_statement_that_an_administrator_cancels_is_done_again(
    server: postgres.Server,
) -> None:
    url = postgres.in_schema(server.url, "cancelled")
    psycopg = pytest.importorskip("psycopg")
    async with asyncio.timeout(60), opened(url) as store:
        await _begin(store)
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
            written = _writing(store)
            cancel = (
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'core-server' AND wait_event_type = 'Lock'"
            )
            while not server.execute(cancel):  # noqa: ASYNC110 - a lock in a server is no event
                await asyncio.sleep(0.02)
            other.rollback()
        await written

        assert len(await store.items("t")) == 1


async def test_a_lock_that_somebody_holds_costs_readers_an_error_and_no_lease(
    server: postgres.Server,
) -> None:
    url = postgres.in_schema(server.url, "locked")
    psycopg = pytest.importorskip("psycopg")
    async with asyncio.timeout(60), opened(url, lease_s=4) as store:
        await _begin(store)
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
            reads = [store.items("t") for _ in range(4)]
            answers = await _answers(*reads)
            other.rollback()

        words = "another session holds a lock for too long: end that one"
        assert all(str(each).endswith(words) for each in answers), answers
        assert store.holds("t")
        await store.write([PutItem(item_row("t", "u", "i"))])
        assert len(await store.items("t")) == 1


async def test_what_is_slow_in_the_server_is_ended_there(server: postgres.Server) -> None:
    url = postgres.in_schema(server.url, "slow")
    async with asyncio.timeout(60), opened(url, lease_s=4) as store:
        await _begin(store)
        server.execute("ALTER TABLE slow.items RENAME TO items_of")
        server.execute(
            "CREATE VIEW slow.items AS SELECT * FROM slow.items_of"
            " WHERE (SELECT pg_sleep(60)) IS NOT NULL"
        )

        with pytest.raises(StorageError, match="it took too long there"):
            await store.items("t")

        assert store.holds("t")
        running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        assert server.execute(running) == "0"


_FULL_DISK = """
CREATE FUNCTION {0}.refuse() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{1}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON {0}.items EXECUTE FUNCTION {0}.refuse()
"""


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("53100", "the server's disk is full: free some space there"),
        ("58030", "could not extend file"),
        ("53200", "could not extend file"),
        ("XX001", "could not extend file"),
    ],
)
async def test_a_disk_or_memory_that_is_full_over_there_fails_the_write_and_heals(
    server: postgres.Server, state: str, words: str
) -> None:
    schema = f"full_{state.lower()}"
    async with asyncio.timeout(60), opened(postgres.in_schema(server.url, schema)) as store:
        await _begin(store)
        server.execute(_FULL_DISK.format(schema, state))
        with pytest.raises(DiskError, match=words):
            await store.write([PutItem(item_row("t", "u", "i"))])
        server.execute(f"DROP TRIGGER refuse ON {schema}.items")

        await store.write([PutItem(item_row("t", "u", "i"))])

        assert store.holds("t")
        assert await store.items("t") == (item_row("t", "u", "i"),)


async def test_an_idle_session_that_the_server_ends_is_opened_again(
    server: postgres.Server,
) -> None:
    url = postgres.in_schema(server.url, "idle")
    separator = "%20-c%20idle_session_timeout%3D100"
    async with asyncio.timeout(60), opened(url + separator) as store:
        await _begin(store)
        for number in range(3):
            ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'core-server'"
            while server.execute(ours) != "0":  # noqa: ASYNC110 - the server ends it
                await asyncio.sleep(0.05)
            await store.write([PutItem(item_row("t", "u", f"i{number}", number))])

        assert len(await store.items("t")) == 3
        assert store.holds("t")


async def test_a_column_that_an_upgrade_changes_under_us_is_read_and_written(
    server: postgres.Server,
) -> None:
    async with asyncio.timeout(60), opened(postgres.in_schema(server.url, "altered")) as store:
        await _begin(store)
        for number in range(8):  # until its statements are prepared ones
            await store.write([PutItem(item_row("t", "u", f"i{number}", number))])
            assert len(await store.items("t")) == number + 1
        server.execute("ALTER TABLE altered.items ALTER COLUMN kind TYPE varchar(99)")

        assert len(await store.items("t")) == 8
        await store.write([PutItem(item_row("t", "u", "i8", 8))])

        assert len(await store.items("t")) == 9


async def test_a_server_that_is_full_when_a_session_breaks_is_waited_for(
    server: postgres.Server,
) -> None:
    async with asyncio.timeout(60), opened(postgres.in_schema(server.url, "crowd")) as store:
        await _begin(store)
        with _every_place(server):
            written = _writing(store)
            await asyncio.wait([written], timeout=0.5)
            assert not written.done()

        await written


@contextlib.contextmanager
def _with_password(server: postgres.Server, role: str) -> Iterator[Path]:
    """A role that logs in by a password alone, and a file for the one that clients use."""
    rules = server.folder / "pg_hba.conf"
    before = rules.read_text()
    passwords = server.folder.parent / f"{role}.pgpass"
    passwords.touch(mode=0o600)
    rules.write_text(f"host all {role} all scram-sha-256\n{before}")
    server.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'first'")
    server.execute("SELECT pg_reload_conf()")
    try:
        yield passwords
    finally:
        rules.write_text(before)
        server.execute("SELECT pg_reload_conf()")


async def test_a_password_that_was_changed_is_named_and_the_new_one_is_taken(
    server: postgres.Server,
) -> None:
    with _with_password(server, "rotated") as passwords:
        line = "*:*:*:rotated:{}\n".format
        passwords.write_text(line("first"))
        url = postgres.in_schema(server.url, "rotated").replace("tests@", "rotated@")
        url += f"&passfile={passwords}"
        async with asyncio.timeout(60), opened(url, lease_s=2) as store:
            await _begin(store)
            server.execute("ALTER ROLE rotated PASSWORD 'second'")
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'"
            )

            with pytest.raises(DiskError, match="password authentication failed"):
                await store.write([PutItem(item_row("t", "u", "i"))])
            passwords.write_text(line("second"))

            await _until_it_goes_well(lambda: store.acquire("t"))
            await store.write([PutTurn(turn_row("t", "v", 1, "completed"))])


async def test_behind_a_pooler_in_transaction_mode_a_store_does_without_prepared_statements(
    server: postgres.Server,
) -> None:
    async def work(store: PostgresStore, thread_id: str) -> None:
        await store.acquire(thread_id)
        running = PutTurn(turn_row(thread_id, "u", 0, "inProgress"))
        await store.write([PutThread(thread_row(thread_id)), running])
        for number in range(40):
            await store.write([PutItem(item_row(thread_id, "u", f"i{number}", number))])
            assert len(await store.items(thread_id)) == number + 1

    # Such a pooler takes no `options`, so the schema is its user's default one.
    server.execute("CREATE DATABASE pooled")
    async with asyncio.timeout(100), contextlib.AsyncExitStack() as stack:
        pooler = stack.enter_context(postgres.transaction_pooler(server))
        url = pooler.replace("/postgres", "/pooled")
        stores = [await stack.enter_async_context(opened(url)) for _ in range(4)]
        async with asyncio.TaskGroup() as tasks:
            for number, store in enumerate(stores):
                tasks.create_task(work(store, f"t{number}"))
        assert all(store.holds(f"t{number}") for number, store in enumerate(stores))


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
