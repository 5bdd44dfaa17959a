"""All that is only true of PostgreSQL: its URL, session, schema lock, clock and error codes.

The rest of the store speaks SQLAlchemy Core; `sqlite_file` is the other module of this kind.
"""

import time
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Double,
    Engine,
    Integer,
    MetaData,
    NullPool,
    Table,
    cast,
    func,
    insert,
    select,
    update,
)
from sqlalchemy import create_engine as make_engine
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from core_server.storage.base import NewerSchemaError, StorageError
from core_server.storage.sql import schema
from core_server.storage.sql.conninfo import parameters_of, public_name

OPEN_PATIENCE_S: Final = 5.0
"""For a server that is just being started, as by `docker compose up`."""

_SCHEMA_LOCK: Final = 0x43535256
"""`CSRV`: who creates or upgrades the tables holds this advisory lock."""

_versions: Final = Table(
    "core_server_schema", MetaData(), Column("version", Integer, nullable=False)
)

_PASSING: Final = (
    "08",  # connection exceptions
    "57P",  # shut down by an administrator, after a crash, starting up
    "40",  # serialization, deadlock: undone for another transaction's sake
    "25P03",  # our session was idle in a transaction: this process had stalled
    "25006",  # read-only: this server is not the primary any more
    "53300",  # too many clients
    "55P03",  # a lock was not to be had in time
)

_EXPLANATIONS: Final = {
    "28": "the server does not let us in: check user and password",
    "3D": "no such database: create it, or correct the name",
    "42501": "no permission: grant this user CREATE and USAGE on the schema",
    "53100": "the server's disk is full: free some space there",
    "53300": "the server has no connection left: raise max_connections, or end some clients",
    "25006": "the server is read-only: name the primary",
    "57P": "the server is starting, stopping or was ended: try again later",
    "40": "the server undid the transaction for another's sake, again and again",
    "55P03": "another session holds a lock for too long: end that one",
}

_FINAL: Final = ("authentication failed", "does not exist", "no pg_hba.conf entry", "permission")
"""libpq gives no code for a refused connection; these words of the server stay true."""


class Postgres:
    """See `medium.Medium`.

    Args:
        url: `postgresql://…`, as libpq takes it.
        lease_s: How long leases last; a stalled session may not block others for longer.
    """

    spans_machines = True

    def __init__(self, url: str, *, lease_s: float) -> None:
        self._name = public_name(url)
        self._parameters = parameters_of(url)
        self._lease_s = lease_s
        self._engine: Engine | None = None

    def open(self) -> Connection:
        """Connect and create or upgrade the tables; see `medium.Medium.open`."""
        # No pool: one connection, used by one thread. Of a server's types we need none.
        self._engine = make_engine(
            "postgresql+psycopg://", creator=self._connect, poolclass=NullPool
        )
        try:
            connection = self._first_connection(self._engine)
        except StorageError:
            self.close()
            raise
        try:
            migrate(connection, self._name)
        except (DBAPIError, StorageError) as error:
            connection.close()
            self.close()
            raise error if isinstance(error, StorageError) else self.explain(error) from error
        return connection

    def check(self) -> None:
        """A server is the one that is connected to."""

    def close(self) -> None:
        """Let the server go."""
        if self._engine is not None:
            self._engine.dispose()

    def insert(self, table: Table) -> Insert:
        """This dialect's."""
        return Insert(table)

    def now(self) -> ColumnElement[float]:
        """The server's clock at this moment, not at the transaction's beginning."""
        return cast(func.extract("epoch", func.clock_timestamp()), Double)

    def explain(self, error: Exception) -> StorageError:
        """One line that says what is wrong with the server and what to do."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        state = getattr(cause, "sqlstate", None) or ""
        for prefix, explanation in _EXPLANATIONS.items():
            if state.startswith(prefix):
                return _refusal(self._name, explanation)
        words = str(cause).strip().partition("\n")[0]
        return _refusal(self._name, words or type(cause).__name__)

    def spoils_all(self, error: DBAPIError) -> bool:
        """Whether it is the server's fault, not the statement's."""
        return not isinstance(error, (IntegrityError, DataError, ProgrammingError))

    def may_pass(self, error: DBAPIError) -> bool:
        """Whether a new connection may do better."""
        state = getattr(error.orig, "sqlstate", None)
        if state is not None:
            return str(state).startswith(_PASSING)
        if not isinstance(error.orig, psycopg.OperationalError | psycopg.InterfaceError):
            return False
        return not any(words in str(error.orig) for words in _FINAL)

    def _connect(self) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = psycopg.connect(make_conninfo(**self._parameters))
        half_ms = max(1, int(self._lease_s * 500))
        settings = {
            # A host that stalls inside a transaction holds locks that a take-over waits for.
            "idle_in_transaction_session_timeout": str(half_ms),
            "lock_timeout": str(half_ms),
        }
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        # What was acknowledged is on disk, whatever the database's default says.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.commit()
        return connection

    def _first_connection(self, engine: Engine) -> Connection:
        give_up_s = time.monotonic() + OPEN_PATIENCE_S
        while True:
            try:
                return engine.connect()
            except DBAPIError as error:
                if not self.may_pass(error) or time.monotonic() > give_up_s:
                    raise self.explain(error) from error
            time.sleep(0.1)


def migrate(
    connection: Connection, name: str, upgrades: Sequence[schema.Upgrade] = schema.UPGRADES
) -> None:
    """Create the tables or bring them up to date; one core at a time.

    Raises:
        NewerSchemaError: a newer version wrote them; they are untouched.
        StorageError: another program's tables are in the way; they are untouched.
    """
    newest = schema.newest_version(upgrades)
    with connection.begin():
        connection.execute(func.pg_advisory_xact_lock(_SCHEMA_LOCK).select())
        version = _version(connection)
        if version > newest:
            raise NewerSchemaError(
                f"thread store {name}: written by a newer version (schema {version}, this one"
                f" knows {newest}): update this program, or name another database"
            )
        if version == 0 and connection.dialect.has_table(connection, "threads"):
            raise _refusal(name, "another program's tables are in it: name another database")
        schema.migrate(connection, version, upgrades)
        if version == 0:
            _versions.create(connection)
            connection.execute(insert(_versions).values(version=newest))
        elif version != newest:
            connection.execute(update(_versions).values(version=newest))


def _version(connection: Connection) -> int:
    if not connection.dialect.has_table(connection, _versions.name):
        return 0
    return int(connection.execute(select(_versions.c.version)).scalar_one())


def _refusal(name: str, reason: str) -> StorageError:
    return StorageError(f"thread store {name}: {reason}")
