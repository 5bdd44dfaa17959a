"""The tables, and how older files become like them.

A new file gets the newest tables; an older one is taken up version by version. What the
rows mean is `base`'s; how they are read and written is `rows`' and `lease`'s.
"""

from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

metadata = MetaData()

threads = Table(
    "threads",
    metadata,
    Column("thread_id", Text, primary_key=True),
    Column("created_at_s", BigInteger, nullable=False),
    Column("updated_at_s", BigInteger, nullable=False),
    Column("recency_at_s", BigInteger, nullable=False),
    Column("preview", Text, nullable=False),
    Column("name", Text),
    Column("archived", Boolean, nullable=False),
    Column("listed", Boolean, nullable=False),
    Column("model_provider", Text, nullable=False),
    Column("cwd", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("search_text", Text, nullable=False),
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
        "thread_id", Text, ForeignKey("threads.thread_id", ondelete="CASCADE"), primary_key=True
    ),
    Column("turn_id", Text, primary_key=True),
    Column("ordinal", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("body", Text, nullable=False),
)
Index("turns_by_ordinal", turns.c.thread_id, turns.c.ordinal)
Index("turns_by_status", turns.c.status, turns.c.thread_id)

items = Table(
    "items",
    metadata,
    Column("thread_id", Text, primary_key=True),
    Column("turn_id", Text, primary_key=True),
    Column("item_id", Text, primary_key=True),
    Column("ordinal", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    ForeignKeyConstraint(
        ["thread_id", "turn_id"], ["turns.thread_id", "turns.turn_id"], ondelete="CASCADE"
    ),
)
Index("items_by_ordinal", items.c.thread_id, items.c.ordinal)

cores = Table(
    "cores",
    metadata,
    Column("owner_id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("pid_space", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_ticks", BigInteger, nullable=False),
    Column("expires_at_s", BigInteger, nullable=False),
)

# A lease outlives its owner (owner_id null), so that its epoch only ever grows.
leases = Table(
    "leases",
    metadata,
    Column("thread_id", Text, primary_key=True),
    Column("owner_id", Text, index=True),
    Column("epoch", BigInteger, nullable=False),
)

Upgrade = Callable[[Connection], None]

UPGRADES: tuple[Upgrade, ...] = ()
"""`UPGRADES[n]` takes a file from version n + 1 to n + 2; never change one that was released."""


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
