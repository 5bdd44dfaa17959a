"""Several cores on one PostgreSQL, and all that can happen to them: the history stays true."""

import asyncio
import logging
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from core_server.storage.sql.owner import Place
from core_server.storage.sql.store import PostgresStore
from tests import postgres
from tests.core_server.storage.sql.fleet_writer import THREADS
from tests.history import Event, events_of, faults
from tests.relay_cut import Relay, relay

ROOT = Path(__file__).parents[4]
LEASE_S = 1.5
CORES = 3
MODULE = "tests.core_server.storage.sql.fleet_writer"


class Core:
    """A writing child, and what it told."""

    def __init__(self, process: Process, network: Relay, anybody_heard: asyncio.Event) -> None:
        self.process = process
        self.network = network
        self.journal = bytearray()
        self._heard = asyncio.Event()
        self._anybody_heard = anybody_heard

    async def listen(self) -> None:
        """Until the child ends."""
        assert self.process.stdout is not None
        while data := await self.process.stdout.read(65536):
            self.journal += data
            self._heard.set()
            self._anybody_heard.set()

    async def heard(self, what: bytes) -> None:
        """Wait until it tells of such an event, from now on."""
        begin = len(self.journal)
        while what not in self.journal[begin:]:
            self._heard.clear()
            await self._heard.wait()

    async def end(self) -> None:
        """Let it finish what it does, or end it if it is beyond that."""
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            async with asyncio.timeout(30):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


class Fleet:
    """A server, and cores on it."""

    def __init__(self, server: postgres.Server, url: str, stack: AsyncExitStack) -> None:
        self.server = server
        self.url = url
        self.cores: list[Core] = []
        self._stack = stack
        self._group = asyncio.TaskGroup()
        self._heard = asyncio.Event()

    async def start(self, count: int, *, skew_s: float = 0) -> None:
        """Start so many cores, each with a network of its own to the database."""
        for _ in range(count):
            network = await self._stack.enter_async_context(relay("127.0.0.1", self.server.port))
            url = self.url.replace(f":{self.server.port}/", f":{network.port}/")
            name = f"core{len(self.cores)}"
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", MODULE, url, name, str(LEASE_S), str(skew_s)),
                cwd=ROOT, stdin=PIPE, stdout=PIPE,
            )  # fmt: skip
            core = Core(process, network, self._heard)
            self._group.create_task(core.listen())
            self.cores.append(core)
            await core.heard(b'"item"')

    async def goes_on(self) -> None:
        """Wait until some core ends a turn, from now on."""
        begins = [(core, len(core.journal)) for core in self.cores]
        while not any(b'"end"' in core.journal[begin:] for core, begin in begins):
            self._heard.clear()
            await self._heard.wait()

    async def check(self) -> list[Event]:
        """End all cores; nothing is wrong with what they leave. Returns the journal."""
        async with asyncio.TaskGroup() as ending:
            for core in self.cores:
                ending.create_task(core.end())
        journal = [event for core in self.cores for event in events_of(bytes(core.journal))]
        store = PostgresStore(self.url, name="checker", place=Place(lease_s=LEASE_S))
        await asyncio.sleep(LEASE_S)  # the leases of the killed have ended
        await store.open()
        for thread_id in THREADS:
            turns, items = await store.turns(thread_id), await store.items(thread_id)
            assert faults(thread_id, turns, items, journal) == []
            assert items
        await store.close()
        return journal


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    postgres.needed()
    server = postgres.Server(postgres.new_folder())
    server.create()
    server.start()
    try:
        async with asyncio.timeout(240), AsyncExitStack() as stack:
            fleet = Fleet(server, postgres.in_schema(server.url, "fleet"), stack)
            async with fleet._group:  # noqa: SLF001 - the fixture is its owner
                yield fleet
                for core in fleet.cores:
                    await core.end()
    finally:
        server.stop()


def _successors(journal: list[Event], tenure_of: str) -> set[str]:
    """Which cores owned threads after this one last did."""
    last = max(e.at_s for e in journal if e.tenure.startswith(tenure_of))
    return {e.tenure.partition(".")[0] for e in journal if e.kind == "own" and e.at_s > last}


async def test_a_killed_core_loses_nothing_and_others_go_on(fleet: Fleet) -> None:
    await fleet.start(3)

    for victim in (0, 1):
        await fleet.cores[victim].heard(b'"delta"')
        fleet.cores[victim].process.kill()
        await fleet.start(1)

    journal = await fleet.check()
    assert _successors(journal, "core0.")


async def test_a_stopped_core_is_fenced_when_it_wakes(fleet: Fleet) -> None:
    await fleet.start(3)
    stopped, *others = fleet.cores

    for _ in range(2):
        await stopped.heard(b'"delta"')
        stopped.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE_S * 2)  # the fault itself: it must last
        stopped.process.send_signal(signal.SIGCONT)
        await stopped.heard(b'"item"')
        await others[0].heard(b'"item"')

    await fleet.check()


async def test_a_core_cut_off_from_the_database_is_fenced_and_comes_back(fleet: Fleet) -> None:
    await fleet.start(3)
    cut = fleet.cores[0]

    await cut.heard(b'"delta"')
    cut.network.cut()
    await asyncio.sleep(LEASE_S * 2)  # the fault itself: it must last
    cut.network.mend()
    await cut.heard(b'"item"')

    await fleet.check()


async def test_connections_that_break_lose_nothing(fleet: Fleet) -> None:
    await fleet.start(2)

    for _ in range(10):
        for core in fleet.cores:
            await core.heard(b'"item"')
            core.network.reset()

    journal = await fleet.check()
    assert sum(event.kind == "end" for event in journal) > 10


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_server_restarted_under_load_loses_nothing(
    fleet: Fleet, how: signal.Signals
) -> None:
    await fleet.start(2)

    for _ in range(2):
        await fleet.cores[0].heard(b'"item"')
        await asyncio.to_thread(fleet.server.stop, how)
        await asyncio.to_thread(fleet.server.start)
        for core in fleet.cores:
            await core.heard(b'"end"')

    await fleet.check()


async def test_clocks_that_are_an_hour_wrong_change_nothing(fleet: Fleet) -> None:
    await fleet.start(1, skew_s=3600)
    await fleet.start(1, skew_s=-3600)
    await fleet.start(1)

    for core in fleet.cores:
        await core.heard(b'"end"')

    await fleet.check()


class Faults:
    """Steps that a seed decides, each over before the next one: one or two cores, or the server.

    Args:
        fleet: What they happen to.
        seed: Of the dice.
    """

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._dice = random.Random(seed)  # noqa: S311

    async def step(self) -> None:
        """Let something happen; afterwards somebody's turns still end."""
        living = [core for core in self._fleet.cores if core.process.returncode is None]
        assert len(living) >= CORES, "a core has ended by itself"
        if self._dice.random() < 0.25:
            await self._restart()
        else:
            async with asyncio.TaskGroup() as tasks:
                for core in self._dice.sample(living, self._dice.choice([1, 1, 2])):
                    fault = self._dice.choice([self._kill, self._stop, self._cut, self._reset])
                    tasks.create_task(fault(core))
        await self._fleet.goes_on()

    async def _kill(self, core: Core) -> None:
        core.process.kill()
        await core.process.wait()
        await self._fleet.start(1)

    async def _stop(self, core: Core) -> None:
        core.process.send_signal(signal.SIGSTOP)
        await self._lasts()
        core.process.send_signal(signal.SIGCONT)

    async def _cut(self, core: Core) -> None:
        core.network.cut()
        await self._lasts()
        core.network.mend()

    async def _reset(self, core: Core) -> None:
        core.network.reset()

    async def _restart(self) -> None:
        how = self._dice.choice([signal.SIGINT, signal.SIGQUIT])
        await asyncio.to_thread(self._fleet.server.stop, how)
        await asyncio.to_thread(self._fleet.server.start)

    async def _lasts(self) -> None:
        """Some faults are over before the lease is, some are not."""
        await asyncio.sleep(self._dice.uniform(0, LEASE_S * 2))


async def _happens(fleet: Fleet, seed: int, steps: int) -> None:
    async with asyncio.timeout(60 + 10 * steps):
        await fleet.start(CORES)
        faults = Faults(fleet, seed)
        for _ in range(steps):
            await faults.step()
        journal = await fleet.check()
    assert sum(event.kind == "end" for event in journal) > steps


@pytest.mark.parametrize("seed", [1, 2])
async def test_faults_in_some_order_leave_a_true_history(fleet: Fleet, seed: int) -> None:
    await _happens(fleet, seed, steps=6)


@pytest.mark.slow
async def test_faults_in_any_order_leave_a_true_history(fleet: Fleet) -> None:
    seed = random.randrange(2**32)  # noqa: S311
    logging.getLogger(__name__).warning("seed %d", seed)  # to live it again
    await _happens(fleet, seed, steps=40)
