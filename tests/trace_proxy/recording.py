"""A hub whose world is lists: clients and cores that a test speaks for, one call at a time."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from trace_proxy.context.span_record import SpanContext, SpanRecord
from trace_proxy.context.trace_context import (
    Extracted,
    Handshake,
    Inherited,
    Rejection,
    Trust,
    inherit,
)
from trace_proxy.drain import Drain
from trace_proxy.protocol import envelope
from trace_proxy.queues.admission import Admission, AdmissionBounds
from trace_proxy.queues.core_queue import CoreQueue, CoreQueueBounds
from trace_proxy.relay.effects import Shed
from trace_proxy.relay.shared.hub import Hub
from trace_proxy.relay.shared.pool import Restarts
from trace_proxy.spans.turns import EndedTurn
from trace_proxy.state.connection import Connection, Peer
from trace_proxy.state.core_session import CoreSession
from trace_proxy.state.server_requests import ServerRequest

Json = Any
"""What a test reads from the wire."""

NO_CONTEXT = inherit(Handshake(), Extracted(), Trust.PARENT)
PEER = Peer("tcp", "127.0.0.1", 5000)
GREETING = {"userAgent": "trace-proxy/1.2 (Linux) xterm (trace-proxy; 9)", "codexHome": "/h"}


class CountingIds:
    """Ids that a test can predict, and a sampler that always says the same."""

    def __init__(self, *, sampled: bool = True) -> None:
        self._last = 0
        self._sampled = sampled

    def new_trace_id(self) -> int:
        return self._next() << 64

    def new_span_id(self) -> int:
        return self._next()

    def sampled(self, parent: SpanContext | None, trace_id: int, name: str) -> bool:
        assert trace_id
        assert name is not None
        return self._sampled if parent is None else parent.sampled

    def _next(self) -> int:
        self._last += 1
        return self._last


class Recording:
    """`Effects` that only remember."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew."""
        self.sent: dict[int, list[bytes]] = {}
        self.closed: list[tuple[int, int]] = []
        self.written: dict[int, list[bytes]] = {}
        self.spans: list[SpanRecord] = []
        self.calls: list[tuple[str, str]] = []
        self.turns: list[EndedTurn] = []
        self.tools: list[tuple[str, str]] = []
        self.pending_approvals = 0
        self.rejected: list[Rejection] = []
        self.ready: list[int] = []
        self.waiting: list[int] = []
        self.faulty: list[int] = []
        self.peers_opened: list[CoreSession] = []
        self.peers_closed: list[CoreSession] = []
        self.relays = 0
        self.counted = 0, 0, 0
        self.logged: list[str] = []
        self.shed_for: list[str] = []
        self.ignored_answers = 0
        self.dropped_notifications = 0

    def send(self, connection: Connection, message: bytes) -> None:
        self.sent.setdefault(connection.key, []).append(message)

    def fan_out(self, connections: Iterable[Connection], messages: Sequence[bytes]) -> None:
        for connection in connections:
            for message in messages:
                self.send(connection, message)

    def close(self, connection: Connection, code: int, reason: str) -> None:
        assert reason
        self.closed.append((connection.key, code))

    def write(self, core: CoreSession, line: bytes) -> None:
        self.written.setdefault(core.index, []).append(line)

    def end_span(self, record: SpanRecord) -> None:
        self.spans.append(record)

    def call_ended(self, method: str, error: str, duration_s: float) -> None:
        assert duration_s >= 0
        self.calls.append((method, error))

    def turn_ended(self, ended: EndedTurn, now_ns: int) -> None:
        assert now_ns
        self.turns.append(ended)

    def tool_ended(self, tool: str, error: str, duration_s: float) -> None:
        assert duration_s >= 0
        self.tools.append((tool, error))

    def context_rejected(self, connection: Connection, rejection: Rejection) -> None:
        assert connection is not None
        self.rejected.append(rejection)

    def approval_asked(self, request: ServerRequest) -> None:
        assert request is not None
        self.pending_approvals += 1

    def approval_settled(self, request: ServerRequest, now_ns: int) -> None:
        assert now_ns >= request.start_ns
        self.pending_approvals -= 1

    def open_peer(self, core: CoreSession) -> None:
        self.peers_opened.append(core)

    def close_peer(self, core: CoreSession) -> None:
        self.peers_closed.append(core)

    def relayed(self) -> None:
        self.relays += 1

    def owned(self, threads: int, taken_over: int, fenced: int) -> None:
        before = self.counted
        self.counted = threads, before[1] + taken_over, before[2] + fenced

    def core_waits(self, core: CoreSession) -> None:
        self.waiting.append(core.index)

    def core_ready(self, core: CoreSession) -> None:
        self.ready.append(core.index)

    def core_faulty(self, core: CoreSession, why: str) -> None:
        assert why
        self.faulty.append(core.index)

    def log(self, event: str, **fields: object) -> None:
        assert all(fields)
        self.logged.append(event)

    def shed(self, why: Shed) -> None:
        self.shed_for.append(why)

    def answer_ignored(self) -> None:
        self.ignored_answers += 1

    def notification_dropped(self) -> None:
        self.dropped_notifications += 1


class Client:
    """One client of the hub."""

    def __init__(self, proxy: "Proxy", context: Inherited = NO_CONTEXT, peer: Peer = PEER) -> None:
        self.proxy = proxy
        self.connection = proxy.hub.opened(peer, context)

    @property
    def key(self) -> int:
        return self.connection.key

    def raw(self, text: bytes) -> None:
        """Say exactly this."""
        self.proxy.hub.client_message(self.connection, text, self.proxy.tick())

    def say(self, message: Json) -> None:
        self.raw(json.dumps(message, separators=(",", ":")).encode())

    def request(self, request_id: Json, method: str, params: Json = None, **more: Json) -> None:
        self.say({"id": request_id, "method": method, "params": params or {}, **more})

    def answer(self, request_id: Json, result: Json) -> None:
        self.say({"id": request_id, "result": result})

    def heard_raw(self) -> list[bytes]:
        """What came since the last look."""
        return self.proxy.effects.sent.pop(self.key, [])

    def heard(self) -> list[Json]:
        return [json.loads(each) for each in self.heard_raw()]

    def leave(self) -> None:
        self.proxy.hub.closed(self.connection, self.proxy.tick())


class Core:
    """One core of the hub, spoken for by the test."""

    def __init__(self, proxy: "Proxy", session: CoreSession) -> None:
        self.proxy = proxy
        self.session = session

    def start(self, result: Json = None, *, greet: bool = True) -> None:
        """Its process runs and, unless told otherwise, answers `initialize`."""
        self.proxy.tick()
        self.proxy.hub.pool.started(self.session)
        if greet:
            hello = self.got()[-1]
            assert hello["method"] == "initialize"
            self.answer(hello["id"], result or GREETING)
            initialized = self.got()[0]
            assert initialized == {"method": "initialized"}, initialized
            if self.proxy.hub.board.drain.state.value == "starting":
                self.proxy.hub.board.drain.serving()

    def die(self, now_s: float = 0.0) -> float | None:
        self.proxy.tick()
        return self.proxy.hub.pool.lost(self.session, now_s)

    def got_raw(self) -> list[bytes]:
        """What was written to it since the last look."""
        return self.proxy.effects.written.pop(self.session.index, [])

    def got(self) -> list[Json]:
        return [json.loads(each) for each in self.got_raw()]

    def raw(self, line: bytes) -> str:
        """Say a line; what is wrong with it, empty when nothing is."""
        lines = envelope.decoded([line])
        fault = self.proxy.hub.core_lines(self.session, lines, self.proxy.tick())
        return "" if fault is None else fault.why

    def say(self, message: Json) -> str:
        return self.raw(json.dumps(message, separators=(",", ":")).encode())

    def answer(self, core_id: Json, result: Json) -> None:
        assert self.say({"id": core_id, "result": result}) == ""

    def fail(self, core_id: Json, code: int, message: str) -> None:
        error = {"code": code, "message": message}
        assert self.say({"error": error, "id": core_id}) == ""

    def owned_elsewhere(self, core_id: Json, url: str) -> None:
        """Another host owns the thread."""
        data = {"reason": "ownedElsewhere", "url": url, "epoch": 1}
        error = {"code": -32010, "message": "owned elsewhere", "data": data}
        assert self.say({"error": error, "id": core_id}) == ""

    def notify(self, method: str, params: Json) -> None:
        assert self.say({"method": method, "params": params, "emittedAtMs": 5}) == ""

    def ask(self, core_id: Json, method: str, params: Json) -> None:
        assert self.say({"method": method, "id": core_id, "params": params}) == ""


class Proxy:
    """A hub in a world of lists."""

    def __init__(  # noqa: PLR0913 - the bounds that tests turn
        self,
        cores: int = 1,
        *,
        queue: CoreQueueBounds | None = None,
        admission: AdmissionBounds | None = None,
        broadcast: bool = False,
        sampled: bool = True,
        drain: Drain | None = None,
        most_restarts: int = 5,
        alone: bool = False,
        advertise_url: str = "",
        least_loaded: bool = False,
        effects: Recording | None = None,
    ) -> None:
        self.now_ns = 1_000_000_000_000_000_000
        self.effects = effects or Recording()
        sessions = [CoreSession(i, CoreQueue(queue or CoreQueueBounds())) for i in range(cores)]
        restarts = [
            Restarts(min_s=0.25, max_s=8, most=most_restarts, window_s=180) for _ in sessions
        ]
        self.hub = Hub(
            self.effects,
            CountingIds(sampled=sampled),
            sessions,
            restarts,
            admission=Admission(admission or AdmissionBounds()),
            drain=drain or Drain(timeout_s=0),
            broadcast=broadcast,
            version="9",
            alone=alone,
            advertise_url=advertise_url,
            least_loaded=least_loaded,
        )
        self.cores = [Core(self, session) for session in sessions]
        self.core = self.cores[0]

    def up(self) -> "Proxy":
        """Start every core."""
        for core in self.cores:
            core.start()
        return self

    def tick(self) -> int:
        """A millisecond later."""
        self.now_ns += 1_000_000
        self.hub.board.now_ns = self.now_ns
        return self.now_ns

    def connect(self, context: Inherited = NO_CONTEXT, peer: Peer = PEER) -> Client:
        return Client(self, context, peer)

    def client(
        self,
        name: str = "client",
        *,
        experimental: bool = False,
        opt_out: Sequence[str] = (),
        strict: bool = False,
        peer: Peer = PEER,
    ) -> Client:
        """A client that has initialized; nothing of that is left to look at."""
        client = self.connect(peer=peer)
        params = {
            "clientInfo": {"name": name, "version": "1"},
            "capabilities": {
                "experimentalApi": experimental,
                "optOutNotificationMethods": list(opt_out),
            },
        }
        more = {"jsonrpc": "2.0"} if strict else {}
        client.request("init", "initialize", params, **more)
        client.heard()
        self.effects.spans.clear()
        return client

    def thread(self, client: Client, thread: str = "t", core: Core | None = None) -> str:
        """Let a client start a thread; it is subscribed then."""
        core = core or self.core
        client.request("start", "thread/start")
        asked = core.got()[-1]
        core.answer(asked["id"], {"thread": {"id": thread}, "model": "mock"})
        client.heard()
        self.effects.spans.clear()
        return thread

    def turn(self, client: Client, thread: str = "t", turn: str = "u") -> None:
        """Let a client start a turn."""
        client.request("turn", "turn/start", {"threadId": thread, "input": []})
        home = self.hub.board.placement.home(thread)
        core = self.core if home is None else self.cores[home.index]
        core.answer(core.got()[-1]["id"], {"turn": {"id": turn, "status": "inProgress"}})
        core.notify("turn/started", {"threadId": thread, "turn": {"id": turn}})
        client.heard()

    def spans(self) -> list[SpanRecord]:
        """The spans that ended since the last look."""
        spans, self.effects.spans = self.effects.spans, []
        return spans
