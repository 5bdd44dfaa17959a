"""Threads: begin, take up again, fork, put away, name."""

import contextlib
from collections.abc import AsyncIterator, Awaitable

import msgspec

from core_server.context import Context, Reply
from core_server.errors import WireError, invalid_request, no_rollout
from core_server.handlers.loading import check_id, leased, load, seen_now, stored, turns_of, unload
from core_server.handlers.pages import turns_page
from core_server.handlers.settings import defaults, opened_with
from core_server.jsonrpc import codes
from core_server.protocol.pages import TurnsListParams, TurnsListResult
from core_server.protocol.threads import (
    GoalUpdated,
    Idle,
    NameUpdated,
    NotLoaded,
    ReadStateChanged,
    ReadStateParams,
    ReadStateResult,
    StatusChanged,
    ThreadIdNotification,
    ThreadNameParams,
    ThreadReadParams,
    ThreadReadResult,
    ThreadResult,
    ThreadResumeParams,
    ThreadStarted,
    ThreadStartParams,
    UnsubscribeResult,
)
from core_server.protocol.turns import TokenUsageUpdated, Turn
from core_server.protocol.wire import Nothing, ThreadParams
from core_server.records import thread_of, thread_row
from core_server.session.thread import Facts, ThreadMachine
from core_server.storage.base import DeleteThread, PutThread


async def start(context: Context, params: ThreadStartParams) -> Reply:
    """`thread/start`: a new thread; it is on disk when this is answered."""
    facts = Facts(
        context.new_id(),
        context.now_s(),
        context.engine.provider,
        context.gate.client_name,
        ephemeral=bool(params.ephemeral),
    )
    thread = ThreadMachine(facts, opened_with(defaults(context), params))
    thread.raw_events = bool(params.experimental_raw_events)
    async with leased(context, context.store_of(thread), thread.id):
        await context.write(thread)
        context.threads[thread.id] = thread
    return Reply(thread.opened(), then=lambda: started(context, thread))


def started(context: Context, thread: ThreadMachine) -> None:
    """Tell everybody of a new thread."""
    context.notify.tell("thread/started", ThreadStarted(thread.wire()), thread.id)


async def resume(context: Context, params: ThreadResumeParams) -> Reply:
    """`thread/resume`: load it, subscribe, and hear the rest of a running turn."""
    check_id(params.thread_id, "session")
    was_loaded = context.threads.get(params.thread_id)
    if was_loaded is not None and was_loaded.broken:
        await unload(context, was_loaded)
        was_loaded = None
    thread = await load(context, params.thread_id)
    settings = opened_with(thread.settings, params)
    if settings != thread.settings:
        thread.settings = settings
        await context.write(thread)
    turns, page = await seen_now(thread, lambda: _turns(context, thread, params))
    thread.subscribed = True
    if was_loaded is None:
        idle = StatusChanged(thread.id, Idle())
        context.notify.say("thread/status/changed", idle, thread)
    opened = thread.opened(turns)
    if page is not None:
        opened = msgspec.structs.replace(opened, initial_turns_page=page)
    return Reply(opened, then=lambda: catch_up(context, thread, hydrated=bool(turns)))


async def _turns(
    context: Context, thread: ThreadMachine, params: ThreadResumeParams
) -> tuple[tuple[Turn, ...], TurnsListResult | None]:
    """As much of a thread's turns as a resume asks for: all of them, a page, both, nothing."""
    store, wanted = context.store_of(thread), params.initial_turns_page
    turns = () if params.exclude_turns else await turns_of(store, thread.id)
    if wanted is None:
        return turns, None
    asked = TurnsListParams(
        thread.id, None, wanted.limit, wanted.sort_direction, wanted.items_view
    )
    return turns, await turns_page(store, asked)


def catch_up(context: Context, thread: ThreadMachine, *, hydrated: bool) -> None:
    """What a new subscriber is told of tokens and goal."""
    if hydrated and thread.usage is not None:
        told = TokenUsageUpdated(thread.id, thread.usage_turn_id, thread.usage)
        context.notify.say("thread/tokenUsage/updated", told, thread)
    if thread.goal is not None:
        context.notify.say("thread/goal/updated", GoalUpdated(thread.id, thread.goal), thread)
    else:
        context.notify.say("thread/goal/cleared", ThreadIdNotification(thread.id), thread)


async def read(context: Context, params: ThreadReadParams) -> ThreadReadResult:
    """`thread/read`: a thread, loaded or not."""
    check_id(params.thread_id)
    thread = context.threads.get(params.thread_id)
    if thread is not None:
        store, known, status = context.store_of(thread), thread, thread.status
    else:
        error = invalid_request(f"thread not loaded: {params.thread_id}")
        row = await stored(context, params.thread_id, error)
        store, known, status = context.store, thread_of(row), NotLoaded()
    turns = await turns_of(store, known.id) if params.include_turns else ()
    return ThreadReadResult(known.wire(turns, status), known.read_state)


async def archive(context: Context, params: ThreadParams) -> Reply:
    """`thread/archive`: unload it and hide it from the ordinary list."""
    check_id(params.thread_id)
    thread = context.threads.get(params.thread_id)
    if thread is not None:
        if thread.facts.ephemeral:
            raise invalid_request(f"an ephemeral thread cannot be archived: {thread.id}")
        await unload(context, thread)
        gone = StatusChanged(thread.id, NotLoaded())
        context.notify.say("thread/status/changed", gone, thread)
    await _mark(context, params.thread_id, archived=True)
    told = ThreadIdNotification(params.thread_id)
    return Reply(
        Nothing(), then=lambda: context.notify.tell("thread/archived", told, params.thread_id)
    )


async def unarchive(context: Context, params: ThreadParams) -> Reply:
    """`thread/unarchive`: back into the ordinary list; it is not loaded by that."""
    check_id(params.thread_id)
    loaded = context.threads.get(params.thread_id)
    thread = await _mark(context, params.thread_id, archived=False)
    told = ThreadIdNotification(params.thread_id)
    return Reply(
        ThreadResult(thread.wire(status=NotLoaded() if loaded is None else loaded.status)),
        then=lambda: context.notify.tell("thread/unarchived", told, params.thread_id),
    )


async def _mark(context: Context, thread_id: str, *, archived: bool) -> ThreadMachine:
    await stored(context, thread_id)
    async with leased(context, context.store, thread_id):
        row = msgspec.structs.replace(await stored(context, thread_id), archived=archived)
        await context.store.write([PutThread(row)])
    return thread_of(row)


async def delete(context: Context, params: ThreadParams) -> Reply:
    """`thread/delete`: remove it and all below it for good."""
    check_id(params.thread_id)
    thread = context.threads.get(params.thread_id)
    store = context.store_of(thread) if thread is not None else context.store
    if thread is not None:
        await unload(context, thread)
    else:
        await stored(context, params.thread_id)
    async with leased(context, store, params.thread_id):
        await store.write([DeleteThread(params.thread_id)])
    told = ThreadIdNotification(params.thread_id)
    return Reply(
        Nothing(), then=lambda: context.notify.tell("thread/deleted", told, params.thread_id)
    )


async def set_name(context: Context, params: ThreadNameParams) -> Reply:
    """`thread/name/set`."""
    check_id(params.thread_id)
    async with _changed(context, params.thread_id, no_rollout(params.thread_id)) as thread:
        thread.name = params.name
    told = NameUpdated(params.thread_id, params.name)
    return Reply(
        Nothing(), then=lambda: context.notify.tell("thread/name/updated", told, params.thread_id)
    )


async def update_read_state(context: Context, params: ReadStateParams) -> Reply:
    """`thread/readState/update`: for who saw the newest mark."""
    check_id(params.thread_id)
    missing = invalid_request(f"thread not loaded: {params.thread_id}")
    async with _changed(context, params.thread_id, missing) as thread:
        now = thread.read_state
        if now is None or now.revision != params.expected_revision:
            seen = None if now is None else msgspec.to_builtins(now)
            raise WireError(
                codes.INVALID_REQUEST,
                "read state changed",
                {"reason": "readStateConflict", "readState": seen},
            )
        state = thread.mark(context.new_id(), read=params.operation.type == "read")
    told = ReadStateChanged(params.thread_id, state)
    return Reply(
        ReadStateResult(state),
        then=lambda: context.notify.tell("thread/readState/changed", told, params.thread_id),
    )


@contextlib.asynccontextmanager
async def _changed(
    context: Context, thread_id: str, missing: WireError
) -> AsyncIterator[ThreadMachine]:
    """A thread, loaded or not, that is written after the block.

    Raises:
        WireError: there is none (`missing`), or its writes failed before.
        ThreadOwnedError: another core owns it.
    """
    thread = context.threads.get(thread_id)
    if thread is not None:
        thread.check_writable()
        yield thread
        await context.write(thread)
        return
    await stored(context, thread_id, missing)
    async with leased(context, context.store, thread_id):
        idle = thread_of(await stored(context, thread_id, missing))
        yield idle
        await context.store.write([PutThread(thread_row(idle))])


def unsubscribe(
    context: Context, params: ThreadParams
) -> UnsubscribeResult | Awaitable[UnsubscribeResult]:
    """`thread/unsubscribe`: hear no more of it but its status.

    An ephemeral thread that nobody listens to is gone: only its subscribers knew it.
    """
    thread = context.threads.get(params.thread_id)
    if thread is None:
        return UnsubscribeResult("notLoaded")
    if not thread.subscribed:
        return UnsubscribeResult("notSubscribed")
    thread.subscribed = False
    if thread.facts.ephemeral:
        return _let_go(context, thread)
    return UnsubscribeResult("unsubscribed")


async def _let_go(context: Context, thread: ThreadMachine) -> UnsubscribeResult:
    await unload(context, thread)
    await context.fleeting.write([DeleteThread(thread.id)])
    await context.fleeting.release(thread.id)
    return UnsubscribeResult("unsubscribed")
