# ruff: noqa: PTH123, PTH208 - pathlib costs every command 5 ms to import
"""Which processes stem from one process: read from /proc, signalled as a whole.

A group can be left with `setsid`, a parent by a double fork; a child subreaper keeps
both in its tree, so the tree is what has to be killed. Standard library only: this
runs in the small process of `reaper`, which is started for every command.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Container

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def process_count() -> int:
    """Return the number of threads on this machine: one cheap read, no scan."""
    try:
        with open("/proc/loadavg", "rb", buffering=0) as file:
            return int(file.read(128).split()[3].partition(b"/")[2])
    except (OSError, ValueError, IndexError):
        return 0


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def continue_when_parent_ends() -> None:
    """Get SIGCONT then: also a process that a command has stopped shall see the core's end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)


def children() -> frozenset[int]:
    """Return the children of this process: started by it, or adopted, or from before `exec`."""
    return frozenset(_children().get(os.getpid(), ()))


def kill_adopted(known: Container[int]) -> bool:
    """Kill and reap what fell to this process from a child that ended; False if there was none.

    Adopted are its children in another session than its own, since nobody can go back
    into a session that was left; but for the known ones, which were started so.
    """
    session = os.getsid(0)
    found = False
    for pid in children():
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if pid in known or os.getsid(pid) == session:
                continue
            found = True
            kill_groups([pid, *descendants(pid)])
            os.waitpid(pid, os.WNOHANG)
    return found


def descendants(root_pid: int) -> list[int]:
    """Return every living descendant of a process, nearest first.

    The list is a snapshot: callers that kill repeat until nobody is left.
    """
    children = _children()
    found = list(children.get(root_pid, ()))
    for pid in found:  # grows while it is walked: breadth first
        found.extend(children.get(pid, ()))
    return found


def signal_all(pids: list[int], number: int) -> None:
    """Send a signal to each; who is gone already is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill_groups(pids: list[int]) -> None:
    """Kill the processes and the groups that they lead.

    The kernel signals a group as a whole and lets no member fork meanwhile, so a
    fork bomb cannot run away from this as it can from a list of ids.
    """
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    signal_all(pids, signal.SIGKILL)


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        parent = _parent_of(name) if name.isdigit() else 0
        if parent:
            children.setdefault(parent, []).append(int(name))
    return children


def _parent_of(name: str) -> int:
    try:
        with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
            stat = file.read(512)
    except OSError:  # it ended meanwhile
        return 0
    # "pid (name) state ppid …": the name may hold anything, also ") R 1".
    fields = stat[stat.rfind(b")") + 2 :].split(None, 2)
    return int(fields[1]) if len(fields) > 1 else 0
