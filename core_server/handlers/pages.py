"""Lists: threads, loaded threads, and the turns and items of one thread.

Threads are paged by the store. Turns and items are paged here, by their place in the
thread, so a cursor stays valid while the thread grows. A search is over before a cancel
could reach it, so a cancel finds nothing to do.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from core_server.context import Context, Trace
from core_server.errors import invalid_request
from core_server.handlers.loading import assemble, check_id, stored
from core_server.protocol.items import AgentMessageItem, PlanItem, TextInput, UserMessageItem
from core_server.protocol.pages import (
    ItemEntry,
    ItemsListParams,
    ItemsListResult,
    ItemsReadParams,
    ItemsReadResult,
    TurnsListParams,
    TurnsListResult,
)
from core_server.protocol.threads import (
    CancelParams,
    LoadedListParams,
    LoadedListResult,
    NotLoaded,
    Occurrence,
    OccurrencesParams,
    OccurrencesResult,
    ReadState,
    SearchHit,
    SearchParams,
    SearchPartial,
    SearchResult,
    TextRange,
    Thread,
    ThreadListParams,
    ThreadListResult,
)
from core_server.protocol.wire import Nothing, SortDirection
from core_server.records import item_of, thread_of
from core_server.storage.base import ItemRow, Store, ThreadQuery, ThreadRow

DEFAULT_LIMIT: Final = 25
MAX_LIMIT: Final = 100
"""A page of threads stays below half a megabyte."""

T = TypeVar("T")
Page = tuple[Sequence[T], str | None, str | None]


async def list_threads(context: Context, params: ThreadListParams) -> ThreadListResult:
    """`thread/list`: threads that had a turn, a page at a time."""
    narrowed = (
        params.section_id,
        params.project_id,
        params.parent_thread_id,
        params.ancestor_thread_id,
        params.attached_to_thread_id,
    )
    if any(narrowed):  # we have no sections, projects or children
        return ThreadListResult((), None, None)
    try:
        page = await context.store.threads(_query(params))
    except ValueError as error:
        raise invalid_request(f"invalid cursor: {error}") from None
    seen = tuple(shown(context, row) for row in page.rows)
    data = tuple(
        thread
        for thread in seen
        if thread.id not in (params.excluded_thread_ids or ())
        and (params.included_thread_ids is None or thread.id in params.included_thread_ids)
        and (not params.originators or thread.originator in params.originators)
    )
    marks = {row.thread_id: read_state_of(context, row) for row in page.rows}
    shown_marks = {each.id: mark for each in data if (mark := marks[each.id]) is not None}
    return ThreadListResult(data, page.next_cursor, page.backwards_cursor, shown_marks)


def _query(params: ThreadListParams) -> ThreadQuery:
    cwds = (params.cwd,) if isinstance(params.cwd, str) else params.cwd or ()
    key = params.sort_key or "created_at"
    return ThreadQuery(
        limit=page_limit(params.limit),
        cursor=params.cursor,
        sort_key="created_at" if key == "section_position" else key,
        descending=params.sort_direction != "asc",
        archived=bool(params.archived),
        model_providers=params.model_providers or (),
        sources=params.source_kinds or (),
        cwds=cwds,
        search=params.search_term or "",
    )


def shown(context: Context, row: ThreadRow) -> Thread:
    """A loaded thread as it is, another as it was stored."""
    thread = context.threads.get(row.thread_id)
    return thread.wire() if thread is not None else thread_of(row).wire(status=NotLoaded())


def read_state_of(context: Context, row: ThreadRow) -> ReadState | None:
    """How far a thread was read, as it is loaded or as it was stored."""
    thread = context.threads.get(row.thread_id)
    return (thread or thread_of(row)).read_state


def loaded_list(context: Context, params: LoadedListParams) -> LoadedListResult:
    """`thread/loaded/list`: ids; the cursor is the last one of the page before."""
    ids = tuple(context.threads)
    if params.cursor is None and params.limit is None:
        return LoadedListResult(ids)
    ordered = sorted(known for known in ids if params.cursor is None or known > params.cursor)
    limit = max(1, params.limit) if params.limit is not None else len(ordered)
    page = ordered[:limit]
    return LoadedListResult(tuple(page), page[-1] if len(ordered) > limit else None)


async def list_turns(context: Context, params: TurnsListParams) -> TurnsListResult:
    """`thread/turns/list`: newest first unless asked otherwise."""
    return await turns_page(await _store(context, params.thread_id), params)


async def turns_page(store: Store, params: TurnsListParams) -> TurnsListResult:
    """A page of a thread's turns.

    Raises:
        WireError: the cursor is not one of ours.
    """
    rows = await store.turns(params.thread_id)
    places = [row.ordinal for row in rows]
    page, after, before = _page(
        rows, places, params.cursor, params.limit, params.sort_direction or "desc"
    )
    view = params.items_view or "summary"
    items: list[ItemRow] = []
    if view != "notLoaded":
        for row in page:
            items += await store.items(params.thread_id, row.turn_id)
    return TurnsListResult(assemble(tuple(page), tuple(items), view), after, before)


async def list_items(context: Context, params: ItemsListParams) -> ItemsListResult:
    """`thread/items/list`: oldest first unless asked otherwise."""
    store = await _store(context, params.thread_id)
    turns = await store.turns(params.thread_id)
    running = {row.turn_id for row in turns if row.status == "inProgress"}
    found = await store.items(params.thread_id, params.turn_id)
    rows = [row for row in found if row.kind == "item"]
    places = [row.ordinal for row in rows]
    page, after, before = _page(
        rows, places, params.cursor, params.limit, params.sort_direction or "asc"
    )
    return ItemsListResult(tuple(_entry(row, running) for row in page), after, before)


async def read_items(context: Context, params: ItemsReadParams) -> ItemsReadResult:
    """`thread/items/read`: those that there are, in the order that was asked for."""
    if not 1 <= len(params.item_ids) <= MAX_LIMIT:
        raise invalid_request(f"itemIds must contain 1 to {MAX_LIMIT} IDs")
    store = await _store(context, params.thread_id)
    turns = await store.turns(params.thread_id)
    running = {row.turn_id for row in turns if row.status == "inProgress"}
    rows = await store.items(params.thread_id, params.turn_id)
    known = {row.item_id: row for row in rows if row.kind == "item"}
    wanted = dict.fromkeys(params.item_ids)
    return ItemsReadResult(tuple(_entry(known[each], running) for each in wanted if each in known))


def _entry(row: ItemRow, running: Collection[str]) -> ItemEntry:
    item = item_of(row, running=row.turn_id in running)
    return ItemEntry(row.turn_id, item, item.started_at_ms, item.completed_at_ms)


async def _store(context: Context, thread_id: str) -> Store:
    check_id(thread_id)
    thread = context.threads.get(thread_id)
    if thread is not None:
        return context.store_of(thread)
    await stored(context, thread_id)
    return context.store


def _page(
    rows: Sequence[T],
    places: Sequence[int],
    cursor: str | None,
    limit: int | None,
    direction: SortDirection,
) -> Page[T]:
    """A page of rows that stand at these places, and the cursors to go on and back."""
    pairs = list(zip(places, rows, strict=True))
    if direction == "desc":
        pairs.reverse()
    if cursor is not None:
        way, place = _position(cursor)
        if way == "desc":
            pairs = sorted((pair for pair in pairs if pair[0] < place), key=_place, reverse=True)
        else:
            pairs = sorted((pair for pair in pairs if pair[0] > place), key=_place)
        direction = way
    shown = pairs[: page_limit(limit)]
    if not shown:
        return (), None, None
    back: SortDirection = "asc" if direction == "desc" else "desc"
    more = f"{direction}:{shown[-1][0]}" if len(pairs) > len(shown) else None
    return [row for _, row in shown], more, f"{back}:{shown[0][0]}"


def _place(pair: tuple[int, object]) -> int:
    return pair[0]


def _position(cursor: str) -> tuple[SortDirection, int]:
    way, _, place = cursor.partition(":")
    if way not in ("asc", "desc") or not place.isdecimal() or len(place) > 18:
        raise invalid_request(f"invalid cursor: {cursor[:64]}; take one that a page gave out")
    return ("asc" if way == "asc" else "desc"), int(place)


def page_limit(limit: int | None) -> int:
    """How many rows a page has: as asked, within our bounds; 0 acts as 1."""
    return DEFAULT_LIMIT if limit is None else max(1, min(limit, MAX_LIMIT))


AROUND_CHARACTERS = 60
"""Of the text on each side of what was found: a line of a list."""


async def search(context: Context, params: SearchParams) -> SearchResult:
    """`thread/search`."""
    return await _found(context, params, "thread/search")


async def stream(
    context: Context, params: SearchParams, request_id: bytes, _trace: Trace
) -> SearchResult:
    """`thread/search/stream`: hits are told before the answer, which holds them all."""
    result = await _found(context, params, "thread/search")
    if result.data:
        told = SearchPartial(msgspec.Raw(request_id), result.data)
        context.notify.tell("thread/search/partial", told)
    return result


def cancel(_: Context, __: CancelParams) -> Nothing:
    """`thread/search/cancel`, `thread/search/stream/cancel`."""
    return Nothing()


async def _found(context: Context, params: SearchParams, name: str) -> SearchResult:
    term = params.search_term.strip()
    if not term:
        raise invalid_request(f"{name} requires a non-empty searchTerm")
    query = ThreadQuery(
        limit=page_limit(params.limit),
        cursor=params.cursor,
        sort_key=params.sort_key or "created_at",
        descending=params.sort_direction != "asc",
        archived=bool(params.archived),
        sources=params.source_kinds or (),
        search=term,
    )
    try:
        page = await context.store.threads(query)
    except ValueError as error:
        raise invalid_request(f"invalid cursor: {error}") from None
    hits = tuple(
        SearchHit(shown(context, row), _snippet(term, row.preview, row.name or ""))
        for row in page.rows
    )
    return SearchResult(hits, page.next_cursor, page.backwards_cursor)


def _snippet(term: str, *texts: str) -> str:
    """The words around the term, in the first text that holds it."""
    for text in texts:
        place = text.lower().find(term.lower())
        if place >= 0:
            start = max(0, place - AROUND_CHARACTERS)
            return text[start : place + len(term) + AROUND_CHARACTERS]
    return texts[0][: 2 * AROUND_CHARACTERS]


async def occurrences(context: Context, params: OccurrencesParams) -> OccurrencesResult:
    """`thread/searchOccurrences`: every place in what was said, oldest first.

    The cursor is the place to go on from: an item's, and how many of its hits were shown.
    """
    if not params.search_term.strip():
        raise invalid_request("thread/searchOccurrences requires a non-empty searchTerm")
    if params.cursor is not None and not re.fullmatch(r"[0-9]{1,15}:[0-9]{1,9}", params.cursor):
        raise invalid_request(f"invalid cursor: {params.cursor[:64]}")
    item, number = map(int, (params.cursor or "0:0").split(":"))
    store = await _store(context, params.thread_id)
    rows = [row for row in await store.items(params.thread_id) if row.kind == "item"]
    places = {row.turn_id: row.ordinal for row in await store.turns(params.thread_id)}
    limit = page_limit(params.limit)
    found: list[Occurrence] = []
    for row in (row for row in rows if row.ordinal >= item and row.turn_id in places):
        for count, hit in enumerate(_hits(row, params.search_term)):
            if row.ordinal == item and count < number:
                continue
            if len(found) == limit:
                return OccurrencesResult(tuple(found), f"{row.ordinal}:{count}")
            cursor = f"desc:{places[row.turn_id] + 1}"
            found.append(Occurrence(row.turn_id, row.item_id, *hit, cursor))
    return OccurrencesResult(tuple(found), None)


def _hits(row: ItemRow, term: str) -> Iterator[tuple[str, TextRange]]:
    """The places of a term in an item, each with the words around it."""
    for text in _said(row):
        for match in re.finditer(re.escape(term), text, re.IGNORECASE):
            start = max(0, match.start() - AROUND_CHARACTERS)
            snippet = text[start : match.end() + AROUND_CHARACTERS]
            before = _units(text[start : match.start()])
            yield snippet, TextRange(before, before + _units(match[0]))


def _said(row: ItemRow) -> tuple[str, ...]:
    item = item_of(row, running=True)
    match item:
        case UserMessageItem():
            return tuple(part.text for part in item.content if isinstance(part, TextInput))
        case AgentMessageItem() | PlanItem():
            return (item.text,)
        case _:
            return ()


def _units(text: str) -> int:
    """UTF-16 code units, in which the reference counts."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
