"""Pages of a thread's turns and items: `thread/turns/list`, `thread/items/list`."""

from core_server.protocol.items import ThreadItem
from core_server.protocol.turns import ItemsView, Turn
from core_server.protocol.wire import U32, SortDirection, Wire


class TurnsListParams(Wire, frozen=True):
    """`thread/turns/list`."""

    thread_id: str
    cursor: str | None = None
    limit: U32 | None = None
    sort_direction: SortDirection | None = None
    items_view: ItemsView | None = None


class TurnsListResult(Wire, frozen=True):
    """A page of turns."""

    data: tuple[Turn, ...]
    next_cursor: str | None
    backwards_cursor: str | None


class ItemsListParams(Wire, frozen=True):
    """`thread/items/list`."""

    thread_id: str
    turn_id: str | None = None
    cursor: str | None = None
    limit: U32 | None = None
    sort_direction: SortDirection | None = None


class ItemEntry(Wire, frozen=True):
    """An item and its turn."""

    turn_id: str
    item: ThreadItem
    started_at_ms: int | None
    completed_at_ms: int | None


class ItemsReadParams(Wire, frozen=True):
    """`thread/items/read`."""

    thread_id: str
    turn_id: str
    item_ids: tuple[str, ...]


class ItemsReadResult(Wire, frozen=True):
    """Those of the items that there are."""

    data: tuple[ItemEntry, ...]


class ItemsListResult(Wire, frozen=True):
    """A page of items."""

    data: tuple[ItemEntry, ...]
    next_cursor: str | None
    backwards_cursor: str | None
