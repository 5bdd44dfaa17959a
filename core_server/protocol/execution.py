"""`command/exec`: commands that a client runs itself, beside any thread."""

from typing import Annotated, Literal

from msgspec import Meta

from core_server.protocol.wire import I64, SandboxPolicy, Wire

Cells = Annotated[int, Meta(ge=0, le=65535)]
"""What a terminal can be told: an unsigned short (tty_ioctl(4))."""


class TerminalSize(Wire, frozen=True):
    """A terminal's size in characters."""

    rows: Cells
    cols: Cells


class ExecParams(Wire, frozen=True):
    """`command/exec`. `process_id` is the client's own name for it."""

    command: tuple[str, ...]
    process_id: str | None = None
    cwd: str | None = None
    env: dict[str, str | None] | None = None
    timeout_ms: I64 | None = None
    disable_timeout: bool = False
    output_bytes_cap: I64 | None = None
    disable_output_cap: bool = False
    sandbox_policy: SandboxPolicy | None = None
    size: TerminalSize | None = None
    tty: bool = False
    stream_stdin: bool = False
    stream_stdout_stderr: bool = False


class ExecResult(Wire, frozen=True):
    """How it ended; the outputs are empty when they were streamed."""

    exit_code: int
    stdout: str
    stderr: str


class ExecWriteParams(Wire, frozen=True):
    """`command/exec/write`."""

    process_id: str
    delta_base64: str | None = None
    close_stdin: bool = False


class ExecResizeParams(Wire, frozen=True):
    """`command/exec/resize`."""

    process_id: str
    size: TerminalSize


class ExecTerminateParams(Wire, frozen=True):
    """`command/exec/terminate`."""

    process_id: str


class ExecOutput(Wire, frozen=True):
    """`command/exec/outputDelta`."""

    process_id: str
    stream: Literal["stdout", "stderr"]
    delta_base64: str
    cap_reached: bool
