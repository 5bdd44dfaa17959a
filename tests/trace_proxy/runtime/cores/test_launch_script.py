"""The launcher, run as the script that it is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trace_proxy.runtime.cores import launch_script as launch

SCRIPT = Path(launch.__file__)
TIMEOUT_S = 30


def launched(
    *command: str, parent: int | None = None, block: set[signal.Signals] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command through it, as a child of ours that inherits blocked signals."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, block or set())
    try:
        return subprocess.run(
            [sys.executable, "-I", "-S", SCRIPT, str(parent or os.getpid()), *command],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
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


def test_the_core_is_told_when_the_proxy_dies() -> None:
    code = (
        "import ctypes; out = ctypes.c_int();"
        "ctypes.CDLL(None).prctl(2, ctypes.byref(out)); print(out.value)"
    )
    done = launched(sys.executable, "-c", code)
    assert done.stdout == f"{int(signal.SIGTERM)}\n"


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
