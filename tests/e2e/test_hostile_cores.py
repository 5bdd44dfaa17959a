"""Whatever a core does, no request stays open and every drain ends: the table of `cores/hostile`.

Each row in both modes. What is `open` for the proxy's lack of any answer is over with the
drain's deadline; everything else without one.
"""

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.e2e.clients import has_id
from tests.e2e.cores.hostile import ROWS
from tests.e2e.proxy import Closed, Json, Proxy, WebsocketClient, fake_core, trace_proxy

FAST = ("--restart-backoff-min", "0.05", "--restart-backoff-max", "0.1")
BOUNDS = ("--max-core-line-bytes", "1000000", "--core-stall", "3")
DEADLINE = ("--drain-timeout", "0.5")
FILLING = 8
"""Requests behind the one that matters: a core that has hung has something to take."""


@contextlib.asynccontextmanager
async def started(*options: str, core: list[str]) -> AsyncIterator[Proxy]:
    """A proxy, however long it takes to start beside other work on the machine."""
    async with trace_proxy(*options, core=core, wait=False) as proxy:
        proxy.ready = await proxy.logged("proxy.ready", timeout_s=60)
        yield proxy


async def fate(client: WebsocketClient, request: int) -> str:
    """What becomes of a request, in a word of the table."""
    try:
        answer: Json = await client.wait(partial(has_id, request))
    except Closed:
        return "lost"
    if "result" in answer:
        return "answered"
    reason = answer["error"]["data"]["reason"]
    return {"coreLost": "lost", "coreAnswer": "unreadable"}[reason]


async def nothing_open(proxy: Proxy) -> None:
    """Wait until no request of a client is unanswered."""
    async with asyncio.timeout(10):
        while True:
            metrics = (await proxy.get("/metrics"))[1]
            found = re.search(r"^trace_proxy_requests_in_flight (.+)$", metrics, re.MULTILINE)
            assert found is not None, metrics
            if float(found[1]) == 0:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("sessions", ["shared", "per-connection"])
@pytest.mark.parametrize("name", ROWS)
async def test_no_request_stays_open_and_the_drain_ends(name: str, sessions: str) -> None:
    row = ROWS[name]
    options = (*FAST, *BOUNDS, "--sessions", sessions, *(DEADLINE if row.fate == "open" else ()))
    core = fake_core("hostile", name)
    async with started(*options, core=core) as proxy, proxy.client() as client:
        await client.request("thread/start", {})
        request = await client.begin("model/list")
        if row.fate == "open":
            await client.request("thread/start", {})
        else:
            if row.fate == "lost":
                for _ in range(FILLING):
                    await client.begin("account/read", {"filling": "x" * 100_000})
            assert await fate(client, request) == row.fate
            await nothing_open(proxy)
            if row.fate != "lost":
                assert await client.request("thread/start", {}) == {"good": True}
        proxy.signal(signal.SIGTERM)
        assert await proxy.exit_code() == (3 if row.fate == "open" else 0), proxy.stderr
        assert await proxy.survivors(within_s=0.5) == {}
