"""Operations and queries as SQL. All functions run in a transaction of the caller.

Who may write to a thread is `lease`'s business, which page is asked for `paging`'s.
"""

from collections.abc import Callable, Sequence
from typing import Any, assert_never

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Table,
    bindparam,
    delete,
    select,
    true,
    tuple_,
)

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
    thread_of,
)
from core_server.storage.sql.schema import items, threads, turns

_thread = select(*(threads.c[name] for name in ThreadRow.__struct_fields__))
_turns = select(*(turns.c[name] for name in TurnRow.__struct_fields__))
_items = select(*(items.c[name] for name in ItemRow.__struct_fields__))


class Rows:
    """Writes operations.

    Args:
        insert: The dialect's INSERT, which knows ON CONFLICT.
    """

    def __init__(self, insert: Callable[[Table], Any]) -> None:
        changed = [c.name for c in threads.c if not c.primary_key]
        self._statements: dict[type[Operation], Executable] = {
            PutThread: _upsert(insert(threads), threads, changed),
            PutTurn: _upsert(insert(turns), turns, ["ordinal", "status", "body"]),
            PutItem: _upsert(insert(items), items, ["kind", "body"]),
            DeleteThread: delete(threads).where(threads.c.thread_id == bindparam("gone")),
        }

    def apply(self, connection: Connection, operations: Sequence[Operation]) -> None:
        """Execute operations: those of a thread in their order, many in one statement."""
        for stage in stages(operations):
            values = [_values(operation) for operation in stage]
            connection.execute(self._statements[type(stage[0])], values)


def stages(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Gather operations of one kind, so that a group of writes needs few statements.

    Threads do not depend on each other, so an operation may join an earlier stage as long
    as it stays behind all earlier ones of its thread.
    """
    made: list[list[Operation]] = []
    last: dict[str, int] = {}
    for operation in operations:
        thread_id = thread_of(operation)
        for place in range(last.get(thread_id, 0), len(made)):
            if type(made[place][0]) is type(operation):
                made[place].append(operation)
                break
        else:
            place = len(made)
            made.append([operation])
        last[thread_id] = place
    return made


def _upsert(insert: Any, table: Table, changed: Sequence[str]) -> Executable:
    statement: Executable = insert.on_conflict_do_update(
        index_elements=table.primary_key,
        set_={name: insert.excluded[name] for name in changed},
    )
    return statement


def _values(operation: Operation) -> dict[str, Any]:
    match operation:
        case PutThread(row):
            return {**msgspec.structs.asdict(row), "search_text": paging.search_text(row)}
        case PutTurn(row):
            return msgspec.structs.asdict(row)
        case PutItem(row):
            return msgspec.structs.asdict(row)
        case DeleteThread(thread_id):
            return {"gone": thread_id}
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
