# ruff: noqa: PTH123, PTH208 - pathlib costs every command 5 ms to import
"""Which processes stem from one process: read from /proc, signalled as a whole.

A group can be left with `setsid`, a parent by a double fork; a child subreaper keeps
both in its tree, so the tree is what has to be killed. Standard library only: this
runs in the small process of `reaper`, which is started for every command.
"""

import contextlib
import os
import signal


def process_count() -> int:
    """Return the number of threads on this machine: one cheap read, no scan."""
    try:
        with open("/proc/loadavg", "rb", buffering=0) as file:
            return int(file.read(128).split()[3].partition(b"/")[2])
    except (OSError, ValueError, IndexError):
        return 0


def descendants(root_pid: int) -> list[int]:
    """Return every living descendant of a process, nearest first.

    The list is a snapshot: callers that kill repeat until nobody is left.
    """
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        parent = _parent_of(name) if name.isdigit() else 0
        if parent:
            children.setdefault(parent, []).append(int(name))
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


def _parent_of(name: str) -> int:
    try:
        with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
            stat = file.read(512)
    except OSError:  # it ended meanwhile
        return 0
    # "pid (name) state ppid …": the name may hold anything, also ") R 1".
    fields = stat[stat.rfind(b")") + 2 :].split(None, 2)
    return int(fields[1]) if len(fields) > 1 else 0
