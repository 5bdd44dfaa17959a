"""One core for each client: everything is passed on as it came, and watched.

For any JSON-RPC program on stdio (MCP, LSP, ACP, the app-server): no gate, no ids of ours,
what is JSON goes on. Nothing is added but a trace context, and that only where the
protocol has a place for it (`params._meta` of MCP and ACP).
What is understood of a message is a watch's business; which one, the first request tells:

    undecided (as the app-server) --first telling request--> acp | mcp | lsp | codex

What cannot be followed (a batch, an id that JSON-RPC does not allow) is passed on all the
same. `hub` is the machine for clients that share cores.
"""

from typing import Final

from msgspec import UNSET, Raw

from core_server.jsonrpc import codec, codes
from core_server.jsonrpc.messages import Message
from trace_proxy.context.ids import Ids
from trace_proxy.context.trace_context import Inherited, format_traceparent
from trace_proxy.drain import ENDING, Drain
from trace_proxy.protocol import envelope, refusal
from trace_proxy.protocol.meta import meta_of, with_context
from trace_proxy.protocol.program import INITIALIZE, Program, client_of, program_of
from trace_proxy.protocol.refusal import Refusal
from trace_proxy.queues.admission import Admission
from trace_proxy.queues.core_queue import CoreQueue, CoreQueueBounds
from trace_proxy.relay.board import Board
from trace_proxy.relay.effects import Effects
from trace_proxy.relay.per_connection.acp import AcpWatch
from trace_proxy.relay.per_connection.codex import CodexWatch
from trace_proxy.relay.per_connection.lsp import LspWatch
from trace_proxy.relay.per_connection.mcp import McpWatch
from trace_proxy.relay.per_connection.pairs import INTERRUPT_KEY, Pair, key_of, seen
from trace_proxy.relay.per_connection.server_requests import PairRequests
from trace_proxy.relay.per_connection.watch import FINE, Watch
from trace_proxy.spans import requests as request_spans
from trace_proxy.spans import semconv
from trace_proxy.spans.content import Content
from trace_proxy.spans.turn_spans import Turn
from trace_proxy.spans.turns import CORE_NAME
from trace_proxy.state.connection import Connection, Peer, Pending
from trace_proxy.state.core_session import CoreSession, Fault

_EVERYTHING_BYTES: Final = 2**63
"""Taken from a core's lane at once: all of it, which the lane's own bounds keep small."""

_CORE_EXITED: Final = "the core has exited"
_CORE_LOST: Final = refusal.core_lost(
    "The core exited before it answered; reconnect to get a new one"
)

_WATCHES: Final[dict[Program, type[Watch]]] = {
    Program.CODEX: CodexWatch,
    Program.ACP: AcpWatch,
    Program.MCP: McpWatch,
    Program.LSP: LspWatch,
}


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
        core_name: What agents are called in spans that say no name.
        program: What all cores speak; None: each client's first request tells.
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
        program: Program | None = None,
    ) -> None:
        self.board = Board(effects, ids, [], admission, drain, content, core_name=core_name)
        self.pairs: dict[int, Pair] = {}
        self._watches: dict[int, Watch] = {}
        self._program = program
        self._undecided: set[int] = set()
        self._targets: set[str] = set()
        self._farewells: dict[int, tuple[bytes, ...]] = {}
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
        self.board.joined(connection)
        self.board.cores.append(core)
        pair = self.pairs[connection.key] = Pair(connection, core)
        self._watches[connection.key] = _WATCHES[self._program or Program.CODEX](
            self.board, pair, self._targets
        )
        if self._program is None:
            self._undecided.add(connection.key)
        return connection

    def core_of(self, connection: Connection) -> CoreSession:
        """The core of a client, numbered like it."""
        return self.pairs[connection.key].core

    def watch_of(self, core: CoreSession) -> Watch | None:
        """What is understood of a core and its client; None when the client has left."""
        return self._watches.get(core.index)

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
            self._server_requests.answered(self._watches[pair.connection.key], key, message)
        elif message.method is not UNSET:
            self._watches[pair.connection.key].told(message, _params_of(message))

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
        method = message.method
        params = None if message.params is UNSET else bytes(message.params)
        if method == INITIALIZE or (self._undecided and connection.key in self._undecided):
            self._introduced(pair, method, params)
        watch = self._watches[connection.key]
        trace = None if message.trace is UNSET else bytes(message.trace)
        span = request_spans.begin_request(
            connection, method, trace, board.now_ns, board.ids, meta_of(params)
        )
        if span.resolution.rejections:
            for rejection in span.resolution.rejections:
                board.effects.context_rejected(connection, rejection)
        if board.content is not None:
            span = board.content.of_request(span, params)
        traits = watch.traits(method, params)
        pending = Pending(connection, bytes(message.id), traits, len(line), None, span)
        if traits.about_threads:
            watch.about(pending, params)
        context = watch.context_for(pending) if watch.CARRIES_CONTEXT else None
        if context is not None:
            line = with_context(line, format_traceparent(context), context.state)
        refused = self._admit(pending) or self._give(pair, line)
        if refused is not None:
            board.refuse(pending, refused)
            return
        pair.ask(key, pending)
        if traits.about_threads:
            watch.sent(pending)

    def _introduced(self, pair: Pair, method: str, params: bytes | None) -> None:
        """Learn what a client is called, and what protocol it speaks, as soon as it tells."""
        connection = pair.connection
        if method == INITIALIZE:
            name, version = client_of(params)
            said = request_spans.attributes_of(connection)
            if name:
                said |= {semconv.CLIENT_NAME: name, semconv.CLIENT_VERSION: version}
            connection.attributes = said
            connection.shared.clear()
        program = program_of(method, params)
        if program is not None and connection.key in self._undecided:
            self._undecided.discard(connection.key)
            if program is not Program.CODEX:
                self._watches[connection.key] = _WATCHES[program](self.board, pair, self._targets)

    def _admit(self, pending: Pending) -> Refusal | None:
        board = self.board
        assert pending.connection is not None
        if pending.traits.new_work and not board.drain.accepts_new_work:
            board.effects.shed("draining")
            return board.drain.refusal(board.clock_s)
        refused = board.admission.admit(pending.connection.load, pending.size)
        pending.counted = refused is None
        if refused is not None:
            board.effects.shed("overloaded")
        return refused

    def closed(self, connection: Connection, now_ns: int) -> None:
        """A client has left; its core is stopped, so that what it was doing is over too."""
        board = self.board
        board.now_ns = now_ns
        drained = request_spans.DRAIN if board.drain.state in ENDING else ""
        pair, watch = self._part(connection)
        for pending in pair.answered_all():
            pending.ended_by = drained
            watch.lost(pending, drained)
            board.settled(pending, error=request_spans.CONNECTION_LOST)
        pair.core.lost()
        watch.ended(drained)
        self._server_requests.lost(pair.core, drained or "core_lost")

    def _part(self, connection: Connection) -> tuple[Pair, Watch]:
        """Forget a client that has left, and with it its core."""
        board, pair = self.board, self.pairs.pop(connection.key)
        board.left(connection)
        board.cores.remove(pair.core)
        for thread in board.subscribers.leave(connection):
            if not board.subscribers.has(thread):
                board.turns.forget(thread)
        self._undecided.discard(connection.key)
        watch = self._watches.pop(connection.key)
        self._farewells[connection.key] = watch.farewell()
        return pair, watch

    def farewell(self, core: CoreSession) -> tuple[bytes, ...]:
        """What its protocol wants a core to be told before its input ends, once.

        All but the last are requests; each wants an answer before the next.
        """
        watch = self._watches.get(core.index)
        return self._farewells.pop(core.index, ()) if watch is None else watch.farewell()

    def end_turns(self) -> None:
        """Nothing is said for a core that is its client's own: its end tells the same."""

    def interrupt(self, turn: Turn) -> None:
        """Ask a turn to end because of the drain; only the app-server has such."""
        watch = self._watches[turn.core.index]
        if isinstance(watch, CodexWatch):
            self.board.effects.write(turn.core, watch.interrupt(turn))

    def deadline(self) -> None:
        """The drain waits no longer: ask every core to end its work."""
        for watch in self._watches.values():
            for line in watch.deadline():
                self.board.effects.write(watch.pair.core, line)

    def core_lost(self, core: CoreSession, exit_code: int, now_ns: int) -> None:
        """Its process is gone: answer what it still owes, then end its connection."""
        board = self.board
        board.now_ns = now_ns
        core.lost()
        pair, watch = self.pairs.get(core.index), self._watches.get(core.index)
        if pair is None or watch is None:
            return  # the client left first
        for pending in pair.answered_all():
            watch.lost(pending, "core_lost")
            board.refuse(pending, _CORE_LOST)
        watch.ended("core_lost")
        self._server_requests.lost(core, "core_lost")
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
            self._unusable(self._watches[core.index], error.answers)
            return Fault(str(error), error.size)
        key = key_of(message)
        if key == INTERRUPT_KEY and message.method is UNSET and pair.interrupts:
            pair.interrupts -= 1
            return None
        board.effects.send(pair.connection, line)
        watch = self._watches[core.index]
        if board.wire is not None and message.method is not UNSET:
            board.wire.told(message.method, [pair.connection.key], [len(line)])
        if message.method is UNSET:
            if key is not None:
                self._answered(watch, key, message)
        elif key is not None:
            self._server_requests.opened(watch, key, message)
        else:
            params = _params_of(message)
            watch.heard(message, params, line)
            if message.method == "serverRequest/resolved":
                self._server_requests.resolved(watch, params)
        return None

    def _answered(self, watch: Watch, key: bytes, message: Message) -> None:
        pending = watch.pair.answered(key)
        if pending is None:
            return
        board = self.board
        answer = envelope.CoreMessage(result=message.result, error=message.error)
        verdict = watch.answered(pending, answer) if pending.traits.about_threads else FINE
        if board.content is not None and pending.span is not None:
            board.content.of_answer(pending.span, answer)
        error: int | str | None = verdict.error or None
        if message.error is not UNSET:
            error = envelope.error_code(answer)
        board.settled(pending, core=watch.pair.core, error=error, turn_id=verdict.turn_id)

    def _unusable(self, watch: Watch, answers: bytes | None) -> None:
        """A line cannot be handed on; who waits for it as an answer must not wait for ever."""
        key = None if answers is None else key_of(Message(id=Raw(answers)))
        pending = None if key is None else watch.pair.answered(key)
        if pending is None:
            return
        if pending.traits.about_threads:
            watch.answered(pending, envelope.CoreMessage(error=Raw(b"{}")))
        self.board.refuse(pending, refusal.CORE_ANSWER)


def _params_of(message: Message) -> bytes:
    return b"null" if message.params is UNSET else bytes(message.params)
