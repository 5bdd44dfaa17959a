"""One TCP or unix connection before, and if it never is, a websocket: counted, timed, bounded.

Every accepted connection takes a descriptor, whatever it says: so it counts as a client
from its first moment, and it has to say something soon. Who is one too many may still ask
for health, and is told 503 otherwise; of those there are only a few at a time.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from trace_proxy.access.arrivals import Arrivals
from trace_proxy.access.policy import ConnectionCount, Denial

KEEP_ALIVE_S: Final = 15.0
"""Between two plain requests: probes and scrapes come more often, or connect anew."""

MAX_FIELD_BYTES: Final = 32 * 1024
"""Of one header field: a browser sends all cookies of localhost."""

MAX_FIELDS_BYTES: Final = 64 * 1024
"""Of all header fields of a request together."""

MAX_TURNED_AWAY: Final = 16
"""Connections at once that are one too many and hear it; the others are reset."""

_TEXTS: Final = {
    400: "This is no HTTP request.\n",
    431: "A header field is too large.\n",
    500: "A fault of this server; its log says more.\n",
}

_log = structlog.get_logger("trace_proxy.listener")


class Visitors:
    """The connections of all listeners, as sockets.

    Args:
        count: How many sockets there may be.
        clients: And how many of them may be clients.
        arrivals: How fast clients may come.
        handshake_s: For the first request of each.

    Attributes:
        clients: As given; who upgrades counts there too.
        arrivals: As given.
    """

    def __init__(
        self,
        count: ConnectionCount,
        clients: ConnectionCount,
        arrivals: Arrivals,
        handshake_s: float,
    ) -> None:
        self._count = count
        self.clients = clients
        self.arrivals = arrivals
        self._handshake_s = handshake_s
        self._turned_away = 0

    def __repr__(self) -> str:
        return f"<Visitors {self._count!r} turned_away={self._turned_away}>"

    def protocol(self, server: web.Server) -> "Visitor":
        """The protocol of a connection that is being accepted."""
        return Visitor(
            server,
            loop=asyncio.get_running_loop(),
            visitors=self,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            max_field_size=MAX_FIELD_BYTES,
        )

    def came(self, address: str | None) -> Denial | None:
        """Count one in; says why it is one too many, if it is.

        Raises:
            ConnectionRefusedError: so many are that already, that it will not even be told.
        """
        refused = self._count.admit(address)
        if refused is not None:
            if self._turned_away >= MAX_TURNED_AWAY:
                raise ConnectionRefusedError
            self._turned_away += 1
        return refused

    def went(self, address: str | None, refused: Denial | None) -> None:
        """Count it out."""
        if refused is None:
            self._count.release(address)
        else:
            self._turned_away -= 1

    def first_word(self, hang_up: Callable[[], None]) -> asyncio.TimerHandle:
        """The time in which it has to ask for something."""
        return asyncio.get_running_loop().call_later(self._handshake_s, hang_up)


class Visitor(web.RequestHandler):
    """aiohttp's side of one connection.

    Attributes:
        refused: Why it is one too many, None when it is not.
    """

    def __init__(self, *args: Any, visitors: Visitors, **options: Any) -> None:
        super().__init__(*args, **options)
        self._visitors = visitors
        self._address: str | None = None
        self._counted = False
        self._timer: asyncio.TimerHandle | None = None
        self.refused: Denial | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self._address = str(name[0]) if isinstance(name, tuple) else None
        try:
            self.refused = self._visitors.came(self._address)
        except ConnectionRefusedError:
            cast("asyncio.Transport", transport).abort()
            return
        self._counted = True
        self._timer = self._visitors.first_word(cast("asyncio.Transport", transport).abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it out."""
        self.asked()
        if self._counted:
            self._counted = False
            self._visitors.went(self._address, self.refused)
        super().connection_lost(exc)

    def asked(self) -> None:
        """A whole request came."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - nothing of it may stand in an answer
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        """Answer what could not be handled; nothing of it is repeated, here or in the log."""
        if isinstance(exc, LineTooLong):
            status = 431  # RFC 6585 section 5
        if status >= 500 and not isinstance(exc, ConnectionError):  # he hung up meanwhile
            _log.error("http.failed", error=type(exc).__name__)
        response = web.Response(status=status, text=_TEXTS.get(status, _TEXTS[400]))
        response.force_close()
        return response
