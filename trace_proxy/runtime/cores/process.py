"""One life of a core: a child process, its three pipes, its end.

Lines out are joined into one write per turn of the event loop; lines in are split by
our own framing. Nothing here waits for the child: a full pipe is reported to the
hub, which stops giving, and the child's output is always read.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import sys
import termios
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

import structlog

from core_server.jsonrpc.framing import LineSplitter, Oversized
from trace_proxy.errors import StartError
from trace_proxy.protocol.content_length import (
    FIRST_BYTES,
    ContentLengthSplitter,
    begins_with_header,
    begins_with_json,
    framed,
)
from trace_proxy.runtime.cores import launch_script
from trace_proxy.settings.config import CoreStderr
from trace_proxy.settings.limits import Limits

_LAUNCH: Final = launch_script.__file__
_WHOLE_BYTES: Final = 256 * 1024
"""A line longer than this is not copied only to put its newline behind it."""

_SPAWN_DESCRIPTORS: Final = 14
"""Three socket pairs, a pipe and what libuv needs meanwhile are 11."""

_MUTE_S: Final = 0.5
"""Between a core's end of output and its end; and from TERM to KILL where there is none."""

_EXIT_GRACE_S: Final = 0.2
"""For the last lines of a core that has exited: somebody may hold its pipes open."""

TAIL_LINES: Final = 20
"""A traceback's end, and what led to it."""

MAX_SHOWN_BYTES: Final = 4096
"""Of one line; core-server's own longest is 1,000 characters."""

MAX_QUOTED_CHARACTERS: Final = 500
"""Of its last line in ours, which shall stay one that a terminal shows whole."""

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")

_log = structlog.get_logger("trace_proxy.core")


class Owner(Protocol):
    """Who starts a core process and hears of it."""

    def core_lines(self, lines: list[bytes | Oversized]) -> None:
        """Lines came, in order."""
        ...

    def core_skipped(self, sizes: list[int]) -> None:
        """Lines came where a header should be; so long they were."""
        ...

    def core_misframed(self) -> None:
        """Its first output is of the other framing: nothing of it will be understood."""
        ...

    def core_written(self, lines: int, size: int) -> None:
        """So many lines, of so many bytes together, were given to its stdin."""
        ...

    def core_writable(self, *, writable: bool) -> None:
        """Its stdin is full, or has room again."""
        ...


def find_command(command: tuple[str, ...]) -> None:
    """Check that the command can be started at all.

    Raises:
        StartError: it is not there, or is no program.
    """
    program = command[0]
    if shutil.which(program) is None:
        where = "no such program" if "/" in program else "not found in PATH"
        raise StartError(f"cannot start the core: {program}: {where}; check the command after --")


class CoreProcess(asyncio.SubprocessProtocol):
    """A running core.

    Args:
        index: Its place in the pool, for the log.
        owner: Who hears of it.
        limits: Bounds of lines and of stderr.
        core_stderr: What is shown of its stderr.
        headers: Whether it speaks messages behind headers instead of lines.
        goodbye: Waited for before its input is ended.

    Attributes:
        greeted_at_s: When it was first written to, loop time; None before.
        ending: It was told to end.
    """

    def __init__(
        self,
        index: int,
        owner: Owner,
        limits: Limits,
        core_stderr: CoreStderr = CoreStderr.PASS,
        *,
        headers: bool = False,
        goodbye: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.index = index
        self._owner = owner
        self._loop = loop
        self._headers = ContentLengthSplitter(limits.max_core_line_bytes) if headers else None
        self._splitter = self._headers or LineSplitter(limits.max_core_line_bytes)
        self._max_line_bytes = limits.max_core_line_bytes
        self._first = b""
        self._known = False
        self._goodbye = goodbye
        self._stderr = StderrLog(index, limits, loop.time, core_stderr)
        self._out: list[bytes] = []
        self._flushing = False
        self._exited = asyncio.Event()
        self._drained = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._written_bytes = 0
        self._taken_bytes = 0
        self._moved_at_s = loop.time()
        self._paused = False
        self.greeted_at_s: float | None = None
        self._early: list[tuple[int, bytes]] | None = []
        self._launcher_pid = 0
        self.ending = False
        self.pid = 0

    def __repr__(self) -> str:
        return f"<CoreProcess {self.index} pid={self.pid} exit={self.exit_code}>"

    @property
    def exit_code(self) -> int | None:
        """What it exited with, negative for a signal; None while it runs."""
        return None if self._transport is None else self._transport.get_returncode()

    @property
    def spoken(self) -> bool:
        """Whether it has said anything."""
        return bool(self._first)

    async def start(self, command: tuple[str, ...]) -> None:
        """Start it below a launcher that will end whatever it has started.

        Raises:
            OSError: no process, memory or descriptor is left.
        """
        _require_descriptors()
        told, telling = os.pipe()
        try:
            transport, _ = await self._loop.subprocess_exec(
                lambda: self,
                sys.executable,
                "-I",
                "-S",
                _LAUNCH,
                str(os.getpid()),
                str(telling),
                *command,
                pass_fds=(telling,),
                start_new_session=True,
            )
            os.close(telling)
            telling = -1
            self._transport = transport
            self._launcher_pid = transport.get_pid()
            self.pid = await self._told_pid(told)
        except BaseException:
            if self._transport is not None:
                self._transport.close()  # kills the launcher, whose end is the core's
            raise
        finally:
            os.close(told)
            if telling >= 0:
                os.close(telling)
        self._stdin = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
        self._loop.call_soon(self._hear_early)

    async def _told_pid(self, told: int) -> int:
        """The core's pid, when its launcher has forked it."""
        readable = asyncio.Event()
        self._loop.add_reader(told, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(told)
        if pid := os.read(told, 32):
            return int(pid)
        await self._exited.wait()
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _hear_early(self) -> None:
        """What it said before we knew its pid comes after its owner has heard of it."""
        early, self._early = self._early, None
        for fd, data in early or ():
            self.pipe_data_received(fd, data)

    def write(self, line: bytes) -> None:
        """Queue a line; it goes out with all others of this turn of the loop."""
        self._out.append(line)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        lines, self._out = self._out, []
        if self._stdin is None or not lines:
            if lines:
                self._lost_a_pipe("stdin")
            return
        if not self._written_bytes:
            self.greeted_at_s = self._loop.time()
        size = sum(map(len, lines))
        self._written_bytes += size + len(lines)
        self._owner.core_written(len(lines), size)
        if self._headers is not None:
            self._stdin.write(b"".join(map(framed, lines)))
        elif len(lines) == 1 and len(lines[0]) > _WHOLE_BYTES:
            self._stdin.writelines((lines[0], b"\n"))
        else:
            lines.append(b"")
            self._stdin.write(b"\n".join(lines))

    @property
    def unread_bytes(self) -> int:
        """What it has not taken yet, in our buffer and (roughly) in the kernel's."""
        stdin = self._stdin
        if stdin is None or stdin.is_closing():
            return 0
        waiting = fcntl.ioctl(stdin.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return stdin.get_write_buffer_size() + int.from_bytes(waiting, sys.byteorder)

    def stalled_s(self, now_s: float) -> float:
        """For how long it has had input to take, took nothing and said nothing."""
        unread = self.unread_bytes
        taken = self._written_bytes - unread
        if unread == 0 or taken > self._taken_bytes or self._paused:
            self._taken_bytes = taken
            self._moved_at_s = now_s
        return now_s - self._moved_at_s

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Output came."""
        if self._early is not None:
            self._early.append((fd, data))
            return
        if fd == 2:
            self._stderr.feed(data)
            return
        self._moved_at_s = self._loop.time()
        if not self._known:
            self._listen(data)
        lines = self._splitter.feed(data)
        if self._headers is not None and self._headers.skipped:
            self._owner.core_skipped(self._headers.skipped)
            self._headers.skipped.clear()
        if self._splitter.unfinished_bytes > self._max_line_bytes:  # its end may never come
            lines.append(Oversized(self._splitter.unfinished_bytes, b""))
        if lines:
            self._owner.core_lines(lines)

    def _listen(self, data: bytes) -> None:
        """See from its first bytes whether it speaks as we believe."""
        self._first = (self._first + data[:FIRST_BYTES]).lstrip()
        begins_wrong = begins_with_header if self._headers is None else begins_with_json
        wrong = begins_wrong(self._first)
        self._known = wrong or len(self._first) >= FIRST_BYTES
        if wrong:
            self._owner.core_misframed()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """A pipe was closed."""
        if fd == 0:
            self._stdin = None
            if exc is not None:  # what was written meanwhile is lost
                self._lost_a_pipe("stdin")
        elif fd == 1:
            self._drained.set()
            self._lost_a_pipe("stdout")

    def _lost_a_pipe(self, name: str) -> None:
        """Without these it can hear, or say, nothing any more: it is lost, whatever it does.

        Unless it is only exiting. A core that has closed its stdin and is not written to
        may have all that it needs.
        """
        self._loop.call_later(_MUTE_S, self._end_if_alive, name)

    def _end_if_alive(self, name: str) -> None:
        if not self._exited.is_set() and not self.ending:
            _log.error("core.mute", core=self.index, reason=f"it closed its {name}")
            self.end(_MUTE_S)

    def pause_output(self, *, paused: bool) -> None:
        """Read its stdout no more, or again; meanwhile it blocks, but has not hung."""
        if self._transport is None or paused is self._paused:
            return
        stdout = cast("asyncio.ReadTransport", self._transport.get_pipe_transport(1))
        if stdout.is_closing():
            return
        self._paused = paused
        if paused:
            stdout.pause_reading()
        else:
            stdout.resume_reading()

    def process_exited(self) -> None:
        """It is dead and reaped; what it said last is still in the pipe."""
        self.pause_output(paused=False)
        self._exited.set()

    def pause_writing(self) -> None:
        """Its stdin is full."""
        self._owner.core_writable(writable=False)

    def resume_writing(self) -> None:
        """Its stdin has room."""
        self._owner.core_writable(writable=True)

    async def wait(self) -> int:
        """Wait for its end, and for its last lines; returns its exit code."""
        await self._exited.wait()
        try:
            async with asyncio.timeout(_EXIT_GRACE_S):
                await self._drained.wait()
        except TimeoutError:
            pass
        self.kill_group(signal.SIGKILL)  # if somebody has killed its launcher
        assert self._transport is not None
        self._transport.close()
        if self._early is not None:
            self._hear_early()
        code = self.exit_code
        assert code is not None
        self._stderr.close(failed=code != 0 and not self.ending)
        return code

    def epitaph(self) -> str:
        """Why it ended: its exit code, and its own last words where it may be quoted."""
        code = self.exit_code
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        last = self._stderr.last
        return f"{how}: {last}" if last else f"{how}; run its command by hand to see why"

    def close_stdin(self) -> None:
        """End its input, after what is queued: the polite request to exit."""
        self._flush()
        if self._stdin is not None:
            self._stdin.close()

    def kill_group(self, signal_number: int) -> None:
        """Send a signal to it and all that share its process group."""
        if self.pid:
            try:
                os.killpg(self.pid, signal_number)
            except ProcessLookupError:
                pass
            except PermissionError:  # only strangers are left under that number
                pass

    def kill_all(self) -> None:
        """Kill it and all that descends from it, in whatever session; from any thread."""
        self.kill_group(signal.SIGKILL)
        if self._launcher_pid and not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._launcher_pid, launch_script.END_NOW)

    def end(self, term_s: float) -> None:
        """TERM now and KILL later, to its group; `wait` tells when it is over."""
        self.ending = True
        self.kill_group(signal.SIGTERM)
        self._loop.call_later(term_s, self._kill_if_alive)

    def _kill_if_alive(self) -> None:
        if not self._exited.is_set():
            self.kill_group(signal.SIGKILL)

    async def stop(self, *, eof_s: float, term_s: float) -> None:
        """End of input, then TERM, then KILL to the group."""
        self.ending = True
        if self._goodbye is not None and not self._exited.is_set():
            await self._goodbye()
        self.close_stdin()
        for wait_s, next_signal in ((eof_s, signal.SIGTERM), (term_s, signal.SIGKILL)):
            try:
                async with asyncio.timeout(wait_s):
                    await self._exited.wait()
            except TimeoutError:
                self.kill_group(next_signal)
            else:
                return
        await self._exited.wait()  # nothing survives KILL


def _require_descriptors() -> None:
    """Fail while nothing is open yet: uvloop leaks what it has opened when it runs out."""
    held: list[int] = []
    try:
        for _ in range(_SPAWN_DESCRIPTORS):
            held.append(os.open(os.devnull, os.O_RDONLY))  # noqa: PERF401 - kept if one fails
    finally:
        for descriptor in held:
            os.close(descriptor)


class StderrLog:
    """A core's stderr: always read, and shown as the operator wants it.

    `pass` shows each line at a bounded rate and counts the others, `tail` the last ones of
    a core that failed, `none` nothing: then its words are in none of our messages either.

    Args:
        index: The core's place in the pool.
        limits: Longest line, and lines a second.
        clock: Monotonic seconds.
        shown: What is shown.
    """

    def __init__(
        self,
        index: int,
        limits: Limits,
        clock: Callable[[], float],
        shown: CoreStderr = CoreStderr.PASS,
    ) -> None:
        self._index = index
        self._clock = clock
        self._shown = shown
        self._per_second = limits.max_core_stderr_lines_per_second
        self._splitter = LineSplitter(limits.max_core_stderr_bytes)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._second = 0
        self._lines = 0

    @property
    def last(self) -> str:
        """Its last line, cleaned and cut; empty where it said none or may not be quoted."""
        if self._shown is CoreStderr.NONE or not self._tail:
            return ""
        return self._tail[-1][:MAX_QUOTED_CHARACTERS]

    def feed(self, data: bytes) -> None:
        """Take a piece of output."""
        self._take(self._splitter.feed(data))

    def close(self, *, failed: bool) -> None:
        """It has said all."""
        self._take(self._splitter.close())
        if failed and self._shown is CoreStderr.TAIL:
            for line in self._tail:
                _log.warning("core.stderr", core=self._index, line=line)
        self._count()

    def _take(self, lines: list[bytes | Oversized]) -> None:
        for line in lines:
            head = line.head if isinstance(line, Oversized) else line
            if text := _readable(head):
                self._tail.append(text)
                if self._shown is CoreStderr.PASS:
                    self._log(text)

    def _log(self, text: str) -> None:
        second = int(self._clock())
        if second != self._second:
            self._count()
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= self._per_second:
            _log.info("core.stderr", core=self._index, line=text)

    def _count(self) -> None:
        """Say how many lines of the last second were not shown."""
        more = self._lines - self._per_second
        if more > 0:
            self._lines = 0
            _log.warning("core.stderr_suppressed", core=self._index, lines=more)


def _readable(line: bytes) -> str:
    """A line as text: colours left out, what cannot be printed as a blank, cut."""
    text = _ESCAPES.sub("", line[:MAX_SHOWN_BYTES].decode(errors="replace"))
    return "".join(char if char.isprintable() else " " for char in text).strip()
