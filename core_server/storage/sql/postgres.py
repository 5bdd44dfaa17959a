"""All that is only true of PostgreSQL: its URL, session, schema lock, clock and error codes.

The rest of the store speaks SQLAlchemy Core; `sqlite_file` is the other module of this kind.
"""

import inspect
import time
from collections.abc import Generator, Sequence
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg.abc import PQGen
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

_T = TypeVar("_T")

_log = structlog.get_logger()

OPEN_PATIENCE_S: Final = 5.0
"""For a server that is just being started, as by `docker compose up`."""

UPGRADE_PATIENCE_S: Final = 600.0
"""For large tables to be upgraded."""

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
    "57014",  # cancelled: an administrator's doing, or something that was in its way
    "0A000",  # a statement was prepared for columns that an upgrade has changed
    "26000",  # a pooler gave us another session: it knows none of our prepared statements
    "42P05",  # or knows those of somebody else
)

_OF_A_POOLER: Final = ("26000", "42P05")

_SLOW: Final = ("57014", "55P03")

_EXPLANATIONS: Final = {
    "28": "the server does not let us in: check user and password",
    "3D": "no such database: create it, or correct the name",
    "42501": "no permission: grant this user CREATE and USAGE on the schema",
    "53100": "the server's disk is full: free some space there",
    "53300": "the server has no connection left: raise max_connections, or end some clients",
    "25006": "the server is read-only: name the primary",
    "57014": "the server cancelled the statement: it took too long there, or an administrator did",
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
        self._prepares = True
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
        session = connection.connection.driver_connection
        assert isinstance(session, _Session)
        usual_s, session.patience_s = session.patience_s, UPGRADE_PATIENCE_S
        try:
            migrate(connection, self._name)
        except (DBAPIError, StorageError) as error:
            connection.close()
            self.close()
            raise error if isinstance(error, StorageError) else self.explain(error) from error
        session.patience_s = usual_s
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

    def may_pass(self, error: DBAPIError, *, reading: bool) -> bool:
        """Whether a new connection may do better."""
        state = getattr(error.orig, "sqlstate", None)
        if state in _OF_A_POOLER and self._prepares:
            self._prepares = False
            _log.warning("storage.pooler", store=self._name, hint="its session mode is faster")
        if state is not None:
            if reading and state in _SLOW:  # it would be again, and the heartbeat waits for it
                return False
            return str(state).startswith(_PASSING)
        if not isinstance(error.orig, psycopg.OperationalError | psycopg.InterfaceError):
            return False
        return not any(words in str(error.orig) for words in _FINAL)

    def _connect(self) -> psycopg.Connection[Any]:
        session = _Session.connect(make_conninfo(**self._parameters))
        session.patience_s = 0.6 * self._lease_s  # the server shall be the first to say it
        session.prepare_threshold = 5 if self._prepares else None
        # A host that stalls inside a transaction holds locks that a take-over waits for, and a
        # statement that is waited for for too long costs us all our leases.
        session.execute(
            "SELECT set_config(name, ms::text, false) FROM pg_settings JOIN (VALUES"
            " ('idle_in_transaction_session_timeout', %(half)s), ('statement_timeout', %(half)s),"
            " ('lock_timeout', %(less)s)) AS ours (name, ms) USING (name)"
            " WHERE setting::bigint = 0 OR setting::bigint > ms",
            {"half": max(1, int(self._lease_s * 500)), "less": max(1, int(self._lease_s * 400))},
        )
        # What was acknowledged is on disk, whatever the database's default says.
        session.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        session.commit()
        return session

    def _first_connection(self, engine: Engine) -> Connection:
        give_up_s = time.monotonic() + OPEN_PATIENCE_S
        while True:
            try:
                return engine.connect()
            except DBAPIError as error:
                if not self.may_pass(error, reading=False) or time.monotonic() > give_up_s:
                    raise self.explain(error) from error
            time.sleep(0.1)


class _Session(psycopg.Connection[Any]):
    """A connection that waits for no statement for ever.

    A server that stands still (its process is stopped, its disk hangs) goes on answering at
    the level of TCP: no setting of the network finds that out, nor any of the server.

    Attributes:
        patience_s: How long a statement may take, in seconds.
    """

    patience_s = OPEN_PATIENCE_S

    def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Do what `psycopg` does here, for so long.

        Raises:
            psycopg.OperationalError: no answer came; the connection is closed.
        """
        try:
            if _KNOWS_TIMEOUTS:
                return super().wait(gen, *args, **{"timeout": self.patience_s, **kwargs})
            return super().wait(_bounded(gen, self.patience_s), *args, **kwargs)
        except (_SilentError, psycopg.OperationalError) as error:
            if type(error).__name__ not in _SILENCE:
                raise
            self.pgconn.finish()
            words = f"the server has given no answer for {self.patience_s:.1f} s"
            raise psycopg.OperationalError(words) from None


class _SilentError(Exception):
    """A server gives no answer."""


_KNOWS_TIMEOUTS: Final = "timeout" in inspect.signature(psycopg.Connection.wait).parameters
"""Since 3.3; in C, so that it costs nothing."""

_SILENCE: Final = ("_SilentError", "_WaitTimeout")
"""The second is psycopg's own, and private."""


def _bounded(work: PQGen[_T], patience_s: float) -> Generator[Any, Any, _T]:
    """The same work, which is over when nothing has come for too long."""
    give_up_s = time.monotonic() + patience_s
    try:
        wanted = next(work)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() >= give_up_s:
                raise _SilentError
            wanted = work.send(ready)
    except StopIteration as done:
        value: _T = done.value
        return value


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
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # tables may be large
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
