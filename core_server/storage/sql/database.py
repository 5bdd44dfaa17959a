"""One connection, used by one thread: transactions of operations, queries and leases.

`writer` decides what goes into a transaction and who hears of it; here it is done. Every
failure comes out as a `StorageError` of one line, with the transaction rolled back.

A server may go away and come back (restart, failover, too many clients), and it may undo a
transaction for another's sake (deadlock). Then the same transaction is done again on a new
connection, as long as the leases surely last: each can be done twice, since the fence at
its start says that nobody else wrote meanwhile. What is in doubt after a lost COMMIT is
thereby settled before anybody is told.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from core_server.storage import paging
from core_server.storage.base import (
    DiskError,
    HostRow,
    ItemRow,
    Operation,
    PutTurn,
    StorageError,
    ThreadPage,
    ThreadQuery,
    ThreadRow,
    TurnRow,
    thread_of,
)
from core_server.storage.sql import rows
from core_server.storage.sql.leases import Leases
from core_server.storage.sql.medium import Medium
from core_server.storage.sql.owner import LEASE_S, Owner

_T = TypeVar("_T")

FIRST_DELAY_S: Final = 0.02
LONGEST_DELAY_S: Final = 0.5
"""Between two tries: a deadlock is over at once, a restart takes a second or two."""

AWAY_S: Final = 0.5
"""A server that was waited for in vain is not tried again for so long: a try may take seconds,
and all else that waits is told at once. One that refuses at once may be asked at once."""


class Database:
    """An open store.

    Args:
        medium: The database; opened and closed here.
        me: This core.
        lease_s: How long a lease lasts without a heartbeat, in seconds.

    Raises:
        StorageError: it cannot be opened; NewerSchemaError for a newer schema.
    """

    def __init__(self, medium: Medium, me: Owner, *, lease_s: float = LEASE_S) -> None:
        self._medium = medium
        self._lease_s = lease_s
        self._rows = rows.Rows(medium.insert)
        self._leases = Leases(me, medium, lease_s=lease_s)
        self._draining = False
        self._away, self._away_until_s = "", 0.0
        self._connection = medium.open()
        try:
            self.beat()
            self._do(self._leases.bury)
        except StorageError:
            medium.close()
            raise

    def write(self, operations: Sequence[Operation]) -> None:
        """Make all operations durable in one transaction, or none.

        Raises:
            DiskError: nothing could be written.
            StorageError: an operation is at fault.
            ThreadOwnedError: a thread is not this core's to write to.
        """
        thread_ids = frozenset(map(thread_of, operations))

        def work(connection: Connection) -> None:
            held = self._leases.fence(connection, thread_ids)
            for operation in operations:
                if _is_running(operation) and thread_of(operation) not in held:
                    raise StorageError(
                        f"thread {thread_of(operation)} is not acquired: no turn can run in it"
                    )
            self._rows.apply(connection, operations)

        self._do(work, again=all(map(self._leases.holds, thread_ids)))

    def thread(self, thread_id: str) -> ThreadRow | None:
        """One thread."""
        return self._do(lambda connection: rows.thread(connection, thread_id), reading=True)

    def page(self, query: ThreadQuery, start: paging.Cursor | None) -> ThreadPage:
        """A page of listed threads."""
        return self._do(lambda connection: rows.page(connection, query, start), reading=True)

    def turns(self, thread_id: str) -> tuple[TurnRow, ...]:
        """All turns of a thread, oldest first; none `inProgress` whose owner is dead."""

        def work(connection: Connection) -> tuple[TurnRow, ...]:
            found = rows.turns_of(connection, thread_id)
            if not any(turn.status == "inProgress" for turn in found):
                return found
            if not self._leases.is_orphan(connection, thread_id):
                return found
            return tuple(_as_interrupted(turn) for turn in found)

        return self._do(work, reading=True)

    def items(self, thread_id: str, turn_id: str | None) -> tuple[ItemRow, ...]:
        """All items of a thread, or of one turn, oldest first."""
        return self._do(
            lambda connection: rows.items_of(connection, thread_id, turn_id), reading=True
        )

    def acquire(self, thread_id: str) -> None:
        """Become the thread's owner; see `base.Store.acquire`."""
        if self._leases.left_s < self._lease_s / 2:  # what it believes must last, too
            self.beat()

        def work(connection: Connection) -> tuple[int, bool]:
            acquired = self._leases.acquire(connection, thread_id)
            self._leases.beat(connection, draining=self._draining)  # it may have stalled till now
            return acquired

        epoch, taken_over = self._do(work)
        self._leases.acquired(thread_id, epoch, taken_over=taken_over)

    def release(self, thread_id: str) -> None:
        """Give the thread up."""
        self._do(lambda connection: self._leases.release(connection, [thread_id]))
        self._leases.released(thread_id)

    def check_free(self, thread_id: str) -> None:
        """Look whether the thread is another living core's; see `base.Store.check_free`."""
        self._do(lambda connection: self._leases.check_free(connection, thread_id), reading=True)

    def hosts(self) -> tuple[HostRow, ...]:
        """All cores that share the store and are not known to be dead."""
        return self._do(self._leases.hosts, reading=True)

    def holds(self, thread_id: str) -> bool:
        """Whether this core surely owns the thread; may be called from any thread."""
        return self._leases.holds(thread_id)

    def beat(self) -> frozenset[str]:
        """Renew all leases; the threads that were found to be lost since the last one."""

        def work(connection: Connection) -> tuple[float, frozenset[str]]:
            until_s = self._leases.beat(connection, draining=self._draining)
            return until_s, self._leases.find_lost(connection)

        return self._leases.renewed(*self._do(work))

    def lapse(self) -> frozenset[str]:
        """After a heartbeat that failed: the threads that may be another's by now."""
        return self._leases.lapse()

    def drain(self) -> None:
        """Say to others that this core will end: no new threads are placed here."""
        self._draining = True
        self.beat()

    def check(self) -> None:
        """See whether the store is still the one that was opened.

        Raises:
            DiskError: it is not, and nothing that is written would last.
        """
        self._medium.check()

    def close(self) -> None:
        """Give up all leases and close; it is closed even when that fails."""
        try:
            self._do(self._leases.retire)
        finally:
            self._connection.close()
            self._medium.close()

    def _do(
        self, work: Callable[[Connection], _T], *, reading: bool = False, again: bool = True
    ) -> _T:
        """Work in a transaction, and in another one if a fault passes while the leases last."""
        if self._connection.invalidated and time.monotonic() < self._away_until_s:
            raise DiskError(self._away)
        give_up_s = time.monotonic() + self._leases.left_s
        delay_s = FIRST_DELAY_S
        while True:
            begin_s = time.monotonic()
            try:
                with self._transaction(reading=reading) as connection:
                    return work(connection)
            except _PassingError as error:
                now_s = time.monotonic()
                if not again or now_s + delay_s >= give_up_s:
                    self._away = str(error)
                    self._away_until_s = now_s + min(AWAY_S, now_s - begin_s)
                    raise DiskError(str(error)) from error
            time.sleep(delay_s)
            delay_s = min(delay_s * 2, LONGEST_DELAY_S)

    @contextmanager
    def _transaction(self, *, reading: bool) -> Iterator[Connection]:
        connection = self._connection
        self._medium.check()
        try:
            connection.info["reading"] = reading
            with connection.begin():
                yield connection
            if not reading:
                self._medium.check()  # before anybody is told
        except DBAPIError as error:
            reason = self._medium.explain(error)
            if self._medium.may_pass(error, reading=reading):
                connection.invalidate()
                raise _PassingError(str(reason)) from error
            if self._medium.spoils_all(error):
                raise DiskError(str(reason)) from error
            raise reason from error
        except (UnicodeError, OverflowError, ValueError) as error:  # what no store can hold
            raise self._medium.explain(error) from error


class _PassingError(Exception):
    """The same transaction may soon go well."""


def _is_running(operation: Operation) -> bool:
    return isinstance(operation, PutTurn) and operation.row.status == "inProgress"


def _as_interrupted(turn: TurnRow) -> TurnRow:
    if turn.status != "inProgress":
        return turn
    return msgspec.structs.replace(turn, status="interrupted")
