"""What one database does in its own way; all the rest of the store is the same for all.

`sqlite_file` and `postgres` each have one. `database` uses it in the writer's thread.
"""

from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Table
from sqlalchemy.exc import DBAPIError

from core_server.storage.base import StorageError


class Medium(Protocol):
    """A database that can hold a store.

    Attributes:
        spans_machines: Whether cores of other machines may use it. Then a core that has
            not renewed its leases in time must take them for lost before it is told.
    """

    spans_machines: bool

    def open(self) -> Connection:
        """Connect, create or upgrade the tables; for the calling thread alone.

        A transaction of the connection takes what lock it needs to write at its start,
        unless `info["reading"]` is true.

        Raises:
            StorageError: with one line that says what and what to do.
        """
        ...

    def check(self) -> None:
        """See whether the database is still the one that was opened; takes microseconds.

        Raises:
            DiskError: it is not, and nothing that is written would last.
        """
        ...

    def close(self) -> None:
        """Let the database go; never raises."""
        ...

    def insert(self, table: Table) -> Any:
        """The dialect's INSERT, which knows ON CONFLICT; dialects share its methods, not a type."""
        ...

    def now(self) -> ColumnElement[float]:
        """Unix seconds by the clock that all cores of this store share."""
        ...

    def explain(self, error: Exception) -> StorageError:
        """One line that says what is wrong with the store and what to do."""
        ...

    def spoils_all(self, error: DBAPIError) -> bool:
        """Whether no statement of the transaction could have gone well, or just this one."""
        ...

    def may_pass(self, error: DBAPIError, *, reading: bool) -> bool:
        """Whether the same transaction, on a new connection, may soon go well."""
        ...
