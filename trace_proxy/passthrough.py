"""One core for each client: everything is passed through, and watched.

For any newline-delimited JSON-RPC program (MCP, LSP over lines, ACP, the app-server):
no gate, no ids of ours, no member added or taken away; a line that is valid JSON goes
on as it came. Requests, turns and tools are seen from the wire and become spans, and
count as work when the proxy drains. `hub` is the machine for clients that share.
"""

from typing import Final

import msgspec
from msgspec import UNSET

from core_server.jsonrpc import codec, codes
from core_server.jsonrpc.messages import Message
from trace_proxy import envelope, refusal, server_requests, spans
from trace_proxy.connection import Connection, Peer, Pending
from trace_proxy.core_session import CoreSession, CoreState
from trace_proxy.drain import Drain
from trace_proxy.effects import Effects
from trace_proxy.envelope import CoreMessage, Routing
from trace_proxy.flow import Admission
from trace_proxy.ids import Ids
from trace_proxy.lanes import LaneBounds, Lanes
from trace_proxy.methods import NEW_WORK
from trace_proxy.server_requests import ServerRequest
from trace_proxy.span_record import SpanContext
from trace_proxy.switchboard import Switchboard
from trace_proxy.trace_context import Inherited
from trace_proxy.turn_spans import Turn
from trace_proxy.turns import OBSERVED, EndedTurn

PUMP_BYTES: Final = 256 * 1024
"""Taken from the lanes at once, as in `hub`."""

_AGENT_DELTA: Final = "item/agentMessage/delta"
_ANY = msgspec.json.Decoder(msgspec.Raw)


class _Turn(msgspec.Struct):
    id: str


class _TurnResult(msgspec.Struct):
    turn: _Turn


_TURN_RESULT = msgspec.json.Decoder(_TurnResult)


class PassThrough:
    """Clients with a core each.

    Args:
        effects: The way out.
        ids: Randomness and sampling.
        admission: Bounds of what may be in flight.
        drain: When to stop.
        lane_bounds: Bounds of the queue in front of each core.
    """

    def __init__(
        self,
        effects: Effects,
        ids: Ids,
        *,
        admission: Admission,
        drain: Drain,
        lane_bounds: LaneBounds,
    ) -> None:
        self.board = Switchboard(effects, ids, [], admission, drain)
        self._lane_bounds = lane_bounds
        self._cores: dict[int, CoreSession] = {}
        self._pending: dict[int, dict[bytes, Pending]] = {}
        self._next_key = 0

    def __repr__(self) -> str:
        return f"<PassThrough {self.board!r} cores={len(self._cores)}>"

    def opened(self, peer: Peer, context: Inherited) -> Connection:
        """A client has connected; its core is `core_of(connection)`, to be started."""
        connection = Connection(self._next_key, peer, context)
        self._next_key += 1
        connection.attributes = spans.attributes_of(connection)
        self.board.connections[connection.key] = connection
        self._cores[connection.key] = CoreSession(connection.key, Lanes(self._lane_bounds))
        self._pending[connection.key] = {}
        return connection

    def core_of(self, connection: Connection) -> CoreSession:
        """The core of a client, numbered like it."""
        return self._cores[connection.key]

    def core_started(self, core: CoreSession) -> None:
        """Its process runs: what waited for it goes out."""
        core.epoch += 1
        core.state = CoreState.READY
        core.lanes.writable = True
        self.pump(core)

    def client_message(self, connection: Connection, data: bytes, now_ns: int) -> None:
        """Take a message of a client: pass it on if it is JSON, and note what it asks."""
        board, core = self.board, self._cores[connection.key]
        board.now_ns = now_ns
        pending: Pending | None = None
        try:
            message = codec.decode(data)
        except codec.MalformedError as error:
            if error.code == codes.PARSE_ERROR or not _is_json(data):
                board.send(connection, codec.error(error.id, error.code, str(error)))
                return
        else:
            if message.method is UNSET:
                self._client_answered(connection, core, message)
            elif message.id is not UNSET:
                pending = self._asked(connection, message, len(data))
                if pending is None:
                    return
        self._to_core(core, connection, codec.one_line(data), pending)

    def _asked(self, connection: Connection, message: Message, size: int) -> Pending | None:
        """Enter a request; None when it was refused."""
        board = self.board
        assert message.method is not UNSET
        assert message.id is not UNSET
        method = message.method
        params = None if message.params is UNSET else bytes(message.params)
        trace = None if message.trace is UNSET else bytes(message.trace)
        span = spans.begin_request(connection, method, trace, board.now_ns, board.ids)
        pending = Pending(connection, bytes(message.id), method, size, span=span)
        thread = envelope.routing(params).thread_id
        pending.thread = thread if isinstance(thread, str) else None
        if not board.drain.accepts_new_work and method in NEW_WORK:
            board.refuse(pending, board.drain.refusal(board.clock_s))
            return None
        refused = board.admission.admit(connection.key, size)
        if refused is not None:
            board.refuse(pending, refused)
            return None
        pending.counted = True
        connection.in_flight[id(pending)] = pending
        self._pending[connection.key][pending.id] = pending
        return pending

    def _to_core(
        self, core: CoreSession, connection: Connection, line: bytes, pending: Pending | None
    ) -> None:
        if core.lanes.pass_through(False):  # noqa: FBT003 - as declared
            self.board.effects.write(core, line)
            return
        refused = core.lanes.put(connection.key, line, counts=pending is not None)
        if refused is None:
            return
        if pending is None:
            self.board.effects.close(connection, 1008, "too many answers and notifications")
        else:
            self._settle(core, pending.id)
            self.board.refuse(pending, refused)

    def _client_answered(
        self, connection: Connection, core: CoreSession, message: Message
    ) -> None:
        """A client answered a request of its core: its span ends."""
        board = self.board
        if message.id is UNSET:
            return
        core_id = msgspec.json.decode(message.id)
        if not isinstance(core_id, int | str):
            return
        _, asked = board.server_requests.resolved(core, core_id)
        if asked is not None:
            result = None if message.result is UNSET else bytes(message.result)
            decided = server_requests.decision(result)
            board.end_span(server_requests.record(asked, board.now_ns, decided, connection))
            board.effects.approval_settled(asked, board.now_ns)

    def closed(self, connection: Connection, now_ns: int) -> None:
        """A client has left; its core has nobody left to serve."""
        board = self.board
        board.now_ns = now_ns
        core = self._cores.pop(connection.key)
        for pending in self._pending.pop(connection.key).values():
            board.settled(pending, error=spans.CONNECTION_LOST)
        connection.in_flight.clear()
        self._end_core_work(core, spans.CONNECTION_LOST)
        board.connections.pop(connection.key, None)

    def _end_core_work(self, core: CoreSession, why: str) -> None:
        board = self.board
        for turn in board.turns:
            if turn.core is core:
                ended = board.turns.end(turn.turn_id, "interrupted", board.now_ns, why=why)
                if ended is not None:
                    board.end_turn(ended)
        for asked in board.server_requests.lose(core):
            board.end_span(server_requests.record(asked, board.now_ns, "core_lost", None))
            board.effects.approval_settled(asked, board.now_ns)

    def core_lost(self, core: CoreSession, now_ns: int) -> None:
        """Its process is gone: answer what it still owes, then end its connection."""
        board = self.board
        board.now_ns = now_ns
        core.state = CoreState.FAILED
        core.lanes.writable = False
        connection = board.connections.get(core.index)
        if connection is None:
            return
        for request_id in list(self._pending[connection.key]):
            pending = self._settle(core, request_id)
            if pending is not None:
                board.refuse(pending, refusal.no_core())
        self._end_core_work(core, "core_lost")
        board.effects.close(connection, 1011, "the core has exited")

    def core_line(self, core: CoreSession, line: bytes, now_ns: int) -> str:
        """Take a line of a core; returns why it is a fault, empty when it is none."""
        board = self.board
        board.now_ns = now_ns
        connection = board.connections.get(core.index)
        if connection is None:
            return ""
        try:
            message = envelope.decode_core(line)
        except envelope.GarbageError as error:
            if not _is_json(line):
                return str(error)
            message = CoreMessage()
        board.effects.send(connection, line)
        if message.method is UNSET:
            if message.id is not UNSET:
                self._answered(core, message)
        elif message.id is UNSET:
            self._observe(core, message, line)
        else:
            self._requested(core, connection, message, line)
        return ""

    def _answered(self, core: CoreSession, message: CoreMessage) -> None:
        request_id = msgspec.json.encode(message.id)
        pending = self._settle(core, request_id)
        if pending is None:
            return
        turn_id = None
        if pending.method == "turn/start" and message.result is not UNSET:
            turn_id = self._turn_started(core, pending, bytes(message.result))
        error = envelope.error_code(message)
        self.board.settled(pending, core=core, error=error, turn_id=turn_id)

    def _settle(self, core: CoreSession, request_id: bytes) -> Pending | None:
        pending = self._pending[core.index].pop(request_id, None)
        if pending is not None and pending.connection is not None:
            pending.connection.in_flight.pop(id(pending), None)
        return pending

    def _turn_started(self, core: CoreSession, pending: Pending, result: bytes) -> str | None:
        span = pending.span
        try:
            turn_id = _TURN_RESULT.decode(result).turn.id
        except msgspec.DecodeError:
            return None
        if span is not None and span.turn is not None and pending.thread is not None:
            turn = Turn(pending.thread, turn_id, core, span.turn, span.context, span.start_ns)
            self.board.turns.begin(turn)
        return turn_id

    def _observe(self, core: CoreSession, message: CoreMessage, line: bytes) -> None:
        board, params = self.board, message.params
        if message.method == _AGENT_DELTA and isinstance(params, Routing):
            if isinstance(params.turn_id, str) and params.delta is not UNSET:
                board.turns.delta(params.turn_id, params.delta, board.now_ns)
        elif message.method in OBSERVED:
            ended = board.turns.observe(line, core, board.now_ns)
            if isinstance(ended, EndedTurn):
                board.end_turn(ended)
            else:
                board.end_span(ended)

    def _requested(
        self, core: CoreSession, connection: Connection, message: CoreMessage, line: bytes
    ) -> None:
        """A core asks its client: one CLIENT span until it is answered."""
        board, params = self.board, message.params
        assert message.id is not UNSET
        assert message.method is not UNSET
        thread = params.thread_id if isinstance(params, Routing) else None
        turn = board.turns.of_thread(thread) if isinstance(thread, str) else None
        context, parent = None, None
        if turn is not None:
            parent = turn.context
            context = SpanContext(
                parent.trace_id, board.ids.new_span_id(), parent.flags, parent.state
            )
        asked = ServerRequest(
            board.server_requests.next_id(),
            core,
            message.id,
            message.method,
            envelope.params_of(line),
            thread if isinstance(thread, str) else None,
            context,
            parent,
            board.now_ns,
            {connection.key},
        )
        board.server_requests.open(asked)
        board.effects.approval_asked(asked)

    def core_writable(self, core: CoreSession, *, writable: bool) -> None:
        """A core's stdin is full, or has room again."""
        core.lanes.writable = writable and core.state is CoreState.READY
        if core.lanes.writable:
            self.pump(core)

    def pump(self, core: CoreSession) -> None:
        """Give a core what waits for it, as far as the pipe allows."""
        while core.lanes.writable and len(core.lanes):
            lines = core.lanes.take(PUMP_BYTES)
            for line in lines:
                self.board.effects.write(core, line)
            core.lanes.outstanding = 0  # ids are not ours: no window here
            if not lines:
                return

    def too_large(self, connection: Connection, head: bytes, limit_bytes: int) -> None:
        """Answer a message that is over the limit; the connection lives."""
        data = {"reason": "messageTooLarge", "limitBytes": limit_bytes}
        text = f"The message is larger than {limit_bytes} bytes; send less, or raise the limit"
        answer = codec.error(codec.id_in_head(head), codes.INVALID_REQUEST, text, data)
        self.board.send(connection, answer)


def _is_json(data: bytes) -> bool:
    """Whether it is one JSON document of any kind, e.g. a batch."""
    try:
        _ANY.decode(data)
        data.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
