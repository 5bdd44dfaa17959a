"""Runs the Autobahn cases (PyPI `kosoku`) against a websocket server; prints JSON.

    python -m tests.e2e.websocket.autobahn ws://127.0.0.1:9001/ "1.*,2.*" "9.*"

The arguments are the URL, the cases, and those of them to leave out; the output is one
object: case to `[behaviour, how it was closed, the peer's close code, why]`. In a process
of its own, because its cases are Python of another age and patch the standard library.
"""

import asyncio
import json
import sys

import kosoku


async def run(url: str, cases: list[str], left_out: list[str]) -> dict[str, list[object]]:
    """Run cases; failures are results too."""
    try:
        results = await kosoku.run_fuzzingclient(url, cases, left_out, concurrency=2)
    except kosoku.FailureError as failure:
        results = failure.results
    return {
        each.case_id: [
            each.behavior.value,
            each.behavior_close.value,
            each.remote_close_code,
            each.result,
        ]
        for each in results
    }


if __name__ == "__main__":
    url, cases, left_out = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(run(url, cases.split(","), left_out.split(",")))))
