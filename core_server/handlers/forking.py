"""`thread/fork`: a new thread that begins with another one's turns.

Turns and items keep their ids, as with the reference: they are the same ones, in another
thread. A turn that runs in the source is taken over as far as it came, as interrupted.
"""

import msgspec

from core_server.context import Context, Reply
from core_server.errors import invalid_request
from core_server.handlers.loading import check_id, leased, stored, turns_of
from core_server.handlers.settings import opened_with
from core_server.handlers.threads import started
from core_server.protocol.threads import ThreadForkParams
from core_server.protocol.turns import TokenUsageUpdated
from core_server.records import thread_of, thread_row
from core_server.session.thread import Facts, ThreadMachine
from core_server.storage.base import (
    ItemRow,
    Operation,
    PutItem,
    PutThread,
    PutTurn,
    Store,
    TurnRow,
)


async def fork(context: Context, params: ThreadForkParams) -> Reply:
    """`thread/fork`."""
    check_id(params.thread_id)
    source = context.threads.get(params.thread_id)
    store = context.store_of(source) if source is not None else context.store
    if source is None:
        source = thread_of(await stored(context, params.thread_id))
    turns, items = await _upto(store, params)
    thread = _copy_of(context, source, params)
    operations: list[Operation] = [
        PutTurn(msgspec.structs.replace(row, thread_id=thread.id)) for row in turns
    ]
    operations += [PutItem(msgspec.structs.replace(row, thread_id=thread.id)) for row in items]
    thread.turns = len(turns)
    thread.items = max((row.ordinal for row in items), default=-1) + 1
    thread.listed = bool(turns)
    target = context.store_of(thread)
    async with leased(context, target, thread.id):
        await target.write([PutThread(thread_row(thread)), *operations])
        context.threads[thread.id] = thread
    shown = () if params.exclude_turns else await turns_of(target, thread.id)
    return Reply(
        thread.opened(shown), then=lambda: _announce(context, thread, hydrated=bool(shown))
    )


def _announce(context: Context, thread: ThreadMachine, *, hydrated: bool) -> None:
    if hydrated and thread.usage is not None:
        told = TokenUsageUpdated(thread.id, thread.usage_turn_id, thread.usage)
        context.notify.say("thread/tokenUsage/updated", told, thread)
    started(context, thread)


async def _upto(store: Store, params: ThreadForkParams) -> tuple[list[TurnRow], list[ItemRow]]:
    """The turns to take over, ended, and their items."""
    turns = list(await store.turns(params.thread_id))
    ids = [row.turn_id for row in turns]
    for name, turn_id, behind in (
        ("lastTurnId", params.last_turn_id, 1),
        ("beforeTurnId", params.before_turn_id, 0),
    ):
        if turn_id is not None:
            if turn_id not in ids:
                raise invalid_request(f"{name}: no turn {turn_id[:64]} in the thread")
            turns = turns[: ids.index(turn_id) + behind]
    kept = {row.turn_id for row in turns}
    items = [row for row in await store.items(params.thread_id) if row.turn_id in kept]
    ended = [
        msgspec.structs.replace(row, status="interrupted") if row.status == "inProgress" else row
        for row in turns
    ]
    return ended, items


def _copy_of(context: Context, source: ThreadMachine, params: ThreadForkParams) -> ThreadMachine:
    facts = Facts(
        context.new_id(),
        context.now_s(),
        source.facts.model_provider,
        context.gate.client_name,
        ephemeral=params.ephemeral,
        forked_from_id=source.id,
    )
    thread = ThreadMachine(facts, opened_with(source.settings, params))
    thread.preview, thread.name = source.preview, source.name
    thread.usage, thread.usage_turn_id = source.usage, source.usage_turn_id
    return thread
