"""The doors: websocket upgrades, probes and metrics on every `ws://` and `unix://` listener.

aiohttp does HTTP and the frames; who may come in is decided by `access`, what is said by
the hub. The listener is opened first and closed last, so that probes and late clients
hear 503 instead of a refused connection.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol, cast

import msgspec
from aiohttp import web

from trace_proxy.access.policy import (
    OPEN_PATHS,
    Denial,
    Door,
    RequestFacts,
    is_public,
)
from trace_proxy.access.tokens import Identity, bearer_protocol
from trace_proxy.context.trace_context import Inherited, Rejection, Trust, inherit
from trace_proxy.errors import StartError
from trace_proxy.queues.client_queue import ClientQueue
from trace_proxy.runtime.clients import handshake
from trace_proxy.runtime.clients.client import Client
from trace_proxy.runtime.clients.clients import ClientT
from trace_proxy.runtime.clients.console import Console
from trace_proxy.runtime.clients.entrance import Entrance
from trace_proxy.runtime.clients.intake import Intake
from trace_proxy.runtime.clients.visitor import MAX_FIELDS_BYTES, Visitor, Visitors
from trace_proxy.runtime.clients.websocket import WebsocketClient
from trace_proxy.runtime.telemetry.propagation import Propagation
from trace_proxy.settings.config import Config, ListenTcp, ListenUnix
from trace_proxy.state.connection import Connection, Peer

RETRY_AFTER_S: Final = "1"

_UNAUTHORIZED: Final = 401
_UNAVAILABLE: Final = 503


class House(Protocol):
    """Who serves those that the listener lets in; see `supervisor`."""

    intake: Intake

    @property
    def admits(self) -> bool:
        """Whether new clients may come in."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether `/readyz` says 200."""
        ...

    def details(self) -> dict[str, object]:
        """For `/readyz`."""
        ...

    async def scraped(self) -> bytes:
        """What `/metrics` answers."""
        ...

    def refused(self, status: int, reason: str) -> None:
        """Somebody was not let in."""
        ...

    def open(
        self, make: Callable[[ClientQueue], ClientT], peer: Peer, context: Inherited
    ) -> tuple[Connection, ClientT]:
        """A client is connected; `make` builds its transport around its queue."""
        ...

    def context_rejected(self, connection: Connection, rejection: Rejection) -> None:
        """Its handshake had a trace context that is none."""
        ...

    async def serve(
        self, connection: Connection, client: Client, converse: Callable[[], Awaitable[None]]
    ) -> None:
        """Serve a client that `open` let in, until it is gone."""
        ...


class Listener:
    """One listening socket.

    Args:
        house: Who serves the clients.
        config: All settings.
        propagation: How trace context is read from a handshake.
        visitors: Who is connected; shared by all listeners.
        entrance: What clients have to show; shared too.
        console: The page, None where there is none.
    """

    def __init__(
        self,
        house: House,
        config: Config,
        propagation: Propagation,
        visitors: Visitors,
        entrance: Entrance,
        console: Console | None,
    ) -> None:
        self._entrance = entrance
        self._house = house
        self._config = config
        self._console = console
        self._propagation = propagation
        self._visitors = visitors
        self._count = visitors.clients
        self._arrivals = visitors.arrivals
        self._trust = Trust(self._config.tracing.trust_context.value)
        self._door = Door(bound_ips=(), port=0)
        self._runner: web.ServerRunner | None = None
        self._servers: list[asyncio.Server] = []
        self._unix_path: Path | None = None
        self.url = ""

    def __repr__(self) -> str:
        return f"<Listener {self.url}>"

    async def open(self, where: ListenTcp | ListenUnix) -> None:
        """Bind and listen.

        Raises:
            StartError: the address cannot be had.
        """
        server = web.Server(self._handle, access_log=None)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        self._runner = runner
        try:
            if isinstance(where, ListenTcp):
                await self._open_tcp(runner, where)
            else:
                await self._open_unix(runner, where)
        except OSError as error:
            reason = (error.strerror or str(error)).partition(" (while")[0]
            raise StartError(
                f"cannot listen on {where.url}: {reason}; choose another with --listen"
            ) from None

    async def _open_tcp(self, runner: web.ServerRunner, where: ListenTcp) -> None:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in where.host else socket.AF_UNSPEC
        found = await loop.getaddrinfo(
            where.host, where.port, family=family, type=socket.SOCK_STREAM
        )
        listening = _bind_all([(each[0], str(each[4][0])) for each in found], where.port)
        host, port = listening[0].getsockname()[:2]
        security = self._config.security
        self._door = Door(
            bound_ips=tuple(each.getsockname()[0] for each in listening),
            port=port,
            allow_hosts=self._config.allow_hosts,
            allow_origins=security.allow_origins,
            behind_proxy=security.insecure_behind_proxy,
            tls=self._config.tls.on,
        )
        certificates = self._entrance.certificates
        wait_s = self._config.limits.handshake_timeout_s
        for each in listening:
            server = await loop.create_server(
                partial(self._visitors.protocol, _server_of(runner)),
                sock=each,
                ssl=None if certificates is None else certificates.context,
                ssl_handshake_timeout=None if certificates is None else wait_s,
            )
            self._servers.append(server)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"ws{'' if certificates is None else 's'}://{shown}:{port}"

    async def _open_unix(self, runner: web.ServerRunner, where: ListenUnix) -> None:
        path = Path(where.path)
        await asyncio.to_thread(_remove_stale, path)
        listening = await asyncio.to_thread(_bind_private, path)
        server = await asyncio.get_running_loop().create_unix_server(
            partial(self._visitors.protocol, _server_of(runner)), sock=listening
        )
        self._servers.append(server)
        self._unix_path = path
        self.url = where.url

    async def close(self) -> None:
        """Stop listening and hang up on everybody."""
        for server in self._servers:
            server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._unix_path is not None:
            with contextlib.suppress(FileNotFoundError):
                self._unix_path.unlink()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        refused = self._one_too_many(request) or self._door.check(
            RequestFacts(
                path=request.path,
                hosts=request.headers.getall("Host", ()),
                origins=request.headers.getall("Origin", ()),
            )
        )
        if refused is not None:
            return self._denial(refused)
        # Never on a probe's path: what comes there from anywhere has not been checked.
        if request.path not in OPEN_PATHS and handshake.asks_for_websocket(request):
            return await self._upgrade(request)
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        if not is_public(request.path):
            admitted = self._entrance.admit(request, _peer(request).address or None)
            if isinstance(admitted, Denial):
                return self._denial(admitted)
        return await self._page(request)

    def _one_too_many(self, request: web.BaseRequest) -> Denial | None:
        """Whether there is no room for who asks, or it takes us for a proxy of the web."""
        visitor = cast("Visitor", request.protocol)  # as `protocol` of `Visitors` makes them
        visitor.asked()
        if visitor.refused is not None and request.path not in OPEN_PATHS:
            return visitor.refused
        if not request.raw_path.startswith("/"):
            return Denial(400, "absolute_form", "Ask for a path alone.")
        if sum(len(name) + len(value) for name, value in request.raw_headers) > MAX_FIELDS_BYTES:
            return Denial(431, "header_fields", "The header fields are too large together.")
        return None

    async def _page(self, request: web.BaseRequest) -> web.StreamResponse:
        shown = None if self._console is None else await self._console.answer(request)
        if shown is not None:
            return shown
        match request.path:
            case "/metrics":
                body = await self._house.scraped()
                return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})
            case "/healthz":
                return web.json_response({"status": "ok"})
            case "/readyz":
                status = 200 if self._house.is_ready else 503
                return web.json_response(self._house.details(), status=status)
            case _:
                return web.Response(status=404, text="There is nothing here.\n")

    async def _upgrade(self, request: web.BaseRequest) -> web.StreamResponse:
        closed = self._closed()
        if closed is not None:
            return closed
        malformed = handshake.refuse(request)
        if malformed is not None:
            return malformed
        peer = _peer(request)
        if handshake.HOP_HEADER in request.headers:
            peer = msgspec.structs.replace(peer, hop=True)
        address = peer.address or None
        admitted = self._entrance.admit(request, address)
        if isinstance(admitted, Denial):
            return self._denial(admitted)
        refused = self._count.admit(address)
        if refused is not None:
            return self._denial(refused)
        try:
            wait_s = self._arrivals.comes(address, time.monotonic())
            if wait_s:
                await asyncio.sleep(wait_s)
                closed = self._closed()
                if closed is not None:
                    return closed
            peer = msgspec.structs.replace(peer, user=admitted.user)
            return await self._serve(request, peer, admitted)
        finally:
            self._count.release(address)

    def _closed(self) -> web.Response | None:
        if self._house.admits:
            return None
        response = web.Response(status=503, text="The server is draining; reconnect.\n")
        response.headers["Retry-After"] = RETRY_AFTER_S
        return response

    async def _serve(
        self, request: web.BaseRequest, peer: Peer, identity: Identity
    ) -> web.StreamResponse:
        # A browser hangs up when nothing of what it offers is selected.
        offers, spoken = handshake.offered_protocols(request), self._config.pool.offered
        selected = next((each for each in offers if each in spoken), None)
        opened = handshake.accept(request, selected or bearer_protocol(offers))
        connection, client = await self._shake_hands(request, opened, peer)
        house = self._house
        with self._entrance.ends_with_token(client, identity):
            await house.serve(connection, client, partial(client.run, house.intake))
        return opened

    def _denial(self, refused: Denial) -> web.Response:
        self._house.refused(refused.status, refused.reason)
        headers = {"Retry-After": str(refused.retry_after_s)} if refused.retry_after_s else {}
        text = refused.text + "\n"
        if refused.status == _UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, 11.6.1
            text = refused.text  # to the letter
        response = web.Response(status=refused.status, text=text, headers=headers)
        if refused.status == _UNAVAILABLE:
            response.force_close()  # others wait for its place
        return response

    async def _shake_hands(
        self, request: web.BaseRequest, opened: web.StreamResponse, peer: Peer
    ) -> tuple[Connection, WebsocketClient]:
        """Answer the upgrade; what only it needs is not kept for as long as the client stays."""
        carried = self._propagation.handshake(request.headers.items())
        context = inherit(carried, self._propagation.environment, self._trust)
        await opened.prepare(request)

        def make(queue: ClientQueue) -> WebsocketClient:
            return WebsocketClient(request, queue, self._config.limits)

        connection, client = self._house.open(make, peer, context)
        for rejection in carried.rejections:
            self._house.context_rejected(connection, rejection)
        return connection, client


METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def _server_of(runner: web.ServerRunner) -> web.Server:
    assert runner.server is not None, "it was set up"
    return runner.server


def _bind_all(addresses: list[tuple[int, str]], port: int) -> list[socket.socket]:
    """Listen on all that a name stands for, on one port.

    Raises:
        OSError: the first cannot be had; others are left out where the machine has them not.
    """
    bound: list[socket.socket] = []
    for family, host in dict.fromkeys(addresses):
        try:
            listening = socket.create_server((host, port), family=family, backlog=1024)
        except OSError:
            if not bound:
                raise
            continue
        bound.append(listening)
        port = listening.getsockname()[1]
    return bound


def _peer(request: web.BaseRequest) -> Peer:
    assert request.transport is not None
    name = request.transport.get_extra_info("peername")
    ours = request.transport.get_extra_info("sockname")
    if isinstance(name, tuple):
        peer = Peer("tcp", str(name[0]), int(name[1]))
        return msgspec.structs.replace(peer, server_address=str(ours[0]), server_port=int(ours[1]))
    return Peer("unix", server_address=ours if isinstance(ours, str) else "")


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on; refuse a live one."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        else:
            raise OSError(98, "another process listens there")


def _bind_private(path: Path) -> socket.socket:
    """Bind and restrict before listening, so that nobody slips in between."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    path.chmod(0o600)
    listening.listen(1024)
    listening.setblocking(False)  # noqa: FBT003 - its only argument
    return listening
