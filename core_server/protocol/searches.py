"""`thread/search` and its kin: threads by what was said in them."""

from typing import Annotated, Literal

import msgspec

from core_server.protocol.threads import Thread
from core_server.protocol.wire import U32, SortDirection, Wire

RequestId = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | str


class SearchParams(Wire, frozen=True):
    """`thread/search`, `thread/search/stream`."""

    search_term: str
    cursor: str | None = None
    limit: U32 | None = None
    sort_key: Literal["created_at", "updated_at", "recency_at"] | None = None
    sort_direction: SortDirection | None = None
    archived: bool | None = None
    source_kinds: tuple[str, ...] | None = None


class SearchHit(Wire, frozen=True):
    """A thread, and the words around what was looked for."""

    thread: Thread
    snippet: str


class SearchResult(Wire, frozen=True):
    """A page of hits."""

    data: tuple[SearchHit, ...]
    next_cursor: str | None
    backwards_cursor: str | None


class SearchPartial(Wire, frozen=True):
    """`thread/search/partial`: hits before the answer, to whoever asked."""

    request_id: msgspec.Raw
    data: tuple[SearchHit, ...]


class SearchCancelParams(Wire, frozen=True):
    """`thread/search/cancel`, `thread/search/stream/cancel`."""

    request_id: RequestId
