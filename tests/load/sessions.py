"""A core for each client beside cores that are shared: the same load, the same child.

    python -m tests.load.sessions --harness DIR [--rounds N]

Rounds are interleaved on the same machine, tracing off, 50 clients with 4 requests
outstanding each; shown are medians, and the ratio that counts: at least 0.9.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.load.bench import INITIALIZE, build, free_port, process

MODES = ("shared", "per-connection")


def measure(harness: Path, child: str, mode: str, requests: int, where: Path) -> dict[str, Any]:
    """One run in one mode."""
    port = free_port()
    url = f"ws://127.0.0.1:{port}"
    proxy = [sys.executable, "-m", "trace_proxy", "--listen", url, "--sessions", mode, "--", child]
    with process(proxy, {"OTEL_SDK_DISABLED": "true"}, where / "log") as pid:
        load = [sys.executable, str(harness / "wsbench.py"), "--url", f"{url}/"]
        load += ["--scenario", "fan", "--pid", str(pid), "--init", INITIALIZE]
        load += ["--requests", str(requests)]
        out = subprocess.run(load, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def main() -> int:
    """Read the command line, run, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--harness", type=Path, required=True, help="directory of wsbench.py")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--requests", type=int, default=150_000, help="of one run")
    given = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        for file in given.harness.iterdir():  # it compiles in place: leave theirs alone
            (where / file.name).write_bytes(file.read_bytes())
        child = build(where, "echochild", where)
        for _ in range(given.rounds):
            for mode in MODES:
                runs[mode].append(measure(where, child, mode, given.requests, where))
    shown = {
        mode: [
            statistics.median(run[key] for run in runs[mode])
            for key in ("req_per_s", "cpu_us_per_msg")
        ]
        for mode in MODES
    }
    for mode, (per_s, cpu_us) in shown.items():
        sys.stdout.write(f"{mode:16}{per_s:12,.0f} req/s{cpu_us:10.1f} µs of CPU a request\n")
    ratio = shown["per-connection"][0] / shown["shared"][0]
    sys.stdout.write(f"per-connection / shared: {ratio:.2f}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
