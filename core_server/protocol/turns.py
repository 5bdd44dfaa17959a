"""Turns: their shape, their methods, and what is told of them while they run."""

from typing import Literal

import msgspec

from core_server.protocol.items import ThreadItem, ToolMessage, UserInput
from core_server.protocol.wire import (
    AskForApproval,
    CollaborationMode,
    Reviewer,
    SandboxPolicy,
    Wire,
)

TurnStatus = Literal["inProgress", "completed", "interrupted", "failed"]
ItemsView = Literal["notLoaded", "summary", "full"]
ErrorInfo = str | dict[str, dict[str, int | str | None]]
"""A kind of error: its name, or an object of its name and what is known besides."""


class TurnError(Wire, frozen=True):
    """Why a turn failed, or why a sample is tried again."""

    message: str
    codex_error_info: ErrorInfo | None = None
    additional_details: str | None = None
    misalignment: None = None


class Turn(Wire, frozen=True):
    """A turn. Times in Unix seconds, the duration in milliseconds."""

    id: str
    root_turn_id: str
    items: tuple[ThreadItem, ...] = ()
    items_view: ItemsView = "notLoaded"
    status: TurnStatus = "inProgress"
    error: TurnError | None = None
    started_at: int | None = None
    completed_at: int | None = None
    duration_ms: int | None = None


class TurnStartParams(Wire, frozen=True):
    """`turn/start`; what is given besides the input stays with the thread."""

    thread_id: str
    input: tuple[UserInput, ...]
    client_user_message_id: str | None = None
    model: str | None = None
    effort: str | None = None
    summary: str | None = None
    cwd: str | None = None
    approval_policy: AskForApproval | None = None
    approvals_reviewer: Reviewer | None = None
    sandbox_policy: SandboxPolicy | None = None
    tool_output: ToolMessage | None = None
    collaboration_mode: CollaborationMode | None = None
    output_schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class DiffUpdated(Wire, frozen=True):
    """`turn/diff/updated`: all that the turn changed so far, as git shows it."""

    thread_id: str
    turn_id: str
    diff: str


class PlanStep(Wire, frozen=True):
    """A step of the engine's list of what is to be done."""

    step: str
    status: Literal["pending", "inProgress", "completed"]


class PlanUpdated(Wire, frozen=True):
    """`turn/plan/updated`: the whole list, as it is now."""

    thread_id: str
    turn_id: str
    explanation: str | None
    plan: tuple[PlanStep, ...]


class TurnResult(Wire, frozen=True):
    """Answer of `turn/start`."""

    turn: Turn


class TurnSteerParams(Wire, frozen=True):
    """`turn/steer`: more input for the running turn."""

    thread_id: str
    expected_turn_id: str
    input: tuple[UserInput, ...]
    client_user_message_id: str | None = None


class TurnSteerResult(Wire, frozen=True):
    """Answer of `turn/steer`."""

    turn_id: str


class TurnInterruptParams(Wire, frozen=True):
    """`turn/interrupt`."""

    thread_id: str
    turn_id: str


class TurnNotification(Wire, frozen=True):
    """`turn/started` and `turn/completed`."""

    thread_id: str
    turn: Turn


class ItemStarted(Wire, frozen=True):
    """`item/started`."""

    item: ThreadItem
    thread_id: str
    turn_id: str
    started_at_ms: int


class ItemCompleted(Wire, frozen=True):
    """`item/completed`."""

    item: ThreadItem
    thread_id: str
    turn_id: str
    completed_at_ms: int
    content_token_count: None = None


class Delta(Wire, frozen=True):
    """`item/agentMessage/delta`, `item/plan/delta`, `item/commandExecution/outputDelta`."""

    thread_id: str
    turn_id: str
    item_id: str
    delta: str


class ReasoningPartAdded(Wire, frozen=True):
    """`item/reasoning/summaryPartAdded`."""

    thread_id: str
    turn_id: str
    item_id: str
    summary_index: int


class ReasoningTextDelta(Wire, frozen=True):
    """`item/reasoning/summaryTextDelta`."""

    thread_id: str
    turn_id: str
    item_id: str
    delta: str
    summary_index: int


class ErrorNotification(Wire, frozen=True):
    """`error`: a sample failed; `will_retry` says whether the turn goes on."""

    error: TurnError
    will_retry: bool
    thread_id: str
    turn_id: str


class TokenCounts(Wire, frozen=True):
    """Tokens of one sample, or of all."""

    total_tokens: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0


class TokenUsage(Wire, frozen=True):
    """Tokens of a thread."""

    total: TokenCounts
    last: TokenCounts
    model_context_window: int | None = None


class RawResponseCompleted(Wire, frozen=True):
    """`rawResponse/completed`: a request to the model is over.

    Attributes:
        started_at_ms: When it was made; None where another one had failed before it.
        unasked: Nobody asked for it but who watches: a proxy tells no client of it.
    """

    thread_id: str
    turn_id: str
    response_id: str
    model: str
    usage: TokenCounts
    completed_at_ms: int
    started_at_ms: int | None = None
    unasked: bool = False


class TokenUsageUpdated(Wire, frozen=True):
    """`thread/tokenUsage/updated`."""

    thread_id: str
    turn_id: str
    token_usage: TokenUsage
