"""A pass-through in a world of lists: clients and cores that a test speaks for."""

import json
from typing import Any

from tests.trace_proxy.recording import NO_CONTEXT, PEER, CountingIds, Recording
from trace_proxy.context.span_record import SpanRecord
from trace_proxy.context.trace_context import Inherited
from trace_proxy.drain import Drain
from trace_proxy.protocol.program import Program
from trace_proxy.queues.admission import Admission, AdmissionBounds
from trace_proxy.queues.core_queue import CoreQueueBounds
from trace_proxy.relay.per_connection.passthrough import PassThrough
from trace_proxy.spans.content import Content
from trace_proxy.state.connection import Connection, Peer
from trace_proxy.state.core_session import CoreSession


class Proxy:
    """A pass-through in a world of lists."""

    def __init__(
        self,
        *,
        queue: CoreQueueBounds | None = None,
        admission: AdmissionBounds | None = None,
        content: Content | None = None,
        program: Program | None = None,
        sampled: bool = True,
    ) -> None:
        self.now_ns = 1_000_000_000_000_000_000
        self.effects = Recording()
        self.drain = Drain(timeout_s=0)
        self.drain.serving()
        self.machine = PassThrough(
            self.effects,
            CountingIds(sampled=sampled),
            admission=Admission(admission or AdmissionBounds()),
            drain=self.drain,
            core_queue_bounds=queue or CoreQueueBounds(),
            content=content,
            program=program,
        )

    def tick(self) -> int:
        """A millisecond later."""
        self.now_ns += 1_000_000
        return self.now_ns

    def client(
        self, *, started: bool = True, peer: Peer = PEER, context: Inherited = NO_CONTEXT
    ) -> "Client":
        """A client and its core."""
        client = Client(self, self.machine.opened(peer, context))
        if started:
            client.start()
        return client

    def spans(self) -> list[SpanRecord]:
        """The spans that ended since the last look."""
        spans, self.effects.spans = self.effects.spans, []
        return spans

    @property
    def idle(self) -> bool:
        """Whether nothing is counted any more."""
        board = self.machine.board
        left = (board.in_flight, len(board.turns), len(board.server_requests))
        return left == (0, 0, 0) and self.effects.pending_approvals == 0


class Client:
    """A client and its core, both spoken for by the test."""

    def __init__(self, proxy: Proxy, connection: Connection) -> None:
        self.proxy = proxy
        self.connection = connection
        self.core: CoreSession = proxy.machine.core_of(connection)

    @property
    def key(self) -> int:
        return self.connection.key

    def start(self) -> None:
        """Its core runs."""
        self.proxy.machine.core_started(self.core)

    def raw(self, data: bytes) -> None:
        """The client says exactly this."""
        self.proxy.machine.client_message(self.connection, data, self.proxy.tick())

    def say(self, **message: Any) -> None:
        self.raw(json.dumps(message).encode())

    def core_raw(self, line: bytes) -> str:
        """The core says exactly this."""
        fault = self.proxy.machine.core_line(self.core, line, self.proxy.tick())
        return "" if fault is None else fault.why

    def core_says(self, **message: Any) -> None:
        assert self.core_raw(json.dumps(message).encode()) == ""

    def heard(self) -> list[bytes]:
        """What came to the client since the last look."""
        return self.proxy.effects.sent.pop(self.key, [])

    def got(self) -> list[bytes]:
        """What came to the core since the last look."""
        return self.proxy.effects.written.pop(self.key, [])

    def error(self) -> dict[str, Any]:
        """The one thing that the client heard: an error."""
        (line,) = self.heard()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def leave(self) -> None:
        self.proxy.machine.closed(self.connection, self.proxy.tick())

    def core_dies(self, exit_code: int) -> None:
        self.proxy.machine.core_lost(self.core, exit_code, self.proxy.tick())

    def turn(self, thread: str = "t", turn: str = "u") -> None:
        """A turn of the app-server runs."""
        self.say(id=1, method="turn/start", params={"threadId": thread})
        self.core_says(id=1, result={"turn": {"id": turn, "status": "inProgress"}})
        self.core_says(method="turn/started", params={"threadId": thread, "turn": {"id": turn}})
        self.got()
        self.heard()
