"""The small process that stands between the core and one command.

It starts the command in a session of its own and lets nothing of it live longer than
the command, nor longer than the core: it is the child subreaper of all that the
command starts, and the socket to the core ends when the core ends, by whatever signal.

    core --socket--> reaper --fork, exec--> [bwrap] command --> …

To the core:   `started PID` · `failed ERRNO` · `refused TEXT` · `limit TEXT` · `exit CODE`
From the core: `T` TERM now and KILL after the grace · end of file: KILL now

A confined command cannot reach it (`sandbox`). One of sandbox `none` can kill it: the
command then dies with it (PDEATHSIG), and what had left its session falls to the core,
the next subreaper above, which kills that (`command`). Who kills reaper and core both
is beyond this; such a command is as free as the person who allowed it.

Not a place for decisions, and no import but the standard library's smallest: this is
paid for every command. The core does not fork with `preexec_fn`, because that runs
Python between fork and exec of a process with threads; here there is one thread.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator

from core_server.tools.process.descendants import (
    adopt_orphans,
    continue_when_parent_ends,
    descendants,
    kill_groups,
    process_count,
    signal_all,
)
from core_server.tools.process.plan import Plan

SOCKET_FD = 3
PLAN_FD = 4
TICK_MS = 25  # how late a fork bomb is noticed; a tick costs one small read (20 us)
_MAX_PAUSE_S = 0.1  # between two looks at who is still dying


def main(values: dict[str, object], core_fd: int = SOCKET_FD) -> int:
    """Start the command, watch over it, clean up; return 0."""
    plan = Plan(values)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # only the core, or its end, ends a reaper
    wake_fd, notify_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(notify_fd, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _noticed)
    adopt_orphans()
    continue_when_parent_ends()
    _hurry()
    quiet_count = process_count()  # before the command can have started any
    pid, failure = _start(plan)
    _release_standard_streams()
    if failure:
        _tell(core_fd, failure)
    else:
        _tell(core_fd, b"started %d" % pid)
        code = _watch(plan, pid, core_fd, wake_fd, quiet_count)
        kill_everything(pid)
        _tell(core_fd, b"exit %d" % code)
    if plan.scratch:
        import shutil  # noqa: PLC0415 - only Landlock has a scratch directory

        shutil.rmtree(plan.scratch, ignore_errors=True)
    return 0


def kill_everything(group: int) -> None:
    """Kill and reap all that stems from this process, until nobody is left."""
    _signal_group(group, signal.SIGKILL)
    pause_s = 0.001
    while True:
        kill_groups(descendants(os.getpid()))
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(pause_s)  # a thousand killed need the processor, to die, themselves
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)


def _hurry() -> None:
    """Run ahead of a thousand children, if the machine lets us; they do not inherit it.

    Matters to root most, whom the limit of processes may not bind: see `confinement`.
    """
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, policy, os.sched_param(1))


def _start(plan: Plan) -> tuple[int, bytes]:
    """Fork and exec; return the child's id and, if it failed, what to tell the core."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    reaper_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        from core_server.tools.process.child import become  # noqa: PLC0415 - the child's only

        become(plan, reaper_pid, write_fd)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe:
        failure = pipe.read()  # exec closes the other end, and then this is empty
    if failure:
        os.waitpid(pid, 0)
    return pid, failure


def _watch(plan: Plan, pid: int, core_fd: int, wake_fd: int, quiet_count: int) -> int:
    """Wait for the command, the core or a limit; return the exit code."""
    poll = select.poll()
    poll.register(core_fd, select.POLLIN)
    poll.register(wake_fd, select.POLLIN)
    deadline_s = float("inf")
    while True:
        ready = {fd for fd, _ in poll.poll(TICK_MS)}
        if wake_fd in ready:
            os.read(wake_fd, 4096)
        code = _reap(pid)
        if code is not None:
            return code
        if core_fd in ready:
            if not _asked(core_fd):
                return 128 + signal.SIGKILL
            deadline_s = min(deadline_s, time.monotonic() + plan.grace_s)
            _terminate(plan, pid)
        if time.monotonic() >= deadline_s:
            return 128 + signal.SIGKILL
        if process_count() - quiet_count > plan.max_processes:
            if _too_many(plan, pid):
                _tell(core_fd, b"limit more than %d processes" % plan.max_processes)
                return 128 + signal.SIGKILL
            quiet_count += plan.max_processes // 8  # they are others': look less often


def _terminate(plan: Plan, pid: int) -> None:
    """Send TERM to all but who waits for a PID namespace: its death would KILL all in it."""
    with _frozen(pid):
        found = descendants(os.getpid())
        signal_all(
            [each for each in found if each != pid or not (plan.wrapper or plan.ids)],
            signal.SIGTERM,
        )


def _too_many(plan: Plan, pid: int) -> bool:
    with _frozen(pid):
        return len(descendants(os.getpid())) > plan.max_processes


@contextlib.contextmanager
def _frozen(group: int) -> Iterator[None]:
    """Stop the group meanwhile: beside a fork bomb a scan would take many seconds."""
    _signal_group(group, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal_group(group, signal.SIGCONT)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _reap(pid: int) -> int | None:
    """Reap whoever ended; return the exit code if the command did."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == 0:
                break
            if ended == pid:
                raw = os.waitstatus_to_exitcode(status)
                code = raw if raw >= 0 else 128 - raw
    return code


def _asked(core_fd: int) -> bool:
    try:
        return bool(os.read(core_fd, 64))
    except OSError:  # reset: the core is gone
        return False


def _tell(core_fd: int, text: bytes) -> None:
    with contextlib.suppress(OSError):  # a core that is gone wants no news
        os.write(core_fd, text + b"\n")


def _release_standard_streams() -> None:
    """Let go of the command's streams, or their readers would wait for this process."""
    null_fd = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null_fd, fd)
    os.close(null_fd)


def _noticed(_number: int, _frame: object) -> None:
    """A handler must exist for the wakeup descriptor to be written to."""
