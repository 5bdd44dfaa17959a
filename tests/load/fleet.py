"""What more than one machine costs, and how fast threads move: a fleet of hosts, measured.

    python -m tests.load.fleet turns [--seconds 8] [--clients 20]   PostgreSQL beside SQLite
    python -m tests.load.fleet hop [--requests 1000]                relayed beside local
    python -m tests.load.fleet crash [--runs 3] [--lease 10]        kill -9 → accepted elsewhere
    python -m tests.load.fleet rolling [--runs 10]                  a drained host's turns and threads
    python -m tests.load.fleet kills [--kills 200]                  acknowledged items lost: cores
    python -m tests.load.fleet hosts [--kills 200]                  the same: hosts, as clients see it
    python -m tests.load.fleet all
    python -m tests.load.fleet sqlite --against DIR [--rounds 5]    SQLite, beside another checkout

PostgreSQL is a real one (see `tests.postgres`) with fsync as it comes. One line of JSON for
each figure, with the goal beside it; exit code 1 when something was lost.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from core_server.storage.sql.owner import Place
from core_server.storage.sql.store import PostgresStore
from tests import postgres
from tests.core_server.storage.sql.fleet_writer import THREADS
from tests.e2e.people import Person, client_at
from tests.e2e.processes import kill, marked
from tests.e2e.proxy import Client, Proxy, RpcError, WebsocketClient, trace_proxy
from tests.history import events_of, faults
from tests.load.figures import milliseconds, percentile, show

ROOT = Path(__file__).parents[2]
WRITER = "tests.core_server.storage.sql.fleet_writer"
START_S = 90.0
"""On a machine where others work, too."""

RETRY_S = 0.05
"""A client that is told to try again, tries so often."""


@contextlib.asynccontextmanager
async def host(
    store: str, *, lease_s: float = 10, name: str = "", tree: str = ""
) -> AsyncIterator[Proxy]:
    """One host: a proxy and its core; of this checkout, or of another."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        listen = f"ws://127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "CORE_SERVER_STORE": store or f"sqlite:///{folder}/threads.db",
            "CORE_SERVER_LEASE_SECONDS": str(lease_s),
            "HOME": folder,
            **({"PYTHONPATH": tree} if tree else {}),
        }
        named = ("--host-id", name) if name else ()
        fleet = ("--advertise-url", listen, *named) if store else ()
        place = Path(folder)
        async with trace_proxy(
            *fleet, env=env, listen=listen, directory=place, wait=False
        ) as proxy:
            proxy.ready = await proxy.logged("proxy.ready", timeout_s=START_S)
            yield proxy


def database(server: postgres.Server, name: str) -> str:
    """A store of its own."""
    return postgres.in_schema(server.url, f"{name}_{time.time_ns()}")


async def turns_per_second(proxy: Proxy, clients: int, seconds: float) -> float:
    """Clients that run one short turn after the other, each in a thread of its own."""
    done = 0
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        people = [await stack.enter_async_context(proxy.client()) for _ in range(clients)]
        threads = [await client.thread() for client in people]
        end_s = time.monotonic() + seconds

        async def work(client: Client, thread: str) -> None:
            nonlocal done
            while time.monotonic() < end_s:
                await client.turn(thread, "hello there")
                await client.wait_for("turn/completed")
                done += 1

        for client, thread in zip(people, threads, strict=True):
            tasks.create_task(work(client, thread))
    return done / seconds


async def turns(server: postgres.Server, options: argparse.Namespace) -> bool:
    """Turns a second on one host, in turns so that both see the same neighbours."""
    rates: dict[str, list[float]] = {"sqlite": [], "postgres": []}
    for _ in range(options.rounds):
        for kind, found in rates.items():
            store = database(server, "turns") if kind == "postgres" else ""
            async with host(store) as proxy:
                found.append(await turns_per_second(proxy, options.clients, options.seconds))
    middle = {kind: percentile(found, 0.5) for kind, found in rates.items()}
    show(
        figure="turns/s on one host",
        clients=options.clients,
        **{kind: round(rate, 1) for kind, rate in middle.items()},
        ratio=round(middle["postgres"] / middle["sqlite"], 2),
        goal=">= 0.8",
    )
    return True


async def sqlite(options: argparse.Namespace) -> bool:
    """Turns a second on SQLite, of this code and of another checkout's, in turns."""
    rates: dict[str, list[float]] = {"": [], options.against: []}
    for _ in range(options.rounds):
        for tree, found in rates.items():
            async with host("", tree=tree) as proxy:
                found.append(await turns_per_second(proxy, options.clients, options.seconds))
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    ours, theirs = (percentile(found, 0.5) for found in rates.values())
    show(
        figure="turns/s on SQLite",
        clients=options.clients,
        ours=round(ours, 1),
        against=round(theirs, 1),
        ratios=[round(ratio, 2) for ratio in ratios],
        ratio=round(percentile(ratios, 0.5), 2),
        goal="no slower",
    )
    return True


async def hop(server: postgres.Server, options: argparse.Namespace) -> bool:
    """The same request of the same thread, at its own host and over a hop, alternating."""
    store = database(server, "hop")
    took: dict[str, list[float]] = {"local": [], "relayed": []}
    async with host(store) as one, host(store) as two, one.client() as there, two.client() as here:
        thread = await there.thread()
        await here.request("thread/resume", {"threadId": thread})
        for _ in range(options.requests):
            for kind, client in (("local", there), ("relayed", here)):
                begin_s = time.perf_counter()
                await client.request("thread/goal/get", {"threadId": thread})
                took[kind].append(time.perf_counter() - begin_s)
    medians = {kind: percentile(found, 0.5) for kind, found in took.items()}
    show(
        figure="a relayed request, ms",
        **{kind: milliseconds(found) for kind, found in took.items()},
        ratio=round(medians["relayed"] / medians["local"], 2),
        goal="<= 2",
    )
    return True


async def accepted(client: Client, thread: str) -> str:
    """Start a turn, again and again while the answer is retryable."""
    while True:
        try:
            return await client.turn(thread, "hello")
        except RpcError as error:
            if error.code not in (-32003, -32010, -32001):
                raise
            await asyncio.sleep(RETRY_S)


async def crash(server: postgres.Server, options: argparse.Namespace) -> bool:
    """Kill -9 of a whole host; its machine is gone, so only its lease can tell."""
    took: list[float] = []
    for _ in range(options.runs):
        store = database(server, "crash")
        async with (
            host(store, lease_s=options.lease) as one,
            host(store, lease_s=options.lease) as two,
            two.client() as here,
        ):
            async with one.client() as there:
                thread = await there.thread()
                await here.request("thread/resume", {"threadId": thread})
                await here.turn(thread, "/slow 600")
                await here.wait_for("item/agentMessage/delta")
            _forget_processes(store)
            for pid in [one.pid, *marked(one.mark)]:
                kill(pid)
            begin_s = time.monotonic()
            turn = await accepted(here, thread)
            took.append(time.monotonic() - begin_s)
            await _end_of(here, turn)
    show(
        figure="kill -9 of a host to the next turn elsewhere, s",
        lease_s=options.lease,
        runs=len(took),
        p50=round(percentile(took, 0.5), 2),
        max=round(max(took), 2),
        goal="<= 12 with a lease of 10",
    )
    return True


def _forget_processes(store: str) -> None:
    """As if the hosts were two machines: nobody can see that the other's process is dead."""
    import psycopg  # noqa: PLC0415 - an extra

    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute("UPDATE cores SET boot_id = 'of ' || owner_id")


async def rolling(server: postgres.Server, options: argparse.Namespace) -> bool:
    """Restart a host again and again in good order, under the turns of another's clients."""
    store, lost, moves = database(server, "rolling"), 0, []
    async with host(store) as two, two.client() as here:
        for _ in range(options.runs):
            async with host(store) as one, one.client() as there:
                thread = await there.thread()
                await here.request("thread/resume", {"threadId": thread})
                running = await here.turn(thread, "/slow 0.3")
                one.signal(signal.SIGTERM)
                lost += await _end_of(here, running) != "completed"
                begin_s = time.monotonic()
                turn = await accepted(here, thread)
                moves.append(time.monotonic() - begin_s)
                lost += await _end_of(here, turn) != "completed"
                lost += await one.exit_code(30) != 0
    show(
        figure="a graceful move, ms",
        restarts=options.runs,
        **milliseconds(moves),
        turns_lost=lost,
        goal="< 1000, 0 lost",
    )
    return lost == 0


async def _end_of(client: Client, turn: str) -> str:
    done = await client.wait(
        lambda each: (
            each.get("method") == "turn/completed" and each["params"]["turn"]["id"] == turn
        )
    )
    status: str = done["params"]["turn"]["status"]
    return status


async def kills(server: postgres.Server, options: argparse.Namespace) -> bool:
    """Three writers on the same threads; one after the other is killed at some moment."""
    url, journals = database(server, "kills"), []
    begun = 0

    async def life() -> None:
        nonlocal begun
        begun += 1
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", WRITER, url, f"w{begun}", "2", "0"),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert writer.stdout is not None
        first = await writer.stdout.readline()
        await asyncio.sleep(random.uniform(0, 1.0))  # noqa: S311 - any moment will do
        with contextlib.suppress(ProcessLookupError):  # it could not start: the journal tells
            writer.kill()
        journals.append(first + await writer.stdout.read())
        await writer.wait()

    async def lives() -> None:
        while begun < options.kills:
            await life()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(lives())
    journal = [event for each in journals for event in events_of(each)]
    store = PostgresStore(url, name="checker", place=Place(lease_s=2))
    await store.open()
    await asyncio.sleep(2)
    wrong = []
    for thread_id in THREADS:
        rows = await store.turns(thread_id), await store.items(thread_id)
        wrong += faults(thread_id, *rows, journal)
    await store.close()
    promised = sum(event.kind == "item" for event in journal)
    show(figure="faults of the history", kills=len(journals), items=promised, found=len(wrong))
    for each in wrong[:10]:
        show(fault=each)
    return not wrong


async def hosts(server: postgres.Server, options: argparse.Namespace) -> bool:
    """Three hosts with people on all of them; one after the other is killed at some moment."""
    fleet = Hosts(database(server, "hosts"))
    over, wrong = asyncio.Event(), []
    async with fleet.running():
        people = []
        for number in range(6):
            async with fleet.client(HOSTS[number % 3]) as client:
                words = "hello there" if number % 2 else "/slow 0.5"
                thread = await client.thread()
                people.append(Person(HOSTS[number // 2], thread, words, rest_s=0.2))
        async with asyncio.TaskGroup() as tasks:
            for person in people:
                tasks.create_task(person.work(fleet.client, over, _another))
            for _ in range(options.kills):
                await asyncio.sleep(random.uniform(0, 2.0))  # noqa: S311 - any moment will do
                await fleet.kill(random.choice(HOSTS))  # noqa: S311
            for person in people:
                await person.runs(1, since_s=time.monotonic(), within_s=60)
            over.set()
        async with fleet.client(HOSTS[0]) as client:
            for person in people:
                wrong += await person.complaints(client)
    show(
        figure="kills of hosts, as clients see it",
        kills=options.kills,
        turns=sum(len(person.completed_at_s) for person in people),
        items=sum(len(person.items) for person in people),
        found=len(wrong),
        goal="0 found",
    )
    for each in wrong[:10]:
        show(fault=each)
    return not wrong


HOSTS = ("a", "b", "c")


def _another(host: str) -> str:
    return random.choice([each for each in HOSTS if each != host])  # noqa: S311


class Hosts:
    """Hosts on one database; a killed one is started anew."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._living: dict[str, Proxy] = {}
        self._lives: dict[str, contextlib.AsyncExitStack] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All of them."""
        async with contextlib.AsyncExitStack() as all_lives:
            for name in HOSTS:
                self._lives[name] = await all_lives.enter_async_context(
                    contextlib.AsyncExitStack()
                )
                await self._start(name)
            yield

    async def _start(self, name: str) -> None:
        life = self._lives[name]
        self._living[name] = await life.enter_async_context(host(self._store, lease_s=2))
        if random.random() < 0.5:  # noqa: S311 - as on one machine, or as on several
            _forget_processes(self._store)

    async def kill(self, name: str) -> None:
        """End a host at once, with all its processes, and start it anew."""
        proxy = self._living.pop(name)
        for pid in [proxy.pid, *marked(proxy.mark)]:
            kill(pid)
        await self._lives[name].aclose()
        await self._start(name)

    @contextlib.asynccontextmanager
    async def client(self, name: str) -> AsyncIterator[WebsocketClient]:
        """A client of a host; a ConnectionError while it is away."""
        if name not in self._living:
            raise ConnectionError
        async with client_at(self._living[name].url) as client:
            yield client


FIGURES: dict[str, Callable[[postgres.Server, argparse.Namespace], Awaitable[bool]]] = {
    "turns": turns,
    "hop": hop,
    "crash": crash,
    "rolling": rolling,
    "kills": kills,
    "hosts": hosts,
}


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("figure", choices=[*FIGURES, "sqlite", "all"])
    parser.add_argument("--against", metavar="DIR", default="")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lease", type=float, default=10)
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    if reason := postgres.why_none():
        sys.stderr.write(f"{reason}\n")
        return 1
    if options.figure == "sqlite":
        if not options.against:
            parser.error("sqlite goes with --against DIR")
        return 0 if asyncio.run(sqlite(options)) else 1
    wanted = FIGURES if options.figure == "all" else [options.figure]
    server = postgres.Server(postgres.new_folder(), options=("max_connections=50",))
    server.create()
    server.start()
    try:
        good = [asyncio.run(_one(FIGURES[name], server, options)) for name in wanted]
    finally:
        server.stop()
    return 0 if all(good) else 1


async def _one(
    figure: Callable[[postgres.Server, argparse.Namespace], Awaitable[bool]],
    server: postgres.Server,
    options: argparse.Namespace,
) -> bool:
    return await figure(server, options)


if __name__ == "__main__":
    os.environ.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
    raise SystemExit(main())
