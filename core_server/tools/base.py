"""The vocabulary of tools: what to run or change, and what came of it.

Policy (who may, who is asked) is not decided here but in `session`.
"""

from typing import Literal

import msgspec

Sandbox = Literal["read-only", "workspace-write", "none"]


class ToolError(Exception):
    """It could not be done; the text is for people and models, one line."""


class SandboxUnavailableError(ToolError):
    """Neither bubblewrap nor Landlock works here, and `--sandbox none` was not given."""


class NoRoomError(ToolError):
    """The machine has no process, descriptor or memory left; later it may."""


class Command(msgspec.Struct, frozen=True):
    """A command to run.

    Attributes:
        argv: Program and arguments, not empty.
        cwd: Absolute path.
        sandbox: What it may touch.
        writable_roots: Absolute paths it may write to under `workspace-write`.
        environment: Set on top of the allow-list of inherited variables
            (`TRACEPARENT`, `TRACESTATE` come this way); None unsets.
        timeout_s: Killed after this, exit code 124; None for no limit.
        output_cap_bytes: More output is read but not kept; None for no cap.
        tty: Columns and rows of a pseudo-terminal, or None for pipes.
        stdin: Whether `Process.write` will be used; else stdin is /dev/null.
        network: Whether it may use the network (always under sandbox `none`).
    """

    argv: tuple[str, ...]
    cwd: str
    sandbox: Sandbox
    writable_roots: tuple[str, ...] = ()
    environment: dict[str, str | None] = {}
    timeout_s: float | None = 120.0
    output_cap_bytes: int | None = 1024 * 1024
    tty: tuple[int, int] | None = None
    stdin: bool = False
    network: bool = False


class Output(msgspec.Struct, frozen=True):
    """A piece of output, in order of arrival."""

    stream: Literal["stdout", "stderr"]
    data: bytes
    cap_reached: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """How a command ended.

    Attributes:
        exit_code: 128 + signal when a signal ended it, 124 on timeout.
        timed_out: The timeout ended it.
        truncated: Output went over its cap.
        duration_s: From spawn to the end of the last process of its group.
    """

    exit_code: int
    timed_out: bool
    truncated: bool
    duration_s: float


class FileChange(msgspec.Struct, frozen=True):
    """One file of a patch, resolved beneath the workspace.

    Attributes:
        path: Absolute.
        kind: What happens to it.
        diff: Unified diff (`update`), or the whole content (`add`, `delete`).
        move_to: New absolute path, for an update that also moves.
    """

    path: str
    kind: Literal["add", "delete", "update"]
    diff: str
    move_to: str | None = None
