"""Whole turns over websockets, side by side: the proxy and our core, the real server alone.

    python -m tests.load.turns --harness DIR [--clients 20] [--rounds 3] [--against DIR]

Each client runs one turn after the other in a thread of its own; the model is
`tests.load.endpoint`, which answers at once with 20 deltas. Ours exports every span to
the collector of DIR (`otlpsink.c`). Shown are medians of interleaved rounds: turns a second,
and the time from `turn/start` to the first delta. `--against` runs another checkout as well.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.compat.real_codex import codex_home, codex_path, newest_codex
from tests.load.bench import build, free_port
from tests.load.figures import percentile, show

ROOT = Path(__file__).parents[2]
READY_S = 20.0
WARM_UP = 3
"""Turns of each client before anything is counted: imports, connections, caches."""


class Person:
    """A client that looks at no more of a message than it must."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._thread = ""

    async def begin(self) -> None:
        """Shake hands and make a thread."""
        client = {"name": "load", "version": "1"}
        await self._request("initialize", {"clientInfo": client})
        await self._socket.send_json({"method": "initialized"})
        started = await self._request("thread/start", {})
        self._thread = started["result"]["thread"]["id"]

    async def turn(self) -> float:
        """Run one turn to its end; seconds to its first delta."""
        words = [{"type": "text", "text": "hello there"}]
        began_s = time.perf_counter()
        params = {"threadId": self._thread, "input": words}
        await self._socket.send_json({"id": 2, "method": "turn/start", "params": params})
        first_s = 0.0
        while True:
            text = await self._socket.receive_str()
            if not first_s and '"item/agentMessage/delta"' in text[:60]:
                first_s = time.perf_counter() - began_s
            elif '"turn/completed"' in text[:60]:
                assert first_s, text
                return first_s

    async def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        await self._socket.send_json({"id": 1, "method": method, "params": params})
        while True:
            message: dict[str, Any] = await self._socket.receive_json()
            if message.get("id") == 1:
                assert "result" in message, message
                return message


async def load(port: int, pid: int, options: argparse.Namespace) -> dict[str, float]:
    """Turns a second, the median first delta, and the server's CPU of a turn."""
    firsts: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        people = []
        for _ in range(options.clients):
            url = f"ws://127.0.0.1:{port}/"
            socket = await stack.enter_async_context(session.ws_connect(url, max_msg_size=0))
            people.append(Person(socket))
            await people[-1].begin()
        for _ in range(WARM_UP):
            async with asyncio.TaskGroup() as group:
                for person in people:
                    group.create_task(person.turn())
        began_s, began_cpu_s = time.perf_counter(), cpu_s(pid)

        async def work(person: Person) -> None:
            while time.perf_counter() < began_s + options.seconds:
                firsts.append(await person.turn())

        async with asyncio.TaskGroup() as group:
            for person in people:
                group.create_task(work(person))
        return {
            "turns_per_s": len(firsts) / (time.perf_counter() - began_s),
            "first_delta_ms": percentile(firsts, 0.5) * 1000,
            "cpu_ms_per_turn": (cpu_s(pid) - began_cpu_s) / len(firsts) * 1000,
        }


@contextlib.contextmanager
def running(argv: list[str], env: Mapping[str, str], cwd: Path, port: int) -> Iterator[int]:
    """A server on a port, by its process id, until the block ends."""
    with (cwd / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, stderr=log, stdout=log, cwd=cwd, env={**os.environ, **env}
        )
        try:
            asyncio.run(_listening(port, process))
            yield process.pid
        finally:
            process.terminate()
            process.wait(20)


def cpu_s(pid: int) -> float:
    """What a process and its descendants have used: `utime` and `stime` of proc(5)."""
    text = Path(f"/proc/{pid}/stat").read_text()
    own_s = sum(map(int, text.rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
    children = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    return own_s + sum(cpu_s(int(child)) for child in children.split())


async def _listening(port: int, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(READY_S):
        while process.poll() is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)
    raise SystemExit(f"{process.args!r} did not start")


@contextlib.contextmanager
def endpoint() -> Iterator[str]:
    """The model, by its URL."""
    argv = [sys.executable, "-m", "tests.load.endpoint"]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().decode().strip()
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def ours(checkout: Path, port: int, url: str, sink_port: int, home: Path) -> tuple[Any, Any]:
    """Command and environment of a proxy with our core."""
    core = [sys.executable, "-m", "core_server", "--engine", "openai", "--model", "model"]
    core += ["--store", f"sqlite:///{home}/threads.db", "--workspace", str(home)]
    argv = [sys.executable, "-m", "trace_proxy", "--listen", f"ws://127.0.0.1:{port}"]
    env = {
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink_port}",
        "PYTHONPATH": str(checkout),
    }
    return [*argv, "--cores", "1", "--", *core], env


def real(port: int, url: str, home: Path) -> tuple[Any, Any] | None:
    """Command and environment of the real server, the newest that is there."""
    path = newest_codex() or codex_path()
    if path is None:
        return None
    return [str(path), "app-server", "--listen", f"ws://127.0.0.1:{port}"], codex_home(home, url)


def measure(
    name: str, options: argparse.Namespace, url: str, sink_port: int
) -> dict[str, float] | None:
    """One run; None without the real server."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        checkout = options.against if name == "before" else ROOT
        made = (
            real(port, url, home)
            if name == "real server"
            else ours(checkout, port, url, sink_port, home)
        )
        if made is None:
            return None
        with running(*made, home, port) as pid:
            return asyncio.run(load(port, pid, options))


def main() -> int:
    """Read the command line, run, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--harness", type=Path, required=True, help="directory of otlpsink.c")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--only-ours", action="store_true", help="without the real server")
    parser.add_argument("--against", type=Path, help="another checkout, measured as `before`")
    options = parser.parse_args()
    names = ["ours"]
    names += ["before"] if options.against is not None else []
    names += [] if options.only_ours else ["real server"]
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as where, endpoint() as url:
        sink_port = free_port()
        program = build(options.harness, "otlpsink", Path(where))
        sink = subprocess.Popen([program, str(sink_port)], stdout=subprocess.DEVNULL)
        try:
            for _ in range(options.rounds):
                for name in names:
                    if (run := measure(name, options, url, sink_port)) is not None:
                        found.setdefault(name, []).append(run)
        finally:
            sink.terminate()
            sink.wait()
    for name, runs in found.items():
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        show(what=name, **{key: round(value, 2) for key, value in medians.items()})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
