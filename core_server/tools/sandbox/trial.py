"""Run a program once to see whether something works on this machine."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

User = tuple[int, int]


def failure(argv: Sequence[str], user: User | None, *, timeout_s: float) -> str:
    """Return why it did not work, the last that it said, or an empty text if it did.

    Args:
        argv: What to run; its standard output is dropped.
        user: User and group to run it as; None for our own.
        timeout_s: Killed after this, with all of its group.
    """
    uid, gid = user or (None, None)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own fixed command
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            user=uid,
            group=gid,
            extra_groups=None if user is None else (),
            process_group=0,
        )
    except OSError as error:
        return str(error)
    with process:
        try:
            _, said = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return f"it hangs for {timeout_s:g} s"
        finally:
            _end_group(process)
    if process.returncode == 0:
        return ""
    lines = said[-256:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ends with {process.returncode}"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill and reap what it left: bwrap does not wait for its first process inside."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with contextlib.suppress(ChildProcessError):  # nobody, or we are no subreaper
        while True:
            os.waitpid(-process.pid, 0)
