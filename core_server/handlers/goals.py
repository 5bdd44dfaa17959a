"""Goals of threads: kept for the client; no engine pursues them by itself."""

import msgspec

from core_server.context import Context, Reply
from core_server.errors import invalid_params
from core_server.protocol.threads import (
    Goal,
    GoalClearResult,
    GoalGetResult,
    GoalSetParams,
    GoalSetResult,
    GoalUpdated,
    ThreadIdNotification,
)
from core_server.protocol.wire import ThreadParams


def set_goal(context: Context, params: GoalSetParams) -> Reply:
    """`thread/goal/set`: what is left out stays as it was."""
    thread = context.loaded(params.thread_id)
    thread.check_writable()
    now_s = context.now_s()
    goal = thread.goal
    if goal is None:
        if not params.objective:
            raise invalid_params("missing field `objective`: the thread has no goal yet")
        goal = Goal(thread.id, params.objective, now_s, now_s)
    given = {
        "objective": params.objective,
        "status": params.status,
        "token_budget": params.token_budget,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    changed = msgspec.structs.replace(goal, updated_at=now_s, **changes)
    thread.goal = changed
    return Reply(
        GoalSetResult(changed),
        context.write(thread),
        lambda: context.notify.say("thread/goal/updated", GoalUpdated(thread.id, changed), thread),
    )


def get_goal(context: Context, params: ThreadParams) -> GoalGetResult:
    """`thread/goal/get`."""
    return GoalGetResult(context.loaded(params.thread_id).goal)


def clear_goal(context: Context, params: ThreadParams) -> Reply:
    """`thread/goal/clear`."""
    thread = context.loaded(params.thread_id)
    thread.check_writable()
    had = thread.goal is not None
    thread.goal = None
    written = context.write(thread) if had else None
    told = ThreadIdNotification(thread.id)
    return Reply(
        GoalClearResult(had),
        written,
        lambda: context.notify.say("thread/goal/cleared", told, thread),
    )
