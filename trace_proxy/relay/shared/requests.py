"""The way of a client's message to a core: gate, drain, admission, route, rewrite.

Every request of a client ends in one of two ways here: it is answered at once, or it
is entered at a router and its line is given to a core. What comes back is `answers`.
"""

from collections.abc import Callable
from typing import Final

from msgspec import UNSET

from core_server.jsonrpc import codec
from core_server.jsonrpc.messages import Message
from trace_proxy.context.span_record import SpanContext
from trace_proxy.context.trace_context import trace_member
from trace_proxy.protocol import envelope, methods, refusal
from trace_proxy.protocol.meta import meta_of
from trace_proxy.protocol.refusal import Refusal
from trace_proxy.queues.core_queue import LONG_BYTES, OUR_LANE
from trace_proxy.queues.pace import Pace
from trace_proxy.relay.board import Board
from trace_proxy.relay.shared.initialize import Greetings
from trace_proxy.relay.shared.merged_lists import MergedLists
from trace_proxy.relay.shared.pool import Pool
from trace_proxy.spans import approvals
from trace_proxy.spans import requests as request_spans
from trace_proxy.state import gate, handles
from trace_proxy.state.connection import Connection, Hop, Pending, RequestSpan
from trace_proxy.state.core_session import CoreSession, CoreState

_INTERRUPTS: Final = OUR_LANE - 1
"""Minus the connection: the lane of its interrupts."""

HANDLES_PER_CONNECTION: Final = 1024
"""Open at once; each watch, process or search costs its core far more than us."""

TOO_MANY_HANDLES: Final = refusal.overloaded("Too many handles of this connection are open")

OVERTAKING_PER_CONNECTION: Final = 8
"""Requests under way that passed the window; more wait in line as others do."""

NOTIFICATION_BYTES_PER_S: Final = 128 * 1024
"""Of one client's notifications, to all cores, while others are connected; then Close 1008."""

_NOTIFICATION_BYTES: Final = 512
"""Each counts as so many more: a core has as much to do with it as with a request."""

TOO_MANY: Final = (1008, "too many answers and notifications wait for the core")


class Requests:
    """Messages of clients.

    Args:
        board: The hub's.
        greetings: Answers `initialize`.
        pool: Greets cores that wait for it.
        merge: Asks several cores.
        for_new: The other host that a new thread shall go to; None for here.
    """

    def __init__(
        self,
        board: Board,
        greetings: Greetings,
        pool: Pool,
        merge: MergedLists,
        for_new: Callable[[], CoreSession | None],
    ) -> None:
        self._board = board
        self._greetings = greetings
        self._pool = pool
        self._merge = merge
        self._for_new = for_new
        self._pool_is_one = len(board.cores) == 1
        self._notifications = Pace(NOTIFICATION_BYTES_PER_S)

    def request(self, connection: Connection, message: Message, size: int) -> None:
        """Take a request.

        Raises:
            codec.MalformedError: its id is none.
        """
        board = self._board
        assert message.method is not UNSET
        traits = methods.traits(message.method)
        request_id = codec.request_id(message)
        params = None if message.params is UNSET else bytes(message.params)
        trace = None if message.trace is UNSET else bytes(message.trace)
        span = request_spans.begin_request(
            connection, message.method, trace, board.now_ns, board.ids, meta_of(params)
        )
        if board.content is not None:
            span = board.content.of_request(span, params)
        pending = Pending(connection, request_id, traits, size, None, span)
        for rejection in span.resolution.rejections:
            board.effects.context_rejected(connection, rejection)
        refused = None
        if traits.guarded or traits.new_work or connection.session is None:
            refused = self._forbidden(connection, traits, params)
        if refused is None:
            refused = board.admission.admit(connection.load, size)
            if refused is None:
                pending.counted = True
            else:
                board.effects.shed("overloaded")
        if refused is not None:
            board.refuse(pending, refused)
        elif message.method == "initialize":
            if self._greetings.initialize(connection, pending, params):
                self._pool.greet_waiting()
        else:
            self._route(connection, pending, params)

    def _forbidden(
        self, connection: Connection, traits: methods.Traits, params: bytes | None
    ) -> Refusal | None:
        """Why a method may not be asked for: what its session lacks, or the drain."""
        board, session = self._board, connection.session
        if session is None or traits.guarded:
            refused = gate.refuse(session, traits, params)
            if refused is not None:
                return refused
        if traits.new_work and not board.drain.accepts_new_work:
            board.effects.shed("draining")
            return board.drain.refusal(board.clock_s)
        return None

    def _route(self, connection: Connection, pending: Pending, params: bytes | None) -> None:
        board, traits = self._board, pending.traits
        core: CoreSession | None = None
        if traits.about_threads or not self._pool_is_one:
            thread = pending.thread = envelope.thread_of(params)
            if thread is not None:
                if board.fleet:
                    pending.kept = params
                core = board.placement.home(thread)
        if traits.special and self._route_specially(connection, pending, params, core):
            return
        if core is None:
            if traits.name == "thread/start":
                core = self._elsewhere(connection, pending, params)
            if core is None:
                core = board.placement.choose(-1 if traits.new_work else connection.near)
        if core is None:
            board.refuse(pending, refusal.NO_CORE)
            return
        connection.near = core.index
        if traits.about_turns and pending.thread is not None and not core.url:
            self._note(pending, pending.thread, core)
        self.dispatch(core, connection.key, pending, params)

    def _elsewhere(
        self, connection: Connection, pending: Pending, params: bytes | None
    ) -> CoreSession | None:
        """The other host that shall have the thread that is to begin, if one shall."""
        if connection.peer.hop:
            return None
        core = self._for_new()
        if core is not None:
            pending.kept = params  # it may turn out to be gone
        return core

    def _route_specially(
        self,
        connection: Connection,
        pending: Pending,
        params: bytes | None,
        core: CoreSession | None,
    ) -> bool:
        """Handle what is not simply sent; False where it is after all."""
        traits = pending.traits
        if traits.handles is not None:
            self._route_handle(connection, pending, params, core)
        elif traits.cancels:
            self._cancel(connection, pending, params)
        elif traits.merged:
            if self._pool_is_one:
                return False
            self._merge.ask(pending, params)
        elif pending.thread is not None:  # it unsubscribes
            self._unsubscribe(connection, pending, known=core is not None)
        else:
            return False
        return True

    def _cancel(self, connection: Connection, pending: Pending, params: bytes | None) -> None:
        """Cancel a request of this client: a core knows it by an id of ours.

        Another client may have a request of the same id, and any core one whose id of ours is
        that number: those are not named. What is over, or was never there, needs no core.
        """
        board, named = self._board, envelope.named_request(params)
        asked = None
        if named is not None:
            asked = _own_request(connection, named)
            if asked is None:
                board.send(connection, codec.result(pending.id, b"{}"))
                board.settled(pending)
                return
            params = envelope.with_member(params or b"{}", "requestId", b"%d" % asked.core_id)
        elif envelope.has_member(params, "requestId"):  # a core may take 1.0 or [1] for an id
            board.refuse(pending, refusal.NO_REQUEST_ID)
            return
        core = board.placement.choose() if asked is None else board.session(asked.core)
        if core is None:
            board.refuse(pending, refusal.NO_CORE)
        else:  # without an id it is the core's to refuse
            self.dispatch(core, connection.key, pending, params)

    def _route_handle(
        self,
        connection: Connection,
        pending: Pending,
        params: bytes | None,
        core: CoreSession | None,
    ) -> None:
        """Send a request that names a handle to the core that knows it, under a name of ours."""
        board, opens = self._board, pending.method in methods.OPENING
        if opens and len(connection.handles) >= HANDLES_PER_CONNECTION:
            board.effects.shed("handles")
            board.refuse(pending, TOO_MANY_HANDLES)
            return
        params, holder = self._qualify(connection, pending, params)
        core = holder or core or board.placement.choose()
        if core is None:
            board.refuse(pending, refusal.NO_CORE)
        else:
            self.dispatch(core, connection.key, pending, params)

    def _note(self, pending: Pending, thread: str, core: CoreSession) -> None:
        """What a request is about to do to a thread, or to the turn that runs there."""
        board = self._board
        if pending.traits.starts_turn:
            if pending.span is not None:
                board.turns.starter(thread, pending.span)
            return
        turn = board.turns.of_thread(thread)
        if turn is not None:
            pending.about = (turn.context, turn.turn_id)
        if pending.method == "thread/resume" and not self._pool_is_one:
            pending.expects = True
            board.placement.expect(thread, core)

    def dispatch(
        self, core: CoreSession, key: int, pending: Pending, params: bytes | None
    ) -> None:
        """Enter a request at a core and send it, or let it wait in its lane."""
        board, traits, span = self._board, pending.traits, pending.span
        if span is None:
            trace = b""
        elif core.url:
            trace = trace_member(self._hop(core, pending, span))
        else:
            trace = trace_member(span.turn or span.context, span.opening)
        core_id = core.router.admit(pending)
        pending.core, pending.lane = core.index, key
        pending.windowed = counts = not traits.overtakes or _overtakes_often(pending.connection)
        line = envelope.request(core_id, traits.json, params, trace)
        if counts and len(line) >= LONG_BYTES:
            passes = core.queue.pass_long(key, line, core_id)
        else:
            passes = core.queue.pass_through(counts, key)
        if passes:
            board.effects.write(core, line)
            return
        if counts:
            refused = core.queue.put(key, line, counts=True, core_id=core_id)
        else:  # in a lane of its own: who interrupts may leave, the interrupt stays
            refused = core.queue.put_answer(_INTERRUPTS - key, line)
        if refused is None:
            core.router.wait(core_id)
            board.pump(core)
            return
        core.router.settle(core_id)
        board.not_started(pending)
        if pending.names is not None and pending.method == methods.HANDLES[pending.method].opens:
            del board.connections[key].handles[pending.names]
        board.effects.shed("core_queue")
        board.refuse(pending, refused)

    def _hop(self, core: CoreSession, pending: Pending, span: RequestSpan) -> SpanContext:
        """What another host hears of the trace: the way there is a span of its own."""
        board = self._board
        context = request_spans.below(span.context, pending.method, board.ids)
        pending.hop = Hop(context, core.url, board.now_ns)
        return context

    def _qualify(
        self, connection: Connection, pending: Pending, params: bytes | None
    ) -> tuple[bytes | None, CoreSession | None]:
        """Make a client's handle unique, and find the core that knows it."""
        qualified = handles.qualify(pending.method, params, connection.key)
        if qualified is None:
            return params, None
        family, name = qualified.family, qualified.name
        pending.handle = qualified.spellings
        index = connection.handles.get(name)
        if index is not None:
            if pending.method == family.closes:
                pending.names = name
            return qualified.params, self._board.cores[index]
        core = self._board.placement.choose()
        if core is not None and pending.method == family.opens:
            connection.handles[name] = core.index
            pending.names = name
        return qualified.params, core

    def _unsubscribe(self, connection: Connection, pending: Pending, *, known: bool) -> None:
        """Answered here: the core has one client, us, and goes on telling us everything."""
        board = self._board
        assert pending.thread is not None
        if board.subscribers.remove(pending.thread, connection):
            status = b"unsubscribed"
        else:
            status = b"notSubscribed" if known else b"notLoaded"
        board.send(connection, codec.result(pending.id, b'{"status":"%b"}' % status))
        board.settled(pending)

    def answer(self, connection: Connection, message: Message) -> None:
        """Take a client's answer to a server request; only the first of a subscriber counts."""
        board = self._board
        if message.id is UNSET:
            return
        asked = board.server_requests.answer(bytes(message.id), connection)
        if asked is None:
            board.effects.answer_ignored()
            return
        failed = message.result is UNSET
        body = message.error if failed else message.result
        assert body is not UNSET
        line = envelope.client_answer(asked.core_id, bytes(body), failed=failed)
        self._answer_core(asked.core, line)
        decided = approvals.decision(None if failed else bytes(body))
        record = approvals.record(asked, board.now_ns, decided, connection)
        if board.content is not None and record is not None:
            board.content.of_approval(record, asked.params, bytes(body))
        board.end_span(record)
        board.approval_settled(asked)
        if board.wire is not None:
            board.wire.answered(asked.method, connection.key, len(line))

    def notification(self, connection: Connection, message: Message) -> None:
        """Take a client's notification: to every core, but for `initialized`, which is ours.

        One that cancels a request goes to the core that has it, by the id that the core knows.
        """
        assert message.method is not UNSET
        if message.method == "initialized" or connection.session is None:
            return
        params = None if message.params is UNSET else bytes(message.params)
        cores = self._board.cores
        member = methods.CANCEL_NOTES.get(message.method)
        if member is not None:
            named = envelope.named_request(params, member)
            asked = None if named is None else _own_request(connection, named)
            if asked is None:
                return  # over, or not his: another id that no core may hear
            params = envelope.with_member(params or b"{}", member, b"%d" % asked.core_id)
            cores = [cores[asked.core]]
        line = envelope.notification(message.method, params)
        if self._notifies_too_much(connection, len(line)):
            self._board.effects.close(connection, *TOO_MANY)
            return
        for core in cores:
            if core.state is CoreState.FAILED:
                continue
            if core.queue.pass_through(False):  # noqa: FBT003 - as declared
                self._board.effects.write(core, line)
            elif core.queue.put(connection.key, line, counts=False) is None:
                self._board.pump(core)
            else:
                self._board.effects.close(connection, *TOO_MANY)

    def _notifies_too_much(self, connection: Connection, size: int) -> bool:
        """Nobody answers a notification, so no window holds them back."""
        if self._board.admission.alone:
            return False
        cost_bytes = size + _NOTIFICATION_BYTES
        return self._notifications.handle(connection.key, cost_bytes, self._board.clock_s) > 0

    def leave(self, connection: Connection) -> None:
        """A client is gone."""
        self._notifications.leave(connection.key)

    def _answer_core(self, core: CoreSession, line: bytes) -> None:
        """Not in a lane of the connection: a decision stays one when its sender leaves."""
        if core.queue.pass_through(False):  # noqa: FBT003 - as declared
            self._board.effects.write(core, line)
        elif core.queue.put_answer(OUR_LANE, line) is None:
            self._board.pump(core)
        else:
            self._board.effects.core_faulty(core, "it asks and takes no answers")


def _overtakes_often(connection: Connection | None) -> bool:
    """Whether a client has as many requests under way that passed the window as it may."""
    if connection is None:
        return False
    overtaking = sum(not each.windowed for each in connection.in_flight.values())
    return overtaking > OVERTAKING_PER_CONNECTION


def _own_request(connection: Connection, named: int | str) -> Pending | None:
    """The request that a client names, which a core has been given."""
    for each in connection.in_flight.values():
        if each.core >= 0 and envelope.same_id(each.id, named):
            return each
    return None
