"""A websocket client on a real socket: when it is read on, and what a slow peer still gets."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from core_server.jsonrpc.framing import Oversized
from trace_proxy.queues.client_queue import ClientQueueBounds, TotalOutbound
from trace_proxy.runtime.clients import frame_reader, handshake, websocket
from trace_proxy.runtime.clients.client import Client
from trace_proxy.runtime.clients.frames import close_frame, text_frame
from trace_proxy.runtime.clients.websocket import WebsocketClient
from trace_proxy.settings.limits import Limits

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MASK = b"\0\0\0\0"


class Heard:
    """Takes what the client says."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.large_bytes: list[int] = []
        self.oversizes: list[Oversized] = []
        self.full = False
        self.is_alone = True
        self.wait_s = 0.0
        self._said = asyncio.Event()

    async def more(self) -> None:
        """Wait until it says more."""
        await self._said.wait()
        self._said.clear()

    def messages(self, client: Client, texts: list[bytes]) -> bool:
        assert client.closing is None
        self.texts += texts
        self._said.set()
        return self.full

    def alone(self, client: Client) -> bool:
        assert client.closing is None
        return self.is_alone

    def weighs(self, client: Client, cost_bytes: int) -> float:
        assert client.closing is None
        self.large_bytes.append(cost_bytes)
        self._said.set()
        return self.wait_s

    def oversized(self, client: Client, line: Oversized) -> None:
        assert client.closing is None
        self.oversizes.append(line)
        self._said.set()

    def holds(self, client: Client, size: int) -> None:
        assert client.closing is None or size >= 0


class Server:
    """One websocket at a time, whose server side the test holds."""

    def __init__(self) -> None:
        self.heard = Heard()
        self.client: asyncio.Future[WebsocketClient] = asyncio.get_running_loop().create_future()
        self.address = ("", 0)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        opened = handshake.accept(request)
        await opened.prepare(request)
        assert request.transport is not None
        raw: socket.socket = request.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        queue = TotalOutbound(10**9).open(1, ClientQueueBounds())
        client = WebsocketClient(request, queue, Limits(large_message_bytes=1000))
        self.client.set_result(client)
        await client.run(self.heard)
        return opened


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    runner = web.ServerRunner(web.Server(server.serve, access_log=None), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.address = runner.addresses[0]
    yield server
    await runner.cleanup()


async def connect(server: Server) -> socket.socket:
    """A peer past its handshake, whose kernel holds little for it."""
    loop = asyncio.get_running_loop()
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)  # noqa: FBT003 - its only argument
    await loop.sock_connect(peer, server.address)
    await loop.sock_sendall(peer, UPGRADE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await loop.sock_recv(peer, 1)
    return peer


async def rest_of(peer: socket.socket) -> bytes:
    """All that still comes, up to the end."""
    received, loop = b"", asyncio.get_running_loop()
    while data := await loop.sock_recv(peer, 65_536):
        received += data
        if received.endswith(close_frame(1012, "restart")):
            await loop.sock_sendall(peer, b"\x88\x80" + MASK)
    return received


async def test_a_peer_that_pauses_longer_than_its_close_may_take_still_gets_all(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_WAIT_S", 0.05)
    with await connect(server) as peer:
        async with asyncio.timeout(10):
            client = await server.client
            frame = text_frame(b"x" * 60_000)  # not so much that the transport says stop
            client.queue.append(frame)
            client.flush()
            client.close(1012, "restart")
            await asyncio.sleep(0.3)  # the pause
            assert await rest_of(peer) == frame + close_frame(1012, "restart")


async def test_who_has_all_under_way_that_it_may_is_read_on_later(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_reader, "PAUSE_S", 0.2)
    said = b"\x81\x81" + MASK + b"x"
    with await connect(server) as peer:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            server.heard.full = True
            await loop.sock_sendall(peer, said)
            await server.heard.more()
            heard_at_s = loop.time()
            server.heard.full = False
            await loop.sock_sendall(peer, said)
            await server.heard.more()
            assert loop.time() - heard_at_s > 0.1


async def test_a_large_message_is_one_also_with_pings_between_its_fragments(
    server: Server,
) -> None:
    fragment = b"\x00\xfe" + (900).to_bytes(2, "big") + MASK + b"x" * 900
    ping = b"\x89\x80" + MASK
    with await connect(server) as peer:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            for number in range(4):
                first = b"\x01" if number == 0 else b"\x00"
                await loop.sock_sendall(peer, first + fragment[1:] + ping)
                pong = b""
                while len(pong) < 2:
                    pong += await loop.sock_recv(peer, 2)
            assert server.heard.large_bytes == []
            await loop.sock_sendall(peer, b"\x80\x80" + MASK + ping)
            assert await loop.sock_recv(peer, 2)
    assert server.heard.texts == [b"x" * 3600]
    assert server.heard.large_bytes == [3600]


async def test_a_large_message_that_nobody_wants_any_more_delays_no_close(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_WAIT_S", 3600.0)
    server.heard.wait_s = 0.01
    message = b"\x81\xfe" + (2000).to_bytes(2, "big") + MASK + b"x" * 2000
    with await connect(server) as peer:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            client = await server.client
            await loop.sock_sendall(peer, message)
            await server.heard.more()
            client.close(1012, "restart")
            assert await rest_of(peer) == close_frame(1012, "restart")
    assert server.heard.texts == []
