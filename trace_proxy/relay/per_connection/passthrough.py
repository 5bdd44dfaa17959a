"""One core for each client: everything is passed on as it came, and watched.

For any newline-delimited JSON-RPC program (MCP, LSP over lines, ACP, the app-server):
no gate, no ids of ours, no member added or taken away; what is JSON goes on, and only
line breaks between tokens become blanks. Requests, turns and tools are seen from the
wire: they become spans, and count as work when the proxy drains. What cannot be
followed (a batch, an id that JSON-RPC does not allow) is passed on all the same.
`hub` is the machine for clients that share cores.
"""

from typing import Final

import msgspec
from msgspec import UNSET

from core_server.jsonrpc import codec, codes
from core_server.jsonrpc.messages import Message
from trace_proxy.context.ids import Ids
from trace_proxy.context.trace_context import Inherited
from trace_proxy.drain import ENDING, Drain
from trace_proxy.protocol import envelope, methods, refusal, shapes
from trace_proxy.protocol.refusal import Refusal
from trace_proxy.queues.admission import Admission
from trace_proxy.queues.core_queue import CoreQueue, CoreQueueBounds
from trace_proxy.relay.board import Board
from trace_proxy.relay.effects import Effects
from trace_proxy.relay.per_connection.pairs import INTERRUPT_KEY, Pair, key_of, seen
from trace_proxy.relay.per_connection.server_requests import PairRequests
from trace_proxy.spans import requests as request_spans
from trace_proxy.spans.content import Content
from trace_proxy.spans.turn_spans import Turn
from trace_proxy.spans.turns import CORE_NAME, OBSERVED
from trace_proxy.state.connection import Connection, Peer, Pending
from trace_proxy.state.core_session import CoreSession, Fault

_EVERYTHING_BYTES: Final = 2**63
"""Taken from a core's lane at once: all of it, which the lane's own bounds keep small."""

_CORE_EXITED: Final = "the core has exited"
_CORE_LOST: Final = refusal.core_lost(
    "The core exited before it answered; reconnect to get a new one"
)
_AGENT_DELTA: Final = "item/agentMessage/delta"


class PassThrough:
    """Clients with a core each.

    Args:
        effects: The way out.
        ids: Randomness and sampling.
        admission: Bounds of what may be in flight.
        drain: When to stop.
        core_queue_bounds: What may wait for a core that does not read; `max_answers` and
            `max_bytes` count, for requests too: without ids of ours there is no window.
        content: Puts content on spans, None when none may be recorded.
        core_name: What agents are called in spans.
    """

    def __init__(  # noqa: PLR0913 - the parts it is made of
        self,
        effects: Effects,
        ids: Ids,
        *,
        admission: Admission,
        drain: Drain,
        core_queue_bounds: CoreQueueBounds,
        content: Content | None = None,
        core_name: str = CORE_NAME,
    ) -> None:
        self.board = Board(effects, ids, [], admission, drain, content, core_name=core_name)
        self.pairs: dict[int, Pair] = {}
        self._server_requests = PairRequests(self.board)
        self._lane_bounds = core_queue_bounds
        self._next_key = 0

    def __repr__(self) -> str:
        return f"<PassThrough {self.board!r}>"

    @property
    def ready(self) -> bool:
        """Whether a client may come: always, it brings its own core."""
        return True

    def opened(self, peer: Peer, context: Inherited) -> Connection:
        """A client has connected; its core is `core_of(connection)`, to be started."""
        connection = Connection(self._next_key, peer, context)
        self._next_key += 1
        connection.attributes.update(request_spans.attributes_of(connection))
        core = CoreSession(connection.key, CoreQueue(self._lane_bounds))
        self.board.connections[connection.key] = connection
        self.board.cores.append(core)
        self.pairs[connection.key] = Pair(connection, core)
        return connection

    def core_of(self, connection: Connection) -> CoreSession:
        """The core of a client, numbered like it."""
        return self.pairs[connection.key].core

    def core_started(self, core: CoreSession) -> None:
        """Its process runs: what waited for it goes out."""
        core.started()
        core.opened()  # nobody is greeted here: its client speaks first
        self.core_writable(core, writable=True)

    def core_writable(self, core: CoreSession, *, writable: bool) -> None:
        """A core's stdin is full, or has room again."""
        core.input(writable=writable)
        for line in core.queue.take(_EVERYTHING_BYTES):
            self.board.effects.write(core, line)

    def client_message(self, connection: Connection, data: bytes, now_ns: int) -> None:
        """Take a message of a client: pass it on if it is JSON, and note what it asks."""
        board, pair = self.board, self.pairs[connection.key]
        board.now_ns = now_ns
        try:
            message = seen(data)
        except envelope.GarbageError as error:
            text = f"Parse error: {error}"
            board.send(connection, codec.error(codec.NULL_ID, codes.PARSE_ERROR, text))
            board.effects.call_ended("_OTHER", str(codes.PARSE_ERROR), 0.0)
            return
        connection.strict = connection.strict or message.jsonrpc is not UNSET
        line = codec.one_line(data)
        key = key_of(message)
        if key is not None and message.method is not UNSET:
            self._asked(pair, key, message, line)
        elif self._give(pair, line) is not None:
            board.effects.close(connection, 1008, "the core reads too slowly")
        elif key is not None:
            self._server_requests.answered(pair, key, message)

    def _give(self, pair: Pair, line: bytes) -> Refusal | None:
        """Write a line now or let it wait; returns why neither is possible."""
        if pair.core.queue.pass_through(False):  # noqa: FBT003 - as declared
            self.board.effects.write(pair.core, line)
            return None
        return pair.core.queue.put_answer(pair.connection.key, line)

    def _asked(self, pair: Pair, key: bytes, message: Message, line: bytes) -> None:
        """Pass a request on, or answer why not."""
        board, connection = self.board, pair.connection
        assert message.method is not UNSET
        assert message.id is not UNSET
        params = None if message.params is UNSET else bytes(message.params)
        trace = None if message.trace is UNSET else bytes(message.trace)
        span = request_spans.begin_request(
            connection, message.method, trace, board.now_ns, board.ids
        )
        if board.content is not None:
            span = board.content.of_request(span, params)
        pending = Pending(
            connection, bytes(message.id), methods.traits(message.method), len(line), None, span
        )
        pending.thread = envelope.thread_of(params)
        refused = self._admit(pending) or self._give(pair, line)
        if refused is not None:
            board.refuse(pending, refused)
            return
        pair.ask(key, pending)
        if pending.method == "turn/start" and pending.thread is not None:
            board.turns.starter(pending.thread, span)

    def _admit(self, pending: Pending) -> Refusal | None:
        board = self.board
        assert pending.connection is not None
        if pending.traits.new_work and not board.drain.accepts_new_work:
            return board.drain.refusal(board.clock_s)
        refused = board.admission.admit(pending.connection.load, pending.size)
        pending.counted = refused is None
        return refused

    def closed(self, connection: Connection, now_ns: int) -> None:
        """A client has left; its core is stopped, so that what it was doing is over too."""
        board = self.board
        board.now_ns = now_ns
        pair = self._part(connection)
        drained = board.drain.state in ENDING
        for pending in pair.answered_all():
            pending.ended_by = request_spans.DRAIN if drained else ""
            board.not_started(pending)
            board.settled(pending, error=request_spans.CONNECTION_LOST)
        pair.core.lost()
        self._end_work(pair.core, request_spans.DRAIN if drained else "")

    def _part(self, connection: Connection) -> Pair:
        """Forget a client that has left, and with it its core."""
        board, pair = self.board, self.pairs.pop(connection.key)
        del board.connections[connection.key]
        board.cores.remove(pair.core)
        for thread in board.subscribers.leave(connection):
            if not board.subscribers.has(thread):
                board.turns.forget(thread)
        return pair

    def interrupt(self, turn: Turn) -> None:
        """Ask a turn to end because of the drain, under the only id that is not a client's."""
        turn.ended_by = request_spans.DRAIN
        pair = self.pairs[turn.core.index]
        pair.interrupts += 1
        params = msgspec.json.encode({"threadId": turn.thread, "turnId": turn.turn_id})
        line = b'{"id":%b,"method":"turn/interrupt","params":%b}' % (INTERRUPT_KEY, params)
        line = codec.with_version(line) if pair.connection.strict else line
        self.board.effects.write(pair.core, line)

    def _end_work(self, core: CoreSession, why: str) -> None:
        board = self.board
        for turn in board.turns:
            if turn.core is core:
                ended = board.turns.end(turn.turn_id, "interrupted", board.now_ns, why)
                if ended is not None:
                    board.end_turn(ended)
        self._server_requests.lost(core, why or "core_lost")

    def core_lost(self, core: CoreSession, exit_code: int, now_ns: int) -> None:
        """Its process is gone: answer what it still owes, then end its connection."""
        board = self.board
        board.now_ns = now_ns
        core.lost()
        pair = self.pairs.get(core.index)
        if pair is None:
            return  # the client left first
        for pending in pair.answered_all():
            board.not_started(pending)
            board.refuse(pending, _CORE_LOST)
        self._end_work(core, "core_lost")
        board.effects.close(pair.connection, 1011 if exit_code else 1000, _CORE_EXITED)

    def core_line(self, core: CoreSession, line: bytes, now_ns: int) -> Fault | None:
        """Take a line of a core.

        Returns:
            What is wrong with it, None when nothing is. Faulty lines go nowhere.
        """
        board = self.board
        board.now_ns = now_ns
        pair = self.pairs.get(core.index)
        if pair is None:
            return None  # its last words, to nobody
        try:
            message = seen(line)
        except envelope.GarbageError as error:
            return Fault(str(error), error.size)
        key = key_of(message)
        if key == INTERRUPT_KEY and message.method is UNSET and pair.interrupts:
            pair.interrupts -= 1
            return None
        board.effects.send(pair.connection, line)
        if board.wire is not None and message.method is not UNSET:
            board.wire.told(message.method, [pair.connection.key], [len(line)])
        if message.method is UNSET:
            if key is not None:
                self._answered(pair, key, message)
        elif key is not None:
            self._server_requests.opened(pair, key, message)
        else:
            self._observe(pair, message, line)
        return None

    def _answered(self, pair: Pair, key: bytes, message: Message) -> None:
        pending = pair.answered(key)
        if pending is None:
            return
        board, turn_id = self.board, None
        core_message = envelope.CoreMessage(result=message.result, error=message.error)
        if message.result is UNSET:
            board.not_started(pending)
        else:
            turn_id = self._note(pair, pending, bytes(message.result))
        if board.content is not None and pending.span is not None:
            board.content.of_answer(pending.span, core_message)
        error = envelope.error_code(core_message)
        board.settled(pending, core=pair.core, error=error, turn_id=turn_id)

    def _note(self, pair: Pair, pending: Pending, result: bytes) -> str | None:
        """Learn which threads and turns there are; returns the id of a turn that began."""
        board, span = self.board, pending.span
        assert span is not None
        try:
            if pending.method in methods.SUBSCRIBING:
                loaded = shapes.THREAD.decode(result)
                board.turns.loaded(
                    loaded.thread.id,
                    model=loaded.model,
                    provider=loaded.provider,
                    name=loaded.thread.agent,
                )
                board.subscribers.add(loaded.thread.id, pair.connection)
                pending.thread = loaded.thread.id
            elif span.turn is not None and pending.thread is not None:
                turn_id = shapes.TURN.decode(result).turn.id
                board.subscribers.add(pending.thread, pair.connection)
                turn = Turn(
                    pending.thread, turn_id, pair.core, span.turn, span.context, span.start_ns
                )
                board.turns.answered(turn, span)
                return turn_id
        except msgspec.DecodeError:  # another protocol with a method of that name
            board.not_started(pending)
        return None

    def _observe(self, pair: Pair, message: Message, line: bytes) -> None:
        """Notice what a notification says of turns and tools."""
        board, method = self.board, message.method
        params = b"null" if message.params is UNSET else bytes(message.params)
        if method == _AGENT_DELTA:
            routing = envelope.routing(params)
            if isinstance(routing.turn_id, str) and routing.delta is not UNSET:
                board.turns.delta(routing.turn_id, routing.delta, board.now_ns)
        elif method in OBSERVED:
            board.observed(board.turns.observe(line, pair.core, board.now_ns))
        elif method == "serverRequest/resolved":
            self._server_requests.resolved(pair, params)
        elif method == "thread/closed":
            thread = envelope.routing(params).thread_id
            if isinstance(thread, str) and board.subscribers.remove(thread, pair.connection):
                board.turns.forget(thread)
