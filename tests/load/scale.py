"""Does cost grow with connections or threads, and does anything stay behind?

    python -m tests.load.scale --harness DIR [--rounds 5] [--part connections]

DIR is the one that `bench` takes: `echochild.c` is the core, `otlpsink.c` the collector.
What is compared runs interleaved, in proxies that live at the same time, so ratios hold
on a noisy machine; figures are medians.

    idle         memory of the proxy before and with 1,000 connections, tracing on and off
    connections  its CPU a request, 64 outstanding in all, over 1, 50 and 1,000 connections;
                 and that of a bare aiohttp echo, which shows what is not the proxy's doing
    threads      its CPU a request that names a thread, with 1 and 10,000 threads known
    cycles       descriptors, tasks, threads, processes and zombies before and after 200
                 clients that came, saw their core killed, and went: in both session modes
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Final

import aiohttp

from tests.load.bench import Bench, build, free_port, process
from tests.load.figures import show

ROOT: Final = Path(__file__).parents[2]
IDLE: Final = 1000
CONNECTIONS: Final = (1, 50, 1000)
THREADS: Final = (1, 10_000)
OUTSTANDING: Final = 64
REQUESTS: Final = 10_000
CYCLES: Final = 200
SETTLE_S: Final = 2.0
"""After the last client, before anything is counted: closing takes a second at most."""

WAIT_S: Final = 30.0
PAYLOAD: Final = "x" * 200

Socket = aiohttp.ClientWebSocketResponse
Text = Callable[[int], str]


class Proxy:
    """A running proxy, seen from outside."""

    def __init__(self, pid: int, port: int, where: Path) -> None:
        self.pid = pid
        self.url = f"ws://127.0.0.1:{port}/"
        self._where = where

    def cpu_us(self) -> float:
        """CPU time of its threads so far."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000

    def rss_mb(self) -> float:
        """What it holds in memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def log(self, event: str) -> list[dict[str, int]]:
        """The complete log lines of an event."""
        lines = (self._where / "log").read_text().splitlines(keepends=True)
        whole = [line for line in lines if f'"event":"{event}"' in line and line.endswith("\n")]
        return [json.loads(line) for line in whole]

    async def logged(self, event: str, times: int) -> dict[str, int]:
        """The latest line of an event, once there are so many."""
        async with asyncio.timeout(WAIT_S):
            while len(found := self.log(event)) < times:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
        return found[-1]

    def held(self) -> dict[str, int]:
        """What it must give back."""
        below = descendants(self.pid)
        return {
            "fds": len(list(Path(f"/proc/{self.pid}/fd").iterdir())),
            "asyncio tasks": int((self._where / "tasks").read_text()),
            "threads": len(list(Path(f"/proc/{self.pid}/task").iterdir())),
            "processes": len(below),
            "zombies": sum(state == "Z" for state in below.values()),
        }


def descendants(pid: int) -> dict[int, str]:
    """The processes below one, with their states."""
    states, children = {}, dict[int, list[int]]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                states[int(entry.name)] = state
                children.setdefault(int(parent), []).append(int(entry.name))
    found, left = {}, [pid]
    while left:
        below = children.get(left.pop(), [])
        found.update({each: states[each] for each in below})
        left += below
    return found


class Scale:
    """The parts, each a coroutine that prints its figures."""

    def __init__(self, bench: Bench, echo: str, where: Path, options: argparse.Namespace) -> None:
        self._python: str = options.python
        self._bench = bench
        self._echo = echo
        self._where = where
        self._rounds: int = options.rounds
        self._outstanding: int = options.outstanding
        self._numbers = count()

    @contextlib.contextmanager
    def proxy(self, *options: str, core: tuple[str, ...], traced: bool = True) -> Iterator[Proxy]:
        """Start a proxy, watched; end it with its block."""
        where = self._where / f"proxy-{next(self._numbers)}"
        where.mkdir()
        port = free_port()
        endpoint = f"http://127.0.0.1:{self._bench.sink_port}"
        environ = {
            "PYTHONPATH": str(ROOT),
            **({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if traced else {}),
            "OTEL_SDK_DISABLED": str(not traced).lower(),
        }
        command = [
            *(self._python, "-m", "tests.load.watched_proxy", str(where / "tasks")),
            *("--listen", f"ws://127.0.0.1:{port}", "--log-format", "json"),
            *("--max-connections", "2000", "--max-connections-per-ip", "2000"),
            *("--max-core-outstanding", "2048", *options, "--", *core),
        ]
        with process(command, environ, where / "log") as pid:
            yield Proxy(pid, port, where)

    @contextlib.contextmanager
    def bare(self) -> Iterator[Proxy]:
        """Start a bare echo in place of a proxy."""
        where = self._where / f"bare-{next(self._numbers)}"
        where.mkdir()
        port = free_port()
        command = [sys.executable, str(ROOT / "tests/load/bare_echo.py"), str(port)]
        with process(command, {}, where / "log") as pid:
            yield Proxy(pid, port, where)

    async def idle(self) -> None:
        """Memory with many clients that say nothing."""
        for traced in (True, False):
            with self.proxy(core=(self._echo,), traced=traced) as proxy:
                before = proxy.rss_mb()
                async with clients(proxy, IDLE):
                    await asyncio.sleep(SETTLE_S)
                    after = proxy.rss_mb()
                show(
                    part="idle",
                    connections=IDLE,
                    tracing=traced,
                    before_mb=round(before, 1),
                    rss_mb=round(after, 1),
                    kb_each=round((after - before) * 1024 / IDLE, 1),
                )

    async def connections(self) -> None:
        """CPU a request, the same load spread over more and more clients."""

        def text(number: int) -> str:
            return request(number, "echo", {"p": PAYLOAD})

        async with contextlib.AsyncExitStack() as stack:
            crowds: dict[str, tuple[Crowd, Text]] = {}
            bare: dict[str, tuple[Crowd, Text]] = {}
            for each in CONNECTIONS:
                for to, server in ((crowds, self.proxy(core=(self._echo,))), (bare, self.bare())):
                    proxy = stack.enter_context(server)
                    sockets = await stack.enter_async_context(clients(proxy, each))
                    name = f"{each} connections{', bare' if to is bare else ''}"
                    to[name] = (Crowd(proxy, sockets, self._outstanding), text)
            await self._compare(crowds, bare)

    async def threads(self) -> None:
        """CPU a request that names a thread, with few and many of them."""
        core = (sys.executable, str(ROOT / "tests/load/thread_core.py"))
        async with contextlib.AsyncExitStack() as stack:
            crowds: dict[str, tuple[Crowd, Text]] = {}
            for each in THREADS:
                proxy = stack.enter_context(self.proxy(core=core))
                sockets = await stack.enter_async_context(clients(proxy, 1))
                crowd = Crowd(proxy, sockets, self._outstanding)
                await crowd.run(each, lambda number: request(number, "thread/start", {}))
                crowds[f"{each} threads"] = (crowd, thread_text(each))
            await self._compare(crowds)

    async def _compare(self, *groups: dict[str, tuple["Crowd", Text]]) -> None:
        """Interleaved rounds, the first of which warms up; medians, and ratios in each group."""
        figures: dict[str, list[float]] = {name: [] for group in groups for name in group}
        for turn in range(self._rounds + 1):
            for group in groups:
                for name, (crowd, text) in group.items():
                    cost = await crowd.run(REQUESTS, text)
                    if turn:
                        figures[name].append(cost)
        for group in groups:
            medians = {name: statistics.median(figures[name]) for name in group}
            first = next(iter(medians.values()))
            for name, cost in medians.items():
                show(part=name, cpu_us_per_request=round(cost, 1), ratio=round(cost / first, 2))

    async def cycles(self) -> None:
        """What is held before and after many clients and crashes."""
        restarts = ("--max-restarts", str(10 * CYCLES))
        backoff = ("--restart-backoff-min", "0.01", "--restart-backoff-max", "0.01")
        for mode in ("shared", "per-connection"):
            options = ("--sessions", mode, *restarts, *backoff)
            with self.proxy(*options, core=(self._echo,)) as proxy:
                await crash_cycles(proxy, mode, 5, first=0)  # what is made once is made now
                before = proxy.held()
                await crash_cycles(proxy, mode, CYCLES, first=5)
                after = proxy.held()
            show(part="cycles", cycles=CYCLES, sessions=mode, before=before, after=after)


class Crowd:
    """Clients that keep a number of requests outstanding between them."""

    def __init__(self, proxy: Proxy, sockets: list[Socket], outstanding: int) -> None:
        self._proxy = proxy
        self._outstanding = outstanding
        self._sockets = sockets
        self._next = cycle(sockets)
        self._left = self._unanswered = 0
        self._done = asyncio.Event()

    async def run(self, requests: int, text: Text) -> float:
        """Have so many requests answered; returns the proxy's CPU µs for each."""
        self._left = self._unanswered = requests
        self._done.clear()
        before = self._proxy.cpu_us()
        async with asyncio.TaskGroup() as tasks:
            listening = [tasks.create_task(self._listen(each, text)) for each in self._sockets]
            for _ in range(min(self._outstanding, requests)):
                await self._send(text)
            async with asyncio.timeout(WAIT_S * 4):
                await self._done.wait()
            for task in listening:
                task.cancel()
        return (self._proxy.cpu_us() - before) / requests

    async def _send(self, text: Text) -> None:
        self._left -= 1
        await next(self._next).send_str(text(self._left))

    async def _listen(self, socket: Socket, text: Text) -> None:
        while True:
            answer = await socket.receive_str()
            if '"error"' in answer:
                raise SystemExit(f"refused: {answer[:200]}")
            self._unanswered -= 1
            if self._left:
                await self._send(text)
            elif not self._unanswered:
                self._done.set()


def thread_text(threads: int) -> Text:
    """Requests that name the threads in turn."""

    def text(number: int) -> str:
        params = {"threadId": f"thread-{number % threads + 1}", "p": PAYLOAD}
        return request(number, "thread/read", params)

    return text


def request(number: int, method: str, params: dict[str, str]) -> str:
    """A request as text."""
    return json.dumps({"id": number, "method": method, "params": params})


@contextlib.asynccontextmanager
async def clients(proxy: Proxy, number: int) -> AsyncIterator[list[Socket]]:
    """So many clients past their handshake."""
    introduction = {"clientInfo": {"name": "scale", "version": "1"}}
    hello = json.dumps({"id": 0, "method": "initialize", "params": introduction})
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        sockets = []
        for _ in range(number):
            socket = await session.ws_connect(proxy.url)
            await socket.send_str(hello)
            await socket.receive_str()
            await socket.send_str('{"method":"initialized"}')
            sockets.append(socket)
        yield sockets


async def crash_cycles(proxy: Proxy, mode: str, cycles: int, *, first: int) -> None:
    """Clients that come, see their core killed, and go; returns when it is quiet.

    Args:
        proxy: Theirs.
        mode: Of its sessions: a shared core is started again, a client's own is not.
        cycles: How many.
        first: How many there were before.
    """
    for number in range(first, first + cycles):
        async with clients(proxy, 1):
            core = await proxy.logged("core.started", number + 1)
            with contextlib.suppress(ProcessLookupError):
                os.kill(core["pid"], signal.SIGKILL)
            if mode == "shared":
                await proxy.logged("core.ready", number + 2)
            else:
                await proxy.logged("core.exited", number + 1)
    await asyncio.sleep(SETTLE_S)


PARTS: Final = ("idle", "connections", "threads", "cycles")


def main() -> int:
    """Read the command line, run the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--harness", type=Path, required=True, help="directory of echochild.c")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--outstanding", type=int, default=OUTSTANDING, help="default: 64")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="the interpreter of the proxies: one without the dev extra holds less (default: this)",
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        bench = Bench(arguments.harness, where)
        echo = build(arguments.harness, "echochild", where)
        scale = Scale(bench, echo, where, arguments)
        with bench.sink():
            for part in arguments.part or PARTS:
                asyncio.run(getattr(scale, part)())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
