"""A store that forgets: the contract of `base.Store` without a disk.

For tests and for sessions that shall leave nothing behind. It is one core's alone, so
every thread can be acquired and no owner ever dies.
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from core_server.storage import paging
from core_server.storage.base import (
    DeleteThread,
    HostRow,
    ItemRow,
    Operation,
    PutItem,
    PutThread,
    PutTurn,
    StorageError,
    ThreadPage,
    ThreadQuery,
    ThreadRow,
    TurnRow,
)

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class _Kept:
    row: ThreadRow
    turns: dict[str, TurnRow] = field(default_factory=dict)
    items: dict[tuple[str, str], ItemRow] = field(default_factory=dict)


class MemoryStore:
    """See `base.Store`."""

    spans_machines = False

    def __init__(self) -> None:
        self._threads: dict[str, _Kept] = {}
        self._owned: set[str] = set()
        self._is_open = False

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<MemoryStore {state} threads={len(self._threads)}>"

    def check(self) -> None:
        """Memory is always there."""

    async def open(self) -> None:
        """Begin, with nothing in it or with what was there when it was closed."""
        self._is_open = True

    def write(self, operations: Sequence[Operation]) -> Awaitable[None]:
        """Apply all operations at once, or none."""
        done = asyncio.get_running_loop().create_future()
        undo: list[Callable[[], object]] = []
        try:
            self._check_open()
            for operation in operations:
                self._apply(operation, undo)
        except StorageError as error:
            for step in reversed(undo):
                step()
            done.set_exception(error)
        else:
            done.set_result(None)
        return done

    async def thread(self, thread_id: str) -> ThreadRow | None:
        """One thread."""
        self._check_open()
        kept = self._threads.get(thread_id)
        return kept.row if kept else None

    async def threads(self, query: ThreadQuery) -> ThreadPage:
        """A page of listed threads."""
        start = paging.start_of(query)
        self._check_open()
        rows = [kept.row for kept in self._threads.values() if _matches(kept.row, query)]

        def place(row: ThreadRow) -> tuple[int, str]:
            return paging.sort_value_s(row, query.sort_key), row.thread_id

        descending = query.descending
        if start is not None:
            descending, at = start.descending, (start.key_s, start.thread_id)
            rows = [row for row in rows if (place(row) < at if descending else place(row) > at)]
        nearest = heapq.nlargest if descending else heapq.nsmallest
        return paging.page_of(query, start, nearest(query.limit + 1, rows, key=place))

    async def turns(self, thread_id: str) -> tuple[TurnRow, ...]:
        """All turns of a thread, oldest first."""
        self._check_open()
        kept = self._threads.get(thread_id)
        turns = kept.turns.values() if kept else ()
        return tuple(sorted(turns, key=lambda turn: (turn.ordinal, turn.turn_id)))

    async def items(self, thread_id: str, turn_id: str | None = None) -> tuple[ItemRow, ...]:
        """All items of a thread, or of one turn, oldest first."""
        self._check_open()
        kept = self._threads.get(thread_id)
        items = kept.items.values() if kept else ()
        chosen = (item for item in items if turn_id in (None, item.turn_id))
        return tuple(sorted(chosen, key=lambda item: (item.ordinal, item.item_id)))

    async def acquire(self, thread_id: str) -> None:
        """Become the thread's owner; there is no other core that could be."""
        self._check_open()
        self._owned.add(thread_id)

    async def check_free(self, thread_id: str) -> None:  # noqa: ARG002 - part of the contract
        """There is no other core."""
        self._check_open()

    def holds(self, thread_id: str) -> bool:
        """Whether the thread is acquired."""
        return thread_id in self._owned

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """Nothing is ever lost."""

    async def hosts(self) -> tuple[HostRow, ...]:
        """Nobody shares it."""
        return ()

    async def drain(self) -> None:
        """There is nobody to tell."""

    async def release(self, thread_id: str) -> None:
        """Give the thread up; a turn still running is interrupted."""
        self._check_open()
        self._disown(thread_id)

    async def close(self) -> None:
        """Give up all threads; all further calls are refused."""
        for thread_id in tuple(self._owned):
            self._disown(thread_id)
        self._is_open = False

    def _check_open(self) -> None:
        if not self._is_open:
            raise StorageError("the thread store is not open")

    def _disown(self, thread_id: str) -> None:
        self._owned.discard(thread_id)
        kept = self._threads.get(thread_id)
        turns = kept.turns if kept else {}
        for turn in turns.values():
            if turn.status == "inProgress":
                turns[turn.turn_id] = msgspec.structs.replace(turn, status="interrupted")

    def _apply(self, operation: Operation, undo: list[Callable[[], object]]) -> None:
        match operation:
            case PutThread(row):
                known = self._threads.get(row.thread_id)
                kept = _Kept(row, known.turns, known.items) if known else _Kept(row)
                _set(self._threads, row.thread_id, kept, undo)
            case PutTurn(row):
                self._check_running(row)
                _set(self._below(row.thread_id).turns, row.turn_id, row, undo)
            case PutItem(row):
                kept = self._below(row.thread_id, row.turn_id)
                first = kept.items.get((row.turn_id, row.item_id), row)
                row = msgspec.structs.replace(row, ordinal=first.ordinal)
                _set(kept.items, (row.turn_id, row.item_id), row, undo)
            case DeleteThread(thread_id):
                if gone := self._threads.pop(thread_id, None):
                    undo.append(lambda: self._threads.__setitem__(thread_id, gone))

    def _check_running(self, row: TurnRow) -> None:
        if row.status == "inProgress" and row.thread_id not in self._owned:
            raise StorageError(f"thread {row.thread_id} is not acquired: no turn can run in it")

    def _below(self, thread_id: str, turn_id: str | None = None) -> _Kept:
        kept = self._threads.get(thread_id)
        if kept is None or (turn_id is not None and turn_id not in kept.turns):
            raise StorageError(f"no row above it in thread {thread_id}: thread, turn, then item")
        return kept


def _set(target: dict[_K, _V], key: _K, value: _V, undo: list[Callable[[], object]]) -> None:
    if key in target:
        before = target[key]
        undo.append(lambda: target.__setitem__(key, before))
    else:
        undo.append(lambda: target.pop(key))
    target[key] = value


def _matches(row: ThreadRow, query: ThreadQuery) -> bool:
    return (
        row.listed
        and row.archived is query.archived
        and (not query.model_providers or row.model_provider in query.model_providers)
        and (not query.sources or row.source in query.sources)
        and (not query.cwds or row.cwd in query.cwds)
        and paging.fold(query.search) in paging.search_text(row)
    )
