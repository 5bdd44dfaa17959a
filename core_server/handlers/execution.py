"""`command/exec`: a client runs a command itself, watches it, types into it, ends it.

Nobody is asked: who can send this may run commands. The answer comes when the command
has ended, so at most `MAX_RUNNING` are served at once, apart from all other requests.
"""

import base64
import binascii
import os
from typing import Final

from core_server.context import Context
from core_server.errors import invalid_params, invalid_request, overloaded
from core_server.handlers.settings import policy_of
from core_server.protocol.execution import (
    ExecOutput,
    ExecParams,
    ExecResizeParams,
    ExecResult,
    ExecTerminateParams,
    ExecWriteParams,
)
from core_server.protocol.wire import Nothing, WorkspaceWrite
from core_server.session.policy import confined
from core_server.tools.base import Command, NoRoomError, Output, ToolError
from core_server.tools.process.command import Process, start

MAX_RUNNING: Final = 64
"""Each costs two processes and some threads' time; the reference was seen with 40."""

DEFAULT_TIMEOUT_S: Final = 120.0
DEFAULT_CAP_BYTES: Final = 1024 * 1024
MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Of an output that is not streamed: it is kept until the answer, whatever was asked."""


async def execute(context: Context, params: ExecParams) -> ExecResult:
    """`command/exec`: run to the end."""
    _check(context, params)
    name = params.process_id
    key = name if name is not None else f"\0{context.new_id()}"
    context.executions[key] = None
    try:
        async with start(_command(context, params)) as process:
            context.executions[key] = process
            kept: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
            async for output in process:
                if params.stream_stdout_stderr:
                    context.notify.tell("command/exec/outputDelta", _told(key, output))
                    await context.room()
                else:
                    kept[output.stream].append(output.data)
            outcome = await process.wait()
    except NoRoomError as error:
        raise overloaded(str(error)) from None
    except ToolError as error:
        raise invalid_request(str(error)) from None
    finally:
        del context.executions[key]
    out, err = (b"".join(kept[stream]).decode(errors="replace") for stream in ("stdout", "stderr"))
    return ExecResult(outcome.exit_code, out, err)


async def write(context: Context, params: ExecWriteParams) -> Nothing:
    """`command/exec/write`: type into it, close its stdin, or both."""
    process = _running(context, params.process_id)
    try:
        data = base64.b64decode(params.delta_base64 or "", validate=True)
    except (binascii.Error, ValueError):
        raise invalid_params("`deltaBase64`: not base64") from None
    try:
        if data:
            await process.write(data)
        if params.close_stdin:
            await process.close_stdin()
    except ToolError as error:
        raise invalid_request(str(error)) from None
    return Nothing()


def resize(context: Context, params: ExecResizeParams) -> Nothing:
    """`command/exec/resize`."""
    try:
        _running(context, params.process_id).resize(params.size.cols, params.size.rows)
    except ToolError as error:
        raise invalid_request(str(error)) from None
    return Nothing()


def terminate(context: Context, params: ExecTerminateParams) -> Nothing:
    """`command/exec/terminate`."""
    _running(context, params.process_id).terminate()
    return Nothing()


def _running(context: Context, name: str) -> Process:
    process = context.executions.get(name)
    if process is None:
        raise invalid_request(f'no active command/exec for process id "{name[:256]}"')
    return process


def _check(context: Context, params: ExecParams) -> None:
    if not params.command:
        raise invalid_request("command must not be empty")
    streams = params.tty or params.stream_stdin or params.stream_stdout_stderr
    if params.process_id is None and streams:
        raise invalid_request("command/exec with tty or streaming requires processId")
    if params.process_id is not None and params.process_id in context.executions:
        raise invalid_request(
            f'command/exec with process id "{params.process_id[:256]}" is running already'
        )
    if params.timeout_ms is not None and params.timeout_ms < 0:
        raise invalid_params("`timeoutMs`: must not be negative")
    if params.output_bytes_cap is not None and params.output_bytes_cap < 0:
        raise invalid_params("`outputBytesCap`: must not be negative")
    _check_texts(params)
    if len(context.executions) >= MAX_RUNNING:
        raise overloaded(f"{MAX_RUNNING} commands are running")


def _check_texts(params: ExecParams) -> None:
    """What no program can be given, whatever the machine: a NUL ends a text there."""
    environment = params.env or {}
    policy = params.sandbox_policy
    roots = policy.writable_roots if isinstance(policy, WorkspaceWrite) else ()
    texts = {
        "command": params.command,
        "cwd": (params.cwd or "",),
        "env": (*environment, *(value or "" for value in environment.values())),
        "sandboxPolicy.writableRoots": roots,
    }
    for field, values in texts.items():
        if any("\0" in value for value in values):
            raise invalid_params(f"`{field}`: must not hold a NUL character")
    if any(not name or "=" in name for name in environment):
        raise invalid_params("`env`: a name must not be empty or hold `=`")


def _command(context: Context, params: ExecParams) -> Command:
    cwd = os.path.join(context.config.workspace, params.cwd or "")  # noqa: PTH118 - text
    policy = params.sandbox_policy or policy_of(context.config.sandbox)
    size = params.size
    timeout_s = DEFAULT_TIMEOUT_S if params.timeout_ms is None else params.timeout_ms / 1000
    terminal = (size.cols, size.rows) if size is not None else (80, 24)
    return Command(
        argv=params.command,
        cwd=os.path.normpath(cwd),
        **confined(policy, os.path.normpath(cwd)),
        environment=params.env or {},
        timeout_s=None if params.disable_timeout else timeout_s,
        output_cap_bytes=_cap_bytes(params),
        tty=terminal if params.tty else None,
        stdin=params.stream_stdin,
    )


def _cap_bytes(params: ExecParams) -> int | None:
    cap = DEFAULT_CAP_BYTES if params.output_bytes_cap is None else params.output_bytes_cap
    if params.stream_stdout_stderr:
        return None if params.disable_output_cap else cap
    return MAX_KEPT_BYTES if params.disable_output_cap else min(cap, MAX_KEPT_BYTES)


def _told(key: str, output: Output) -> ExecOutput:
    data = base64.b64encode(output.data).decode()
    return ExecOutput(key, output.stream, data, output.cap_reached)
