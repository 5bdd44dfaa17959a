"""A loaded thread: its settings, its status, its running turn.

    IDLE --begin--> ACTIVE --end--> IDLE | SYSTEM_ERROR
    SYSTEM_ERROR --begin--> ACTIVE

At most one turn runs at a time. A thread whose write failed is read-only until it is
loaded again: what is on disk is then the truth, and nothing is added to a gap.
"""

import msgspec

from core_server.engines.base import AgentMessage, ToolCall, ToolOutput, UserMessage
from core_server.errors import WireError, storage_failed
from core_server.protocol.threads import (
    Active,
    Environment,
    Goal,
    Idle,
    NotLoaded,
    OpenedThread,
    ReadState,
    SystemError_,
    Thread,
    ThreadSettings,
    ThreadStatus,
    UnreadFromStart,
    UnreadTurn,
)
from core_server.protocol.turns import TokenCounts, TokenUsage, Turn
from core_server.protocol.wire import (
    PROTOCOL_VERSION,
    AskForApproval,
    CollaborationMode,
    CollaborationSettings,
    ModeKind,
    Reviewer,
    SandboxPolicy,
    Wire,
)
from core_server.session.turn import TurnMachine

InjectedEntry = UserMessage | AgentMessage | ToolCall | ToolOutput

PREVIEW_CHARACTERS = 1024
"""A list shows one line of it; a page of 100 threads stays below 0.5 MB."""


class Settings(Wire, frozen=True):
    """What the next turn of a thread works with."""

    model: str
    cwd: str
    approval_policy: AskForApproval
    sandbox: SandboxPolicy
    effort: str | None = None
    summary: str | None = None
    approvals_reviewer: Reviewer = "user"
    base_instructions: str = ""
    developer_instructions: str = ""
    mode: ModeKind = "default"
    mode_instructions: str = ""


class Facts(Wire, frozen=True):
    """What was settled when the thread began.

    Attributes:
        id: UUIDv7.
        created_at_s: Unix seconds.
        model_provider: The engine.
        originator: Name of the client that began it.
        source: Kind of client.
        ephemeral: Not on disk.
        forked_from_id: Where its history comes from, or None.
    """

    id: str
    created_at_s: int
    model_provider: str
    originator: str
    source: str = "vscode"
    ephemeral: bool = False
    forked_from_id: str | None = None


class Injected(Wire, frozen=True):
    """Something put into the history for the engine alone, and its place among the items."""

    ordinal: int
    entry: InjectedEntry


class ThreadMachine:
    """One loaded thread. Attributes that only describe it are set by handlers.

    Attributes:
        raw_events: Whether its client wants to hear of each request to the model.
    """

    def __init__(self, facts: Facts, settings: Settings) -> None:
        self.facts = facts
        self.raw_events = False
        self.settings = settings
        self.updated_at_s = facts.created_at_s
        self.recency_at_s = facts.created_at_s
        self.preview = ""
        self.name: str | None = None
        self.archived = False
        self.listed = False
        self.goal: Goal | None = None
        self.injected: tuple[Injected, ...] = ()
        self.usage: TokenUsage | None = None
        self.usage_turn_id = ""
        self.read_state: ReadState | None = None
        self.subscribed = True
        self.status: ThreadStatus = Idle()
        self.turn: TurnMachine | None = None
        self.turns = 0
        self.items = 0
        self.allowed: set[str] = set()
        self._broken: str | None = None
        self._elsewhere = False

    def __repr__(self) -> str:
        return f"<ThreadMachine {self.id} {type(self.status).__name__} turns={self.turns}>"

    @property
    def id(self) -> str:
        """UUIDv7."""
        return self.facts.id

    def check_writable(self) -> None:
        """Refuse work on a thread whose write failed.

        Raises:
            WireError: -32603 with `data {reason:"storage"}`.
        """
        if self._broken is not None:
            raise self.storage_error()

    def storage_error(self) -> WireError:
        """Why nothing can be acknowledged any more."""
        return storage_failed(f"{self._broken}; the thread is read-only until it is resumed")

    def break_off(self, reason: str, *, elsewhere: bool = False) -> None:
        """A write failed; or the thread is another host's, so who hears it must go there."""
        if self._broken is None:
            self._broken = reason
            self._elsewhere = elsewhere
            if self.turn is None:  # its end could not be written
                self.status = NotLoaded() if elsewhere else SystemError_()

    @property
    def broken(self) -> bool:
        """Whether it is read-only."""
        return self._broken is not None

    def begin(self, turn: TurnMachine, preview: str) -> None:
        """A turn starts."""
        assert self.turn is None, "a second turn joins the running one"
        self.turn = turn
        self.turns += 1
        self.listed = True
        self.preview = self.preview or preview[:PREVIEW_CHARACTERS]
        self.recency_at_s = self.updated_at_s = turn.started_at_ms // 1000
        self.status = Active()

    def wait(self, *, waiting: bool) -> None:
        """An approval is asked for, or settled."""
        self.status = Active(("waitingOnApproval",) if waiting else ())

    def end(self, turn: Turn) -> None:
        """The running turn ended."""
        assert self.turn is not None, "no turn runs"
        self.turn = None
        self.updated_at_s = turn.completed_at or self.updated_at_s
        if self._elsewhere:
            self.status = NotLoaded()
        else:
            self.status = SystemError_() if turn.status == "failed" else Idle()

    def unread(self, turn_id: str, revision: str) -> ReadState:
        """A turn came to an end that somebody may want to read."""
        first = self.read_state.first_unread if self.read_state else None
        self.read_state = ReadState(revision, first or UnreadTurn(turn_id))
        return self.read_state

    def mark(self, revision: str, *, read: bool) -> ReadState:
        """The user read all of it, or wants to read it again."""
        self.read_state = ReadState(revision, None if read else UnreadFromStart())
        return self.read_state

    def next_item(self) -> int:
        """The place of the next item."""
        self.items += 1
        return self.items - 1

    def count_tokens(self, turn_id: str, last: TokenCounts, window: int | None) -> TokenUsage:
        """Add a sample's tokens; returns all."""
        before = self.usage.total if self.usage else TokenCounts()
        total = TokenCounts(
            *(
                old + new
                for old, new in zip(
                    msgspec.structs.astuple(before), msgspec.structs.astuple(last), strict=True
                )
            )
        )
        self.usage, self.usage_turn_id = TokenUsage(total, last, window), turn_id
        return self.usage

    def wire(self, turns: tuple[Turn, ...] = (), status: ThreadStatus | None = None) -> Thread:
        """As clients see it."""
        facts, settings = self.facts, self.settings
        return Thread(
            id=facts.id,
            environments=(Environment(settings.cwd, (settings.cwd,)),),
            session_id=facts.id,
            forked_from_id=facts.forked_from_id,
            preview=self.preview,
            ephemeral=facts.ephemeral,
            model_provider=facts.model_provider,
            model=settings.model,
            reasoning_effort=settings.effort,
            created_at=facts.created_at_s,
            updated_at=self.updated_at_s,
            recency_at=self.recency_at_s,
            status=status or self.status,
            cwd=settings.cwd,
            cli_version=PROTOCOL_VERSION,
            originator=facts.originator,
            source=facts.source,
            name=self.name,
            turns=turns,
        )

    def opened(self, turns: tuple[Turn, ...] = ()) -> OpenedThread:
        """The answer of start, resume and fork."""
        settings = self.settings
        return OpenedThread(
            self.wire(turns),
            settings.model,
            self.facts.model_provider,
            settings.cwd,
            (settings.cwd,),
            settings.approval_policy,
            settings.approvals_reviewer,
            settings.sandbox,
            settings.effort,
        )

    def wire_settings(self) -> ThreadSettings:
        """The settings in force, as `thread/settings/updated` tells them."""
        settings = self.settings
        return ThreadSettings(
            settings.cwd,
            settings.approval_policy,
            settings.approvals_reviewer,
            settings.sandbox,
            settings.model,
            self.facts.model_provider,
            settings.effort,
            settings.summary,
            CollaborationMode(
                CollaborationSettings(
                    settings.model, settings.effort, settings.mode_instructions or None
                ),
                settings.mode,
            ),
        )
