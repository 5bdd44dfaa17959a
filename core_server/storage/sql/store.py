"""A store in a database, written by one thread, asked from the event loop.

This is the loop's side: it bounds the queue, puts jobs into it and settles their futures.
The disk's side is `writer` and, behind it, `database`; neither is imported by the loop's.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from core_server.storage import paging
from core_server.storage.base import (
    DeleteThread,
    HostRow,
    ItemRow,
    Operation,
    PutItem,
    PutThread,
    PutTurn,
    StorageError,
    ThreadPage,
    ThreadQuery,
    ThreadRow,
    TurnRow,
)
from core_server.storage.sql import sqlite_probe
from core_server.storage.sql.owner import HEARTBEAT_S, Owner, Place, this_process
from core_server.storage.sql.writer import Close, Heal, Job, Lost, Outcome, Write, Writer

if TYPE_CHECKING:
    from core_server.storage.sql.database import Database

_T = TypeVar("_T")

MAX_QUEUED_JOBS = 16_384
"""Operations and reads that wait: a second of work for a slow disk, 16 for each of 1,000 turns."""

MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""Bodies that wait: four messages of the greatest size."""


class SqlStore:
    """See `base.Store`.

    A caller's back-pressure is its own await: whoever waits for durability before going on
    has one write queued. Beyond the bounds a write is refused; a write of any size is taken
    when nothing else waits.

    Args:
        name: What it is called in messages.
        open_database: Called in the writer's thread; imports and blocks as it likes.
        heartbeat_s: How often the leases are renewed, in seconds.
        max_queued_jobs: Bound of operations and reads that wait.
        max_queued_bytes: Bound of the bodies that wait.
    """

    spans_machines = False

    def __init__(
        self,
        name: str,
        open_database: "Callable[[], Database]",
        *,
        heartbeat_s: float = HEARTBEAT_S,
        max_queued_jobs: int = MAX_QUEUED_JOBS,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._name = name
        self._open_database = open_database
        self._database: Database | None = None  # the writer's; here only `holds` is asked
        self._on_lost: Callable[[str], None] | None = None
        self._heartbeat_s = heartbeat_s
        self._max_queued_jobs = max_queued_jobs
        self._max_queued_bytes = max_queued_bytes
        self._queued_jobs = 0
        self._queued_bytes = 0
        self._writer: Writer | None = None  # None: not open
        self._opened: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "open" if self._writer else "closed"
        return f"<{type(self).__name__} {self._name} {state} queued={self._queued_jobs}>"

    def check(self) -> None:
        """Look whether it can be opened; a server is asked by `open`, which has patience."""

    async def open(self) -> None:
        """Open or create the file; see `base.Store.open`. A no-op when it is open."""
        if self._opened is None:
            loop = asyncio.get_running_loop()
            self._opened = loop.create_future()
            self._writer = Writer(self._opening, heartbeat_s=self._heartbeat_s)
            settle = partial(self._settle, self._writer, self._opened)
            self._writer.start(partial(_report, loop, settle))
        await asyncio.shield(self._opened)

    def write(self, operations: Sequence[Operation]) -> Awaitable[None]:
        """Queue operations for the next commit; see `base.Store.write`."""
        operations = tuple(operations)
        cost_bytes = sum(map(_size_bytes, operations))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            writer = self._admit(len(operations), cost_bytes)
        except StorageError as error:
            future.set_exception(error)
        else:
            writer.put(Write(future, operations, cost_bytes))
        return future

    async def thread(self, thread_id: str) -> ThreadRow | None:
        """One thread, as of all writes queued before."""
        return await self._ask(lambda database: database.thread(thread_id))

    async def threads(self, query: ThreadQuery) -> ThreadPage:
        """A page of listed threads; see `base.Store.threads`."""
        start = paging.start_of(query)
        return await self._ask(lambda database: database.page(query, start))

    async def turns(self, thread_id: str) -> tuple[TurnRow, ...]:
        """All turns of a thread, oldest first; none `inProgress` whose owner is dead."""
        return await self._ask(lambda database: database.turns(thread_id))

    async def items(self, thread_id: str, turn_id: str | None = None) -> tuple[ItemRow, ...]:
        """All items of a thread, or of one turn, oldest first."""
        return await self._ask(lambda database: database.items(thread_id, turn_id))

    async def acquire(self, thread_id: str) -> None:
        """Become the thread's owner; see `base.Store.acquire`."""
        await self._do_alone(lambda database: database.acquire(thread_id))

    async def release(self, thread_id: str) -> None:
        """Give the thread up, after all queued writes."""
        await self._do_alone(lambda database: database.release(thread_id))

    async def close(self) -> None:
        """Commit what is queued, give up all leases, close; a no-op when it is closed.

        Raises:
            StorageError: the leases could not be given up; they end with this process.
        """
        if self._writer is None:
            return
        writer, self._writer, self._opened = self._writer, None, None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writer.put(Close(future))
        await asyncio.shield(future)

    def holds(self, thread_id: str) -> bool:
        """Whether this core surely owns the thread; see `base.Store.holds`."""
        return self._database is not None and self._database.holds(thread_id)

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """Say who hears of threads that were taken over; see `base.Store.watch`."""
        self._on_lost = on_lost

    async def check_free(self, thread_id: str) -> None:
        """Look whether the thread is another living core's."""
        await self._ask(lambda database: database.check_free(thread_id))

    async def hosts(self) -> tuple[HostRow, ...]:
        """All cores that share the store and are not known to be dead."""
        return await self._ask(lambda database: database.hosts())

    async def drain(self) -> None:
        """Say to others that this core will end."""
        await self._do_alone(lambda database: database.drain())

    def _opening(self) -> "Database":
        self._database = self._open_database()
        return self._database

    async def _ask(self, work: "Callable[[Database], _T]") -> _T:
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._admit(1, 0).put(Job(future, work))
        return await future

    async def _do_alone(self, work: "Callable[[Database], None]") -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opened_writer().put(Job(future, work, alone=True))
        await future

    def _opened_writer(self) -> Writer:
        if self._writer is None:
            raise StorageError("the thread store is not open")
        return self._writer

    def _admit(self, jobs: int, cost_bytes: int) -> Writer:
        writer = self._opened_writer()
        is_full = (
            self._queued_jobs + jobs > self._max_queued_jobs
            or self._queued_bytes + cost_bytes > self._max_queued_bytes
        )
        if is_full and self._queued_jobs:
            raise StorageError(
                f"thread store {self._name}: the disk is too slow, {self._queued_jobs} "
                "operations wait for it: try again later"
            )
        self._queued_jobs += jobs
        self._queued_bytes += cost_bytes
        return writer

    def _settle(
        self, writer: Writer, opened: "asyncio.Future[None]", outcomes: Sequence[Outcome]
    ) -> None:
        broken = frozenset[str]()
        for outcome in outcomes:
            match outcome.item:
                case None:
                    self._settle_opening(writer, opened, outcome.error)
                case Write() as write:
                    self._queued_jobs -= len(write.operations)
                    self._queued_bytes -= write.cost_bytes
                    broken |= write.threads if outcome.error else frozenset()
                case Job(alone=False):
                    self._queued_jobs -= 1
                case Lost(threads):
                    self._tell_lost(threads)
                case Close():
                    writer.join()  # it has nothing left to do
                case _:
                    pass
            if isinstance(outcome.item, Job | Write | Close):
                _resolve(outcome.item.future, outcome.value, outcome.error)
        if broken:  # behind all that was queued unaware, before all that its waiters will queue
            writer.put(Heal(broken))

    def _tell_lost(self, threads: frozenset[str]) -> None:
        for thread_id in sorted(threads):
            if self._on_lost is not None:
                self._on_lost(thread_id)

    def _settle_opening(
        self, writer: Writer, opened: "asyncio.Future[None]", error: StorageError | None
    ) -> None:
        _resolve(opened, None, error)
        if error is None:
            return
        if self._writer is writer:
            self._writer, self._opened = None, None
        failed = [
            Outcome(item, error=StorageError(str(error)))
            for item in writer.left()
            if not isinstance(item, Heal)
        ]
        self._settle(writer, opened, failed)


class SqliteStore(SqlStore):
    """The embedded default: an SQLite file.

    Args:
        path: The file; created, with its folders, if it is missing.
        owner: This core; by default drawn for this process at `open`.
        now_s: The wall clock for leases, in Unix seconds.
        heartbeat_s: How often the leases are renewed, in seconds.
        max_queued_jobs: Bound of operations and reads that wait.
        max_queued_bytes: Bound of the bodies that wait.
    """

    def __init__(
        self,
        path: Path,
        *,
        owner: Owner | None = None,
        now_s: Callable[[], float] = time.time,
        heartbeat_s: float = HEARTBEAT_S,
        max_queued_jobs: int = MAX_QUEUED_JOBS,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        def open_database() -> "Database":
            from core_server.storage.sql.database import Database  # noqa: PLC0415 - SQLAlchemy: off the loop
            from core_server.storage.sql.sqlite_file import SqliteFile  # noqa: PLC0415

            return Database(SqliteFile(path, now_s), owner or this_process())

        self._path = path
        super().__init__(
            str(path),
            open_database,
            heartbeat_s=heartbeat_s,
            max_queued_jobs=max_queued_jobs,
            max_queued_bytes=max_queued_bytes,
        )

    def check(self) -> None:
        """Look whether the file can be used; see `base.Store.check`."""
        sqlite_probe.check(self._path)


class PostgresStore(SqlStore):
    """A PostgreSQL server, for cores of many machines.

    Args:
        url: `postgresql://…`, as libpq takes it.
        name: The URL without secrets.
        place: This host among the others.
        owner: This core; by default drawn for this process at `open`.
        heartbeat_s: How often the leases are renewed; by default three times in a lease.
    """

    spans_machines = True

    def __init__(
        self,
        url: str,
        *,
        name: str,
        place: Place,
        owner: Owner | None = None,
        heartbeat_s: float | None = None,
    ) -> None:
        def open_database() -> "Database":
            from core_server.storage.sql.database import Database  # noqa: PLC0415 - SQLAlchemy: off the loop
            from core_server.storage.sql.postgres import Postgres  # noqa: PLC0415

            me = owner or this_process(place.host_id, place.url)
            medium = Postgres(url, lease_s=place.lease_s)
            return Database(medium, me, lease_s=place.lease_s)

        beat_s = place.lease_s * 0.3 if heartbeat_s is None else heartbeat_s
        super().__init__(name, open_database, heartbeat_s=beat_s)


def _report(
    loop: asyncio.AbstractEventLoop,
    settle: Callable[[Sequence[Outcome]], None],
    outcomes: Sequence[Outcome],
) -> bool:
    """Called in the writer's thread: hand a batch to the loop, all in one callback."""
    try:
        loop.call_soon_threadsafe(settle, outcomes)
    except RuntimeError:  # the loop is closed: nobody waits any more
        return False
    return True


def _resolve(future: "asyncio.Future[Any]", value: object, error: StorageError | None) -> None:
    if future.done():  # cancelled by its caller
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _size_bytes(operation: Operation) -> int:
    """About what it takes in memory; the body is all that can be large."""
    match operation:
        case DeleteThread():
            return 0
        case PutThread(row) | PutTurn(row) | PutItem(row):
            return len(row.body)
