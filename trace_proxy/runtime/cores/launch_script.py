"""The parent of one core: starts it, and ends whatever descends from it.

    proxy --fork, exec--> this --fork, exec--> core --> ... (sessions of their own, too)

Run as a script, `python -I -S launch_script.py PROXY_PID FD COMMAND [ARG...]`. What a
core has started and forgotten, in whatever session, falls to its nearest ancestor that
is a child subreaper (prctl(2)): this process. So nothing can leave: when the core has
ended, however it ended, its descendants are ended too, and then this process ends as the
core did. When the proxy is gone the core is asked to end, and all of them are ended soon.

What must happen in the child before the core's program runs cannot happen safely after a
fork in a process with threads, as the proxy is; here there is one thread. The core's pid
is told on descriptor FD. Imports nothing of ours, and little: this is paid for each core.

    END_NOW       from the proxy: end all of them now
    PARENT_ENDED  from the kernel: the proxy is dead
    others        are left pending: a service manager that tells a whole group to end
                  means the proxy and the core, and those take their time
"""

import ctypes
import os
import signal
import sys
import time

GRACE_S = 2.2
"""After the proxy's death, for the core to notice, commit and exit; all is over in 3 s."""

LAST_WORDS_S = 0.2
"""After the core's end, for descendants that were told to end with it."""

GIVE_UP_S = 5.0
"""Who cannot be killed, because he is another user or waits for a dead disk, is left alone."""

REFUSED_PAUSE_S = 0.05
NEVER_S = 1e9
"""A time that no clock reaches, and that the kernel takes as one."""

END_NOW = signal.SIGRTMIN + 1
PARENT_ENDED = signal.SIGRTMIN
"""Nobody starts programs with these ignored, as `nohup` does with others."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36

_WAKING = (signal.SIGCHLD, PARENT_ENDED, END_NOW)


def main() -> None:
    """Start the command, stay until nothing of it is left, exit as it did."""
    proxy, told_fd, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    prctl = ctypes.CDLL(None).prctl
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(_PR_SET_PDEATHSIG, PARENT_ENDED, 0, 0, 0)
    if os.getppid() != proxy:
        os._exit(143)  # the proxy died before it could be asked
    ours = os.getpid()
    core = os.fork()
    if core == 0:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != ours:
            os._exit(143)
        become(command)
    os.write(told_fd, b"%d" % core)
    let_go()
    status = watch(core, proxy)
    kill_descendants(ours)
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # a core dump is the core's
    end_as(status)


def become(command: list[str]) -> None:
    """Be the core: a session of its own, so that a Ctrl-C for the proxy is none for it."""
    os.setsid()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; a shell's pipeline needs it
        signal.signal(ignored, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # uvloop leaves second descriptors of the pipes: with them nobody would ever see an end.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    try:
        os.execvp(command[0], command)  # noqa: S606 - the operator's own command
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
        os._exit(127)


def let_go() -> None:
    """Hold none of the core's pipes, or nobody would see their end; nor its directory."""
    null_fd = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null_fd, fd)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")


def watch(core: int, proxy: int) -> int:
    """Wait until all shall be ended; returns the core's wait status, or KILL's."""
    status = None
    until_s = NEVER_S
    while True:
        ended, alone = reap(core)
        if ended is not None:
            status = ended
            until_s = min(until_s, time.monotonic() + LAST_WORDS_S)
        left_s = until_s - time.monotonic()
        if alone or left_s <= 0:
            return signal.SIGKILL if status is None else status
        woken = signal.sigtimedwait(_WAKING, left_s)
        if woken is not None and woken.si_signo == END_NOW:
            until_s = 0
        elif until_s == NEVER_S and os.getppid() != proxy:
            until_s = time.monotonic() + GRACE_S
            os.kill(core, signal.SIGTERM)  # not reaped yet, so the number is still its own


def reap(core: int) -> tuple[int | None, bool]:
    """Reap who has ended: the core's status if it did, and whether nobody is left."""
    status = None
    while True:
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status, True
        if pid == 0:
            return status, False
        if pid == core:
            status = ended


def kill_descendants(ours: int) -> None:
    """Kill and reap all that stems from this process, until nobody is left.

    Whose parent is killed becomes a child of ours, so killing children is enough; quickly,
    because a process that forks and exits without end is never where it was seen.
    """
    until_s = time.monotonic() + GIVE_UP_S
    while not reap(0)[1] and time.monotonic() < until_s:
        refused = False
        for pid in children(ours):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:  # another user's: not ours to kill
                refused = True
        time.sleep(REFUSED_PAUSE_S if refused else 0)


def children(ours: int) -> list[int]:
    """The children of this process (proc(5): `children`, else field 4 of each `stat`)."""
    try:
        with open(f"/proc/self/task/{ours}/children", "rb") as found:  # noqa: PTH123 - slow import
            return [int(pid) for pid in found.read().split()]
    except FileNotFoundError:  # a kernel without it
        return [pid for pid in every_process() if parent_of(pid) == ours]


def every_process() -> list[int]:
    """All pids that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - as above


def parent_of(pid: int) -> int:
    """The parent of a process; 0 when that has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - as above
            return int(stat.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def end_as(status: int) -> None:
    """End with the exit code of the core, or by its signal."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os._exit(128 - code)  # a signal that ends nobody by default ended the core


if __name__ == "__main__":
    main()
