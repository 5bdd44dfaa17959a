"""The console page over HTTP: its files, and the stream of what is going on.

    GET /                  the page            GET /console/NAME   its files
    GET /console/events    server-sent events: one `snapshot`, then a `change` at most
                           four times a second, with `?wire=1` what passes as well

Whoever is slow is told less often and misses nothing: each stream compares what is with
what it has told last. The page is no client and no work; the rows are `overview`'s.
"""

import asyncio
import gzip
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

import msgspec
from aiohttp import web

from trace_proxy.relay.board import Board
from trace_proxy.relay.overview import Change, Rows, changed
from trace_proxy.relay.wire import WireRow
from trace_proxy.runtime.clients.client import Client
from trace_proxy.settings.config import Tracing

EVENTS: Final = "/console/events"

EVENT_S: Final = 0.25
"""Between two looks: often enough to seem alive."""

QUIET_S: Final = 5.0
"""Something is said at least so often, so that the page notices when we are gone."""

MAX_STREAMS: Final = 32
"""Pages open at once; each costs a look at some hundred rows four times a second."""

WIRE_ROWS: Final = 100
"""Told in one event: more than anybody reads in a quarter of a second."""

MAX_EVENT_BYTES: Final = 256 * 1024
"""A change that is larger is told as a new snapshot, whose size is bounded by its rows."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_PARTS: Final = {
    "/": "index.html",
    "/console/app.js": "app.js",
    "/console/feed.js": "feed.js",
    "/console/thread.js": "thread.js",
    "/console/panels.js": "panels.js",
    "/console/asks.js": "asks.js",
    "/console/form.js": "form.js",
    "/console/pane.js": "pane.js",
    "/console/style.css": "style.css",
    "/console/icon.svg": "icon.svg",
    "/console/vendor/htm-preact.js": "vendor/htm-preact.js",
}
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


class CoreFacts(msgspec.Struct, frozen=True):
    """A core, for the bar."""

    id: int
    state: str
    restarts: int


class CollectorFacts(msgspec.Struct, frozen=True):
    """Where traces go, as a word: `none`, `reached` or `lost`; spans lost so far."""

    kind: str
    state: str
    dropped: int


class BarFacts(msgspec.Struct, frozen=True, rename="camel"):
    """The top bar; times are Unix milliseconds.

    Attributes:
        hosts: How many proxies serve together, None for one alone.
    """

    state: str
    deadline_ms: int | None
    turns: int
    clients: int
    in_flight: int
    cores: tuple[CoreFacts, ...]
    collector: CollectorFacts
    jaeger_url: str | None
    core_service: str
    hosts: int | None = None


class _Event(msgspec.Struct, rename="camel", omit_defaults=True):
    """What has changed; in a snapshot the sections are whole."""

    now_ms: int
    top: BarFacts | None = None
    sections: Mapping[str, Change | Rows] = {}
    wire: list[WireRow] = []
    skipped: int = 0


@dataclass(slots=True)
class _Told:
    """What a stream has told last."""

    top: BarFacts | None = None
    sections: dict[str, Rows] = field(default_factory=dict)
    wire: int = -1


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    zipped: bytes
    type: str
    tag: str


class Console:
    """The page of one proxy, for all its listeners.

    Args:
        board: Whose rows are shown.
        clients: Everybody who is connected.
        bar: The facts of the top bar, as they are now.
    """

    def __init__(
        self,
        board: Board,
        clients: Callable[[], Iterable[Client]],
        bar: Callable[[], BarFacts],
    ) -> None:
        self._board = board
        self._clients = clients
        self._bar = bar
        self._files = {path: _read(name) for path, name in _PARTS.items()}
        self._streams = 0

    def __repr__(self) -> str:
        return f"<Console streams={self._streams}>"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """Answer a GET or HEAD; None when the path is none of the console's."""
        if request.path == EVENTS:
            return await self._stream(request)
        found = self._files.get(request.path)
        return None if found is None else _send(request, found)

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._streams >= MAX_STREAMS:
            return web.Response(
                status=503, text="Too many consoles.\n", headers={"Retry-After": "3"}
            )
        headers = {**HEADERS, "Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        watching = int(request.query.get("wire") == "1")
        self._streams += 1
        self._board.watch(watching)
        try:
            await self._tell(response, _Told(wire=0 if watching else -1))
        except ConnectionError:
            pass  # the page is gone
        finally:
            self._board.watch(-watching)
            self._streams -= 1
        return response

    async def _tell(self, response: web.StreamResponse, told: _Told) -> None:
        """Tell what changes, until the reader is gone or the listener is closed."""
        await response.write(self._snapshot(told))
        loop = asyncio.get_running_loop()
        spoke_s = loop.time()
        while True:
            await asyncio.sleep(EVENT_S)
            event = self._change(told)
            if event is None:
                if loop.time() - spoke_s < QUIET_S:
                    continue
                event = _encode("change", _Event(_now_ms()))
            elif len(event) > MAX_EVENT_BYTES:
                event = self._snapshot(told)
            await response.write(event)
            spoke_s = loop.time()

    def _sections(self) -> dict[str, Rows]:
        overview = self._board.overview
        queues = ((each.key, each.unflushed_bytes, _state(each)) for each in self._clients())
        return {
            "needs": overview.needs(),
            "live": overview.live(),
            "recent": overview.recent(),
            "clients": overview.clients(queues),
        }

    def _snapshot(self, told: _Told) -> bytes:
        told.top, told.sections = self._bar(), self._sections()
        return _encode("snapshot", _Event(_now_ms(), told.top, told.sections))

    def _change(self, told: _Told) -> bytes | None:
        """What has changed since the last call; None when nothing has."""
        top, sections = self._bar(), self._sections()
        changes = {
            name: change
            for name, rows in sections.items()
            if (change := changed(told.sections[name], rows)) is not None
        }
        wire = self._board.wire
        rows: list[WireRow] = []
        skipped = 0
        if wire is not None and told.wire >= 0:
            rows, skipped = wire.since(told.wire, WIRE_ROWS)
            told.wire = wire.count
        new_top = None if top == told.top else top
        told.top, told.sections = top, sections
        if new_top is None and not changes and not rows:
            return None
        return _encode("change", _Event(_now_ms(), new_top, changes, rows, skipped))


def bar_facts(
    board: Board,
    tracing: Tracing,
    clients: int,
    deadline_s: int | None,
    traces: Mapping[str, object],
    hosts: int | None,
) -> BarFacts:
    """The bar, from what `/readyz` knows too.

    Args:
        board: The proxy's.
        tracing: Where links go.
        clients: How many are connected.
        deadline_s: When a drain interrupts what is left, Unix seconds.
        traces: `Telemetry.details()`.
        hosts: How many serve together, where there is a fleet.
    """
    kind = str(traces["destination"]).partition(" ")[0]
    reached = "reached" if traces["reachable"] else "lost"
    dropped = traces["spans_dropped"]
    assert isinstance(dropped, int)
    return BarFacts(
        state=board.drain.state.value,
        deadline_ms=None if deadline_s is None else deadline_s * 1000,
        turns=len(board.turns),
        clients=clients,
        in_flight=board.in_flight,
        cores=tuple(
            CoreFacts(core.index, core.state.value, max(0, core.epoch - 1)) for core in board.cores
        ),
        collector=CollectorFacts(kind, kind if kind == "none" else reached, dropped),
        jaeger_url=tracing.jaeger_url,
        core_service=tracing.core_service_name,
        hosts=hosts,
    )


def _encode(name: str, event: _Event) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(event))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _state(client: Client) -> str:
    if client.closing is not None:
        return "closing"
    if client.congested:
        return "slow"
    return "paced" if client.paced else "ok"


def _read(name: str) -> _File:
    body = files("trace_proxy").joinpath("console", name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return _File(body, gzip.compress(body, mtime=0), kind, tag)


def _send(request: web.BaseRequest, file: _File) -> web.Response:
    headers = {
        **HEADERS,
        "Content-Type": file.type,
        "Cache-Control": "no-cache",
        "ETag": file.tag,
        "Vary": "Accept-Encoding",
    }
    if request.headers.get("If-None-Match") == file.tag:
        return web.Response(status=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=file.zipped, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=file.body, headers=headers)
