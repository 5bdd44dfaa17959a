"""Threads: their shape, their methods, their goals, searches, and what is told of them."""

from typing import Annotated, Literal

import msgspec

from core_server.config import SandboxMode
from core_server.protocol.pages import TurnsListResult
from core_server.protocol.turns import ItemsView, Turn
from core_server.protocol.wire import (
    I64,
    U32,
    AskForApproval,
    CollaborationMode,
    Reviewer,
    SandboxPolicy,
    SortDirection,
    Wire,
)


class NotLoaded(Wire, frozen=True, tag="notLoaded"):
    """The thread is on disk only."""


class Idle(Wire, frozen=True, tag="idle"):
    """Loaded, and no turn runs."""


class SystemError_(Wire, frozen=True, tag="systemError"):  # noqa: N801 - the wire's word
    """The last turn failed; the next one may work."""


class Active(Wire, frozen=True, tag="active"):
    """A turn runs."""

    active_flags: tuple[Literal["waitingOnApproval"], ...] = ()


ThreadStatus = NotLoaded | Idle | SystemError_ | Active


class Environment(Wire, frozen=True):
    """Where a thread's commands run: here."""

    cwd: str
    runtime_workspace_roots: tuple[str, ...]
    environment_id: str = "local"


class Thread(Wire, frozen=True, kw_only=True):
    """A thread as clients see it. Times in Unix seconds."""

    id: str
    environments: tuple[Environment, ...]
    session_id: str
    forked_from_id: str | None = None
    preview: str
    ephemeral: bool
    model_provider: str
    model: str
    reasoning_effort: str | None
    created_at: int
    updated_at: int
    recency_at: int
    status: ThreadStatus
    cwd: str
    cli_version: str
    originator: str
    source: str
    name: str | None
    turns: tuple[Turn, ...] = ()
    history_mode: Literal["paginated"] = "paginated"
    can_accept_direct_input: bool = True
    extra: None = None
    attached_to_thread_id: None = None
    parent_thread_id: None = None
    section: None = None
    section_entered_at: None = None
    project_id: None = None
    path: None = None
    thread_source: None = None
    agent_nickname: None = None
    agent_role: None = None
    git_info: None = None
    daybreak_enabled: None = None


class ThreadStartParams(Wire, frozen=True):
    """`thread/start`."""

    model: str | None = None
    cwd: str | None = None
    approval_policy: AskForApproval | None = None
    approvals_reviewer: Reviewer | None = None
    sandbox: SandboxMode | None = None
    base_instructions: str | None = None
    developer_instructions: str | None = None
    ephemeral: bool | None = None
    experimental_raw_events: bool | None = None


class TurnsPageParams(Wire, frozen=True):
    """The first page of turns, wanted with the answer of a resume."""

    limit: U32 | None = None
    sort_direction: SortDirection | None = None
    items_view: ItemsView | None = None


class ThreadResumeParams(Wire, frozen=True):
    """`thread/resume`; what is given overrides what the thread had."""

    thread_id: str
    model: str | None = None
    cwd: str | None = None
    approval_policy: AskForApproval | None = None
    approvals_reviewer: Reviewer | None = None
    sandbox: SandboxMode | None = None
    base_instructions: str | None = None
    developer_instructions: str | None = None
    exclude_turns: bool = False
    initial_turns_page: TurnsPageParams | None = None


class ThreadForkParams(Wire, frozen=True):
    """`thread/fork`: a new thread with the history up to and including `last_turn_id`."""

    thread_id: str
    last_turn_id: str | None = None
    before_turn_id: str | None = None
    model: str | None = None
    cwd: str | None = None
    approval_policy: AskForApproval | None = None
    approvals_reviewer: Reviewer | None = None
    sandbox: SandboxMode | None = None
    base_instructions: str | None = None
    developer_instructions: str | None = None
    ephemeral: bool = False
    exclude_turns: bool = False


class OpenedThread(Wire, frozen=True):
    """Answer of start, resume and fork: the thread and the settings in force."""

    thread: Thread
    model: str
    model_provider: str
    cwd: str
    runtime_workspace_roots: tuple[str, ...]
    approval_policy: AskForApproval
    approvals_reviewer: Reviewer
    sandbox: SandboxPolicy
    reasoning_effort: str | None
    service_tier: None = None
    disabled_plugin_ids: tuple[str, ...] = ()
    instruction_sources: tuple[str, ...] = ()
    active_permission_profile: None = None
    multi_agent_mode: Literal["explicitRequestOnly"] = "explicitRequestOnly"
    initial_turns_page: TurnsListResult | msgspec.UnsetType = msgspec.UNSET


class ThreadListParams(Wire, frozen=True):
    """`thread/list`."""

    cursor: str | None = None
    limit: U32 | None = None
    sort_key: Literal["created_at", "updated_at", "recency_at", "section_position"] | None = None
    sort_direction: SortDirection | None = None
    archived: bool | None = None
    model_providers: tuple[str, ...] | None = None
    source_kinds: tuple[str, ...] | None = None
    cwd: str | tuple[str, ...] | None = None
    search_term: str | None = None
    originators: tuple[str, ...] | None = None
    excluded_thread_ids: tuple[str, ...] | None = None
    included_thread_ids: tuple[str, ...] | None = None
    section_id: str | None = None
    project_id: str | None = None
    parent_thread_id: str | None = None
    ancestor_thread_id: str | None = None
    attached_to_thread_id: str | None = None


class UnreadFromStart(Wire, frozen=True, tag="threadStart"):
    """Somebody marked the whole thread as unread."""


class UnreadTurn(Wire, frozen=True, tag="turn"):
    """The first turn that nobody has read."""

    turn_id: str


class ReadState(Wire, frozen=True):
    """How far a thread was read.

    Attributes:
        revision: Another one after each change; an update names the one that it saw.
        first_unread: None when all was read.
    """

    revision: str
    first_unread: UnreadFromStart | UnreadTurn | None = None


class ReadOperation(Wire, frozen=True):
    """What to do with a read mark."""

    type: Literal["read", "unread"]


class ReadStateParams(Wire, frozen=True):
    """`thread/readState/update`."""

    thread_id: str
    operation: ReadOperation
    expected_revision: str


class ReadStateResult(Wire, frozen=True):
    """Answer of `thread/readState/update`."""

    read_state: ReadState


class ReadStateChanged(Wire, frozen=True):
    """`thread/readState/changed`."""

    thread_id: str
    read_state: ReadState


class ThreadListResult(Wire, frozen=True):
    """A page of threads."""

    data: tuple[Thread, ...]
    next_cursor: str | None
    backwards_cursor: str | None
    read_states: dict[str, ReadState] = msgspec.field(default_factory=dict)


class ThreadReadParams(Wire, frozen=True):
    """`thread/read`."""

    thread_id: str
    include_turns: bool = False


class ThreadResult(Wire, frozen=True):
    """Answer of `thread/unarchive`."""

    thread: Thread


class ThreadReadResult(Wire, frozen=True):
    """Answer of `thread/read`."""

    thread: Thread
    read_state: ReadState | None = None


class ThreadNameParams(Wire, frozen=True):
    """`thread/name/set`."""

    thread_id: str
    name: str


class UnsubscribeResult(Wire, frozen=True):
    """Answer of `thread/unsubscribe`."""

    status: Literal["unsubscribed", "notSubscribed", "notLoaded"]


class LoadedListParams(Wire, frozen=True):
    """`thread/loaded/list`."""

    cursor: str | None = None
    limit: U32 | None = None


class LoadedListResult(Wire, frozen=True):
    """Ids of loaded threads."""

    data: tuple[str, ...]
    next_cursor: str | None = None


class ShellCommandParams(Wire, frozen=True):
    """`thread/shellCommand`: the user's own command, run beside the engine."""

    thread_id: str
    command: str
    timeout_ms: I64 | None = None


class ThreadIdNotification(Wire, frozen=True):
    """`thread/archived`, `unarchived`, `deleted`, `closed`, `goal/cleared`."""

    thread_id: str


class ThreadStarted(Wire, frozen=True):
    """`thread/started`."""

    thread: Thread


class StatusChanged(Wire, frozen=True):
    """`thread/status/changed`."""

    thread_id: str
    status: ThreadStatus


class NameUpdated(Wire, frozen=True):
    """`thread/name/updated`."""

    thread_id: str
    thread_name: str | None


class SettingsUpdateParams(Wire, frozen=True):
    """`thread/settings/update`: for the turns that come."""

    thread_id: str
    model: str | None = None
    effort: str | None = None
    summary: str | None = None
    cwd: str | None = None
    approval_policy: AskForApproval | None = None
    approvals_reviewer: Reviewer | None = None
    sandbox_policy: SandboxPolicy | None = None
    collaboration_mode: CollaborationMode | None = None


class ThreadSettings(Wire, frozen=True):
    """The settings in force."""

    cwd: str
    approval_policy: AskForApproval
    approvals_reviewer: Reviewer
    sandbox_policy: SandboxPolicy
    model: str
    model_provider: str
    effort: str | None
    summary: str | None
    collaboration_mode: CollaborationMode


class SettingsUpdated(Wire, frozen=True):
    """`thread/settings/updated`."""

    thread_id: str
    thread_settings: ThreadSettings


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


class CancelParams(Wire, frozen=True):
    """`thread/search/cancel`, `thread/search/stream/cancel`, `thread/sample/cancel`."""

    request_id: RequestId


class OccurrencesParams(Wire, frozen=True):
    """`thread/searchOccurrences`."""

    thread_id: str
    search_term: str
    cursor: str | None = None
    limit: U32 | None = None


class TextRange(Wire, frozen=True):
    """A part of a text, in UTF-16 code units."""

    start: int
    end: int


class Occurrence(Wire, frozen=True):
    """A place in a thread; the cursor is for `thread/turns/list`, from its turn on."""

    turn_id: str
    item_id: str
    snippet: str
    snippet_match_range: TextRange
    turn_cursor: str


class OccurrencesResult(Wire, frozen=True):
    """A page of places, oldest first."""

    data: tuple[Occurrence, ...]
    next_cursor: str | None


class SampleParams(Wire, frozen=True):
    """`thread/sample`: one more answer of the engine that leaves no trace in the thread."""

    thread_id: str
    expected_turn_id: str
    prompt: str
    effort: str | None = None
    allow_in_progress_turn: bool = False


class SampleResult(Wire, frozen=True):
    """Answer of `thread/sample`."""

    source_turn_id: str
    response_id: str
    text: str | None
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None


class ApprovedPlanParams(Wire, frozen=True):
    """`thread/prepareApprovedPlan`."""

    thread_id: str
    markdown: str
    attachment_path: str | None = None


class ApprovedPlanResult(Wire, frozen=True):
    """What to tell the engine when its plan was approved."""

    prompt: str = "Implement the plan."


class Warning_(Wire, frozen=True):  # noqa: N801 - the wire's word
    """`warning`: something that a user should know of, and that stops nothing."""

    message: str
    thread_id: str | None = None
