"""One connection, used by one thread: transactions of operations, queries and leases.

`writer` decides what goes into a transaction and who hears of it; here it is done. Every
failure comes out as a `StorageError` of one line, with the transaction rolled back.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from core_server.storage import paging
from core_server.storage.base import (
    DiskError,
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
from core_server.storage.sql import rows, sqlite_file
from core_server.storage.sql.leases import Leases
from core_server.storage.sql.owner import LEASE_S, Owner


class Database:
    """An open store file.

    Args:
        path: The file; created if it is missing.
        me: This core.
        now_s: The wall clock, in Unix seconds: leases are compared between processes.
        lease_s: How long a lease lasts without a heartbeat, in seconds.

    Raises:
        StorageError: it cannot be opened; NewerSchemaError for a newer schema.
    """

    def __init__(
        self,
        path: Path,
        me: Owner,
        *,
        now_s: Callable[[], float] = time.time,
        lease_s: int = LEASE_S,
    ) -> None:
        self._path = path
        self._clock = now_s
        self._leases = Leases(me, lease_s=lease_s)
        sqlite_file.prepare_file(path)
        self._watch = sqlite_file.FileWatch(path)
        try:
            self._engine, self._connection = sqlite_file.connect(path)
        except (DBAPIError, sqlite3.Error) as error:
            self._watch.close()
            raise sqlite_file.explain(path, error) from error
        try:
            sqlite_file.migrate(self._connection, path)
            self._watch.check()
            with self._transaction() as connection:
                self._leases.beat(connection, now_s=self._now_s())
                self._leases.bury(connection, now_s=self._now_s())
        except (DBAPIError, sqlite3.Error) as error:
            self._disconnect()
            raise sqlite_file.explain(path, error) from error
        except StorageError:
            self._disconnect()
            raise

    def write(self, operations: Sequence[Operation]) -> None:
        """Make all operations durable in one transaction, or none.

        Raises:
            DiskError: nothing could be written.
            StorageError: an operation is at fault.
            ThreadOwnedError: a thread is not this core's to write to.
        """
        with self._transaction() as connection:
            held: dict[str, bool] = {}
            for operation in operations:
                thread_id = thread_of(operation)
                if thread_id not in held:
                    held[thread_id] = self._leases.fence(
                        connection, thread_id, now_s=self._now_s()
                    )
                if not held[thread_id] and _is_running(operation):
                    raise StorageError(
                        f"thread {thread_id} is not acquired: no turn can run in it"
                    )
                rows.apply(connection, operation)

    def thread(self, thread_id: str) -> ThreadRow | None:
        """One thread."""
        with self._transaction(reading=True) as connection:
            return rows.thread(connection, thread_id)

    def page(self, query: ThreadQuery, start: paging.Cursor | None) -> ThreadPage:
        """A page of listed threads."""
        with self._transaction(reading=True) as connection:
            return rows.page(connection, query, start)

    def turns(self, thread_id: str) -> tuple[TurnRow, ...]:
        """All turns of a thread, oldest first; none `inProgress` whose owner is dead."""
        with self._transaction(reading=True) as connection:
            found = rows.turns_of(connection, thread_id)
            if not any(turn.status == "inProgress" for turn in found):
                return found
            if not self._leases.is_orphan(connection, thread_id, now_s=self._now_s()):
                return found
        return tuple(_as_interrupted(turn) for turn in found)

    def items(self, thread_id: str, turn_id: str | None) -> tuple[ItemRow, ...]:
        """All items of a thread, or of one turn, oldest first."""
        with self._transaction(reading=True) as connection:
            return rows.items_of(connection, thread_id, turn_id)

    def acquire(self, thread_id: str) -> None:
        """Become the thread's owner; see `base.Store.acquire`."""
        with self._transaction() as connection:
            self._leases.beat(connection, now_s=self._now_s())  # it may have stalled till now
            epoch = self._leases.acquire(connection, thread_id, now_s=self._now_s())
        self._leases.acquired(thread_id, epoch)

    def release(self, thread_id: str) -> None:
        """Give the thread up."""
        with self._transaction() as connection:
            self._leases.release(connection, [thread_id])
        self._leases.released(thread_id)

    def beat(self) -> None:
        """Renew all leases."""
        with self._transaction() as connection:
            self._leases.beat(connection, now_s=self._now_s())

    def check(self) -> None:
        """See whether the file is still the one that was opened.

        Raises:
            DiskError: it is not, and nothing that is written would last.
        """
        self._watch.check()

    def close(self) -> None:
        """Give up all leases and close the file; it is closed even when that fails."""
        try:
            with self._transaction() as connection:
                self._leases.retire(connection)
        finally:
            self._disconnect()

    def _now_s(self) -> int:
        return int(self._clock())

    def _disconnect(self) -> None:
        self._connection.close()
        self._engine.dispose()
        self._watch.close()

    @contextmanager
    def _transaction(self, *, reading: bool = False) -> Iterator[Connection]:
        self._watch.check()
        self._connection.info["reading"] = reading
        try:
            with self._connection.begin():
                yield self._connection
            if not reading:
                self._watch.check()  # before anybody is told
        except DBAPIError as error:
            reason = sqlite_file.explain(self._path, error)
            if sqlite_file.spoils_all(error):
                raise DiskError(str(reason)) from error
            raise reason from error
        except (UnicodeError, OverflowError, ValueError) as error:  # a value that no file can hold
            raise StorageError(f"thread store {self._path}: {error}") from error


def _is_running(operation: Operation) -> bool:
    return isinstance(operation, PutTurn) and operation.row.status == "inProgress"


def _as_interrupted(turn: TurnRow) -> TurnRow:
    if turn.status != "inProgress":
        return turn
    return msgspec.structs.replace(turn, status="interrupted")
