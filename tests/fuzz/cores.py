"""Two cores on one store, each with a client that sends what `requests` makes."""

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.requests import Known, Requests, answer

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
"""For the answers of one burst, on a machine that is busy with other things."""

BURST = 40
"""Requests in one go: more than are served at once, less than make a failure hard to read."""

Json = dict[str, Any]


class FuzzedCore:
    """A core process; every line it says is looked at once and not kept.

    Attributes:
        faults: What must not be: -32603, a second answer, an answer to nobody.
        codes: How often each error code came.
        loaded: Filled by `loaded_threads`.
    """

    def __init__(self, process: asyncio.subprocess.Process, seed: int) -> None:
        self.process = process
        self.known = Known()
        self.faults: list[str] = []
        self.codes: Counter[int] = Counter()
        self.answered = 0
        self.stderr = b""
        self._random = Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._open: dict[int, bytes] = {}
        self._unreadable = 0
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._last_id = 0
        self._settled = asyncio.Event()

    async def request(self, method: str, params: object) -> Json:
        """Send a request; returns the whole answer."""
        self._last_id += 1
        future = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id] = future
        line = json.dumps({"id": self._last_id, "method": method, "params": params}).encode()
        self._open[self._last_id] = line
        self._write(line)
        async with asyncio.timeout(PATIENCE_S):
            answered: Json = await future
        return answered

    async def burst(self, requests: Requests, count: int) -> None:
        """Send so many at once, and wait until each has its answer."""
        self._settled.clear()
        for _ in range(count):
            self._last_id += 1
            line, readable = requests.line(self._last_id)
            if readable:
                self._open[self._last_id] = line
            else:
                self._unreadable += 1
            self._write(line)
        self._end_commands()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._settled.wait()
        except TimeoutError:
            self.faults += [f"no answer: {line[:500]!r}" for line in self._open.values()]
            self.faults.append(f"{self._unreadable} broken lines without an answer")

    async def read(self) -> None:
        """Take all that it says, to the end."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self._take(json.loads(line))
        self._settled.set()
        for future in self._waiting.values():
            future.cancel()

    async def read_stderr(self) -> None:
        """Keep what it logs."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.stderr = (self.stderr + line)[-100_000:]
            if b"Traceback" in line or b"core.handler_failed" in line or b"core.crash" in line:
                self.faults.append(line.decode(errors="replace")[:4000])

    def rss_bytes(self) -> int:
        """What it holds in memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _end_commands(self) -> None:
        """Those that wait for input must not hold up the burst."""
        for name in ("p1", "p2", "p3", ""):
            self._last_id += 1
            message = {"id": self._last_id, "method": "command/exec/terminate"}
            line = json.dumps({**message, "params": {"processId": name}}).encode()
            self._open[self._last_id] = line
            self._write(line)

    def _write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")

    def _take(self, message: Json) -> None:
        if "method" in message:
            if "id" in message and self._random.random() < 0.9:
                self._write(answer(self._random, message["id"]))
            return
        self.answered += 1
        if message["id"] is None:
            self._unreadable -= 1
            line = b"a broken one"
        elif message["id"] in self._open:
            line = self._open.pop(message["id"])
        else:
            self.faults.append(f"nobody asked for {message!r:.500}")
            return
        if "error" in message:
            code = message["error"]["code"]
            self.codes[code] += 1
            if code == -32603:
                self.faults.append(
                    f"{line[:1500]!r} -> {message!r:.1000}, log: {self.stderr[-2000:]!r}"
                )
        else:
            self.known.learn(message["result"])
        future = self._waiting.pop(message["id"], None) if message["id"] is not None else None
        if future is not None and not future.done():
            future.set_result(message)
        if not self._open and self._unreadable <= 0:
            self._settled.set()


@contextlib.asynccontextmanager
async def fuzzed_cores(folder: Path, seed: int) -> AsyncIterator[tuple[FuzzedCore, FuzzedCore]]:
    """Two cores on one store in a folder; they have ended when the block is left."""
    for name in ("tmp", "home", "workspace"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    async with asyncio.TaskGroup() as group:
        cores = [await _spawned(folder, seed + place) for place in range(2)]
        for core in cores:
            group.create_task(core.read())
            group.create_task(core.read_stderr())
        try:
            for core in cores:
                client = {"name": "fuzzer", "version": "1"}
                capabilities = {"experimentalApi": True}
                await core.request(
                    "initialize", {"clientInfo": client, "capabilities": capabilities}
                )
            yield cores[0], cores[1]
        finally:
            for core in cores:
                await _ended(core)


async def _spawned(folder: Path, seed: int) -> FuzzedCore:
    workspace = str(folder / "workspace")
    store = f"sqlite:///{folder}/threads.db"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "core_server", "--store", store, "--workspace", workspace),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")},
        limit=64 * 1024 * 1024,
    )
    return FuzzedCore(process, seed)


async def _ended(core: FuzzedCore) -> None:
    assert core.process.stdin is not None
    core.process.stdin.close()
    try:
        async with asyncio.timeout(PATIENCE_S):
            code = await core.process.wait()
    except TimeoutError:
        core.process.kill()
        code = await core.process.wait()
    if code != 0:
        core.faults.append(f"it ended with {code}: {core.stderr[-1000:]!r}")


async def lease_faults(cores: tuple[FuzzedCore, FuzzedCore]) -> list[str]:
    """What a core has loaded is its own: the other is refused, and it can still write to it."""
    faults = []
    for mine, other in (cores, cores[::-1]):
        loaded = await mine.request("thread/loaded/list", {})
        for thread_id in loaded["result"]["data"][:5]:
            refused = await other.request("thread/resume", {"threadId": thread_id})
            reason = (refused.get("error", {}).get("data") or {}).get("reason")
            read = await mine.request("thread/read", {"threadId": thread_id})
            lasting = "result" in read and read["result"]["thread"].get("path") is not None
            if reason != "threadOwned" and lasting:
                faults.append(f"{thread_id} is loaded there, and here: {refused!r:.500}")
            named = await mine.request(
                "thread/name/set", {"threadId": thread_id, "name": "still mine"}
            )
            if "error" in named:
                faults.append(f"{thread_id} cannot be written to: {named!r:.500}")
    return faults


async def fuzz(folder: Path, seed: int, count: int, *, commands: float) -> list[str]:
    """Send so many requests over two cores; returns what must not be, and prints a summary."""
    async with fuzzed_cores(folder, seed) as cores:
        makers = [
            Requests(seed * 2 + place, core.known, commands=commands)
            for place, core in enumerate(cores)
        ]
        early_bytes: list[int] = []
        while sum(core.answered for core in cores) < count:
            async with asyncio.TaskGroup() as group:
                for core, maker in zip(cores, makers, strict=True):
                    group.create_task(core.burst(maker, BURST))
            if any(core.faults for core in cores) or any(
                core.process.returncode is not None for core in cores
            ):
                break
            if not early_bytes and sum(core.answered for core in cores) > count / 4:
                early_bytes = [core.rss_bytes() for core in cores]
        faults = [fault for core in cores for fault in core.faults]
        if not faults:
            faults += await lease_faults(cores)
            faults += _grown(cores, early_bytes)
    faults += [fault for core in cores for fault in core.faults if fault not in faults]
    faults += [f"left in TMPDIR: {path.name}" for path in (folder / "tmp").iterdir()]
    answered = sum(core.answered for core in cores)
    codes = sum((core.codes for core in cores), Counter())
    print(f"seed {seed}: {answered} answers, errors {dict(codes)}, {len(faults)} faults")  # noqa: T201 - a long run's record
    return faults


def _grown(cores: tuple[FuzzedCore, FuzzedCore], early_bytes: list[int]) -> list[str]:
    """Threads that stay loaded cost something; what is served must not."""
    limit_bytes = 64 * 1024 * 1024
    return [
        f"memory went from {early} to {core.rss_bytes()} bytes"
        for core, early in zip(cores, early_bytes, strict=False)
        if core.rss_bytes() - early > limit_bytes
    ]
