"""Which rows make a page of `thread/list`, whatever the store.

A cursor is a place between two rows and a direction: the key and id of a row, not a
count, so it stays true while rows come and go. This module reads no rows; stores do.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Literal

import msgspec

from core_server.storage.base import ThreadPage, ThreadQuery, ThreadRow

SortKey = Literal["created_at", "updated_at", "recency_at"]

MAX_SEARCH_CHARS = 10_000
"""SQLite refuses patterns above 50,000 bytes; a character is at most four."""

MAX_FILTER_VALUES = 1_000
"""Values of one filter; SQLite binds 32,766 variables in a statement."""

MAX_LIMIT = 2**31
"""A limit beyond this is cut to it: stores count in 64 bits."""


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A place in the list: just beyond the row with this key and id, going one way."""

    sort_key: SortKey
    key_s: int
    thread_id: str
    descending: bool

    def encode(self) -> str:
        """The opaque text that clients keep."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


def search_text(row: ThreadRow) -> str:
    """What a search looks through: name and preview, folded; no NUL, which ends a LIKE."""
    return fold(f"{row.name or ''}\x1f{row.preview}")


def fold(text: str) -> str:
    """Fold the case away, as search compares."""
    return text.replace("\0", "").casefold()


def sort_value_s(row: ThreadRow, sort_key: SortKey) -> int:
    """The row's value of the sort key, in Unix seconds."""
    match sort_key:
        case "created_at":
            return row.created_at_s
        case "updated_at":
            return row.updated_at_s
        case "recency_at":
            return row.recency_at_s


def start_of(query: ThreadQuery) -> Cursor | None:
    """Check the query and read its cursor.

    Raises:
        ValueError: with one line for the client.
    """
    if query.limit < 1:
        raise ValueError(f"limit must be at least 1, not {query.limit}")
    if len(query.search) > MAX_SEARCH_CHARS:
        raise ValueError(f"the search text is longer than {MAX_SEARCH_CHARS} characters")
    for values in (query.model_providers, query.sources, query.cwds):
        if len(values) > MAX_FILTER_VALUES:
            raise ValueError(f"a filter has more than {MAX_FILTER_VALUES} values")
    return None if query.cursor is None else _decode(query.cursor, query.sort_key)


def page_of(query: ThreadQuery, start: Cursor | None, found: Sequence[ThreadRow]) -> ThreadPage:
    """Make the page of the rows found on the way that `start` goes, nearest first.

    Args:
        query: As asked.
        start: Its cursor, or None for the first page.
        found: Up to `limit + 1` rows: the one too many tells that more follow.
    """
    turned = start is not None and start.descending is not query.descending
    rows = found[: query.limit][::-1] if turned else found[: query.limit]
    if not rows:
        return ThreadPage((), None, None)
    more = turned or len(found) > query.limit
    return ThreadPage(
        rows=tuple(rows),
        next_cursor=_beyond(rows[-1], query, descending=query.descending) if more else None,
        backwards_cursor=_beyond(rows[0], query, descending=not query.descending),
    )


def _beyond(row: ThreadRow, query: ThreadQuery, *, descending: bool) -> str:
    key_s = sort_value_s(row, query.sort_key)
    return Cursor(query.sort_key, key_s, row.thread_id, descending).encode()


def _decode(text: str, sort_key: SortKey) -> Cursor:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = msgspec.json.decode(raw, type=Cursor)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the cursor is not one that this server gave out") from error
    if cursor.sort_key != sort_key:
        raise ValueError(f"the cursor is of a list sorted by {cursor.sort_key}, not {sort_key}")
    return cursor
