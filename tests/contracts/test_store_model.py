"""Any operations, on every store, against a model that is three dictionaries."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_server.storage.base import (
    DeleteThread,
    ItemRow,
    Operation,
    PutItem,
    PutThread,
    PutTurn,
    StorageError,
    Store,
    ThreadQuery,
    ThreadRow,
    TurnRow,
)
from tests.core_server.storage.samples import MAKERS, all_ids, item_row, thread_row, turn_row

THREADS = ("t1", "t2", "t3")


class Model:
    """What a store holds, without any of its cleverness."""

    def __init__(self) -> None:
        self.threads: dict[str, ThreadRow] = {}
        self.turns: dict[tuple[str, str], TurnRow] = {}
        self.items: dict[tuple[str, str, str], ItemRow] = {}
        self.owned: set[str] = set()

    def write(self, operations: Sequence[Operation]) -> bool:
        """Apply all or none; whether it was all."""
        before = dict(self.threads), dict(self.turns), dict(self.items)
        if all(map(self._apply, operations)):
            return True
        self.threads, self.turns, self.items = before
        return False

    def release(self, thread_id: str) -> None:
        self.owned.discard(thread_id)
        for key, row in self.turns.items():
            if row.thread_id == thread_id and row.status == "inProgress":
                self.turns[key] = msgspec.structs.replace(row, status="interrupted")

    def _apply(self, operation: Operation) -> bool:
        match operation:
            case PutThread(row):
                self.threads[row.thread_id] = row
            case PutTurn(row):
                if row.thread_id not in self.threads:
                    return False
                if row.status == "inProgress" and row.thread_id not in self.owned:
                    return False
                self.turns[row.thread_id, row.turn_id] = row
            case PutItem(row):
                if (row.thread_id, row.turn_id) not in self.turns:
                    return False
                key = (row.thread_id, row.turn_id, row.item_id)
                first = self.items.get(key, row)
                self.items[key] = msgspec.structs.replace(row, ordinal=first.ordinal)
            case DeleteThread(thread_id):
                self.threads.pop(thread_id, None)
                self.turns = {k: v for k, v in self.turns.items() if k[0] != thread_id}
                self.items = {k: v for k, v in self.items.items() if k[0] != thread_id}
        return True


thread_ids = st.sampled_from(THREADS)
turn_ids = st.sampled_from(("u1", "u2"))
small = st.integers(0, 3)
rows = st.builds(
    thread_row,
    thread_ids,
    small,
    archived=st.booleans(),
    listed=st.booleans(),
    preview=st.sampled_from(("Alpha", "beta", "")),
)
statuses = st.sampled_from(("inProgress", "completed", "failed"))
operations = st.one_of(
    st.builds(PutThread, rows),
    st.builds(PutTurn, st.builds(turn_row, thread_ids, turn_ids, small, statuses)),
    st.builds(PutItem, st.builds(item_row, thread_ids, turn_ids, st.sampled_from("ab"), small)),
    st.builds(DeleteThread, thread_ids),
)
writes = st.lists(operations, min_size=1, max_size=4)
steps = st.one_of(
    writes,
    st.tuples(st.sampled_from(("acquire", "release")), thread_ids),
)


async def _assert_alike(store: Store, model: Model) -> None:
    for thread_id in THREADS:
        assert await store.thread(thread_id) == model.threads.get(thread_id)
        turns = [row for row in model.turns.values() if row.thread_id == thread_id]
        turns.sort(key=lambda row: (row.ordinal, row.turn_id))
        assert list(await store.turns(thread_id)) == turns
        items = [row for row in model.items.values() if row.thread_id == thread_id]
        items.sort(key=lambda row: (row.ordinal, row.item_id))
        found = await store.items(thread_id)
        assert sorted(found, key=_by_id) == sorted(items, key=_by_id)
        assert [row.ordinal for row in found] == [row.ordinal for row in items]
    for query in (ThreadQuery(limit=1), ThreadQuery(limit=2, archived=True, search="A")):
        listed = [
            row
            for row in model.threads.values()
            if row.listed
            and row.archived is query.archived
            and query.search in row.preview.upper()
        ]
        listed.sort(key=lambda row: (row.created_at_s, row.thread_id), reverse=True)
        assert await all_ids(store, query) == [row.thread_id for row in listed]


def _by_id(row: ItemRow) -> tuple[str, str]:
    return row.turn_id, row.item_id


async def _live(store: Store, story: Sequence[list[Operation] | tuple[str, str]]) -> None:
    model = Model()
    await store.open()
    for step in story:
        match step:
            case list():
                try:
                    await store.write(step)
                except StorageError:
                    assert not model.write(step)
                else:
                    assert model.write(step)
            case ("acquire", thread_id):
                await store.acquire(thread_id)
                model.owned.add(thread_id)
            case (_, thread_id):
                await store.release(thread_id)
                model.release(thread_id)
    await _assert_alike(store, model)
    await store.close()
    await store.open()
    for thread_id in THREADS:
        model.release(thread_id)
    await _assert_alike(store, model)
    await store.close()


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=40, deadline=None)
@given(story=st.lists(steps, max_size=12))
def test_a_store_holds_what_the_model_holds(
    kind: str, story: list[list[Operation] | tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_live(MAKERS[kind](Path(folder)), story))


async def _page_while_changing(
    store: Store, times_s: list[int], changes: list[tuple[int, int]], query: ThreadQuery
) -> tuple[list[str], set[str]]:
    """All ids that the pages gave, and those of the rows that nobody touched meanwhile."""
    await store.open()
    await store.write([PutThread(thread_row(f"t{n:02}", at_s)) for n, at_s in enumerate(times_s)])
    untouched = {f"t{number:02}" for number in range(len(times_s))}
    ids: list[str] = []
    queue = list(changes)
    while True:
        page = await store.threads(query)
        ids += [row.thread_id for row in page.rows]
        if page.next_cursor is None:
            break
        if queue:
            number, at_s = queue.pop()
            untouched.discard(f"t{number:02}")
            delete = at_s > 5 and number < len(times_s)
            row = thread_row(
                f"t{number:02}x{len(queue)}", at_s
            )  # new: a row that moves may be seen twice
            await store.write([DeleteThread(f"t{number:02}") if delete else PutThread(row)])
        query = msgspec.structs.replace(query, cursor=page.next_cursor)
    await store.close()
    return ids, untouched


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=40, deadline=None)
@given(
    times_s=st.lists(st.integers(0, 5), max_size=12),
    changes=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 10)), max_size=8),
    limit=st.integers(1, 4),
    descending=st.booleans(),
)
def test_pages_give_each_row_once_while_others_come_and_go(
    kind: str,
    times_s: list[int],
    changes: list[tuple[int, int]],
    limit: int,
    *,
    descending: bool,
) -> None:
    query = ThreadQuery(limit=limit, descending=descending)
    with tempfile.TemporaryDirectory() as folder:
        store = MAKERS[kind](Path(folder))
        ids, untouched = asyncio.run(_page_while_changing(store, times_s, changes, query))

    assert len(ids) == len(set(ids))
    assert untouched <= set(ids)
