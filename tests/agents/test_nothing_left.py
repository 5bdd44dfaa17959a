"""A hundred clients come and go: no child, no descriptor and no task of theirs is left.

The proxy runs in the test's own event loop, so that its tasks can be counted.
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import uvloop

from tests.agents.gateway import Gateway
from tests.agents.real import program
from tests.e2e.clients import WebsocketClient
from tests.trace_proxy.runtime.telemetry.telemetry_fixtures import clean_environment, telemetry
from trace_proxy.runtime.app import Program
from trace_proxy.runtime.clients.entrance import Entrance
from trace_proxy.runtime.cores.processes import Processes
from trace_proxy.runtime.supervisor import Exits, Supervisor
from trace_proxy.runtime.telemetry.metrics.metrics import Metrics
from trace_proxy.settings.config import Config, ListenUnix, Pool, Sessions

CLIENTS = 100
AT_ONCE = 10


@contextlib.asynccontextmanager
async def proxy_here(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    """A whole proxy as a task of this loop."""
    clean_environment(monkeypatch)
    pool = Pool(command=tuple(program("agent")), sessions=Sessions.PER_CONNECTION)
    config = Config(listen=(ListenUnix(str(path)),), pool=pool)
    metrics = Metrics()
    processes = Processes(config.limits, metrics)
    supervisor = Supervisor(
        config,
        telemetry(monkeypatch),
        metrics,
        processes,
        exits=Exits(lambda _s, _code: None, lambda: None),
        version="1",
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                Program(config, supervisor, processes, "none", Entrance(config)).run()
            )
            await supervisor.ready.wait()
            yield supervisor
            supervisor.on_signal("TERM")
    finally:
        gc.unfreeze()


def children() -> list[str]:
    """Command lines of our living child processes."""
    pids: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        pids |= set((task / "children").read_text().split())
    lines = []
    for pid in pids:
        with contextlib.suppress(OSError):
            lines.append(Path(f"/proc/{pid}/cmdline").read_text())
    return lines


def cores() -> int:
    """How many of them are agents."""
    return sum("agent.py" in line for line in children())


def holdings() -> dict[str, int]:
    """What we have at this moment."""
    return {
        "children": len(children()),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "tasks": len(asyncio.all_tasks()),
    }


async def visit(session: aiohttp.ClientSession, number: int) -> None:
    """A client that comes, works, and goes in one of four ways."""
    async with session.ws_connect("ws://localhost/") as socket:
        client = WebsocketClient(socket)
        gateway = Gateway(client)
        await gateway.open()
        match number % 4:
            case 0:
                await gateway.prompt("say:x tool:read")
            case 1:  # it leaves while its agent works
                await gateway.begin("say:x wait")
                await client.wait_for("session/update")
            case 2:  # without a Close
                await gateway.prompt("say:x")
                connection = socket._response.connection  # noqa: SLF001 - there is no public abort
                assert connection is not None
                assert connection.transport is not None
                connection.transport.abort()
            case _:  # its agent ends first
                await gateway.begin("exit:0")
                assert await client.closed() == 1000


async def come_and_go(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario; a proxy runs on uvloop, so does this."""
    async with proxy_here(socket, monkeypatch) as supervisor:

        async def settled() -> dict[str, int]:
            """What is left once all that is on its way is over."""
            async with asyncio.timeout(30):
                while supervisor.details()["connections"] or cores():  # noqa: ASYNC110 - of /proc
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)  # closed transports are let go a turn of the loop later
            return holdings()

        async def visits(numbers: range) -> None:
            connector = aiohttp.UnixConnector(str(socket))
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                asyncio.TaskGroup() as tasks,
            ):
                for number in numbers:
                    tasks.create_task(visit(session, number))

        await visits(range(4))
        before = await settled()
        for start in range(0, CLIENTS, AT_ONCE):
            await visits(range(start, start + AT_ONCE))
        assert await settled() == before
        assert supervisor.details()["cores"] == []


def test_a_hundred_clients_come_and_go_and_nothing_of_them_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uvloop.run(come_and_go(tmp_path / "socket", monkeypatch))
