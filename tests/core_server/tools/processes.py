"""What the tests of commands share: run one, and look for who is still there."""

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec

from core_server.tools.base import Command, Outcome, Output, Sandbox
from core_server.tools.process.command import Process, start
from core_server.tools.sandbox import bubblewrap, landlock, seccomp
from core_server.tools.sandbox.sandbox import Mechanism

# A machine that is busy with other tests needs seconds where an idle one needs none.
PATIENCE_S = 30.0
MECHANISMS: tuple[Literal["bubblewrap", "landlock"], ...] = ("bubblewrap", "landlock")
PYTHON = os.path.realpath(sys.executable)  # a venv beneath /tmp is hidden in the sandbox


def missing(mechanism: Mechanism) -> str:
    """Return why a mechanism cannot be tested here, or an empty text."""
    if mechanism == "bubblewrap":
        found = bubblewrap.probe()
        return "" if found.argv else found.why
    works = landlock.abi() >= landlock.MIN_ABI and seccomp.available()
    return "" if works else "this kernel has no Landlock that suffices"


def command(
    *argv: str,
    cwd: str = "/",
    sandbox: Sandbox = "none",
    timeout_s: float | None = PATIENCE_S,
    output_cap_bytes: int | None = 1024 * 1024,
) -> Command:
    return Command(
        argv=argv, cwd=cwd, sandbox=sandbox, timeout_s=timeout_s, output_cap_bytes=output_cap_bytes
    )


@asynccontextmanager
async def running(what: Command, mechanism: Mechanism | None = None) -> AsyncIterator[Process]:
    async with asyncio.timeout(PATIENCE_S), start(what, mechanism) as process:
        yield process


async def finish(
    what: Command, mechanism: Mechanism | None = None
) -> tuple[Outcome, list[Output]]:
    async with running(what, mechanism) as process:
        outputs = [output async for output in process]
        return await process.wait(), outputs


def text(outputs: list[Output], stream: str = "stdout") -> str:
    return b"".join(o.data for o in outputs if o.stream == stream).decode()


def alive(marker: str) -> list[int]:
    """Return the processes with a marker in their command line, whatever namespace."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in words:
                found.append(int(entry.name))
    return found


async def until_alive(marker: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(alive(marker)) < count:  # noqa: ASYNC110 - other processes tell nobody
            await asyncio.sleep(0.01)


async def until_gone(marker: str, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while alive(marker):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


async def stops_a_fork_bomb(what: Command, mechanism: Mechanism | None) -> None:
    """Run one in the place of a command and assert that nothing of it is left.

    Root's ends because the reaper counts it; another user's may already die at the
    limit of processes, and what it was started by at its timeout.
    """
    number = marker()
    script = f"f() {{ f | f & }}; f; sleep {number}"
    what = msgspec.structs.replace(what, argv=("/bin/sh", "-c", script))
    outcome, outputs = await finish(what, mechanism)
    if not outcome.timed_out or os.geteuid() == 0:
        assert outcome.exit_code == 128 + signal.SIGKILL
        assert text(outputs, "stderr").endswith("core-server: killed, more than 512 processes\n")
    assert alive(number) == []


def marker() -> str:
    """Return a number of seconds to sleep that no other command line has."""
    return f"9{uuid.uuid4().int % 10**12:012}"
