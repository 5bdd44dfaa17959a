"""What we ask clients: approvals, and what they may answer."""

from typing import Literal

import msgspec

from core_server.protocol.items import CommandAction
from core_server.protocol.wire import Wire


class PolicyAmendment(msgspec.Struct, frozen=True):
    """A command prefix that need not be asked for again (snake case on the wire)."""

    execpolicy_amendment: tuple[str, ...]


class AcceptWithAmendment(Wire, frozen=True):
    """Accept, and do not ask again for this command."""

    accept_with_execpolicy_amendment: PolicyAmendment


CommandDecision = Literal["accept", "acceptForSession", "decline", "cancel"] | AcceptWithAmendment
FileDecision = Literal["accept", "acceptForSession", "decline", "cancel"]


class CommandApprovalParams(Wire, frozen=True):
    """`item/commandExecution/requestApproval`."""

    thread_id: str
    turn_id: str
    item_id: str
    started_at_ms: int
    command: str
    cwd: str
    command_actions: tuple[CommandAction, ...]
    reason: str | None
    proposed_execpolicy_amendment: tuple[str, ...]
    available_decisions: tuple[CommandDecision, ...]
    kind: Literal["command"] = "command"
    environment_id: Literal["local"] = "local"


class FileApprovalParams(Wire, frozen=True):
    """`item/fileChange/requestApproval`."""

    thread_id: str
    turn_id: str
    item_id: str
    started_at_ms: int
    reason: str | None = None
    grant_root: None = None


class CommandApproval(Wire, frozen=True):
    """The answer for a command."""

    decision: CommandDecision


class FileApproval(Wire, frozen=True):
    """The answer for a file change."""

    decision: FileDecision


class RequestResolved(Wire, frozen=True):
    """`serverRequest/resolved`."""

    thread_id: str
    request_id: int
