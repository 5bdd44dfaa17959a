"""What tests of drains share."""

import signal

from tests.e2e.proxy import Proxy


async def draining(proxy: Proxy, number: signal.Signals = signal.SIGTERM) -> None:
    """Send the first signal and wait until it was taken."""
    proxy.signal(number)
    await proxy.logged("drain.started")


async def stopped(proxy: Proxy, code: int = 0) -> None:
    """It exits with this code and leaves nobody behind."""
    assert await proxy.exit_code() == code, proxy.stderr
    assert await proxy.survivors(within_s=0.5) == {}


def address(proxy: Proxy) -> tuple[str, int]:
    """Where it listens."""
    host, _, port = proxy.url.removeprefix("ws://").partition(":")
    return host, int(port)


def upgrade_request(proxy: Proxy) -> bytes:
    """A handshake by hand."""
    host = proxy.url.removeprefix("ws://")
    return (
        f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
