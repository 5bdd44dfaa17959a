"""Two cores on one store: who may write to a thread, and what a lost lease forbids."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from core_server.storage.base import (
    DeleteThread,
    PutItem,
    PutThread,
    PutTurn,
    ThreadOwnedError,
    ThreadQuery,
)
from core_server.storage.sql.owner import Owner, Place, this_process
from core_server.storage.sql.store import PostgresStore, SqliteStore, SqlStore
from tests.core_server.storage.samples import all_ids, item_row, thread_row, turn_row
from tests.postgres import new_store_url

LEASE_S = 30


class World:
    """A store that several cores open, and time that passes when the test says so."""

    @asynccontextmanager
    async def opened(self, owner: Owner, *, heartbeat_s: float = 3_600) -> AsyncIterator[SqlStore]:
        store = self._store(owner, heartbeat_s)
        await store.open()
        try:
            yield store
        finally:
            await store.close()

    def epoch(self) -> int:
        return int(self.rows("SELECT epoch FROM leases")[0][0])

    def pass_(self, seconds: float) -> None:
        raise NotImplementedError

    def lasts_s(self, host: str) -> float:
        """How long the lease of a host's core lasts."""
        raise NotImplementedError

    def rows(self, sql: str, *values: float) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def _store(self, owner: Owner, heartbeat_s: float) -> SqlStore:
        raise NotImplementedError


class OnSqlite(World):
    """Its clock is the test's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now_s = 1_000_000.0

    def pass_(self, seconds: float) -> None:
        self._now_s += seconds

    def lasts_s(self, host: str) -> float:
        return float(_latest(self, host)) - self._now_s

    def rows(self, sql: str, *values: float) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._path)) as connection:
            return connection.execute(sql, values).fetchall()

    def _store(self, owner: Owner, heartbeat_s: float) -> SqlStore:
        return SqliteStore(
            self._path, owner=owner, now_s=lambda: self._now_s, heartbeat_s=heartbeat_s
        )


class OnPostgres(World):
    """Its clock is the server's: instead of it, the leases go back."""

    def __init__(self) -> None:
        self._url = new_store_url()

    def pass_(self, seconds: float) -> None:
        self.rows("UPDATE cores SET expires_at_s = expires_at_s - %s RETURNING 1", seconds)

    def lasts_s(self, host: str) -> float:
        now_s = self.rows("SELECT extract(epoch FROM clock_timestamp())")[0][0]
        return float(_latest(self, host)) - float(now_s)

    def rows(self, sql: str, *values: float) -> list[tuple[Any, ...]]:
        import psycopg  # noqa: PLC0415 - an extra

        with psycopg.connect(self._url) as connection:
            return connection.execute(sql.encode(), values).fetchall()

    def _store(self, owner: Owner, heartbeat_s: float) -> SqlStore:
        return PostgresStore(
            self._url,
            name="postgres",
            place=Place(lease_s=LEASE_S),
            owner=owner,
            heartbeat_s=heartbeat_s,
        )


def _latest(world: World, host: str) -> float:
    found = dict(world.rows("SELECT host, max(expires_at_s) FROM cores GROUP BY host"))
    return float(found[host])


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return OnSqlite(tmp_path / "threads.db") if request.param == "sqlite" else OnPostgres()


def elsewhere(name: str) -> Owner:
    """A process of another machine, of which only its lease is known."""
    return replace(this_process(), host=name, host_id=name, boot_id=name, pid=4711)


def dead_process() -> Owner:
    """A process of this machine that has ended."""
    return replace(this_process(), pid=2**22 + 1)


async def _begin_turn(store: SqlStore, thread_id: str = "t") -> None:
    await store.acquire(thread_id)
    running = PutTurn(turn_row(thread_id, "u", 0, "inProgress"))
    await store.write([PutThread(thread_row(thread_id)), running])


async def _statuses(store: SqlStore, thread_id: str = "t") -> list[str]:
    return [turn.status for turn in await store.turns(thread_id)]


async def test_a_living_owner_is_not_disturbed(world: World) -> None:
    async with world.opened(elsewhere("a")) as a, world.opened(elsewhere("b")) as b:
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


async def test_two_stores_of_one_process_are_two_cores(world: World) -> None:
    async with world.opened(this_process()) as a, world.opened(this_process()) as b:
        await _begin_turn(a)

        with pytest.raises(ThreadOwnedError):
            await b.acquire("t")


async def test_both_cores_list_all_threads(world: World) -> None:
    async with world.opened(elsewhere("a")) as a, world.opened(elsewhere("b")) as b:
        await _begin_turn(a, "t1")
        await _begin_turn(b, "t2")

        query = ThreadQuery(limit=1)
        assert await all_ids(a, query) == await all_ids(b, query) == ["t2", "t1"]


async def test_what_was_taken_over_and_refused_is_counted(world: World) -> None:
    async with world.opened(elsewhere("a")) as a, world.opened(elsewhere("b")) as b:
        await _begin_turn(a)
        await b.acquire("b's own")
        world.pass_(30)
        await b.acquire("t")
        with pytest.raises(ThreadOwnedError):
            await a.write([PutThread(thread_row("t", 9))])
        found = [next(row for row in await store.hosts() if row.me) for store in (a, b)]

    assert [(row.load, row.taken_over, row.fenced) for row in found] == [(0, 0, 1), (2, 1, 0)]


async def test_a_released_thread_can_be_acquired_by_another(world: World) -> None:
    async with world.opened(elsewhere("a")) as a, world.opened(elsewhere("b")) as b:
        await _begin_turn(a)
        await a.release("t")

        await b.acquire("t")

        assert world.epoch() == 2
        with pytest.raises(ThreadOwnedError):
            await a.write([PutThread(thread_row("t", 9))])


async def test_a_closed_core_owns_nothing(world: World) -> None:
    async with world.opened(elsewhere("b")) as b:
        async with world.opened(elsewhere("a")) as a:
            await _begin_turn(a)

        assert await _statuses(b) == ["interrupted"]
        await b.acquire("t")


async def test_a_core_that_stalled_loses_its_threads_and_cannot_write(world: World) -> None:
    async with world.opened(elsewhere("a")) as a, world.opened(elsewhere("b")) as b:
        await _begin_turn(a)
        world.pass_(30)
        assert await _statuses(b) == ["interrupted"], "even before it is taken over"

        await b.acquire("t")

        item = PutItem(item_row("t", "u", "i"))
        for _ in range(2):
            with pytest.raises(ThreadOwnedError):
                await a.write([item])
        await b.write([PutTurn(turn_row("t", "v", 1, "inProgress"))])
        assert await _statuses(a) == ["interrupted", "inProgress"]
        assert await a.items("t") == ()


async def test_a_lost_lease_stays_lost_after_the_other_gave_it_up(world: World) -> None:
    async with world.opened(elsewhere("a")) as a, world.opened(elsewhere("b")) as b:
        await _begin_turn(a)
        world.pass_(30)
        await b.acquire("t")
        await b.write([DeleteThread("t")])
        await b.release("t")

        with pytest.raises(ThreadOwnedError, match="it was taken over and then given up"):
            await a.write([PutThread(thread_row("t"))])
        assert await a.thread("t") is None

        await a.acquire("t")
        await a.write([PutThread(thread_row("t"))])


async def test_a_core_whose_lease_is_lost_still_writes_its_other_threads(world: World) -> None:
    async with world.opened(elsewhere("a")) as a, world.opened(elsewhere("b")) as b:
        await _begin_turn(a, "lost")
        await _begin_turn(a, "kept")
        world.pass_(30)
        await b.acquire("lost")

        lost = a.write([PutItem(item_row("lost", "u", "i"))])
        kept = a.write([PutItem(item_row("kept", "u", "i"))])

        await kept
        with pytest.raises(ThreadOwnedError):
            await lost
        assert await a.items("kept") == (item_row("kept", "u", "i"),)


async def test_a_heartbeat_keeps_the_lease(world: World) -> None:
    async with (
        world.opened(elsewhere("a"), heartbeat_s=0.01) as a,
        world.opened(elsewhere("b")) as b,
    ):
        await _begin_turn(a)
        async with asyncio.timeout(10):
            for _ in range(4):
                world.pass_(20)
                await _renewed(world, "a")

        with pytest.raises(ThreadOwnedError):
            await b.acquire("t")


async def _renewed(world: World, host: str) -> None:
    """Look until the lease is as good as new."""
    while world.lasts_s(host) < LEASE_S - 5:  # noqa: ASYNC110 - a commit elsewhere is no event
        await asyncio.sleep(0.005)


async def test_a_dead_owner_of_this_machine_is_taken_over_at_once(world: World) -> None:
    async with (
        world.opened(this_process()) as b,
        world.opened(dead_process()) as a,
    ):
        await _begin_turn(a)
        assert await _statuses(b) == ["interrupted"], "it never shows as running"

        await b.acquire("t")

        assert world.epoch() == 2
        assert await _statuses(a) == ["interrupted"], "durably"
        with pytest.raises(ThreadOwnedError):
            await a.write([PutTurn(turn_row("t", "u"))])


async def test_opening_interrupts_the_turns_of_dead_owners_only(world: World) -> None:
    async with (
        world.opened(dead_process()) as dead,
        world.opened(elsewhere("a")) as living,
    ):
        await _begin_turn(dead, "t1")
        await _begin_turn(living, "t2")

        async with world.opened(this_process()):
            pass

        found = world.rows("SELECT thread_id, status FROM turns ORDER BY 1")
        assert found == [("t1", "interrupted"), ("t2", "inProgress")]


async def test_leases_of_deleted_threads_do_not_stay(world: World) -> None:
    async with world.opened(elsewhere("a")) as a:
        await _begin_turn(a)
        await a.write([DeleteThread("t")])
        await a.release("t")

        assert world.rows("SELECT count(*) FROM leases") == [(0,)]


async def test_a_core_that_wakes_up_and_acquires_counts_as_living(world: World) -> None:
    async with world.opened(elsewhere("a")) as a:
        world.pass_(30)
        async with world.opened(elsewhere("b")) as b:
            await a.acquire("t")

            with pytest.raises(ThreadOwnedError):
                await b.acquire("t")


async def test_two_hosts_of_one_name_hear_of_each_other() -> None:
    world = OnPostgres()
    one, two = (
        replace(elsewhere(boot), host="h", host_id="same", url=f"ws://{boot}") for boot in "ab"
    )
    with structlog.testing.capture_logs() as logs:
        async with (
            world.opened(one, heartbeat_s=0.05) as first,
            world.opened(two, heartbeat_s=0.05) as second,
            asyncio.timeout(30),
        ):
            while len([each for each in logs if _is_twice(each)]) < 2:
                for store in (first, second):
                    await store.hosts()
            for store in (first, second):
                await store.hosts()

    told = {each["other"].partition(" at ")[2] for each in logs if _is_twice(each)}
    assert told == {"ws://a", "ws://b"}
    assert len([each for each in logs if _is_twice(each)]) == 2, "each says it once"


def _is_twice(line: Any) -> bool:
    return bool(line["event"] == "storage.host_id_twice")


async def test_a_host_that_is_started_anew_under_its_name_is_no_second_one() -> None:
    world = OnPostgres()
    before, after = (replace(elsewhere(boot), host_id="same") for boot in "ab")
    with structlog.testing.capture_logs() as logs:
        async with world.opened(before) as gone, world.opened(after) as store:
            await gone.acquire("t")
            await store.acquire("t")
            for _ in range(3):
                assert [each.me for each in await store.hosts()] == [True]

    assert not any(map(_is_twice, logs))
