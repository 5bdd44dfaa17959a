"""Is anything lost, and does anything grow?  Hours of load, kills and drains.

    python -m tests.load.soak --minutes 60 [--connections 500] [--rate 1000] [--cores 2]

Clients over real websockets read threads, run turns and approve commands, hang up at
random moments and come back. Meanwhile cores are killed with SIGKILL, and proxies are
drained with SIGTERM while a successor on the same store takes over, messages of every shape
come from clients that nobody has to like, and another proxy of the same kind has cores that
break the protocol in every way of `tests/e2e/cores/hostile`. A ledger holds what was promised: each request answered once with its own id, each accepted turn ended in
front of its client or found ended later, nothing said to who had not asked. Prints one
verdict and a table. Exit code 1 when something was lost, said twice, or grew.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from tests.e2e.clients import Closed, WebsocketClient
from tests.e2e.cores.hostile import ROWS
from tests.e2e.processes import kill, resident_bytes
from tests.e2e.proxy import MAX_MESSAGE_BYTES, Proxy, fake_core, trace_proxy
from tests.load.figures import milliseconds, show
from tests.load.ledger import Ledger
from tests.load.shapes import SHAPES, shaped
from tests.load.soak_client import BURST, Client, Habits

KIB: Final = 1024
MIB: Final = 1024 * KIB
READY_S: Final = 60.0
"""For a proxy to start beside all this."""

SHAPE_S: Final = 0.2
"""Between two messages of the rude client."""

PACED_S: Final = 60.0
"""What stands behind large messages of a client waits with them, 16 s for each."""

GROWTH_BYTES: Final = 32 * MIB
"""What the last proxy may gain from the moment when all clients are there: caches fill."""

LEFT_OVER_FDS: Final = 4
"""More than before the first client came: a late socket, a restarted core's pipes."""

PROBE_S: Final = 0.1
DRAIN_S: Final = 30.0
"""No turn takes a second; other work on the machine may."""

EXITS: Final = frozenset({0, 3})
"""3: a turn waited for an approval that nobody was left to give."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A process seen from outside."""

    rss_bytes: int
    fds: int
    tasks: int

    @classmethod
    def of(cls, pid: int) -> "Sample":
        """Look at it."""
        proc = Path(f"/proc/{pid}")
        counts = [len(list((proc / each).iterdir())) for each in ("fd", "task")]
        return cls(resident_bytes(pid), *counts)

    def shown(self) -> dict[str, float]:
        """For the table."""
        rss_mib = round(self.rss_bytes / MIB, 1)
        return {"rss_mib": rss_mib, "fds": self.fds, "tasks": self.tasks}


@dataclass
class Stage:
    """The proxies: the one that clients go to, and those on their way out.

    Attributes:
        proxy: The one of the moment.
        fresh: How it looked before its first client.
        full: How it looked first when all its clients were there; None before.
    """

    options: Sequence[str]
    store: Path
    stack: contextlib.AsyncExitStack
    ledger: Ledger
    kills: int = 0
    drains_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    shaped: int = 0
    hostile: int = 0
    full: Sample | None = None

    async def start(self) -> None:
        """Let a new proxy be the one of the moment."""
        # No profile of a login shell: a killed one may leave a lock that holds up the next.
        env = {
            "CORE_SERVER_STORE": f"sqlite:///{self.store}",
            "CORE_SERVER_SANDBOX": "none",
            "HOME": str(self.store.parent),
        }
        started = trace_proxy(*self.options, env=env)
        self.proxy: Proxy = await self.stack.enter_async_context(started)
        await self.proxy.logged("core.ready")
        self.fresh = Sample.of(self.proxy.pid)
        self.full = None

    def url(self) -> str:
        """Where clients go."""
        return self.proxy.url

    def kill_core(self, dice: random.Random) -> None:
        """End a random one of the running proxy's cores."""
        newest = {each["core"]: each["pid"] for each in self.proxy.log("core.started")}
        kill(dice.choice(sorted(newest.values())))
        self.kills += 1

    async def drain(self) -> None:
        """Start a successor, send the proxy SIGTERM and see it end."""
        old = self.proxy
        await self.start()
        began_s = time.monotonic()
        old.signal(signal.SIGTERM)
        try:
            code = await old.exit_code(timeout_s=DRAIN_S)
        except AssertionError:
            self.wrong.append(f"a drain takes longer than {DRAIN_S} s: {old.stderr[-500:]}")
            return
        self.drains_s.append(time.monotonic() - began_s)
        left = await old.survivors()
        if code not in EXITS or left:
            self.wrong.append(f"a drain: exit {code}, left {left}: {old.stderr[-500:]}")

    async def emptied(self) -> Sample:
        """The proxy's look when all clients have left; what they held must be given back."""
        now = Sample.of(self.proxy.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while now.fds > self.fresh.fds + LEFT_OVER_FDS:
                    await asyncio.sleep(0.1)
                    now = Sample.of(self.proxy.pid)
        status, metrics, _ = await self.proxy.get("/metrics")
        for name in ("connections_active", "turns_running", "requests_active"):
            line = next(
                (x for x in metrics.splitlines() if x.startswith(f"trace_proxy_{name}")), ""
            )
            if status != 200 or float((line or "x 0").split()[1]):
                self.wrong.append(f"at the end: {line or status}")
        return now


async def disturb(stage: Stage, options: argparse.Namespace, dice: random.Random) -> None:
    """Kill and drain at random moments; the last proxy gets the last third for itself."""
    whole_s = options.minutes * 60
    moments = [(dice.uniform(0.1, 0.95) * whole_s, "kill") for _ in range(options.kills)]
    moments += [(dice.uniform(0.1, 0.6) * whole_s, "drain") for _ in range(options.drains)]
    began_s = time.monotonic()
    for at_s, what in sorted(moments):
        await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
        if what == "kill":
            stage.kill_core(dice)
        else:
            await stage.drain()
    await asyncio.sleep(max(0.0, began_s + whole_s - time.monotonic()))


async def shape(stage: Stage, dice: random.Random) -> None:
    """A rude client: one message of some shape and size after the other, and what it asks beside."""
    async with aiohttp.ClientSession() as session:
        while True:
            name = dice.choice(sorted(SHAPES))
            size = dice.choice((31 * KIB, 31 * KIB, 31 * KIB, MIB, 4 * MIB))
            with contextlib.suppress(aiohttp.ClientError, ConnectionError, Closed):
                async with session.ws_connect(stage.url(), max_msg_size=MAX_MESSAGE_BYTES) as ws:
                    client = WebsocketClient(ws)
                    await client.initialize()
                    for request_id in range(1000, 1020):
                        await client.write(shaped(name, size, request_id))
                        asked = await client.begin("thread/unsubscribe", {"threadId": "none"})
                        await client.answer(asked, timeout_s=PACED_S)
                        stage.shaped += 1
                        await asyncio.sleep(SHAPE_S)
            await asyncio.sleep(SHAPE_S)


async def hostility(stage: Stage, dice: random.Random) -> None:
    """Cores that break the protocol, one life after the other: no drain of theirs may hang."""
    while True:
        name = dice.choice(sorted(ROWS))
        sessions = dice.choice(("shared", "per-connection"))
        options = ("--sessions", sessions, "--drain-timeout", "1", "--restart-backoff-max", "0.5")
        async with trace_proxy(*options, core=fake_core("hostile", name), wait=False) as proxy:
            proxy.ready = await proxy.logged("proxy.ready", timeout_s=READY_S)
            async with proxy.client() as client:
                await client.begin("model/list")
                with contextlib.suppress(AssertionError, Closed):
                    await client.wait(lambda each: each.get("id") == 2, timeout_s=1)
                proxy.signal(signal.SIGTERM)
                try:
                    code = await proxy.exit_code(timeout_s=DRAIN_S)
                except AssertionError:
                    stage.wrong.append(f"a drain with the hostile core {name!r} hangs")
                    return
            left = await proxy.survivors()
            if code not in EXITS or left:
                stage.wrong.append(f"hostile core {name!r}, {sessions}: exit {code}, left {left}")
        stage.hostile += 1


async def watch(stage: Stage, whole_s: float) -> None:
    """Notice how the proxy looks once all have come to it: a tenth of the time later."""
    while True:
        proxy = stage.proxy
        await asyncio.sleep(whole_s / 10)
        if stage.full is None and stage.proxy is proxy:
            stage.full = Sample.of(proxy.pid)


async def probe(stage: Stage, took_s: list[float]) -> None:
    """Ask for the readiness page again and again: one request beside all others."""
    while True:
        began_s = time.monotonic()
        with contextlib.suppress(aiohttp.ClientError):
            await stage.proxy.get("/healthz")
            took_s.append(time.monotonic() - began_s)
        await asyncio.sleep(PROBE_S)


async def soak(options: argparse.Namespace) -> bool:
    """All of it; whether nothing was lost and nothing grew."""
    ledger, took_s = Ledger(), list[float]()
    async with (
        staged(options, ledger) as stage,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        over = asyncio.Event()
        others: dict[str, None] = {}
        interval_s = BURST * options.connections / options.rate
        habits = Habits(interval_s, options.turns, options.visit)
        async with asyncio.TaskGroup() as watchers:
            beside = [
                watchers.create_task(watch(stage, options.minutes * 60)),
                watchers.create_task(probe(stage, took_s)),
                watchers.create_task(shape(stage, random.Random(options.seed))),  # noqa: S311 - repeatable
                watchers.create_task(hostility(stage, random.Random(options.seed))),  # noqa: S311 - as above
            ]
            async with asyncio.TaskGroup() as tasks:
                for number in range(options.connections):
                    dice = random.Random(f"{options.seed}-{number}")  # noqa: S311 - repeatable
                    client = Client(session, stage.url, ledger, others, dice)
                    tasks.create_task(client.live(over, habits))
                await disturb(stage, options, random.Random(options.seed))  # noqa: S311 - as above
                last = Sample.of(stage.proxy.pid)
                over.set()
            for each in beside:
                each.cancel()
        empty = await stage.emptied()
    return report(stage, last, empty, took_s)


@contextlib.asynccontextmanager
async def staged(options: argparse.Namespace, ledger: Ledger) -> AsyncIterator[Stage]:
    """The first proxy, with room for all clients and all kills."""
    room = str(4 * options.connections)
    more = {
        "--cores": str(options.cores),
        "--max-connections": room,
        "--max-connections-per-ip": room,
        "--max-restarts": "1000000",
        "--restart-backoff-max": "0.5",
    }
    with tempfile.TemporaryDirectory() as directory:
        async with contextlib.AsyncExitStack() as stack:
            flat = list(itertools.chain.from_iterable(more.items()))
            stage = Stage(flat, Path(directory) / "threads.db", stack, ledger)
            await stage.start()
            yield stage


def report(stage: Stage, last: Sample, empty: Sample, took_s: list[float]) -> bool:
    """Say what became of it; whether all is well."""
    ledger = stage.ledger
    first = stage.full or last
    grown = last.rss_bytes - first.rss_bytes > GROWTH_BYTES
    leaked = empty.fds - stage.fresh.fds > LEFT_OVER_FDS
    tasks = empty.tasks - stage.fresh.tasks > LEFT_OVER_FDS
    faults = {
        "lost": ledger.lost.count,
        "doubled": ledger.doubled.count,
        "strange": ledger.strange.count,
        "bad ends": len(stage.wrong),
        "memory grew": int(grown),
        "descriptors leaked": int(leaked),
        "threads leaked": int(tasks),
    }
    said = ", ".join(f"{count} {name}" for name, count in faults.items() if count)
    show(verdict=f"FAILED: {said}" if said else "ok: 0 lost, 0 doubled, nothing grew")
    show(requests=ledger.requests, answered=ledger.answered, asked_again=dict(ledger.refused))
    show(cut_by_a_close=ledger.cut, closed={str(code): n for code, n in ledger.closed.items()})
    show(lost=ledger.lost.count, doubled=ledger.doubled.count, strange=ledger.strange.count)
    show(turns=ledger.turns, of_them_not_completed=ledger.interrupted)
    show(messages_of_odd_shapes=stage.shaped, lives_of_hostile_cores=stage.hostile)
    show(kills=stage.kills, drains=len(stage.drains_s), drain_ms=milliseconds(stage.drains_s))
    every_s = list(itertools.chain.from_iterable(ledger.took_s.values()))
    show(request_ms=milliseconds(every_s), probe_ms=milliseconds(took_s))
    show(**{method: milliseconds(each_s) for method, each_s in sorted(ledger.took_s.items())})
    looks = {"fresh": stage.fresh, "full": first, "last": last, "empty": empty}
    show(**{f"proxy_{name}": each.shown() for name, each in looks.items()})
    for problem in (ledger.problems() + stage.wrong)[:20]:
        show(problem=problem)
    return not said


def parser() -> argparse.ArgumentParser:
    """The options."""
    assert __doc__ is not None
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--minutes", type=float, default=5.0, help="how long (%(default)s)")
    options.add_argument("--connections", type=int, default=500, help="clients (%(default)s)")
    options.add_argument("--rate", type=float, default=1000.0, help="requests/s (%(default)s)")
    options.add_argument("--cores", type=int, default=2, help="of each proxy (%(default)s)")
    options.add_argument("--kills", type=int, help="of cores (3 a minute)")
    options.add_argument("--drains", type=int, help="of proxies (1 in two minutes)")
    options.add_argument("--turns", type=float, default=0.1, help="turns per 4 requests, at most")
    options.add_argument("--visit", type=float, default=60.0, help="mean s of one connection")
    options.add_argument("--seed", type=int, default=1, help="of all that is random")
    return options


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options with what follows from others."""
    options = parser().parse_args(arguments)
    options.kills = max(1, round(3 * options.minutes)) if options.kills is None else options.kills
    if options.drains is None:
        options.drains = max(1, round(options.minutes / 2))
    return options


def main() -> None:
    """Read the options and run."""
    sys.exit(0 if asyncio.run(soak(parse())) else 1)


if __name__ == "__main__":
    main()
