"""The launcher, run as the script that it is."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.e2e.processes import MARK, kill, marked
from trace_proxy.runtime.cores import launch_script as launch

SCRIPT = Path(launch.__file__)
TIMEOUT_S = 30


def argv(told_fd: int, *command: str, parent: int | None = None) -> list[str]:
    """The launcher's command line."""
    proxy = str(parent or os.getpid())
    return [sys.executable, "-I", "-S", str(SCRIPT), proxy, str(told_fd), *command]


def launched(
    *command: str, parent: int | None = None, block: set[signal.Signals] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command through it, as a child of ours that inherits blocked signals."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, block or set())
    try:
        with Path(os.devnull).open("wb") as told:
            return subprocess.run(
                argv(told.fileno(), *command, parent=parent),
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
                pass_fds=(told.fileno(),),
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def status_of(field: str, block: set[signal.Signals] | None = None) -> int:
    """A field of the core's /proc/self/status, which `grep` reads for us."""
    shown = launched("grep", field, "/proc/self/status", block=block)
    return int(shown.stdout.split()[1], 16)


def test_the_core_gets_its_arguments_and_its_exit_code_is_its_own() -> None:
    done = launched("sh", "-c", 'echo "$0|$1"; exit 5', "a b", "")
    assert (done.stdout, done.returncode) == ("a b|\n", 5)


def test_signals_that_the_proxy_blocks_are_open_in_the_core() -> None:
    assert status_of("SigBlk", block={signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}) == 0


def test_no_signal_is_ignored_that_python_alone_ignores() -> None:
    ignored = status_of("SigIgn")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not ignored & 1 << (number - 1), number.name


def test_the_core_dies_with_its_launcher() -> None:
    code = (
        "import ctypes; out = ctypes.c_int();"
        "ctypes.CDLL(None).prctl(2, ctypes.byref(out)); print(out.value)"
    )
    done = launched(sys.executable, "-c", code)
    assert done.stdout == f"{int(signal.SIGKILL)}\n"


def test_nothing_is_started_for_a_proxy_that_is_gone() -> None:
    done = launched("echo", "started", parent=1)
    assert (done.stdout, done.returncode) == ("", 143)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("no-such-program-anywhere", "No such file or directory"),
        ("/no/such/program", "No such file or directory"),
        ("/", "Permission denied"),
    ],
)
def test_a_program_that_cannot_be_started_is_told_in_one_line(program: str, why: str) -> None:
    done = launched(program)
    assert (done.stderr, done.returncode) == (f"cannot start {program}: {why}\n", 127)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP])
def test_it_ends_by_the_signal_that_ended_the_core(number: signal.Signals) -> None:
    assert launched("sh", "-c", f"kill -{int(number)} $$").returncode == -number


LEAVING = """
import os, subprocess, sys
quiet = dict(stdin=-3, stdout=-3, stderr=-3, start_new_session=True)
subprocess.Popen(["sh", "-c", "sleep 300 & exec setsid setsid sleep 300"], **quiet)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "300"])
    os._exit(0)
os.wait()
print("left", flush=True)
"""
"""A core whose descendants leave its group, its session and their parents."""


class Launched:
    """A launcher that runs, and its core."""

    def __init__(self, core: str) -> None:
        read, write = os.pipe()
        self.process = subprocess.Popen(
            argv(write, sys.executable, "-c", core),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, MARK: (mark := uuid.uuid4().hex)},
            pass_fds=(write,),
        )
        self.mark = mark
        os.close(write)
        self.core = int(os.read(read, 32))
        os.close(read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in marked(self.mark):
            kill(pid)
        self.process.kill()
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait()

    def has_left(self) -> None:
        """Wait until its descendants are where they want to be."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"left\n"
        with timeout(TIMEOUT_S):
            while sum("sleep 300" in text for text in marked(self.mark).values()) < 3:
                time.sleep(0.01)


@contextlib.contextmanager
def timeout(seconds: float) -> Iterator[None]:
    """Fail a loop that goes on for longer."""

    def over(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(int(seconds))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def exits(launched: Launched) -> None:
    assert launched.process.stdin is not None
    launched.process.stdin.close()


def is_killed(launched: Launched) -> None:
    kill(launched.core)


def is_told_by_the_proxy(launched: Launched) -> None:
    kill(launched.process.pid, launch.END_NOW)


@pytest.mark.parametrize(
    ("end", "code"), [(exits, 5), (is_killed, -9), (is_told_by_the_proxy, -9)]
)
def test_nothing_that_a_core_has_started_outlives_it(
    end: Callable[[Launched], None], code: int
) -> None:
    with Launched(LEAVING + "sys.stdin.read(); os._exit(5)") as launched:
        launched.has_left()
        end(launched)
        assert launched.process.wait(TIMEOUT_S) == code
        assert marked(launched.mark) == {}


HOPPING = """
import os, sys
if os.fork() == 0:
    while not os.fork() or os._exit(0):
        os.setsid()
"""
"""A process that is never where it was seen: it forks, leaves the session and exits."""


def test_what_runs_away_from_its_killer_is_caught() -> None:
    with Launched(HOPPING + "print('left', flush=True); sys.stdin.read()") as launched:
        assert launched.process.stdout is not None
        assert launched.process.stdout.readline() == b"left\n"
        exits(launched)
        assert launched.process.wait(TIMEOUT_S) == 0
        assert marked(launched.mark) == {}


def test_children_are_found_on_kernels_that_do_not_list_them() -> None:
    with subprocess.Popen(["sleep", "300"]) as child:
        try:
            assert launch.parent_of(child.pid) == os.getpid()
            assert child.pid in launch.every_process()
            assert child.pid in launch.children(os.getpid())
        finally:
            child.kill()
