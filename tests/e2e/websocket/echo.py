"""Our websocket layer as an echo server, for tools that expect one; prints its port.

    python -m tests.e2e.websocket.echo [--broken-pong]

Sockets are set up as the listener does it; only who takes the messages differs. Binary
messages are refused with 1003 here as there.
"""

import asyncio
import sys

import uvloop
from aiohttp import web

from core_server.jsonrpc.framing import Oversized
from trace_proxy.queues.client_queue import TotalOutbound
from trace_proxy.runtime.clients import handshake
from trace_proxy.runtime.clients.client import Client
from trace_proxy.runtime.clients.clients import queue_bounds
from trace_proxy.runtime.clients.frames import pong_frame
from trace_proxy.runtime.clients.websocket import WebsocketClient
from trace_proxy.settings.limits import Limits

LIMITS = Limits()


class Echo:
    """Says every message back."""

    def messages(self, client: Client, texts: list[bytes]) -> bool:
        for text in texts:
            client.queue.append(client.encode(text))
        client.flush()
        return False

    def alone(self, client: Client) -> bool:  # noqa: ARG002
        return False

    def weighs(self, client: Client, size: int) -> float:  # noqa: ARG002
        return 0.0

    def oversized(self, client: Client, line: Oversized) -> None:
        """Nothing here is over the limit."""

    def holds(self, client: Client, size: int) -> None:
        """There is nobody to protect."""


class BrokenPong(WebsocketClient):
    """Answers a ping with a payload of its own, against RFC 6455 section 5.5.3."""

    def _ping(self, payload: bytes) -> None:
        self.queue.append_control(pong_frame(payload[1:]))
        self.flush()


class Server:
    """One handler for all connections."""

    def __init__(self, kind: type[WebsocketClient]) -> None:
        self._kind = kind
        self._total = TotalOutbound(LIMITS.max_client_queues_bytes)
        self._next_key = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one client."""
        key, self._next_key = self._next_key, self._next_key + 1
        opened = handshake.accept(request)
        await opened.prepare(request)
        queue = self._total.open(key, queue_bounds(LIMITS))
        client = self._kind(request, queue, LIMITS)
        try:
            await client.run(Echo())
        finally:
            self._total.close(key)
        return opened


async def main(kind: type[WebsocketClient]) -> None:
    """Serve until it is killed."""
    application = web.Application()
    application.router.add_get("/", Server(kind).serve)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(BrokenPong if "--broken-pong" in sys.argv else WebsocketClient))
