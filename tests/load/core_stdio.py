"""Our core and the real server side by side over stdio, interleaved in one run.

    python -m tests.load.core_stdio [--rounds 5] [--seconds 1] [--turns] [--against DIR]

Prints one JSON line: `thread/loaded/list` a second, sequential and with 64 outstanding,
first `initialize` answer after spawn, and idle memory; with `--turns` instead the turns of
the offline engine in 50 threads a second, and the CPU that each took. Medians over the
rounds; ratios count, absolute figures drift with the machine. Without the real server only
ours is run, and with `--against` the core of another checkout beside it.
"""

import argparse
import contextlib
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
REQUEST = b'{"id":%d,"method":"thread/loaded/list","params":{}}\n'
HELLO = (
    b'{"id":0,"method":"initialize","params":{"clientInfo":{"name":"load","version":"1"}}}\n'
    b'{"method":"initialized"}\n'
)
THREADS = 50
START = b'{"id":1,"method":"thread/start","params":{}}\n'
TURN = (
    b'{"id":2,"method":"turn/start","params":'
    b'{"threadId":"%b","input":[{"type":"text","text":"hello there"}]}}\n'
)
_STARTED = re.compile(rb'\{"id":1,"result":\{"thread":\{"id":"([^"]+)"')
_ENDED = re.compile(rb'\{"method":"turn/completed","params":\{"threadId":"([^"]+)"')


class Peer:
    """One server process, spoken to in raw lines."""

    def __init__(self, argv: list[str], home: str, checkout: Path = ROOT) -> None:
        self._began_s = time.perf_counter()
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=checkout,
            env={**os.environ, "CODEX_HOME": home},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in = self.process.stdin.fileno()
        self._out = self.process.stdout.fileno()
        self._rest = b""
        os.write(self._in, HELLO)
        while not any(line.startswith(b'{"id":0') for line in self.lines()):
            pass
        self.initialize_s = time.perf_counter() - self._began_s

    def lines(self) -> list[bytes]:
        """What came, whole lines only."""
        *lines, self._rest = (self._rest + os.read(self._out, 1 << 20)).split(b"\n")
        return lines

    def rate(self, outstanding: int, seconds: float) -> float:
        """Requests a second with so many unanswered at any time."""
        sent = answered = 0
        began_s = time.perf_counter()
        end_s = began_s + seconds
        while time.perf_counter() < end_s or answered < sent:
            room = outstanding - (sent - answered)
            if room and time.perf_counter() < end_s:
                os.write(self._in, b"".join(REQUEST % (sent + n) for n in range(room)))
                sent += room
            answered += sum(line.startswith(b'{"id":') for line in self.lines())
        return answered / (time.perf_counter() - began_s)

    def turns(self, threads: int, seconds: float) -> tuple[float, float]:
        """Turns a second with one after the other in each thread; CPU of each in ms."""
        os.write(self._in, START * threads)
        waiting: list[bytes] = []
        while len(waiting) < threads:
            waiting += [
                found[1] for line in self.lines() if (found := _STARTED.match(line)) is not None
            ]
        done = 0
        began_s, began_cpu_s = time.perf_counter(), self._cpu_s()
        end_s = began_s + seconds
        running = 0
        while waiting or running:
            os.write(self._in, b"".join(TURN % thread for thread in waiting))
            running += len(waiting)
            ended = [found[1] for line in self.lines() if (found := _ENDED.match(line))]
            running -= len(ended)
            done += len(ended)
            waiting = ended if time.perf_counter() < end_s else []
        took_s, took_cpu_s = time.perf_counter() - began_s, self._cpu_s() - began_cpu_s
        return done / took_s, took_cpu_s / done * 1000

    def _cpu_s(self) -> float:
        """What all its threads have used: `utime` and `stime` of proc(5)."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        ticks = text.rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()


def _reference() -> list[str] | None:
    with contextlib.suppress(ImportError):
        codex: Any = importlib.import_module("codex_cli_bin")
        return [str(codex.bundled_codex_path()), "app-server", "--listen", "stdio://"]
    return None


def _cores(store: str) -> Iterator[tuple[str, list[str]]]:
    yield "ours", [sys.executable, "-m", "core_server", "--store", store]
    if (reference := _reference()) is not None:
        yield "reference", reference


def _turns(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    checkouts = {"ours": ROOT}
    if options.against is not None:
        checkouts["before"] = options.against
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(options.rounds):
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as home:
                argv = [sys.executable, "-m", "core_server", "--store", f"sqlite:///{home}/t.db"]
                peer = Peer(argv, home, checkout)
                peer.turns(THREADS, 0.5)  # until all is imported and warm
                per_s, cpu_ms = peer.turns(THREADS, options.seconds)
                peer.close()
            figures = found.setdefault(name, {})
            figures.setdefault("turns_per_s", []).append(per_s)
            figures.setdefault("cpu_ms_per_turn", []).append(cpu_ms)
    return found


def _requests(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as home:
        for _ in range(options.rounds):
            for name, argv in _cores(f"sqlite:///{home}/threads.db"):
                peer = Peer(argv, home)
                time.sleep(1.0)  # until the store is open and memory has settled
                figures = found.setdefault(name, {})
                figures.setdefault("initialize_s", []).append(peer.initialize_s)
                figures.setdefault("idle_rss_mib", []).append(peer.rss_mib())
                figures.setdefault("sequential_per_s", []).append(peer.rate(1, options.seconds))
                figures.setdefault("64_outstanding_per_s", []).append(
                    peer.rate(64, options.seconds)
                )
                peer.close()
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--turns", action="store_true", help="whole turns instead of requests")
    parser.add_argument("--against", type=Path, help="another checkout, measured as `before`")
    options = parser.parse_args()
    found = _turns(options) if options.turns else _requests(options)
    medians = {
        name: {figure: round(statistics.median(values), 3) for figure, values in figures.items()}
        for name, figures in found.items()
    }
    sys.stdout.write(json.dumps(medians) + "\n")


if __name__ == "__main__":
    main()
