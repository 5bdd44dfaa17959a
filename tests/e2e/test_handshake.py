"""The opening handshake on the wire: who gets a websocket, and what the others are told."""

import asyncio

from tests.e2e.proxy import Proxy, fake_core, trace_proxy

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
PROOF = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455 section 1.3."""

GOOD = {
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


async def asked(
    proxy: Proxy, headers: dict[str, str], line: str = "GET / HTTP/1.1", more: bytes = b""
) -> tuple[str, dict[str, str], asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request by hand: the status line and headers of its answer."""
    host, _, port = proxy.http_url.removeprefix("http://").rstrip("/").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    headers = {"Host": f"{host}:{port}", **headers}
    lines = [line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + more)
    async with asyncio.timeout(5):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *fields = head.rstrip().split("\r\n")
    pairs = (field.partition(": ") for field in fields)
    return status, {name.lower(): value for name, _, value in pairs}, reader, writer


async def test_the_proof_is_that_of_the_rfc_and_nothing_is_negotiated() -> None:
    offers = {"Sec-WebSocket-Extensions": "permessage-deflate", "Sec-WebSocket-Protocol": "x, y"}
    async with trace_proxy(core=fake_core("fake")) as proxy:
        status, headers, _, writer = await asked(proxy, GOOD | offers)
        writer.close()
    assert status == "HTTP/1.1 101 Switching Protocols"
    assert headers["sec-websocket-accept"] == PROOF
    assert (headers["upgrade"], headers["connection"]) == ("websocket", "Upgrade")
    assert {"sec-websocket-extensions", "sec-websocket-protocol"}.isdisjoint(headers)


MALFORMED: list[tuple[dict[str, str], str, int]] = [
    ({"Sec-WebSocket-Version": "8"}, "GET / HTTP/1.1", 426),
    ({"Sec-WebSocket-Version": ""}, "GET / HTTP/1.1", 426),
    ({"Sec-WebSocket-Key": ""}, "GET / HTTP/1.1", 400),
    ({"Sec-WebSocket-Key": "c2hvcnQ="}, "GET / HTTP/1.1", 400),
    ({"Sec-WebSocket-Key": "!" * 24}, "GET / HTTP/1.1", 400),
    ({"Connection": "keep-alive"}, "GET / HTTP/1.1", 400),
    ({}, "POST / HTTP/1.1", 400),
    ({}, "GET / HTTP/1.0", 400),
]


async def test_a_malformed_handshake_is_refused_and_the_next_one_served() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy:
        for changed, line, expected in MALFORMED:
            told, headers, _, writer = await asked(proxy, GOOD | changed, line)
            writer.close()
            assert told.split()[1] == str(expected), (changed, line)
            assert (headers.get("sec-websocket-version") == "13") is (expected == 426)
        status, _, _, writer = await asked(proxy, GOOD)
        writer.close()
    assert status.split()[1] == "101"


async def test_frames_that_come_with_the_handshake_are_not_lost() -> None:
    ping = b"\x89\x82\x00\x00\x00\x00hi"
    async with trace_proxy(core=fake_core("fake")) as proxy:
        status, _, reader, writer = await asked(proxy, GOOD, more=ping)
        async with asyncio.timeout(5):
            pong = await reader.readexactly(4)
        writer.close()
    assert status.split()[1] == "101"
    assert pong == b"\x8a\x02hi"


async def test_no_websocket_opens_on_the_path_of_a_probe_which_answers_to_any_page() -> None:
    async with trace_proxy(core=fake_core("fake")) as proxy:
        for path in ("/healthz", "/readyz", "/%68ealthz", "//healthz", "/healthz/", "/healthz?x"):
            evil = GOOD | {"Origin": "http://evil.example", "Host": "evil.example"}
            status, _, _, writer = await asked(proxy, evil, f"GET {path} HTTP/1.1")
            writer.close()
            assert status.split()[1] in ("200", "421"), path
