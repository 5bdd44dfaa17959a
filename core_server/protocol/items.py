"""Thread items: what a turn is made of, as clients see and the store keeps them."""

from typing import Literal

import msgspec

from core_server.protocol.wire import Wire


class TextInput(msgspec.Struct, frozen=True, tag="text"):
    """Text that the user wrote; `text_elements` is kept for the client as it came."""

    text: str
    text_elements: tuple[msgspec.Raw, ...] = ()


class ImageInput(msgspec.Struct, frozen=True, tag="image"):
    """An image by URL."""

    url: str


class LocalImageInput(msgspec.Struct, frozen=True, tag="localImage"):
    """An image by path on this machine."""

    path: str


class SkillInput(msgspec.Struct, frozen=True, tag="skill"):
    """A skill that the user named."""

    name: str
    path: str


class MentionInput(msgspec.Struct, frozen=True, tag="mention"):
    """A file or application that the user named."""

    name: str
    path: str


UserInput = TextInput | ImageInput | LocalImageInput | SkillInput | MentionInput


class UserMessageItem(Wire, frozen=True, tag="userMessage"):
    """What the user said."""

    id: str
    client_id: str | None
    content: tuple[UserInput, ...]
    started_at_ms: int
    completed_at_ms: int | None = None


class ToolMessage(Wire, frozen=True):
    """Content that another tool or agent delivers in place of the user."""

    name: str
    output: str | tuple[msgspec.Raw, ...]
    namespace: str | None = None


class ToolMessageItem(Wire, frozen=True, tag="functionCallOutput"):
    """What another tool or agent delivered."""

    id: str
    name: str
    output: str | tuple[msgspec.Raw, ...]
    namespace: str | None
    started_at_ms: int
    completed_at_ms: int | None = None


InputItem = UserMessageItem | ToolMessageItem
"""What a turn begins with, or what joins it."""


class AgentMessageItem(Wire, frozen=True, tag="agentMessage"):
    """What the engine said."""

    id: str
    text: str
    started_at_ms: int
    completed_at_ms: int | None = None
    phase: None = None
    moderation: None = None
    memory_citation: None = None
    delivery: None = None
    questions: None = None


class PlanItem(Wire, frozen=True, tag="plan"):
    """A plan that the engine proposes, in plan mode."""

    id: str
    text: str
    started_at_ms: int
    completed_at_ms: int | None = None


class ReasoningItem(Wire, frozen=True, tag="reasoning"):
    """What the engine thought, summarised."""

    id: str
    started_at_ms: int
    completed_at_ms: int | None = None
    summary: tuple[str, ...] = ()
    content: tuple[str, ...] = ()


class CommandAction(Wire, frozen=True, tag="unknown"):
    """What a command is for; we do not guess."""

    command: str


ToolStatus = Literal["inProgress", "completed", "failed", "declined"]


class CommandItem(Wire, frozen=True, tag="commandExecution"):
    """A command that ran, runs, or was not allowed to."""

    id: str
    command: str
    cwd: str
    started_at_ms: int
    command_actions: tuple[CommandAction, ...]
    status: ToolStatus = "inProgress"
    source: Literal["agent", "userShell", "unifiedExecStartup"] = "agent"
    process_id: str | None = None
    aggregated_output: str | None = None
    exit_code: int | None = None
    duration_ms: int | None = None
    completed_at_ms: int | None = None
    plugin_id: None = None
    script_path: None = None


class AddKind(Wire, frozen=True, tag="add"):
    """A new file."""


class DeleteKind(Wire, frozen=True, tag="delete"):
    """A file that goes."""


class UpdateKind(Wire, frozen=True, tag="update"):
    """A file that changes; its new name if it moves (snake case on the wire)."""

    move_path: str | None = msgspec.field(default=None, name="move_path")


class FileUpdate(Wire, frozen=True):
    """One file of a change."""

    path: str
    kind: AddKind | DeleteKind | UpdateKind
    diff: str


class FileChangeItem(Wire, frozen=True, tag="fileChange"):
    """A patch that was applied, or not."""

    id: str
    changes: tuple[FileUpdate, ...]
    started_at_ms: int
    status: ToolStatus = "inProgress"
    completed_at_ms: int | None = None


class CompactionItem(Wire, frozen=True, tag="contextCompaction"):
    """The history before it was summarised."""

    id: str
    started_at_ms: int
    completed_at_ms: int | None = None


class EnteredReviewItem(Wire, frozen=True, tag="enteredReviewMode"):
    """A review begins; `review` says of what."""

    id: str
    review: str
    started_at_ms: int
    completed_at_ms: int | None = None


class ExitedReviewItem(Wire, frozen=True, tag="exitedReviewMode"):
    """A review is over; `review` is what came of it."""

    id: str
    review: str
    started_at_ms: int
    completed_at_ms: int | None = None


ThreadItem = (
    UserMessageItem
    | ToolMessageItem
    | AgentMessageItem
    | PlanItem
    | ReasoningItem
    | CommandItem
    | FileChangeItem
    | CompactionItem
    | EnteredReviewItem
    | ExitedReviewItem
)
