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
import termios
from typing import NoReturn

from core_server.tools.process.descendants import process_count
from core_server.tools.process.plan import Plan

_PR_SET_PDEATHSIG = 1
_FIRST_PRIVATE_FD = 3


def become(plan: Plan, report_fd: int) -> NoReturn:
    """Turn this process into the command, or report why not and exit.

    Args:
        plan: What to become.
        report_fd: Closed by a successful exec; else `failed ERRNO` or `refused TEXT`.
    """
    try:
        _leave_the_reaper(plan)
        _limit(plan)
        os.chdir(plan.cwd)
        program = find_program(plan.argv[0], plan.env.get("PATH", os.defpath))
        argv = [*plan.wrapper, *plan.argv]
        if plan.wrapper:
            program = plan.wrapper[0]
        _confine(plan)
        _close_all_but(report_fd)
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


def _leave_the_reaper(plan: Plan) -> None:
    parent = os.getppid()
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before PDEATHSIG was set
        os._exit(127)
    if plan.tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
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


def _confine(plan: Plan) -> None:
    if plan.writable is not None:
        from core_server.tools.sandbox import landlock  # noqa: PLC0415 - only when it is used

        landlock.restrict(plan.writable)
    if plan.block_network:
        from core_server.tools.sandbox import seccomp  # noqa: PLC0415 - only when it is used

        seccomp.block_network()


def _close_all_but(keep_fd: int) -> None:
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(_FIRST_PRIVATE_FD, keep_fd)
    os.closerange(keep_fd + 1, limit)
