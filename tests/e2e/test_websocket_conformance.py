"""RFC 6455, judged by the Autobahn cases against our websocket layer.

Compression (12.*, 13.*) is never negotiated. Cases that expect a binary message back do
not apply: we speak text only, and refuse binary with 1003.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from tests.e2e.proxy import ROOT

WAIT_S = 120.0

COMPRESSION = ["12.*", "13.*"]
BINARY = ["1.2.*", "9.2.*", "9.4.*", "9.6.*", "9.8.*"]
LARGE = ["9.*"]
"""Messages up to 16 MiB, fragments by the thousand, and round trips by the thousand."""

PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
"""As Autobahn counts them. Not strict: invalid UTF-8 is refused at the end of its message."""


class Result(NamedTuple):
    """Of one case: its messages, its end, and the code that our side closed with."""

    behaviour: str
    end: str
    code: int | None
    why: str


Results = dict[str, Result]


@contextlib.asynccontextmanager
async def echo(*options: str) -> AsyncIterator[str]:
    """A server made of our websocket layer; its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.e2e.websocket.echo",
        *options,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        yield f"ws://127.0.0.1:{port}/"
    finally:
        process.kill()
        await process.communicate()


async def autobahn(url: str, cases: list[str], left_out: list[str]) -> Results:
    """Run cases against a server."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.e2e.websocket.autobahn",
        url,
        ",".join(cases),
        ",".join(left_out),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WAIT_S):
            output, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    results: dict[str, tuple[str, str, int | None, str]] = json.loads(output)
    return {case: Result(*result) for case, result in results.items()}


def failures(results: Results) -> Results:
    """What did not pass."""
    return {
        case: result for case, result in results.items() if not {result[0], result[1]} <= PASSED
    }


async def test_all_cases_of_framing_pings_fragments_utf8_and_closing_pass() -> None:
    async with echo() as url:
        results = await autobahn(url, ["*"], [*COMPRESSION, *BINARY, *LARGE])
    assert failures(results) == {}
    assert len(results) == 239


@pytest.mark.slow
async def test_all_cases_of_large_and_many_messages_pass() -> None:
    """Run with `pytest -n 0 -m slow tests/e2e/test_websocket_conformance.py`: some ten seconds."""
    async with echo() as url:
        results = await autobahn(url, LARGE, [*COMPRESSION, *BINARY])
    assert failures(results) == {}
    assert len(results) == 27


async def test_binary_messages_are_refused() -> None:
    async with echo() as url:
        results = await autobahn(url, ["1.2.*"], COMPRESSION)
    assert [each.code for each in results.values()] == [1003] * 8


async def test_a_broken_pong_makes_the_ping_cases_fail() -> None:
    async with echo("--broken-pong") as url:
        results = await autobahn(url, ["2.*"], COMPRESSION)
    with_payload = {"2.2", "2.3", "2.4", "2.6", "2.9", "2.10", "2.11"}
    assert set(failures(results)) == with_payload
    assert len(results) == 11
