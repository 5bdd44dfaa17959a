"""Operations and queries as SQL. All functions run in a transaction of the caller.

Who may write to a thread is `lease`'s business, which page is asked for `paging`'s.
"""

from typing import assert_never

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, select, true, tuple_

from core_server.storage import paging
from core_server.storage.base import (
    DeleteThread,
    ItemRow,
    Operation,
    PutItem,
    PutThread,
    PutTurn,
    ThreadPage,
    ThreadQuery,
    ThreadRow,
    TurnRow,
)
from core_server.storage.sql.schema import items, threads, turns
from core_server.storage.sql.sqlite_file import insert

_put_thread = insert(threads)
_put_thread = _put_thread.on_conflict_do_update(
    index_elements=threads.primary_key,
    set_={c.name: _put_thread.excluded[c.name] for c in threads.c if not c.primary_key},
)
_put_turn = insert(turns)
_put_turn = _put_turn.on_conflict_do_update(
    index_elements=turns.primary_key,
    set_={name: _put_turn.excluded[name] for name in ("ordinal", "status", "body")},
)
_put_item = insert(items)
_put_item = _put_item.on_conflict_do_update(
    index_elements=items.primary_key,
    set_={name: _put_item.excluded[name] for name in ("kind", "body")},
)

_thread = select(*(threads.c[name] for name in ThreadRow.__struct_fields__))
_turns = select(*(turns.c[name] for name in TurnRow.__struct_fields__))
_items = select(*(items.c[name] for name in ItemRow.__struct_fields__))


def apply(connection: Connection, operation: Operation) -> None:
    """Execute one operation."""
    match operation:
        case PutThread(row):
            values = {**msgspec.structs.asdict(row), "search_text": paging.search_text(row)}
            connection.execute(_put_thread, values)
        case PutTurn(row):
            connection.execute(_put_turn, msgspec.structs.asdict(row))
        case PutItem(row):
            connection.execute(_put_item, msgspec.structs.asdict(row))
        case DeleteThread(thread_id):
            connection.execute(delete(threads).where(threads.c.thread_id == thread_id))
        case _:
            assert_never(operation)


def thread(connection: Connection, thread_id: str) -> ThreadRow | None:
    """One thread."""
    row = connection.execute(_thread.where(threads.c.thread_id == thread_id)).first()
    return None if row is None else ThreadRow(*row)


def turns_of(connection: Connection, thread_id: str) -> tuple[TurnRow, ...]:
    """All turns of a thread, oldest first."""
    query = _turns.where(turns.c.thread_id == thread_id)
    found = connection.execute(query.order_by(turns.c.ordinal, turns.c.turn_id))
    return tuple(TurnRow(*row) for row in found)


def items_of(connection: Connection, thread_id: str, turn_id: str | None) -> tuple[ItemRow, ...]:
    """All items of a thread, or of one turn, oldest first."""
    query = _items.where(items.c.thread_id == thread_id)
    if turn_id is not None:
        query = query.where(items.c.turn_id == turn_id)
    found = connection.execute(query.order_by(items.c.ordinal, items.c.item_id))
    return tuple(ItemRow(*row) for row in found)


def page(connection: Connection, query: ThreadQuery, start: paging.Cursor | None) -> ThreadPage:
    """A page of listed threads: a walk along the index of its order."""
    key = threads.c[f"{query.sort_key}_s"]
    place = tuple_(key, threads.c.thread_id)
    descending = query.descending if start is None else start.descending
    statement = _thread.where(*_filters(query))
    if start is not None:
        at = tuple_(start.key_s, start.thread_id)
        statement = statement.where(place < at if descending else place > at)
    order = [key.desc(), threads.c.thread_id.desc()] if descending else [key, threads.c.thread_id]
    wanted = min(query.limit, paging.MAX_LIMIT) + 1
    found = connection.execute(statement.order_by(*order).limit(wanted))
    return paging.page_of(query, start, [ThreadRow(*row) for row in found])


def _filters(query: ThreadQuery) -> list[ColumnElement[bool]]:
    chosen = [threads.c.listed == true(), threads.c.archived == query.archived]
    for column, values in (
        (threads.c.model_provider, query.model_providers),
        (threads.c.source, query.sources),
        (threads.c.cwd, query.cwds),
    ):
        if values:
            chosen.append(column.in_(values))
    if query.search:
        chosen.append(threads.c.search_text.contains(paging.fold(query.search), autoescape=True))
    return chosen
