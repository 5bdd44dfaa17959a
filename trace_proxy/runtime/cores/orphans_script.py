"""Cleans up after cores, and after the proxy itself when it is killed.

Run as a script, `python -I -S keeper.py`, beside the proxy and outside of its session.
Each core has a session of its own; the proxy tells here which sessions there are, and
when it is gone, whatever ended it, they get the time that the end of their input
gives a well-behaved core, and then KILL. That also finds what a core has started and
forgotten. Imports nothing of ours; it has nothing to do until the end.

    +PID   a core was started           -PID   it has ended: end what it left behind
    !      end everything now
"""

import contextlib
import os
import signal
import sys
import time

GRACE_S = 2.2
"""After the proxy's death, for cores to notice, commit and exit; all is over in 3 s."""

POLL_S = 0.02


def main() -> None:
    """Serve until the proxy is gone and no core is left."""
    sessions: set[int] = set()
    grace_s = GRACE_S
    for line in sys.stdin:
        sign, number = line[0], line[1:].strip()
        if sign == "+":
            sessions.add(int(number))
        elif sign == "-":
            kill(members({int(number)}))
            sessions.discard(int(number))
        else:
            grace_s = 0
            kill(members(sessions))
    until_s = time.monotonic() + grace_s
    while sessions and (living := members(sessions)):
        if time.monotonic() >= until_s:
            kill(living)
        time.sleep(POLL_S)


def members(sessions: set[int]) -> list[int]:
    """The living processes of these sessions (proc(5), fields 3 and 6 of `stat`)."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes long to import
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123
            state, _, _, session = stat.read().rpartition(b")")[2].split()[:4]
            if int(session) in sessions and state != b"Z":
                found.append(int(name))
    return found


def kill(pids: list[int]) -> None:
    """End them."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
