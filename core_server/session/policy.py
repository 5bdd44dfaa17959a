"""Who is asked before a tool runs, what the answer means, and what a tool may touch. Pure.

A command or a change of files may be proposed by the engine only; what the user runs
(`thread/shellCommand`, `command/exec`) was decided by the user already.
"""

from typing import Literal, TypedDict

from core_server.protocol.approvals import AcceptWithAmendment, CommandDecision
from core_server.protocol.wire import (
    AskForApproval,
    ExternalSandbox,
    FullAccess,
    GranularPolicy,
    ReadOnly,
    SandboxPolicy,
    WorkspaceWrite,
)
from core_server.tools.base import Sandbox

Verdict = Literal["run", "decline", "cancel"]


def must_ask(policy: AskForApproval, *, escalated: bool, always: bool, read_only: bool) -> bool:
    """Whether the client is asked.

    Args:
        policy: Of the thread.
        escalated: It wants to leave the sandbox.
        always: The engine asks for all it does (the offline one).
        read_only: Known to change nothing.
    """
    if isinstance(policy, GranularPolicy):
        return policy.granular.sandbox_approval and (escalated or always)
    match policy:
        case "never":
            return False
        case "on-request":
            return escalated or always
        case "untrusted":
            return not read_only


def verdict(decision: CommandDecision) -> tuple[Verdict, bool]:
    """What an answer means: run or not, and whether not to ask again in this session."""
    if isinstance(decision, AcceptWithAmendment):
        return "run", True
    match decision:
        case "accept":
            return "run", False
        case "acceptForSession":
            return "run", True
        case "decline" | "cancel":
            return decision, False


class Confinement(TypedDict):
    """Part of a `tools.base.Command`."""

    sandbox: Sandbox
    writable_roots: tuple[str, ...]
    network: bool


def confined(policy: SandboxPolicy, cwd: str) -> Confinement:
    """What a command in `cwd` may touch."""
    match policy:
        case FullAccess() | ExternalSandbox():
            return {"sandbox": "none", "writable_roots": (), "network": True}
        case ReadOnly(network_access=network):
            return {"sandbox": "read-only", "writable_roots": (), "network": network}
        case WorkspaceWrite():
            roots = (cwd, *policy.writable_roots)
            return {
                "sandbox": "workspace-write",
                "writable_roots": roots,
                "network": policy.network_access,
            }
