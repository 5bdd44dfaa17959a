"""The tables, and how older stores become like them.

A new store gets the newest tables; an older one is taken up version by version. What the
rows mean is `base`'s; how they are read and written is `rows`' and `lease`'s.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    false,
)
from sqlalchemy.schema import CreateColumn


class _AnyText(TypeDecorator[str]):
    """Text of PostgreSQL that sorts by code point, as SQLite's does, and may hold NUL.

    PostgreSQL stores no NUL: it is written as SUB `0`, and SUB itself as SUB `s`.
    """

    impl = Text(collation="C")
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        """On its way in."""
        if value is None or ("\0" not in value and "\x1a" not in value):
            return value
        return value.replace("\x1a", "\x1as").replace("\0", "\x1a0")

    def process_result_value(self, value: str | None, _dialect: Dialect) -> str | None:
        """On its way out."""
        if value is None or "\x1a" not in value:
            return value
        return value.replace("\x1a0", "\0").replace("\x1as", "\x1a")


_text = Text().with_variant(_AnyText(), "postgresql")

metadata = MetaData()

threads = Table(
    "threads",
    metadata,
    Column("thread_id", _text, primary_key=True),
    Column("created_at_s", BigInteger, nullable=False),
    Column("updated_at_s", BigInteger, nullable=False),
    Column("recency_at_s", BigInteger, nullable=False),
    Column("preview", _text, nullable=False),
    Column("name", _text),
    Column("archived", Boolean, nullable=False),
    Column("listed", Boolean, nullable=False),
    Column("model_provider", _text, nullable=False),
    Column("cwd", _text, nullable=False),
    Column("source", _text, nullable=False),
    Column("body", _text, nullable=False),
    Column("search_text", _text, nullable=False),
)

# One index per order of thread/list. A page is a walk along it from a cursor, so its cost
# does not grow with the list; the filters' columns at the end spare the rows passed over.
for _key in ("created_at_s", "updated_at_s", "recency_at_s"):
    Index(
        f"threads_by_{_key.removesuffix('_s')}",
        threads.c.listed,
        threads.c.archived,
        threads.c[_key],
        threads.c.thread_id,
        threads.c.model_provider,
        threads.c.source,
        threads.c.cwd,
    )

turns = Table(
    "turns",
    metadata,
    Column(
        "thread_id", _text, ForeignKey("threads.thread_id", ondelete="CASCADE"), primary_key=True
    ),
    Column("turn_id", _text, primary_key=True),
    Column("ordinal", BigInteger, nullable=False),
    Column("status", _text, nullable=False),
    Column("body", _text, nullable=False),
)
Index("turns_by_ordinal", turns.c.thread_id, turns.c.ordinal)
Index("turns_by_status", turns.c.status, turns.c.thread_id)

items = Table(
    "items",
    metadata,
    Column("thread_id", _text, primary_key=True),
    Column("turn_id", _text, primary_key=True),
    Column("item_id", _text, primary_key=True),
    Column("ordinal", BigInteger, nullable=False),
    Column("kind", _text, nullable=False),
    Column("body", _text, nullable=False),
    ForeignKeyConstraint(
        ["thread_id", "turn_id"], ["turns.thread_id", "turns.turn_id"], ondelete="CASCADE"
    ),
)
Index("items_by_ordinal", items.c.thread_id, items.c.ordinal)


def _place() -> tuple[Column[Any], ...]:
    """Where a core can be reached from another machine, and how busy it is."""
    return (
        Column("host_id", _text, nullable=False, server_default=""),
        Column("url", _text, nullable=False, server_default=""),
        Column("draining", Boolean, nullable=False, server_default=false()),
        Column("load", BigInteger, nullable=False, server_default="0"),
    )


cores = Table(
    "cores",
    metadata,
    Column("owner_id", _text, primary_key=True),
    Column("host", _text, nullable=False),
    Column("boot_id", _text, nullable=False),
    Column("pid_space", _text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_ticks", BigInteger, nullable=False),
    Column("expires_at_s", Double, nullable=False),
    *_place(),
)

# A lease outlives its owner (owner_id null), so that its epoch only ever grows.
leases = Table(
    "leases",
    metadata,
    Column("thread_id", _text, primary_key=True),
    Column("owner_id", _text, index=True),
    Column("epoch", BigInteger, nullable=False),
)

Upgrade = Callable[[Connection], None]


def _add_place(connection: Connection) -> None:
    for column in _place():
        definition = CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE cores ADD COLUMN {definition}")


UPGRADES: tuple[Upgrade, ...] = (_add_place,)
"""`UPGRADES[n]` takes a store from version n + 1 to n + 2; never change one that was released."""


def newest_version(upgrades: Sequence[Upgrade] = UPGRADES) -> int:
    """The schema version that this code writes; the first is 1."""
    return 1 + len(upgrades)


def migrate(connection: Connection, version: int, upgrades: Sequence[Upgrade] = UPGRADES) -> None:
    """Bring the tables from `version` (0: none yet) to the newest, in the caller's transaction."""
    if version == 0:
        metadata.create_all(connection)
        return
    for upgrade in upgrades[version - 1 :]:
        upgrade(connection)
