"""A PID namespace for a command, where bubblewrap is not there to make one.

Without it a command of the same user sees, and on kernels before 6.12 can signal, the
core and its own reaper. In it, other processes have no number, and when its first
process ends the kernel ends all others: no `setsid` and no double fork outlives that.

    reaper -> waiter -> first process (1) -> the command (2) -> ...

Each dies with its parent. An IPC namespace comes with it, and a user namespace, because
the kernel gives an ordinary user the others only in one; root is nobody there. Not a
fence for files: that is `landlock`.

Standard library only, and little of it: this runs in the forked child of `reaper`.
"""

import contextlib
import ctypes
import os
import select
import signal
from typing import NoReturn

_CLONE_NEWNS, _CLONE_NEWIPC = 0x00020000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def enter(ids: tuple[int, int], report_fd: int = 2) -> None:
    """Return in a process of a new PID namespace; the calling one waits and never returns.

    Args:
        ids: What our own user and group are called inside.
        report_fd: Kept open in the command's process, beside its standard streams.

    Raises:
        OSError: the kernel or the machine's administrator does not allow it.
    """
    uid, gid = os.geteuid(), os.getegid()
    _checked(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNS | _CLONE_NEWIPC))
    # user_namespaces(7): without rights outside, a group may be mapped only after this.
    _write("/proc/self/setgroups", b"deny")
    _write("/proc/self/uid_map", b"%d %d 1" % (ids[0], uid))
    _write("/proc/self/gid_map", b"%d %d 1" % (ids[1], gid))
    alive_fd, held_fd = os.pipe2(os.O_CLOEXEC)
    first = os.fork()
    if first:
        _wait_for(first, held_fd)
    os.close(held_fd)
    _die_with_parent(alive_fd)
    _show_own_processes()
    command = os.fork()
    if command:
        _wait_for(command)
    os.closerange(3, report_fd)
    os.closerange(report_fd + 1, os.sysconf("SC_OPEN_MAX"))


def _wait_for(pid: int, kept_fd: int = 2) -> NoReturn:
    """Reap whoever ends, and end as `pid` does; hold none of what the command holds."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # they are for the command
    null_fd = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # whoever reads the command's output waits for its end, not for ours
        os.dup2(null_fd, fd)
    os.closerange(3, kept_fd)
    os.closerange(kept_fd + 1, os.sysconf("SC_OPEN_MAX"))
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _die_with_parent(alive_fd: int) -> None:
    """The parent is in another PID namespace, so `getppid` cannot tell whether it lives."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    poll = select.poll()
    poll.register(alive_fd, 0)
    if poll.poll(0):  # it died before that
        os._exit(127)


def _show_own_processes() -> None:
    """Mount a /proc of this namespace.

    In a container whose /proc has covers the kernel does not allow it; the command then
    sees the others' numbers, which mean nothing to its calls.
    """
    _checked(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    with contextlib.suppress(OSError):
        flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        _checked(_libc.mount(b"proc", b"/proc", b"proc", flags, None))


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"namespaces: {os.strerror(number)}")
