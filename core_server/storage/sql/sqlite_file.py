"""All that is only true of SQLite: the file, its header, pragmas, locks and error names.

The rest of the store speaks SQLAlchemy Core; `postgres` is the other module of this kind.
"""

import contextlib
import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Double,
    Engine,
    NullPool,
    Table,
    create_engine,
    event,
    literal,
)
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
)

from core_server.storage.base import DiskError, StorageError
from core_server.storage.sql import schema
from core_server.storage.sql.sqlite_probe import (
    APPLICATION_ID,
    BUSY_TIMEOUT_S,
    FOREIGN,
    MAGIC,
    check_versions,
    refusal,
)
from core_server.storage.sql.sqlite_probe import explain as explain  # noqa: PLC0414 - re-export
from core_server.storage.sql.sqlite_probe import prepare_file as prepare_file  # noqa: PLC0414


class SqliteFile:
    """See `medium.Medium`.

    Args:
        path: The file; created if it is missing.
        now_s: The wall clock, in Unix seconds: leases are compared between processes.
    """

    spans_machines = False

    def __init__(self, path: Path, now_s: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = now_s
        self._engine: Engine | None = None
        self._watch: FileWatch | None = None

    def open(self) -> Connection:
        """Open or create the file; see `medium.Medium.open`."""
        prepare_file(self._path)
        self._watch = FileWatch(self._path)
        connection: Connection | None = None
        try:
            self._engine, connection = connect(self._path)
            migrate(connection, self._path)
            self._watch.check()
        except (DBAPIError, sqlite3.Error, StorageError) as error:
            if connection is not None:
                connection.close()
            self.close()
            raise error if isinstance(error, StorageError) else self.explain(error) from error
        return connection

    def check(self) -> None:
        """See whether the file is still the one that was opened, and whole."""
        if self._watch is not None:
            self._watch.check()

    def close(self) -> None:
        """Let the file go."""
        if self._engine is not None:
            self._engine.dispose()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def insert(self, table: Table) -> Insert:
        """This dialect's."""
        return Insert(table)

    def now(self) -> ColumnElement[float]:
        """This machine's clock: no other has a say."""
        return literal(float(int(self._clock())), Double)

    def explain(self, error: Exception) -> StorageError:
        """One line that says what is wrong with the file and what to do."""
        return explain(self._path, error)

    def spoils_all(self, error: DBAPIError) -> bool:
        """Whether it is the disk's fault, not the statement's."""
        return spoils_all(error)

    def may_pass(self, error: DBAPIError, *, reading: bool) -> bool:  # noqa: ARG002 - the contract's
        """SQLite itself waits for what may pass."""
        return False


LOOK_AGAIN_S: Final = 0.001
"""Between two looks at a file that a checkpoint makes longer."""

_CHECKPOINT_LOCK_AT: Final = 121
_FLOCK: Final = "hhqqi"  # fcntl(2) on 64-bit Linux: type, whence, start, length, pid


class FileWatch:
    """Notices that the file at a path is not the one that was opened, or not whole.

    SQLite goes on with what it has open: a commit into a file without a name is durable
    and lost. To be asked before a transaction, and after it before anybody hears of it.

    Made before SQLite opens the file and closed after it: to close a descriptor of a file
    gives up all locks that the process has on it (fcntl(2)).

    Args:
        path: The file.
        patience_s: How long the file may be shorter than its header says while nobody is
            known to write to it.
    """

    def __init__(self, path: Path, patience_s: float = BUSY_TIMEOUT_S) -> None:
        self._path = path
        self._patience_s = patience_s
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._shm_fd: int | None = None  # the index beside the log, once it has been asked
        self._names = {suffix: Path(f"{path}{suffix}") for suffix in ("-wal", "-shm")}
        self._beside: dict[str, tuple[int, int]] = {}  # suffix → device, inode

    def check(self) -> None:
        """Look; takes microseconds, and longer only beside a checkpoint that goes on.

        Raises:
            DiskError: with what happened.
        """
        try:
            held = os.fstat(self._fd)
            if held.st_nlink == 0:
                raise self._lost("it was deleted")
            self._check_name(held)
            self._check_whole()
            for suffix in self._names:
                self._check_beside(suffix)
        except OSError as error:
            raise self._lost(f"it cannot be looked at, {error.strerror}") from error

    def close(self) -> None:
        """Free the descriptors."""
        os.close(self._fd)
        if self._shm_fd is not None:
            os.close(self._shm_fd)
            self._shm_fd = None

    def _check_name(self, held: os.stat_result) -> None:
        try:
            named = self._path.stat()
        except FileNotFoundError:
            raise self._lost("it was moved away") from None
        if not os.path.samestat(held, named):
            raise self._lost("it was replaced")

    def _check_whole(self) -> None:
        """The header says how many pages there are (SQLite, Database File Format, 1.3.7).

        A checkpoint writes page 1, which is the header, before the pages that make the file
        longer: a file that is too short may be one that another process is just writing to,
        for as long as it holds the lock on checkpoints. One of this process, which cannot
        see its own locks, is waited for as long as SQLite itself would wait.
        """
        deadline_s = time.monotonic() + self._patience_s
        while self._is_short() and not self._is_locked_for_checkpoint():
            if time.monotonic() > deadline_s:
                self._patience_s = 0  # for the next look: it has been waited for
                raise self._lost("it was truncated")
            time.sleep(LOOK_AGAIN_S)

    def _is_locked_for_checkpoint(self) -> bool:
        """Whether another process checkpoints (SQLite, WAL-mode File Format, 2.3.1)."""
        if self._shm_fd is None:
            try:
                self._shm_fd = os.open(f"{self._path}-shm", os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _CHECKPOINT_LOCK_AT, 1, 0)
        kind, *_ = struct.unpack(_FLOCK, fcntl.fcntl(self._shm_fd, fcntl.F_GETLK, asked))
        return bool(kind != fcntl.F_UNLCK)

    def _is_short(self) -> bool:
        header = os.pread(self._fd, 100, 0)  # before the size, which may grow meanwhile
        if header[:16] != MAGIC:
            raise self._lost("it was truncated or overwritten")
        page_bytes = int.from_bytes(header[16:18], "big")
        pages = int.from_bytes(header[28:32], "big")
        return os.fstat(self._fd).st_size < pages * (65536 if page_bytes == 1 else page_bytes)

    def _check_beside(self, suffix: str) -> None:
        """SQLite makes them once and removes them when the last connection is closed."""
        try:
            status = self._names[suffix].stat()
        except FileNotFoundError:
            if suffix in self._beside:
                raise self._lost(f"its {suffix} file was deleted or moved away") from None
            return
        found = status.st_dev, status.st_ino
        if self._beside.setdefault(suffix, found) != found:
            raise self._lost(f"its {suffix} file was replaced")

    def _lost(self, what: str) -> DiskError:
        return DiskError(
            f"thread store {self._path}: {what} while it was in use: nothing is saved any more;"
            " put it back or restart"
        )


def connect(path: Path) -> tuple[Engine, Connection]:
    """Open the prepared file, for the calling thread alone.

    A transaction takes the write lock at its start, unless `info["reading"]` is true: a
    transaction that only later wants to write may find that it cannot.
    """
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )

    @event.listens_for(engine, "connect")
    def _own_transactions(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reading = connection.info.get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine, engine.connect()


def migrate(
    connection: Connection, path: Path, upgrades: Sequence[schema.Upgrade] = schema.UPGRADES
) -> None:
    """Create the tables or bring them up to date, then make commits durable.

    Raises:
        NewerSchemaError: a newer version wrote it; it is untouched.
        StorageError: it is another program's database; it is untouched.
    """
    with connection.begin():
        version = int(_pragma(connection, "user_version"))
        application_id = int(_pragma(connection, "application_id"))
        newest = schema.newest_version(upgrades)
        check_versions(path, version, application_id, newest)
        tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
        if tables and application_id != APPLICATION_ID:
            raise refusal(path, FOREIGN)
        schema.migrate(connection, version, upgrades)
        if version != newest:
            connection.exec_driver_sql(f"PRAGMA user_version={newest}")
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
    _make_private(path)
    _make_durable(connection)


def spoils_all(error: DBAPIError) -> bool:
    """Whether no statement of the transaction could have gone well, or just this one."""
    return not isinstance(error, (IntegrityError, DataError, ProgrammingError, InterfaceError))


def _make_private(path: Path) -> None:
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # not ours: its owner's say
            file.chmod(0o600)


def _make_durable(connection: Connection) -> None:
    """WAL with a sync per commit. Going to WAL needs the file alone, and does not wait."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            driver.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)
    driver.execute("PRAGMA synchronous=FULL")
    driver.execute("PRAGMA foreign_keys=ON")


def _pragma(connection: Connection, pragma: str) -> str:
    return str(connection.exec_driver_sql(f"PRAGMA {pragma}").scalar())
