"""The opening handshake of a websocket, server side: RFC 6455 section 4.2.

aiohttp has read the request; here it is checked and answered with 101, without
extensions (compression is never negotiated). A subprotocol is selected by whoever knows
what it means. What comes behind it belongs to `websocket`.
"""

import base64
import binascii
import hashlib
from typing import Final

from aiohttp import hdrs, web

VERSION: Final = "13"

HOP_HEADER: Final = "X-Trace-Proxy-Hop"
"""Who sends it is a host of the fleet, and its requests go no further."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES: Final = 16


def asks_for_websocket(request: web.BaseRequest) -> bool:
    """Whether a request wants to become a websocket."""
    return request.headers.get(hdrs.UPGRADE, "").strip().lower() == "websocket"


def refuse(request: web.BaseRequest) -> web.Response | None:
    """Say what is wrong with an upgrade request; None when it may be accepted."""
    headers = request.headers
    tokens = ",".join(headers.getall(hdrs.CONNECTION, ())).lower().split(",")
    if (
        request.method != "GET"
        or request.version < (1, 1)
        or "upgrade" not in map(str.strip, tokens)
    ):
        return _bad("a websocket begins with GET, HTTP/1.1 and Connection: Upgrade")
    for name in (hdrs.SEC_WEBSOCKET_VERSION, hdrs.SEC_WEBSOCKET_KEY):
        if len(headers.getall(name, ())) > 1:
            return _bad(f"{name} may be there once")
    if headers.get(hdrs.SEC_WEBSOCKET_VERSION, "").strip() != VERSION:
        refused = web.Response(status=426, text="This server speaks websocket version 13.\n")
        refused.headers.update({hdrs.SEC_WEBSOCKET_VERSION: VERSION, hdrs.UPGRADE: "websocket"})
        return refused
    try:
        key = base64.b64decode(headers.get(hdrs.SEC_WEBSOCKET_KEY, ""), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        return _bad("Sec-WebSocket-Key has to be 16 bytes in base64")
    return None


def offered_protocols(request: web.BaseRequest) -> list[str]:
    """The subprotocols that a client offers, in its order of preference."""
    offers = ",".join(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ()))
    return [offer for each in offers.split(",") if (offer := each.strip())]


def accept(request: web.BaseRequest, protocol: str | None = None) -> web.StreamResponse:
    """The 101 that opens the websocket; `prepare` it, then frames may go both ways.

    Args:
        request: It.
        protocol: The subprotocol that is selected, one of those offered; None: none.
    """
    key = request.headers[hdrs.SEC_WEBSOCKET_KEY].strip().encode()
    proof = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    response = web.StreamResponse(
        status=101,
        headers={
            hdrs.UPGRADE: "websocket",
            hdrs.CONNECTION: "Upgrade",
            hdrs.SEC_WEBSOCKET_ACCEPT: proof.decode(),
        },
    )
    if protocol is not None:
        response.headers[hdrs.SEC_WEBSOCKET_PROTOCOL] = protocol
    response.force_close()
    return response


def _bad(text: str) -> web.Response:
    return web.Response(status=400, text=f"This is no websocket handshake: {text}.\n")
