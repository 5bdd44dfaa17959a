"""Start the reaper of one command, with descriptors that only it gets.

`posix_spawn`, because it is safe beside threads and sets session, signal mask and
dispositions at once. Not the command's own start: that is `reaper` and `confinement`.
"""

import contextlib
import fcntl
import marshal
import os
import signal
import socket
import struct
import sys
import termios
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core_server.tools.base import Command
from core_server.tools.process.reaper import PLAN_FD, SOCKET_FD
from core_server.tools.sandbox.sandbox import Confinement

# Two seconds of patience would be felt at every interrupt; shells stop in milliseconds.
GRACE_S = 0.5
# A parallel build of a large project has some hundred; a fork bomb has more at once.
MAX_PROCESSES = 512
_FIRST_FREE_FD = 10  # above every target of `dup2` below, so that none is overwritten early
_ROOT = str(Path(__file__).parents[3])
# Isolated and without site-packages: 11 ms to start instead of 30, and nothing of the
# user's configuration in it.
_INTERPRETER_OPTIONS = ["-I", "-S", "-X", "utf8"]
_PASSED_ON = ["LD_LIBRARY_PATH"]  # an interpreter may need it to start at all
_PROGRAM = (
    "import sys, os, marshal; sys.path.append(sys.argv[1]);"
    "from core_server.tools.process.reaper import main;"
    f"os._exit(main(marshal.load(os.fdopen({PLAN_FD}, 'rb'))))"
)


@dataclass(frozen=True, slots=True)
class Reaper:
    """The core's ends; all descriptors do not block and belong to the caller.

    Attributes:
        pid: The reaper's.
        channel: Its socket.
        outputs: Where each stream is read; a terminal has only stdout.
        stdin_fd: Where stdin is written, or None.
        tty_fd: The terminal, to resize it, or None.
    """

    pid: int
    channel: socket.socket
    outputs: dict[str, int]
    stdin_fd: int | None
    tty_fd: int | None


def spawn(command: Command, confinement: Confinement) -> Reaper:
    """Start a reaper; blocks for about a millisecond.

    Raises:
        OSError: the machine has no process or descriptor left.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        reaper = _spawn(command, confinement, theirs, ours)
        ours.pop_all()
    return reaper


def spawn_failure(number: int) -> str:
    """Return the text that the reference server has for an errno."""
    return f"failed to spawn command: {os.strerror(number)} (os error {number})"


def set_size(tty_fd: int, columns: int, rows: int) -> None:
    """Tell a terminal its size; its foreground processes get SIGWINCH."""
    fcntl.ioctl(tty_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _spawn(
    command: Command,
    confinement: Confinement,
    theirs: contextlib.ExitStack,
    ours: contextlib.ExitStack,
) -> Reaper:
    mine, its = socket.socketpair()
    ours.callback(mine.close)
    theirs.callback(its.close)
    mine.settimeout(0)
    tty_fd: int | None = None
    stdin_fd: int | None
    keep = _keeper(ours)
    lend = _keeper(theirs)
    if command.tty is not None:
        master_fd, slave_fd = os.openpty()
        terminal_fd = keep(master_fd)
        standard = [lend(slave_fd)] * 3
        set_size(terminal_fd, *command.tty)
        outputs = {"stdout": terminal_fd}
        stdin_fd = tty_fd = terminal_fd
    else:
        stdin_fd, in_fd = _stdin(command, keep, lend)
        (out_read, out_write), (error_read, error_write) = os.pipe(), os.pipe()
        outputs = {"stdout": keep(out_read), "stderr": keep(error_read)}
        standard = [in_fd, lend(out_write), lend(error_write)]
    for fd in (*outputs.values(), *(() if stdin_fd is None else (stdin_fd,))):
        os.set_blocking(fd, False)
    plan_fd = lend(os.memfd_create("plan"))
    os.write(plan_fd, marshal.dumps(_plan(command, confinement)))
    os.lseek(plan_fd, 0, os.SEEK_SET)
    pid = _posix_spawn([*standard, lend(os.dup(its.fileno())), plan_fd])
    return Reaper(pid, mine, outputs, stdin_fd, tty_fd)


def _stdin(
    command: Command, keep: Callable[[int], int], lend: Callable[[int], int]
) -> tuple[int | None, int]:
    if not command.stdin:
        return None, lend(os.open(os.devnull, os.O_RDONLY))
    read_fd, write_fd = os.pipe()
    return keep(write_fd), lend(read_fd)


def _keeper(stack: contextlib.ExitStack) -> Callable[[int], int]:
    """Return a function that moves a descriptor out of the way and into the stack."""

    def keep(fd: int) -> int:
        try:
            high_fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
        finally:
            os.close(fd)
        stack.callback(os.close, high_fd)
        return high_fd

    return keep


def _posix_spawn(fds: list[int]) -> int:
    targets = (0, 1, 2, SOCKET_FD, PLAN_FD)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, *_INTERPRETER_OPTIONS, "-c", _PROGRAM, _ROOT],
        {name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, fd, target) for fd, target in zip(fds, targets, strict=True)
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=[n for n in signal.valid_signals() if n not in {signal.SIGKILL, signal.SIGSTOP}],
    )


def _plan(command: Command, confinement: Confinement) -> dict[str, object]:
    inherited = {**os.environ, **confinement.environment}
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "argv": list(command.argv),
        "wrapper": list(confinement.wrapper),
        "cwd": command.cwd,
        "env": child_environment(inherited, command.environment, tty=command.tty is not None),
        "tty": command.tty is not None,
        "writable": None if confinement.writable is None else list(confinement.writable),
        "filter": confinement.filter,
        "user": confinement.user,
        "ids": confinement.ids,
        "scratch": confinement.scratch,
        "grace_s": GRACE_S,
        "max_processes": MAX_PROCESSES,
        "max_memory_bytes": total_bytes // 2,  # one process can then not take the machine
    }


_NAMES = frozenset(
    {
        "COLORTERM", "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL",
        "TERM", "TMPDIR", "TZ", "USER",
    }
)  # fmt: skip
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def child_environment(
    inherited: Mapping[str, str], changes: Mapping[str, str | None], *, tty: bool
) -> dict[str, str]:
    """Return all variables of a command: a short list, and no secret.

    An allow-list, because a deny-list forgets the next `…_TOKEN`.

    Args:
        inherited: The core's own.
        changes: Set on top; None unsets.
        tty: Whether it gets a terminal, and so needs a TERM.
    """
    result = {"PATH": _DEFAULT_PATH}
    result |= {k: v for k, v in inherited.items() if k in _NAMES or k.startswith("LC_")}
    if tty:
        result.setdefault("TERM", "xterm-256color")
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = value
    return result
