"""Links to other hosts: whatever the other side does, one link ends, and nothing else does."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import structlog
from aiohttp import web

from tests.trace_proxy.recording import GREETING, Client, Proxy, Recording
from trace_proxy.relay.shared.pool import CORE_LOST
from trace_proxy.runtime.cores.peer import PeerLinks
from trace_proxy.settings.authentication import Tls
from trace_proxy.settings.config import Fleet
from trace_proxy.settings.limits import Limits
from trace_proxy.state.core_session import CoreSession

HERE = "ws://127.0.0.1:9"

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Linked(Recording):
    """Effects that remember, but for peers: those are real."""

    def __init__(self) -> None:
        super().__init__()
        self.links: PeerLinks | None = None

    def open_peer(self, core: CoreSession) -> None:
        assert self.links is not None
        self.links.open(core)

    def write(self, core: CoreSession, line: bytes) -> None:
        if core.url:
            assert self.links is not None
            self.links.write(core, line)
        else:
            super().write(core, line)


class Host:
    """A host of a fleet, whose own core is the test."""

    def __init__(self) -> None:
        effects = Linked()
        self.changed = asyncio.Event()
        self.proxy = Proxy(advertise_url=HERE, effects=effects).up()
        fleet = Fleet(advertise_url=HERE)
        effects.links = PeerLinks(self.proxy.hub, fleet, Tls(), Limits(), self.changed.set)
        self.links = effects.links
        self.client: Client = self.proxy.client()
        self._answers: dict[int, object] = {}

    def relay(self, number: int, url: str, text: str = "") -> CoreSession:
        """Let a request go to a thread of that host."""
        params = {"threadId": f"t{number}", "text": text}
        self.client.request(number, "thread/resume", params)
        (asked,) = self.proxy.core.got()
        self.proxy.core.owned_elsewhere(asked["id"], url)
        (peer,) = (each for each in self.proxy.hub.board.peers.values() if each.url == url)
        return peer

    async def answered(self, number: int) -> object:
        """Wait until the client has the answer: the result, or the error's code."""
        async with asyncio.timeout(30):
            while number not in self._answers:
                for each in self.client.heard():
                    error = each.get("error", {}).get("code")
                    self._answers[each["id"]] = error or each["result"]
                await asyncio.sleep(0.01)
        return self._answers[number]


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(host.links.run())
        yield host
        running.cancel()


@asynccontextmanager
async def listening(behaviour: Behaviour) -> AsyncIterator[str]:
    """Another host that does so with whoever connects."""
    app = web.Application()
    app.router.add_get("/", behaviour)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def serves(request: web.Request) -> web.StreamResponse:
    """A host that answers everything."""
    connection = web.WebSocketResponse()
    await connection.prepare(request)
    async for message in connection:
        asked = json.loads(message.data)
        if asked.get("method") == "initialize":
            await connection.send_json({"id": asked["id"], "result": GREETING})
        elif "id" in asked:
            await connection.send_json({"id": asked["id"], "result": {"served": True}})
    return connection


async def refuses(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=401)


async def is_no_websocket(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="a page")


async def leads_elsewhere(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"})


async def says_goodbye(request: web.Request) -> web.StreamResponse:
    connection = web.WebSocketResponse()
    await connection.prepare(request)
    await connection.receive()
    await connection.close(code=1012)
    return connection


async def _raw(request: web.Request, data: bytes) -> web.StreamResponse:
    connection = web.WebSocketResponse()
    await connection.prepare(request)
    assert request.transport is not None
    request.transport.write(data)
    with contextlib.suppress(ConnectionError):
        await connection.receive()
    return connection


async def breaks_the_frames(request: web.Request) -> web.StreamResponse:
    return await _raw(request, b"\xff" * 100)


async def sends_no_utf8(request: web.Request) -> web.StreamResponse:
    return await _raw(request, b"\x81\x02\xff\xfe\x88\x00")


async def sends_bytes(request: web.Request) -> web.StreamResponse:
    return await _raw(request, b"\x82\x02{}\x88\x00")


async def babbles(request: web.Request) -> web.StreamResponse:
    return await _raw(
        request, b"\x81\x05hello\x81\x02[]\x81\x1b" + b'{"id":7777,"result":"none"}\x88\x00'
    )


async def is_gone_in_the_middle_of_what_it_is_told(request: web.Request) -> web.StreamResponse:
    """It never reads, so that we wait for it to, and then its machine is reset."""
    connection = web.WebSocketResponse()
    await connection.prepare(request)
    transport = request.transport
    assert transport is not None
    hello = await connection.receive_json()
    await connection.send_json({"id": hello["id"], "result": GREETING})
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    await asyncio.sleep(0.3)  # meanwhile pipes and buffers fill
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
    return connection


@pytest.mark.parametrize(
    "behaviour",
    [
        refuses,
        is_no_websocket,
        leads_elsewhere,
        says_goodbye,
        breaks_the_frames,
        sends_no_utf8,
        sends_bytes,
        babbles,
        is_gone_in_the_middle_of_what_it_is_told,
    ],
)
async def test_a_host_that_fails_costs_what_it_was_asked_and_nothing_else(
    host: Host, behaviour: Behaviour
) -> None:
    async with listening(behaviour) as bad, listening(serves) as good:
        for number in range(8):
            host.relay(number, bad, "x" * 1_000_000)

        assert [await host.answered(number) for number in range(8)] == [CORE_LOST.code] * 8
        assert not host.proxy.hub.board.peers
        assert host.changed.is_set()

        host.relay(9, good)
        assert await host.answered(9) == {"served": True}


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "--peer-token-file"), (421, "--allow-host"), (404, "is that one of our hosts?")],
)
async def test_why_a_host_refuses_us_is_said(host: Host, status: int, hint: str) -> None:
    async def refuses_so(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    with structlog.testing.capture_logs() as logs:
        async with listening(refuses_so) as bad:
            host.relay(1, bad)
            assert await host.answered(1) == CORE_LOST.code

    (closed,) = (each for each in logs if each["event"] == "peer.closed")
    assert closed["log_level"] == "warning"
    assert f"HTTP {status}" in closed["reason"]
    assert hint in closed["reason"]


@pytest.mark.parametrize(
    "url",
    ["ws://127.0.0.1:1", "wss://127.0.0.1:1", "ws://no.such.host.invalid", f"ws://{'a' * 70}"],
)
async def test_a_host_that_is_nowhere_costs_what_it_was_asked_and_nothing_else(
    host: Host, url: str
) -> None:
    host.relay(1, url)

    assert await host.answered(1) == CORE_LOST.code
