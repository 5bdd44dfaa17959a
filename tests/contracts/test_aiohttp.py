"""What `trace_proxy.runtime.clients` relies on of aiohttp beyond its public face.

Fails where a newer aiohttp would otherwise fail in front of a client: the parser of an
upgraded connection is ours, and payloads are unmasked by aiohttp's C function.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp._websocket.helpers import websocket_mask

from trace_proxy.runtime.clients import handshake

WITHIN_S = 10.0
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Parser:
    """All that aiohttp asks of the parser of an upgraded connection."""

    def __init__(self) -> None:
        self.heard = asyncio.Queue[bytes]()
        self.over = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.heard.put_nowait(bytes(data))
        return False, b""

    def feed_eof(self) -> None:
        self.over.set()

    def set_exception(self, exc: BaseException, exc_cause: object = None) -> None:
        raise AssertionError(exc, exc_cause)

    async def until(self, wanted: bytes) -> None:
        """Wait for just these bytes, in however many pieces."""
        heard = b""
        while heard != wanted:
            assert wanted.startswith(heard)
            async with asyncio.timeout(WITHIN_S):
                heard += await self.heard.get()


class Upgraded:
    """A server that upgrades and hands the connection to `parser` when it is let."""

    def __init__(self) -> None:
        self.parser = Parser()
        self.protocol: web.RequestHandler | None = None
        self.go_on = asyncio.Event()

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        response = handshake.accept(request, None)
        await response.prepare(request)
        await self.go_on.wait()
        self.protocol = request.protocol
        request.protocol.set_parser(cast("Any", self.parser))
        request.protocol.keep_alive(False)  # noqa: FBT003 - its only argument
        await self.parser.over.wait()
        return response


@pytest.fixture
async def upgraded() -> AsyncIterator[tuple[Upgraded, asyncio.StreamWriter]]:
    served = Upgraded()
    runner = web.ServerRunner(web.Server(served.serve))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(UPGRADE)
    async with asyncio.timeout(WITHIN_S):
        assert b"101" in await reader.readuntil(b"\r\n\r\n")
    yield served, writer
    writer.close()
    await runner.cleanup()


async def test_a_parser_gets_what_came_before_it_and_after(
    upgraded: tuple[Upgraded, asyncio.StreamWriter],
) -> None:
    served, writer = upgraded
    writer.write(b"early")
    await writer.drain()
    served.go_on.set()
    await served.parser.until(b"early")
    writer.write(b"late")
    await served.parser.until(b"late")
    assert served.protocol is not None
    assert served.protocol.writing_paused is False
    assert served.protocol.transport is not None


async def test_a_parser_hears_of_the_end(
    upgraded: tuple[Upgraded, asyncio.StreamWriter],
) -> None:
    served, writer = upgraded
    served.go_on.set()
    writer.write(b"x")
    await served.parser.until(b"x")
    writer.close()
    async with asyncio.timeout(WITHIN_S):
        await served.parser.over.wait()


def test_a_payload_is_masked_in_place() -> None:
    payload = bytearray(range(256))
    websocket_mask(b"\x01\x02\x03\x04", payload)

    assert payload == bytes(each ^ (index % 4 + 1) for index, each in enumerate(range(256)))
