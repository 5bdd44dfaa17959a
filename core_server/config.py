"""Configuration: read once in `cli`, passed down, never changed."""

from dataclasses import dataclass
from typing import Literal

ApprovalPolicy = Literal["untrusted", "on-request", "never"]
SandboxMode = Literal["read-only", "workspace-write", "danger-full-access"]

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Config:
    """All that a core is told at its start.

    Attributes:
        engine: `offline` or `openai`.
        model: Model for new threads; None for the engine's own default.
        store: `memory` or `sqlite:///PATH`.
        workspace: Absolute path; where threads work that name no directory.
        approval_policy: For threads that name none.
        sandbox: For threads that name none.
        max_message_bytes: A longer line is refused.
        home: Absolute path, shown to clients as `codexHome`.
        approval_timeout_s: A question that nobody answered for so long means no.
    """

    engine: str = "offline"
    model: str | None = None
    store: str = "memory"
    workspace: str = "/"
    approval_policy: ApprovalPolicy = "on-request"
    sandbox: SandboxMode = "workspace-write"
    max_message_bytes: int = 16 * MIB
    home: str = "/"
    approval_timeout_s: float = 300.0
