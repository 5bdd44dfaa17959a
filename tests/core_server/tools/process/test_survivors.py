"""Nothing that a command started outlives it or the core, whatever it does to its reaper."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from core_server.tools.base import Command
from core_server.tools.process.command import start
from core_server.tools.sandbox import landlock, sandbox
from core_server.tools.sandbox.sandbox import Mechanism
from tests.core_server.tools.processes import (
    MECHANISMS,
    PATIENCE_S,
    PYTHON,
    alive,
    marker,
    missing,
    until_gone,
)

# Each leaves a descendant that nothing leads to: own session, own group, no living parent.
LEAVE = """
import ctypes, os, resource, signal, sys, time
number, attack = sys.argv[1], sys.argv[2]
def above(pid):
    found = []
    while pid > 1:
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rpartition(") ")[2].split()[1])
        found.append(pid)
    return found
def quietly(action, *arguments):
    try:
        action(*arguments)
    except OSError:
        pass
outside = above(os.getpid())[: 2 if attack == "family" else 1]  # the reaper, and the core
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 3)
            for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
            ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
            os.execv("/bin/sleep", ["sleep", number])
        os._exit(0)
os.wait(); os.wait()
print("left", flush=True)
for pid in outside:
    if attack in ("kill", "family"):
        quietly(os.kill, pid, signal.SIGKILL)
        quietly(resource.prlimit, pid, resource.RLIMIT_CPU, (0, 0))
    elif attack == "stop":
        quietly(os.kill, pid, signal.SIGSTOP)
    elif attack == "starve":
        quietly(resource.prlimit, pid, resource.RLIMIT_CPU, (0, 0))
        quietly(resource.prlimit, pid, resource.RLIMIT_NOFILE, (0, 0))
        quietly(os.setpriority, os.PRIO_PROCESS, pid, 19)
        quietly(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0))
    elif attack == "trace":
        ctypes.CDLL(None).ptrace(16, pid, None, None)
if attack != "leave":
    time.sleep(600)
"""
ATTACKS = ("leave", "kill", "stop", "starve", "trace")
WAYS: tuple[Mechanism | None, ...] = (*MECHANISMS, None)
# And whether without a PID namespace, as in most containers.
WAYS_TO_KILL: tuple[tuple[Mechanism, bool], ...] = (
    *(("bubblewrap", False), ("landlock", False), ("landlock", True)),
)

CORE = """
import asyncio, json, sys
from core_server.tools.base import Command
from core_server.tools.process.command import start
import msgspec
async def main():
    what, mechanism, alone = json.loads(sys.stdin.readline())
    if alone:
        from core_server.tools.sandbox import sandbox
        sandbox._namespaces = lambda user: False
    async with start(msgspec.convert(what, Command), mechanism) as process:
        async for output in process:
            print(output.data.decode(), end="", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture(params=WAYS, ids=lambda way: way or "none")
def way(request: pytest.FixtureRequest) -> Mechanism | None:
    chosen: Mechanism | None = request.param
    if chosen is not None and missing(chosen):
        pytest.skip(missing(chosen))
    return chosen


def hostile(number: str, attack: str, way: Mechanism | None) -> Command:
    return Command(
        argv=(PYTHON, "-c", LEAVE, number, attack),
        cwd="/",
        sandbox="none" if way is None else "read-only",
        timeout_s=PATIENCE_S,
    )


@pytest.mark.parametrize("attack", ATTACKS)
async def test_nothing_outlives_the_turn(way: Mechanism | None, attack: str) -> None:
    number = marker()
    async with asyncio.timeout(PATIENCE_S), start(hostile(number, attack, way), way) as process:
        assert (await anext(process)).data == b"left\n"
    assert alive(number) == []


@pytest.mark.parametrize("attack", ATTACKS)
async def test_nothing_outlives_a_timeout(way: Mechanism | None, attack: str) -> None:
    number = marker()
    what = msgspec.structs.replace(hostile(number, attack, way), timeout_s=1)
    async with asyncio.timeout(PATIENCE_S), start(what, way) as process:
        outcome = await process.wait()
        assert alive(number) == []
    ends_early = {"leave", "kill"} if way is not None else {"leave", "kill", "starve"}
    assert outcome.timed_out or attack in ends_early


@pytest.mark.parametrize("attack", ATTACKS)
async def test_nothing_outlives_the_core(way: Mechanism | None, attack: str) -> None:
    if way is None and attack not in {"leave", "stop"}:
        pytest.skip("unconfined, a command can take its reaper away before the core goes")
    await the_core_is_killed(way, attack)


@pytest.mark.parametrize("attack", [*ATTACKS, "family"])
async def test_nothing_outlives_the_core_where_there_is_no_pid_namespace(attack: str) -> None:
    if missing("landlock") or landlock.abi() < sandbox.SIGNALS_ABI:
        pytest.skip("this kernel's Landlock does not hold signals")
    await the_core_is_killed("landlock", attack, alone=True)


@pytest.mark.slow
async def test_nothing_outlives_two_hundred_killed_cores() -> None:
    ways = [(way, alone) for way, alone in WAYS_TO_KILL if not missing(way)]
    attacks = [*ATTACKS, "family"]
    for count in range(200):
        way, alone = ways[count % len(ways)]
        await the_core_is_killed(way, attacks[count // 3 % len(attacks)], alone=alone)


async def the_core_is_killed(way: Mechanism | None, attack: str, *, alone: bool = False) -> None:
    number = marker()
    core = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CORE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
    )
    assert core.stdin is not None
    assert core.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            what = msgspec.to_builtins(hostile(number, attack, way))
            core.stdin.write(json.dumps([what, way, alone]).encode() + b"\n")
            assert await core.stdout.readline() == b"left\n"
    finally:
        if core.returncode is None:
            os.kill(core.pid, signal.SIGKILL)
        await core.wait()
    await until_gone(number, PATIENCE_S)
