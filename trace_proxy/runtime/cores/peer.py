"""Another host of the fleet, as a core: one websocket in the place of a child's pipes.

Nothing here waits for the other host: what is written is queued for a writer task, a long
queue is reported to the hub, which stops giving, and what comes is always read. A host that
does not answer pings is gone. It is connected to once; when that ends, the session ends, and
the hub asks for a new one if it needs it.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp
import structlog

from trace_proxy.errors import ConfigurationError
from trace_proxy.protocol.envelope import decoded
from trace_proxy.relay.shared.hub import Hub
from trace_proxy.runtime.clients.handshake import HOP_HEADER
from trace_proxy.settings.authentication import Tls
from trace_proxy.settings.config import Fleet
from trace_proxy.settings.limits import Limits
from trace_proxy.state.core_session import CoreSession

CONNECT_S: Final = 3.0
"""A host that is there answers in milliseconds; one that was killed refuses at once."""

HEARTBEAT_S: Final = 4.0
"""Between two pings; half of it without a pong is the end."""

_HIGH_BYTES: Final = 1024 * 1024
"""Waiting for the other host's network: from here on its queue in the hub fills instead."""

_REFUSED: Final = {
    401: "hosts of one database need the same --peer-token-file",
    421: "its --advertise-url is no name that it serves; --allow-host adds one",
    503: "it is about to stop, or full",
}
"""What to do about a host that lets us not in."""

_log = structlog.get_logger("trace_proxy.peer")


class PeerLinks:
    """The connections to other hosts.

    Args:
        hub: Who hears what they say.
        fleet: What we show them.
        tls: What we show those that speak TLS, and whom we trust beside the system's authorities.
        limits: Bounds of what they say.
        work_changed: Called when one ends: that may have ended work.

    Raises:
        ConfigurationError: The token's file cannot be used.
    """

    def __init__(
        self, hub: Hub, fleet: Fleet, tls: Tls, limits: Limits, work_changed: Callable[[], None]
    ) -> None:
        self._hub = hub
        self._fleet = fleet
        self._tls = tls
        self._limits = limits
        self._work_changed = work_changed
        self._links: dict[int, _Link] = {}
        self._wanted: asyncio.Queue[_Link] = asyncio.Queue()
        self._headers()

    def __repr__(self) -> str:
        return f"<PeerLinks {list(self._links.values())!r}>"

    def _headers(self) -> dict[str, str]:
        """What a host wants to see; the token's file may be changed while we run."""
        path = self._fleet.peer_token_file
        if path is None:
            return {HOP_HEADER: "1"}
        try:
            token = Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "not plain characters"
            raise ConfigurationError(f"--peer-token-file {path}: {reason}") from None
        if not token.isprintable() or not token:
            raise ConfigurationError(f"--peer-token-file {path}: use one line of plain characters")
        return {HOP_HEADER: "1", "Authorization": f"Bearer {token}"}

    async def _trust(self, url: str) -> ssl.SSLContext | bool:
        """How to speak TLS; built anew for each connection, since its files may change."""
        return await asyncio.to_thread(_context, self._tls) if url.startswith("wss:") else True

    def open(self, core: CoreSession) -> None:
        """Connect to a host, as soon as the loop comes to it."""
        link = _Link(core, self._hub, self._limits)
        self._links[core.index] = link
        self._wanted.put_nowait(link)

    def write(self, core: CoreSession, line: bytes) -> None:
        """Give a host a line; one that is gone gets nothing."""
        link = self._links.get(core.index)
        if link is not None:
            link.write(line)

    def close(self, core: CoreSession) -> None:
        """Leave a host."""
        link = self._links.get(core.index)
        if link is not None:
            link.end()

    async def run(self) -> None:
        """Connect to whom it is asked for, forever."""
        # No cookies and no proxies of the environment: peers are named by their own hosts.
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            asyncio.TaskGroup() as tasks,
        ):
            while True:
                link = await self._wanted.get()
                tasks.create_task(self._live(session, link))

    async def _live(self, session: aiohttp.ClientSession, link: "_Link") -> None:
        """One link's life: however it ends, nobody but this link hears of it as an error."""
        core = link.core
        why = ""
        try:
            await link.live(session, self._headers(), await self._trust(core.url))
        except* (aiohttp.ClientError, ConfigurationError, OSError, TimeoutError) as faults:
            why = _first_of(faults)
        except* Exception as faults:  # noqa: BLE001 - our bug with one host must not end this one
            why = _first_of(faults)
            _log.exception("peer.failed", url=core.url)
        finally:
            del self._links[core.index]
            say = _log.warning if why else _log.info  # it is a fault, or nobody needs it
            say("peer.closed", url=core.url, reason=why[:200])
            self._hub.peer_lost(core, time.time_ns())
            self._work_changed()


def _context(tls: Tls) -> ssl.SSLContext:
    """Other hosts show certificates of the same authorities as clients do, and want ours.

    Raises:
        ConfigurationError: Our certificate cannot be used just now.
    """
    context = ssl.create_default_context()
    try:
        if tls.client_ca is not None:
            context.load_verify_locations(cafile=tls.client_ca)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"--tls-cert or --tls-client-ca: {error}") from None
    return context


def _first_of(faults: BaseExceptionGroup[BaseException]) -> str:
    """What the first of them says; reader and writer may fail together."""
    first: BaseException = faults
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, aiohttp.WSServerHandshakeError):
        hint = _REFUSED.get(first.status, "is that one of our hosts?")
        return f"it refuses us with HTTP {first.status}: {hint}"
    return str(first) or type(first).__name__


class _Link:
    """One connection."""

    def __init__(self, core: CoreSession, hub: Hub, limits: Limits) -> None:
        self.core = core
        self._hub = hub
        self._limits = limits
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._full = False
        self._more = asyncio.Event()
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Link {self.core.url} waiting={self._out_bytes}>"

    def write(self, line: bytes) -> None:
        """Queue a line."""
        self._out.append(line)
        self._out_bytes += len(line)
        self._more.set()
        if self._out_bytes > _HIGH_BYTES and not self._full:
            self._full = True
            self._hub.core_writable(self.core, writable=False)

    def end(self) -> None:
        """Close it."""
        self._over.set()

    async def live(
        self,
        session: aiohttp.ClientSession,
        headers: dict[str, str],
        trust: ssl.SSLContext | bool,  # noqa: FBT001 - aiohttp's type
    ) -> None:
        """Connect, and pass lines until one side ends it.

        Raises:
            aiohttp.ClientError, OSError, TimeoutError: it cannot be reached, or broke.
        """
        async with asyncio.timeout(CONNECT_S):
            socket = await session.ws_connect(
                self.core.url,
                headers=headers,
                ssl=trust,
                heartbeat=HEARTBEAT_S,
                max_msg_size=self._limits.max_core_line_bytes,
                decode_text=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            )
        async with socket:
            _log.info("peer.connected", url=self.core.url)
            self._hub.core_started(self.core, time.time_ns())
            await self._pass_lines(socket)

    async def _pass_lines(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._write_on(socket))
            ender = tasks.create_task(self._end_on(socket))
            await self._read_on(socket)
            writer.cancel()
            ender.cancel()

    async def _read_on(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                self._take(message.data)

    def _take(self, line: bytes) -> None:
        """A fault in a line costs that line: what relays there has checked it already."""
        try:
            fault = self._hub.core_lines(self.core, decoded([line]), time.time_ns())
        except Exception:  # noqa: BLE001 - our bug with one line must not cost the next ones
            _log.exception("peer.line_failed", url=self.core.url)
            return
        if fault is not None:
            _log.warning("peer.fault", url=self.core.url, reason=fault.why, bytes=fault.size)

    async def _write_on(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            lines, self._out = self._out, []
            for line in lines:
                await socket.send_frame(line, aiohttp.WSMsgType.TEXT)
                self._out_bytes -= len(line)
            if self._full and self._out_bytes <= _HIGH_BYTES // 2:
                self._full = False
                self._hub.core_writable(self.core, writable=True)

    async def _end_on(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        await self._over.wait()
        await socket.close()
