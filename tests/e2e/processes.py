"""Processes seen from outside, through /proc: who still lives of what a test started.

Everything a test starts inherits its mark in the environment, or its directory as
working directory: so descendants are found even after their parents are gone.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Container
from pathlib import Path

MARK = "TRACE_PROXY_TEST_MARK"

POLL_S = 0.01


def marked(mark: str) -> dict[int, str]:
    """Living processes that carry the mark: pid to command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _carries(entry, mark):
            found[int(entry.name)] = _text(entry / "cmdline").replace("\0", " ")
    return found


def _carries(entry: Path, mark: str) -> bool:
    if f"{MARK}={mark}" in _text(entry / "environ") or mark in _text(entry / "cmdline"):
        return True
    try:
        return mark in str((entry / "cwd").readlink())
    except OSError:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""  # it has ended, or is not ours


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal, if there is still somebody."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


async def nobody_left(
    mark: str, within_s: float, *, like: str = "", among: Container[int] | None = None
) -> dict[int, str]:
    """Wait until no marked process (like this, among these) lives; returns who does then."""

    def alive() -> dict[int, str]:
        return {
            pid: text
            for pid, text in marked(mark).items()
            if like in text and (among is None or pid in among)
        }

    left = alive()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while left:
                await asyncio.sleep(POLL_S)
                left = alive()
    return left


def resident_bytes(pid: int) -> int:
    """What a process holds in memory."""
    pages = int(_text(Path(f"/proc/{pid}/statm")).split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
