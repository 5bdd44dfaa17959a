"""Rows for the storage tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from core_server.storage.base import ItemRow, Store, ThreadQuery, ThreadRow, TurnRow
from core_server.storage.memory import MemoryStore
from core_server.storage.opening import open_store
from core_server.storage.sql.store import SqliteStore
from tests.postgres import new_store_url

MAKERS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _folder: MemoryStore(),
    "sqlite": lambda folder: SqliteStore(folder / "threads.db"),
    "postgres": lambda _folder: open_store(new_store_url()),
}
"""Every implementation, made in a folder or schema of its own."""

Status = Literal["inProgress", "completed", "interrupted", "failed"]

_THREAD = ThreadRow(
    thread_id="t",
    created_at_s=1,
    updated_at_s=1,
    recency_at_s=1,
    preview="hello",
    name=None,
    archived=False,
    listed=True,
    model_provider="offline",
    cwd="/w",
    source="cli",
    body="{}",
)


def thread_row(thread_id: str, at_s: int = 1, **changes: object) -> ThreadRow:
    """A listed thread, made and changed at `at_s`."""
    times = {"created_at_s": at_s, "updated_at_s": at_s, "recency_at_s": at_s}
    return msgspec.structs.replace(_THREAD, thread_id=thread_id, **{**times, **changes})


def turn_row(
    thread_id: str, turn_id: str, ordinal: int = 0, status: Status = "completed"
) -> TurnRow:
    return TurnRow(turn_id, thread_id, ordinal, status, "{}")


def item_row(
    thread_id: str, turn_id: str, item_id: str, ordinal: int = 0, body: str = "{}"
) -> ItemRow:
    return ItemRow(item_id, turn_id, thread_id, ordinal, "item", body)


async def list_ids(store: Store, query: ThreadQuery) -> list[str]:
    """The ids of one page."""
    return [row.thread_id for row in (await store.threads(query)).rows]


async def all_ids(store: Store, query: ThreadQuery) -> list[str]:
    """The ids of all pages, from the query's cursor on."""
    ids: list[str] = []
    while True:
        page = await store.threads(query)
        ids += [row.thread_id for row in page.rows]
        if page.next_cursor is None:
            return ids
        query = msgspec.structs.replace(query, cursor=page.next_cursor)
