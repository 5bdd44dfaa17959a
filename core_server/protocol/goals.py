"""Goals of threads: `thread/goal/*`."""

from typing import Literal

from core_server.protocol.wire import I64, Wire

GoalStatus = Literal["active", "paused", "blocked", "usageLimited", "budgetLimited", "complete"]


class Goal(Wire, frozen=True):
    """What a thread is to reach. Times in Unix seconds."""

    thread_id: str
    objective: str
    created_at: int
    updated_at: int
    status: GoalStatus = "active"
    token_budget: I64 | None = None
    tokens_used: int = 0
    time_used_seconds: int = 0


class GoalSetParams(Wire, frozen=True):
    """`thread/goal/set`; what is left out stays."""

    thread_id: str
    objective: str | None = None
    status: GoalStatus | None = None
    token_budget: I64 | None = None


class GoalSetResult(Wire, frozen=True):
    """Answer of `thread/goal/set`."""

    goal: Goal


class GoalGetResult(Wire, frozen=True):
    """Answer of `thread/goal/get`."""

    goal: Goal | None


class GoalClearResult(Wire, frozen=True):
    """Answer of `thread/goal/clear`."""

    cleared: bool


class GoalUpdated(Wire, frozen=True):
    """`thread/goal/updated`."""

    thread_id: str
    goal: Goal
    turn_id: str | None = None
