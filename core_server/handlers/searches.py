"""`thread/search` and its kin: threads whose name or first words hold a text.

A search is over before a cancel could reach it, so a cancel finds nothing to do.
"""

import msgspec

from core_server.context import Context
from core_server.errors import invalid_request
from core_server.handlers.pages import page_limit, shown
from core_server.protocol.searches import (
    SearchCancelParams,
    SearchHit,
    SearchParams,
    SearchPartial,
    SearchResult,
)
from core_server.protocol.wire import Nothing
from core_server.storage.base import ThreadQuery

AROUND_CHARACTERS = 60
"""Of the text on each side of what was found: a line of a list."""


async def search(context: Context, params: SearchParams) -> SearchResult:
    """`thread/search`."""
    return await _found(context, params, "thread/search")


async def stream(context: Context, params: SearchParams, request_id: bytes) -> SearchResult:
    """`thread/search/stream`: hits are told before the answer, which holds them all."""
    result = await _found(context, params, "thread/search")
    if result.data:
        told = SearchPartial(msgspec.Raw(request_id), result.data)
        context.notify.tell("thread/search/partial", told)
    return result


def cancel(_: Context, __: SearchCancelParams) -> Nothing:
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
