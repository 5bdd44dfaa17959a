"""What tracing costs, and what the proxy costs: trace-proxy beside a stock-SDK relay.

    python -m tests.load.bench --harness DIR [--rounds N] [--scenario fan] [--style read]

DIR holds the load engine: `wsbench.py` (drives a websocket URL), `echochild.c` (the core)
and `otlpsink.c` (the collector); gcc builds the two on first use. Every round runs all
variants one after the other on the same machine, so ratios hold even where absolute
figures drift; the table shows medians. `--against DIR` puts the proxy of another checkout,
with its own `.venv` or this one's packages, among them: before and after a change.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

SCENARIOS: Final = ("fan", "pipe", "rtt", "open", "push", "fanout", "idle")
THREAD: Final = (
    '{"threadId":"01a2b3c4-1111-7222-8333-444455556666","includeTurns":false,"pad":"%s"}'
)
PARENT: Final = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
READ: Final = ("--method", "thread/read", "--params", THREAD % ("x" * 150), "--header", PARENT)
STYLES: Final[dict[str, tuple[str, ...]]] = {
    "echo": (),
    "read": READ,
    "official": (*READ, "--idstr", "1", "--blanks", "1"),
    "strict": (*READ, "--jsonrpc", "1"),
    "two-cores": READ,
}
"""What is sent: `echo` as benchmarks do; `read` asks for a thread with the client's own
context; `official` as the official Python client writes it; `strict` says `"jsonrpc":"2.0"`."""

INITIALIZE: Final = '{"clientInfo":{"name":"bench","version":"1"}}'
READY_S: Final = 15.0


def free_port() -> int:
    """A port that the kernel has just given out."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build(harness: Path, name: str, where: Path) -> str:
    """Compile one of the harness's C programs."""
    program = where / name
    subprocess.run(["gcc", "-O2", "-w", "-o", program, harness / f"{name}.c"], check=True)
    return str(program)


@contextmanager
def process(command: list[str], environ: Mapping[str, str], log: Path) -> Iterator[int]:
    """Run a server until the block ends; waits until its log says `proxy.ready`."""
    with log.open("wb") as stderr:
        running = subprocess.Popen(command, stderr=stderr, env={**os.environ, **environ})
        try:
            end_s = time.monotonic() + READY_S
            while b"proxy.ready" not in log.read_bytes():
                if running.poll() is not None or time.monotonic() > end_s:
                    raise SystemExit(f"{command} did not start: {log.read_text()[-500:]}")
                time.sleep(0.05)
            yield running.pid
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(5)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


class Bench:
    """All variants of one machine."""

    def __init__(self, harness: Path, where: Path, against: Path | None = None) -> None:
        self._harness = harness
        self._against = against
        self._where = where
        self._child = build(harness, "echochild", where)
        self._sink_program = build(harness, "otlpsink", where)
        self.sink_port = free_port()

    @contextmanager
    def sink(self) -> Iterator[None]:
        """A collector that takes everything."""
        command = [self._sink_program, str(self.sink_port)]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            running.terminate()
            running.wait()

    def measure(self, variant: str, scenario: str, style: str) -> dict[str, Any]:
        """One run of one variant."""
        pin = 0 if scenario == "rtt" else None
        port = free_port()
        endpoint = f"http://127.0.0.1:{self.sink_port}"
        traced = variant != "tracing off"
        environ = (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if traced else {"OTEL_SDK_DISABLED": "true"}
        )
        if variant == "stock SDK":
            stock = str(Path(__file__).with_name("stock_proxy.py"))
            command = [sys.executable, stock, str(port), self._child]
        else:
            command = [
                *(sys.executable, "-m", "trace_proxy", "--listen", f"ws://127.0.0.1:{port}"),
                *("--cores", "2" if style == "two-cores" else "1"),
                *("--delivery", "broadcast", "--max-connections-per-ip", "2000"),
                *("--max-connections", "2000"),
                *("--", self._child),
            ]
        pinned = [] if pin is None else ["taskset", "-c", str(pin)]
        if variant == "before" and self._against is not None:
            environ["PYTHONPATH"] = str(self._against)
        with process([*pinned, *command], environ, self._where / "log") as pid:
            return self._load(port, pid, scenario, [*pinned], STYLES[style])

    def _load(
        self, port: int, pid: int, scenario: str, pinned: list[str], style: tuple[str, ...]
    ) -> dict[str, Any]:
        command = [
            *(*pinned, sys.executable, str(self._harness / "wsbench.py")),
            *("--url", f"ws://127.0.0.1:{port}/", "--scenario", scenario),
            *("--pid", str(pid), "--init", INITIALIZE, *style),
        ]
        if scenario in ("fan", "pipe"):
            command += ["--requests", "150000"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result


COLUMNS: Final = {
    "req_per_s": "req/s",
    "cpu_us_per_msg": "CPU µs/request",
    "p50_us": "p50 µs",
    "p99_us": "p99 µs",
    "msgs_per_s": "msg/s",
    "rss_mb": "RSS MB",
}


def main() -> int:
    """Read the command line, run, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--harness", type=Path, required=True, help="directory of wsbench.py")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="default: fan")
    parser.add_argument("--style", choices=STYLES, action="append", help="default: echo")
    parser.add_argument("--against", type=Path, help="another checkout, measured as `before`")
    arguments = parser.parse_args()
    variants: tuple[str, ...] = ("stock SDK", "trace-proxy", "tracing off")
    if arguments.against is not None:
        variants = ("stock SDK", "before", "trace-proxy")
    with tempfile.TemporaryDirectory() as directory:
        harness = Path(directory) / "harness"
        harness.mkdir()
        for file in arguments.harness.iterdir():  # it compiles in place: leave theirs alone
            (harness / file.name).write_bytes(file.read_bytes())
        bench = Bench(harness, Path(directory), arguments.against)
        with bench.sink():
            for scenario in arguments.scenario or ["fan"]:
                run(bench, scenario, arguments.style or ["echo"], variants, arguments.rounds)
    return 0


def run(
    bench: Bench, scenario: str, styles: list[str], variants: tuple[str, ...], rounds: int
) -> None:
    """All rounds of one scenario."""
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for style in styles:
            for variant in variants:
                if not (variant == "stock SDK" and scenario in ("push", "fanout", "idle")):
                    measured = bench.measure(variant, scenario, style)
                    results.setdefault((style, variant), []).append(measured)
    one = next(iter(results.values()))[0]
    shown = {key: title for key, title in COLUMNS.items() if key in one}
    sys.stdout.write(f"\n{scenario}\n{'':24}" + "".join(f"{t:>16}" for t in shown.values()) + "\n")
    for (style, variant), runs in results.items():
        cells = (statistics.median(each[key] for each in runs) for key in shown)
        row = "".join(f"{cell:16,.1f}" for cell in cells)
        sys.stdout.write(f"{style:10}{variant:14}{row}\n")


if __name__ == "__main__":
    raise SystemExit(main())
