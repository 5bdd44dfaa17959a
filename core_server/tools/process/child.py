# ruff: noqa: PTH110, PTH113, PTH118 - pathlib costs every command 5 ms to import
"""What the forked child does to itself before it becomes the command.

Order matters: everything that needs rights first, then the rights away, then exec.
Runs between fork and exec in a process with one thread. Not a policy: the plan says
what to apply, `sandbox` made the plan.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import stat
import termios
from collections.abc import Callable
from typing import NoReturn

from core_server.tools.process.descendants import process_count
from core_server.tools.process.plan import Plan

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
# As `bubblewrap.FILTER_FD`, whose module costs 5 ms to import. Until here the reaper's
# socket to the core has this number, and the command must not have that.
FILTER_FD = 3
_FIRST_PRIVATE_FD = 3


def become(plan: Plan, reaper_pid: int, report_fd: int) -> NoReturn:
    """Turn this process into the command, or report why not and exit.

    Args:
        plan: What to become.
        reaper_pid: Its parent, with which it dies.
        report_fd: Closed by a successful exec; else `failed ERRNO` or `refused TEXT`.
    """
    try:
        enter, confine = _entrance(plan, report_fd), _fence(plan)
        _lead_a_session(plan)
        _limit(plan)
        if plan.user is not None:
            _become_user(plan.user)
        _die_with(reaper_pid)
        enter()
        _take_signals()
        os.chdir(plan.cwd)
        program = find_program(plan.argv[0], plan.env.get("PATH", os.defpath))
        argv = [*plan.wrapper, *plan.argv]
        if plan.wrapper:
            program = plan.wrapper[0]
            _lend_filter(plan.filter)
        confine()
        _close_all_but(report_fd, FILTER_FD if plan.wrapper else report_fd)
        os.execve(program, argv, plan.env)  # noqa: S606 - to run it is the point
    except OSError as error:
        os.write(report_fd, b"failed %d" % (error.errno or 0))
    except Exception as error:  # noqa: BLE001 - forked: an exception must not get back
        os.write(report_fd, f"refused {error}".encode(errors="replace"))
    os._exit(127)


def find_program(name: str, path: str) -> str:
    """Find a program as exec would.

    Raises:
        FileNotFoundError: it is nowhere.
        PermissionError: it is there, but is no executable file.
    """
    places = [name] if "/" in name else [os.path.join(d or ".", name) for d in path.split(":")]
    there = [place for place in places if os.path.isfile(place)]
    for place in there:
        if os.access(place, os.X_OK):
            return place
    if there or ("/" in name and os.path.exists(name)):
        raise PermissionError(13, "Permission denied")
    raise FileNotFoundError(2, "No such file or directory")


def _entrance(plan: Plan, report_fd: int) -> Callable[[], None]:
    """Import while every file can still be read; return what enters the namespaces."""
    ids = plan.ids
    if ids is None:
        return _nothing
    from core_server.tools.sandbox import namespaces  # noqa: PLC0415 - only when it is used

    return lambda: namespaces.enter(ids, report_fd)


def _fence(plan: Plan) -> Callable[[], None]:
    """Import while every file can still be read; return what confines this process."""
    writable = plan.writable
    if writable is None:
        return _nothing
    from core_server.tools.sandbox import landlock, seccomp  # noqa: PLC0415 - as above

    def confine() -> None:
        landlock.restrict(writable)
        seccomp.install(plan.filter)

    return confine


def _nothing() -> None:
    """Sandbox `none`, or bubblewrap's part."""


def _lead_a_session(plan: Plan) -> None:
    os.setsid()
    if plan.tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _become_user(user: tuple[int, int]) -> None:
    """Give up being root; the streams come along, so that they can be opened by name."""
    uid, gid = user
    for fd in (0, 1, 2):
        if stat.S_ISFIFO(os.fstat(fd).st_mode) or os.isatty(fd):  # not /dev/null
            os.fchown(fd, uid, gid)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # The change took /proc/self away (prctl(2)), where namespaces are set up.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _die_with(parent: int) -> None:
    """Only now: a change of user clears it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before that
        os._exit(127)


def _take_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):  # KILL, STOP and libc's own
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _limit(plan: Plan) -> None:
    """No core dumps, a ceiling on memory and processes, first in line for the OOM killer.

    RLIMIT_NPROC counts all of the user's processes and does not bind every root, so it
    is the second line, well above what runs now; the reaper counts the command's own.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_DATA, plan.max_memory_bytes)
    _lower(resource.RLIMIT_NPROC, process_count() + 2 * plan.max_processes)
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")
        os.close(fd)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _lend_filter(code: bytes) -> None:
    """Put the filter where bwrap reads it; it cannot be on before bwrap has mounted."""
    fd = os.memfd_create("filter")
    os.write(fd, code)
    os.lseek(fd, 0, os.SEEK_SET)
    if fd != FILTER_FD:
        os.dup2(fd, FILTER_FD)
    os.set_inheritable(FILTER_FD, True)  # noqa: FBT003 - its only spelling


def _close_all_but(*kept_fds: int) -> None:
    first = _FIRST_PRIVATE_FD
    for fd in sorted(kept_fds):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
