"""What clients show at the door, made by hand: bearer headers, signed tokens, certificates.

Nothing here is made by the library that the proxy checks with. Every secret contains
`CANARY`, so that a find says that it came out.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

CANARY = "CANARY"
TOKEN = f"{CANARY}-capability-token"
SECRET = f"{CANARY}-secret-of-more-than-thirty-two-bytes".encode()
HEADER = {"alg": "HS256", "typ": "JWT"}

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
WAIT_S = 15.0


def base64url(data: bytes) -> str:
    """RFC 7515, section 2: without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(
    claims: object,
    header: object = HEADER,
    *,
    secret: bytes = SECRET,
    digest: Callable[..., Any] = hashlib.sha256,
) -> str:
    """A token; `bytes` for claims or header are taken as they are."""
    parts = [
        each if isinstance(each, bytes) else json.dumps(each).encode() for each in (header, claims)
    ]
    text = ".".join(map(base64url, parts))
    return f"{text}.{base64url(hmac.new(secret, text.encode(), digest).digest())}"


def claims(**more: object) -> dict[str, object]:
    """Good for ten minutes; `...` takes a claim away."""
    good = {"exp": int(time.time()) + 600, "iss": "issuer", "aud": "audience", **more}
    return {name: value for name, value in good.items() if value is not ...}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is told."""

    status: int
    body: str
    headers: dict[str, str]


async def ask(
    port: int,
    authorizations: Sequence[str | bytes] = (),
    *,
    more: dict[str, str] | None = None,
    line: str = "GET / HTTP/1.1",
    source: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Ask for a websocket in bytes of our own, and hang up."""
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            port,
            local_addr=(source, 0),
            ssl=tls,
            server_hostname="localhost" if tls else None,
        )
        try:
            fields: list[tuple[str, str | bytes]] = [("Host", f"127.0.0.1:{port}")]
            fields += [*(UPGRADE | (more or {})).items()]
            fields += [("Authorization", value) for value in authorizations]
            writer.write(line.encode() + b"\r\n")
            for name, value in fields:
                text = value.encode() if isinstance(value, str) else value
                writer.write(name.encode() + b": " + text + b"\r\n")
            writer.write(b"\r\n")
            return await _answer(reader)
        finally:
            writer.transport.abort()


async def _answer(reader: asyncio.StreamReader) -> Answer:
    status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    pairs = (field.partition(": ") for field in fields)
    headers = {name.lower(): value for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(status.split()[1]), body.decode(), headers)


def port_of(url: str) -> int:
    """The port of `ws://127.0.0.1:PORT`."""
    match = re.search(r":(\d+)/?$", url)
    assert match is not None, url
    return int(match[1])


class Authority:
    """A private certificate authority, with its files in a directory.

    Args:
        directory: Gets `ca.pem`, and what `issue` makes.
        name: Of the file, for a second one.
    """

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.directory = directory
        self._ca = trustme.CA()
        self.path = directory / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def issue(self, name: str = "server", *, user: str | None = None) -> tuple[Path, Path]:
        """A certificate for localhost or, with `user`, for a client; returns it and its key."""
        hosts = ("client.example",) if user else ("localhost", "127.0.0.1", "::1")
        made = self._ca.issue_cert(*hosts, common_name=user)
        cert, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return cert, key

    def trusted(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """For a client that trusts this authority alone."""
        context = ssl.create_default_context(cafile=self.path)
        if client is not None:
            context.load_cert_chain(*client)
        return context
