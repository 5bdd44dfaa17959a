"""A running command: output as it comes, input, resize, an end that leaves nobody behind.

    async with start(command) as process:
        async for output in process:
            ...
        outcome = await process.wait()

Leaving the block, by whatever way, kills and reaps all that the command started. Who
may run what is decided elsewhere; how it is confined, in `sandbox`; how its processes
are caught, in `reaper`, which also says what cannot be promised.
"""

import asyncio
import contextlib
import errno
import functools
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from core_server.tools.base import Command, NoRoomError, Outcome, Output, ToolError
from core_server.tools.process.descendants import adopt_orphans, children, kill_adopted
from core_server.tools.process.spawn import GRACE_S, Reaper, set_size, spawn, spawn_failure
from core_server.tools.process.streams import InputWriter, OutputReader
from core_server.tools.sandbox import sandbox
from core_server.tools.sandbox.sandbox import Mechanism

TIMEOUT_EXIT_CODE = 124
_KILLED_EXIT_CODE = 128 + signal.SIGKILL
# A reaper that was told to stop needs milliseconds; one that is stopped itself, or waits
# for a process in an uninterruptible read, must not hold up the core for longer.
_STOP_S = 2.0
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC}
_MAX_PAUSE_S = 0.5  # between two looks at who is still dying

_reapers: set[int] = set()
"""The living ones: children of this process that it must not take for orphans."""


@contextlib.asynccontextmanager
async def start(command: Command, mechanism: Mechanism | None = None) -> AsyncIterator["Process"]:
    """Run a command for the length of the block.

    Args:
        command: What to run.
        mechanism: How to confine it; None for the best that works here.

    Raises:
        SandboxUnavailableError: it wants a sandbox and there is none.
        ToolError: it could not be started, with the text of the reference server.
    """
    if not command.argv:
        raise ToolError("command must not be empty")
    if command.sandbox != "none":
        await asyncio.to_thread(sandbox.look, command.cwd)
    reaper = _spawn(command, mechanism)
    process = Process(command, reaper)
    try:
        await process.started()
        yield process
    finally:
        await process.kill()


async def run(command: Command, on_output: Callable[[Output], Awaitable[None]]) -> Outcome:
    """Run a command to its end; a slow `on_output` slows the command, not the timeout.

    Raises:
        SandboxUnavailableError: it wants a sandbox and there is none.
        ToolError: it could not be started.
    """
    async with start(command) as process:
        async for output in process:
            await on_output(output)
        return await process.wait()


def _spawn(command: Command, mechanism: Mechanism | None) -> Reaper:
    scratch = ""
    try:
        confinement = sandbox.prepare(command, mechanism)
        scratch = confinement.scratch
        _strangers()
        reaper = spawn(command, confinement)
    except (OSError, ValueError, ToolError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError):
            text = spawn_failure(error.errno or 0)
            raise (NoRoomError if error.errno in _NO_ROOM else ToolError)(text) from None
        if isinstance(error, ValueError):  # a path with a NUL in it
            raise ToolError(f"failed to spawn command: {error}") from None
        raise
    _reapers.add(reaper.pid)
    return reaper


@functools.cache
def _strangers() -> frozenset[int]:
    """Children from before the first command, when this process becomes a subreaper.

    Whatever ran in it before `exec`, as a shell that starts something and then becomes the
    core, has started them: they did not fall to it from a command, and are not its to end.
    """
    found = children()
    adopt_orphans()
    return found


class Process:
    """One command while it runs; made by `start`.

    Attributes:
        pid: The command's process id (bubblewrap's, where that wraps it).
    """

    def __init__(self, command: Command, reaper: Reaper) -> None:
        self._loop = asyncio.get_running_loop()
        self._command = command
        self._reaper = reaper
        self._started_at_s = self._loop.time()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[Outcome] = self._loop.create_future()
        self._exit_code: int | None = None  # until the reaper says so
        self._timed_out = False
        self._news = b""
        self.pid = 0
        self._output = OutputReader(reaper.outputs, command.output_cap_bytes)
        stdin_fd = reaper.stdin_fd
        if stdin_fd is not None and stdin_fd == reaper.tty_fd:
            stdin_fd = os.dup(stdin_fd)  # each side closes its own
        self._input = InputWriter(stdin_fd, tty=command.tty is not None)
        self._loop.add_reader(reaper.channel, self._hear)
        self._last_resort: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        if command.timeout_s is not None:
            self._timer = self._loop.call_later(command.timeout_s, self._time_out)

    def __repr__(self) -> str:
        state = "ended" if self._ended.done() else "running"
        return f"<Process {self.pid} {state} argv={self._command.argv[0]!r}>"

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        piece = await self._output.next()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def started(self) -> None:
        """Wait until the command runs.

        Raises:
            ToolError: it does not.
        """
        await asyncio.shield(self._started)

    async def write(self, data: bytes) -> None:
        """Write to its stdin (`Command.stdin` or `tty`); waits while it does not read.

        Raises:
            ToolError: stdin is closed, or was never open.
        """
        await self._input.write(data)

    async def close_stdin(self) -> None:
        """Let it see the end of its input; on a terminal by typing Ctrl-D."""
        await self._input.finish()

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of its terminal.

        Raises:
            ToolError: it has none, has ended, or the size is not within 1..65535.
        """
        if self._reaper.tty_fd is None:
            raise ToolError("the command has no terminal to resize")
        if not (0 < columns < 65536 and 0 < rows < 65536):
            raise ToolError(f"a terminal cannot have {columns} columns and {rows} rows")
        if not self._output.open:
            raise ToolError("the command has ended")
        set_size(self._reaper.tty_fd, columns, rows)

    def terminate(self) -> None:
        """Send TERM to all its processes, and KILL half a second later."""
        with contextlib.suppress(OSError):  # it has ended
            self._reaper.channel.send(b"T")
            if self._last_resort is None:
                self._last_resort = self._loop.call_later(GRACE_S + _STOP_S, self._kill_hard)

    async def wait(self) -> Outcome:
        """Wait until no process of it is left.

        Read the output first: what is unread is dropped from now on, so that a full
        pipe cannot hold up the end.
        """
        await self._output.discard()
        return await asyncio.shield(self._ended)

    async def kill(self) -> None:
        """Kill all its processes and free what it holds; no error if it has ended."""
        with contextlib.suppress(OSError):
            self._reaper.channel.shutdown(
                socket.SHUT_WR
            )  # the end of file that the reaper waits for
        try:
            if not await self._ends_within(_STOP_S):
                self._kill_hard()
                await self._ends_within(_STOP_S)
        finally:
            self._input.close()
            self._output.close()

    async def _ends_within(self, limit_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await asyncio.shield(self._ended)
        return self._ended.done()

    def _hear(self) -> None:
        """Take the reaper's news; its end of file means that nobody is left."""
        try:
            data = self._reaper.channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        *lines, self._news = (self._news + data).split(b"\n")
        for line in lines:
            word, _, rest = line.partition(b" ")
            self._learn(word, rest)

    def _learn(self, word: bytes, rest: bytes) -> None:
        if word == b"started":
            self.pid = int(rest)
            if not self._started.done():
                self._started.set_result(None)
        elif word == b"exit":
            self._exit_code = int(rest)
        elif word == b"limit":
            self._output.notice(f"core-server: killed, {rest.decode()}\n")
        elif word == b"failed":
            self._refuse(spawn_failure(int(rest)))
        else:
            self._refuse(f"failed to spawn command: {rest.decode(errors='replace')}")

    def _refuse(self, text: str) -> None:
        if not self._started.done():
            self._started.set_exception(ToolError(text))
            self._started.exception()  # retrieved: nobody may be waiting any more

    def _end(self) -> None:
        for timer in (self._timer, self._last_resort):
            if timer is not None:
                timer.cancel()
        self._loop.remove_reader(self._reaper.channel)
        self._reaper.channel.close()
        # Its socket was closed by its exit, so this takes microseconds.
        os.waitpid(self._reaper.pid, 0)
        _reapers.discard(self._reaper.pid)
        self._refuse("failed to spawn command: its supervising process was killed")
        if self._exit_code is None:  # it was killed before it could clean up
            self._exit_code = _KILLED_EXIT_CODE
            self._kill_group()
            self._sweep()
        else:
            self._finish(self._exit_code)

    def _sweep(self, pause_s: float = 0.001) -> None:
        """Kill what the reaper would have killed, until nobody is left."""
        if kill_adopted(_reapers | _strangers()):
            self._loop.call_later(pause_s, self._sweep, min(2 * pause_s, _MAX_PAUSE_S))
        else:
            self._finish(_KILLED_EXIT_CODE)

    def _finish(self, code: int) -> None:
        self._input.close()
        self._output.end_writers()
        self._ended.set_result(
            Outcome(
                exit_code=TIMEOUT_EXIT_CODE if self._timed_out else code,
                timed_out=self._timed_out,
                truncated=self._output.truncated,
                duration_s=self._loop.time() - self._started_at_s,
            )
        )

    def _time_out(self) -> None:
        self._timed_out = True
        self.terminate()

    def _kill_hard(self) -> None:
        """The reaper does not answer: end it, and with it (PDEATHSIG) the command."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._reaper.pid, signal.SIGKILL)
        self._kill_group()

    def _kill_group(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
