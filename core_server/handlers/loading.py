"""From a stored thread to a loaded one, and back."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from core_server.context import Context
from core_server.errors import WireError, invalid_request, no_rollout, thread_not_found
from core_server.protocol.threads import NotLoaded, StatusChanged
from core_server.protocol.turns import ItemsView, Turn
from core_server.records import item_of, thread_of, turn_of
from core_server.session.thread import ThreadMachine
from core_server.storage.base import ItemRow, StorageError, Store, ThreadRow, TurnRow

_HEX = frozenset("0123456789abcdefABCDEF-")
_UUID_LENGTH = 36
_T = TypeVar("_T")


def check_id(thread_id: str, what: str = "thread") -> None:
    """Refuse what is no UUID, in the reference's words.

    Raises:
        WireError: -32600.
    """
    for place, character in enumerate(thread_id, 1):
        if character not in _HEX:
            raise invalid_request(
                f"invalid {what} id: invalid character: expected an optional prefix of"
                f" `urn:uuid:` followed by [0-9a-fA-F-], found `{character}` at {place}"
            )
    if len(thread_id) != _UUID_LENGTH:
        raise invalid_request(
            f"invalid {what} id: invalid length: expected length 36 for hyphenated format,"
            f" found {len(thread_id)}"
        )


async def stored(context: Context, thread_id: str, error: WireError | None = None) -> ThreadRow:
    """The row of a thread that may be loaded or not.

    Raises:
        WireError: there is none; `error`, or the usual one.
    """
    row = await context.store.thread(thread_id)
    if row is None:
        raise error or no_rollout(thread_id)
    return row


async def load(context: Context, thread_id: str) -> ThreadMachine:
    """The loaded thread, loaded now if need be.

    Raises:
        WireError: there is none.
        ThreadOwnedError: another core owns it.
    """
    if (thread := context.threads.get(thread_id)) is not None:
        return thread
    await stored(context, thread_id)
    async with leased(context, context.store, thread_id):
        # Only the owner's view counts: another core may have written before we had the lease.
        thread = thread_of(await stored(context, thread_id))
        thread.turns = len(await context.store.turns(thread_id))
        items = await context.store.items(thread_id)
        thread.items = max((row.ordinal for row in items), default=-1) + 1
        return context.threads.setdefault(thread_id, thread)


@contextlib.asynccontextmanager
async def leased(context: Context, store: Store, thread_id: str) -> AsyncIterator[None]:
    """Own a thread for the length of the block, and beyond it only if it is loaded then.

    Raises:
        ThreadOwnedError: another core owns it.
    """
    await store.acquire(thread_id)
    try:
        yield
    finally:
        if thread_id not in context.threads:
            await store.release(thread_id)


async def claim(context: Context, thread_id: str) -> ThreadMachine:
    """The loaded thread, where another host may have had it, or have taken it from us.

    The client resumed it somewhere, and could not know that this has to be done again.

    Raises:
        WireError: there is none.
        ThreadOwnedError: a living core owns it.
    """
    thread = context.threads.get(thread_id)
    if thread is not None and thread.broken:
        await unload(context, thread)
    if await context.store.thread(thread_id) is None:
        raise thread_not_found(thread_id)
    thread = await load(context, thread_id)
    thread.subscribed = True
    return thread


async def let_go(context: Context, thread: ThreadMachine) -> None:
    """Stop its turn, forget it and give it up, so that any other host may have it."""
    await unload(context, thread)
    with contextlib.suppress(StorageError):  # then the lease ends by itself
        await context.store_of(thread).release(thread.id)
    gone = StatusChanged(thread.id, NotLoaded())
    context.notify.say("thread/status/changed", gone, thread)


async def unload(context: Context, thread: ThreadMachine) -> None:
    """Stop its turn and forget it; it is not released."""
    if thread.turn is not None:
        thread.turn.stop()
        context.turns.wake(thread)
        await context.turns.ended(thread)
    context.threads.pop(thread.id, None)
    context.turns.forget(thread.id)


async def turns_of(store: Store, thread_id: str, view: ItemsView = "full") -> tuple[Turn, ...]:
    """All turns of a thread, oldest first, with their items."""
    turns = await store.turns(thread_id)
    items = () if view == "notLoaded" else await store.items(thread_id)
    return assemble(turns, items, view)


async def seen_now(thread: ThreadMachine, look: Callable[[], Awaitable[_T]]) -> _T:
    """What a look at a loaded thread's turns finds; none runs there whose end was told meanwhile.

    Who subscribes by the answer would wait for that end for ever. The end is queued for the
    store before the turn is let go, so another look sees it; and no turn begins while a
    request about its thread is served, so there is one more look at most.
    """
    while True:
        turn = thread.turn
        seen = await look()
        if thread.turn is turn:
            return seen


def assemble(
    turns: tuple[TurnRow, ...], items: tuple[ItemRow, ...], view: ItemsView
) -> tuple[Turn, ...]:
    """Rows of turns and of their items as turns."""
    running = {row.turn_id for row in turns if row.status == "inProgress"}
    below: dict[str, list[ItemRow]] = {row.turn_id: [] for row in turns}
    for row in items:
        if row.kind == "item" and row.turn_id in below:
            below[row.turn_id].append(row)
    return tuple(
        turn_of(
            row,
            tuple(item_of(item, running=row.turn_id in running) for item in below[row.turn_id]),
            view,
        )
        for row in turns
    )
