"""Any connection, whatever it says or does not: counted, timed, bounded, on real sockets."""

import asyncio
import contextlib
import socket
import struct

import pytest

from tests.e2e.proxy import Proxy, fake_core, trace_proxy
from tests.e2e.test_handshake import GOOD, KEY, asked
from trace_proxy.runtime.app import PLAIN_SOCKETS

FAKE = fake_core("fake")
SHORT = ("--handshake-timeout", "0.5")
RESOLVED = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
MASK = b"\0\0\0\0"


async def knock(
    proxy: Proxy, said: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and perhaps say something."""
    host, _, port = proxy.http_url.removeprefix("http://").rstrip("/").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)
    return reader, writer


async def gone(reader: asyncio.StreamReader, within_s: float = 10) -> bytes:
    """All that still comes, until the other side has hung up."""
    async with asyncio.timeout(within_s):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_who_does_not_ask_for_anything_is_hung_up_on(said: bytes) -> None:
    async with trace_proxy(*SHORT, core=FAKE) as proxy:
        reader, writer = await knock(proxy, said)
        assert await gone(reader) == b""
        writer.close()


async def test_plain_connections_count_and_who_is_one_too_many_may_ask_for_health() -> None:
    async with trace_proxy("--max-connections-per-ip", "3", core=FAKE) as proxy:
        held = [await knock(proxy) for _ in range(3 + PLAIN_SOCKETS)]
        status, _, reader, writer = await asked(proxy, {}, "GET /healthz HTTP/1.1")
        assert status == "HTTP/1.1 200 OK"
        writer.close()
        status, headers, _, writer = await asked(proxy, GOOD)
        assert status.startswith("HTTP/1.1 503")
        assert "retry-after" in headers
        writer.close()
        for reader, writer in held:
            writer.close()
            await gone(reader)
        async with asyncio.timeout(10):
            while True:  # until the proxy has seen that they are gone
                status, _, _, writer = await asked(proxy, GOOD)
                writer.close()
                if status.startswith("HTTP/1.1 101"):
                    break


async def test_a_hundred_silent_sockets_keep_nobody_out_for_ever() -> None:
    async with trace_proxy(*SHORT, "--max-connections-per-ip", "20", core=FAKE) as proxy:
        held = [await knock(proxy) for _ in range(100)]
        for reader, writer in held:
            await gone(reader)
            writer.close()
        async with proxy.client() as client:
            assert await client.request("model/list", {"a": 1}) == {"a": 1}


@pytest.mark.parametrize("sessions", ["shared", "per-connection"])
async def test_a_silent_client_is_pinged_and_one_that_has_vanished_is_given_up(
    sessions: str,
) -> None:
    options = ("--ping-interval", "0.3", "--ping-timeout", "0.5", "--sessions", sessions)
    async with trace_proxy(*options, core=FAKE) as proxy, proxy.client() as client:
        status, _, reader, writer = await asked(proxy, GOOD)
        assert status.startswith("HTTP/1.1 101")
        listening = asyncio.Event()

        async def listen() -> None:  # who reads answers pings
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await client.wait(lambda _: False)
            listening.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listen())
            async with asyncio.timeout(10):
                assert await reader.readexactly(2) == b"\x89\x00"
            assert await gone(reader) == b""
            writer.close()
            await proxy.logged("connection.vanished")
            await listening.wait()
        assert await client.request("model/list", {"a": 1}) == {"a": 1}


async def test_a_message_that_is_never_finished_is_the_end() -> None:
    options = ("--unfinished-timeout", "0.5", "--initialize-timeout", "60")
    async with trace_proxy(*options, core=FAKE) as proxy:
        _, _, reader, writer = await asked(proxy, GOOD, more=b"\x01\x85" + MASK + b"hello")
        end = await gone(reader)
        assert end[:4] == b"\x88" + end[1:2] + (1008).to_bytes(2, "big")
        writer.close()


async def test_what_all_hold_together_is_bounded_and_the_largest_goes() -> None:
    options = ("--max-unfinished-bytes", "4000000", "--initialize-timeout", "60")
    async with trace_proxy(*options, core=FAKE) as proxy, proxy.client() as neighbour:
        head = b"\x81\xff" + (15_000_000).to_bytes(8, "big") + MASK
        ends = []
        for _ in range(4):
            _, _, reader, writer = await asked(proxy, GOOD, more=head + b"x" * 1_500_000)
            ends.append((reader, writer))
        await proxy.logged("connection.cut")
        assert await neighbour.request("model/list", {"a": 1}) == {"a": 1}
        for _, writer in ends:
            writer.close()


@pytest.mark.parametrize(
    ("headers", "line", "status"),
    [
        ({"Cookie": "x" * 20_000}, "GET /healthz HTTP/1.1", 200),
        ({"Cookie": "canary" * 10_000}, "GET /healthz HTTP/1.1", 431),
        ({f"X-{each}": "canary" * 500 for each in range(10)}, "GET /healthz HTTP/1.1", 200),
        ({f"X-{each}": "canary" * 500 for each in range(25)}, "GET /healthz HTTP/1.1", 431),
        ({**GOOD, **{f"X-{each}": "x" * 3000 for each in range(25)}}, "GET / HTTP/1.1", 431),
        ({}, "GET http://evil.example/ HTTP/1.1", 400),
        ({}, "canary canary canary", 400),
        (
            {**GOOD, "Sec-WebSocket-Key": f"{KEY}\r\nSec-WebSocket-Key: {KEY}"},
            "GET / HTTP/1.1",
            400,
        ),
        (
            {**GOOD, "Sec-WebSocket-Version": "13\r\nSec-WebSocket-Version: 13"},
            "GET / HTTP/1.1",
            400,
        ),
    ],
)
async def test_odd_requests_are_answered_without_their_content(
    headers: dict[str, str], line: str, status: int
) -> None:
    async with trace_proxy(core=FAKE) as proxy:
        answered, _, reader, writer = await asked(proxy, headers, line)
        assert answered.split(" ")[1] == str(status)
        if status != 200:
            writer.write_eof()
            assert b"canary" not in await gone(reader)
        writer.close()
        assert "canary" not in proxy.stderr


async def test_localhost_is_all_that_it_resolves_to() -> None:
    async with trace_proxy(listen="ws://localhost:0", core=FAKE) as proxy:
        port = int(proxy.http_url.rstrip("/").rpartition(":")[2])
        for family in (socket.AF_INET, socket.AF_INET6):
            hosts = {each[4][0] for each in RESOLVED if each[0] == family}
            for host in hosts:
                reader, writer = await asyncio.open_connection(str(host), port)
                writer.write(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                assert b"200 OK" in await gone(reader)
                writer.close()


async def test_who_hangs_up_before_the_answer_is_no_fault_of_ours() -> None:
    core = fake_core("mcp")
    async with trace_proxy("--sessions", "per-connection", core=core) as proxy:
        host, _, port = proxy.http_url.removeprefix("http://").rstrip("/").partition(":")
        fields = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
        handshake = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n{fields}\r\n".encode()
        for _ in range(60):
            with socket.create_connection((host, int(port))) as hasty:
                hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                hasty.sendall(handshake)
        assert (await proxy.get("/healthz"))[0] == 200
        assert proxy.log("http.failed") == []


async def test_who_comes_and_goes_without_end_waits_and_others_do_not() -> None:
    async with trace_proxy("--max-connections-per-ip", "2", core=FAKE) as proxy:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for _ in range(4):
            async with proxy.client():
                pass
        assert loop.time() - began_s > 0.9, "two came at once, two waited for half a second each"
        host = proxy.http_url.removeprefix("http://")
        fields = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
        _, leaves = await knock(proxy, f"GET / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())
        leaves.close()  # while it waits
        async with proxy.client() as client:
            await client.request("thread/start", {})
        assert "http.failed" not in proxy.stderr
