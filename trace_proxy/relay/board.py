"""What the parts of the hub share: the machines, the connections, the clock's last word.

`requests`, `answers`, `core_messages` and `pool` each look after one direction; none knows
another, all know this. It decides nothing that a machine decides; it only carries
out what more than one part needs: an answer to a client, the end of a request.
"""

from collections.abc import Callable, Iterable
from typing import Final

from core_server.jsonrpc import codec
from trace_proxy.context.ids import Ids
from trace_proxy.context.span_record import SpanContext, SpanRecord
from trace_proxy.drain import Drain
from trace_proxy.protocol import envelope, methods, refusal
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.protocol.experimental import NOTIFICATIONS
from trace_proxy.protocol.refusal import Refusal
from trace_proxy.queues.admission import Admission
from trace_proxy.queues.core_queue import OUR_LANE
from trace_proxy.relay.effects import Effects
from trace_proxy.relay.overview import Overview
from trace_proxy.relay.wire import Wire
from trace_proxy.spans import approvals
from trace_proxy.spans import requests as request_spans
from trace_proxy.spans.content import Content, RecordingTurns
from trace_proxy.spans.turns import CORE_NAME, Ended, EndedTool, EndedTurn, Turns
from trace_proxy.state.connection import Connection, Pending
from trace_proxy.state.core_session import CoreSession
from trace_proxy.state.gate import hears
from trace_proxy.state.placement import Placement
from trace_proxy.state.server_requests import ServerRequest, ServerRequests
from trace_proxy.state.subscribers import Subscribers

PUMP_BYTES: Final = 256 * 1024
"""Taken from a core queue at once: four pipes full, so that a pause is noticed soon."""

MAX_TURNS: Final = 10_000
"""Of one core; each is kept until it ends, and a core that runs so many has lost count."""

MAX_ASKED: Final = 4096
"""Server requests of one core that nobody has answered; people answer one at a time."""

IDLE_S: Final = 1.0
"""After a thread has gone idle, for the end of its turn to be said: it comes at once or never."""


class Board:
    """The machines of one proxy.

    Attributes:
        effects: The way out.
        ids: Randomness and sampling.
        core_name: What an agent is called that has said no name.
        cores: The pool, by index.
        peers: Sessions with other hosts of the fleet, by index.
        fleet: Whether there may be any.
        releasing: Cores that are giving their threads up to other hosts.
        content: Puts content on spans, None when none may be recorded.
        connections: All clients, by key.
        initialized: Those that may hear notifications.
        choosy: How many of them opted out of some notification.
        strict: How many of them want `"jsonrpc":"2.0"`.
        broadcast: Whether every notification goes to everybody.
        now_ns: Unix nanoseconds of the event being handled.
        clock_s: Monotonic seconds of the last signal or tick.
        overview: What people may see of turns, questions and connections.
        wire: Takes note of what passes while somebody watches, else None.
    """

    def __init__(  # noqa: PLR0913 - the parts it is made of
        self,
        effects: Effects,
        ids: Ids,
        cores: list[CoreSession],
        admission: Admission,
        drain: Drain,
        content: Content | None = None,
        *,
        broadcast: bool = False,
        core_name: str = CORE_NAME,
        fleet: bool = False,
    ) -> None:
        self.effects = effects
        self.ids = ids
        self.core_name = core_name
        self.cores = cores
        self.peers: dict[int, CoreSession] = {}
        self.fleet = fleet
        self.releasing = 0
        self.admission = admission
        self.drain = drain
        self.connections: dict[int, Connection] = {}
        self.initialized: dict[int, Connection] = {}
        self.choosy = 0
        self.strict = 0
        self.placement = Placement(cores)
        self.subscribers = Subscribers()
        self.content = content
        self.turns = (
            Turns(ids, core_name) if content is None else RecordingTurns(ids, content, core_name)
        )
        self.server_requests = ServerRequests()
        self.broadcast = broadcast
        self.now_ns = 0
        self.clock_s = 0.0
        self.overview = Overview(self.turns, self.server_requests, self.connections)
        self.wire: Wire | None = None
        self._watchers = 0
        self._idle: dict[str, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return (
            f"<Board {self.drain!r} connections={len(self.connections)}"
            f" in_flight={self.in_flight} turns={len(self.turns)}>"
        )

    @property
    def in_flight(self) -> int:
        """Admitted requests of clients that are not settled."""
        return self.admission.requests

    @property
    def work(self) -> int:
        """Running turns that somebody can see, or asked for: what a drain waits for.

        A core may announce turns in threads that no client has ever named.
        """
        return sum(
            turn.parent is not None
            or self.placement.home(turn.thread) is not None
            or self.subscribers.has(turn.thread)
            for turn in self.turns
        )

    def joined(self, connection: Connection) -> None:
        """A client has connected."""
        self.connections[connection.key] = connection
        self.admission.alone = len(self.connections) == 1

    def left(self, connection: Connection) -> None:
        """A client is gone."""
        del self.connections[connection.key]
        self.admission.alone = len(self.connections) == 1

    def session(self, index: int) -> CoreSession | None:
        """The core or other host of this index; None for a host that is gone."""
        return self.cores[index] if index < len(self.cores) else self.peers.get(index)

    def send(self, connection: Connection, message: bytes) -> None:
        """Queue a message for one client, in the JSON-RPC dialect it speaks."""
        if connection.strict:
            message = codec.with_version(message)
        self.effects.send(connection, message)

    def deliver(self, audience: Iterable[Connection], method: str, *lines: bytes) -> None:
        """Queue notifications of one method for those of the audience that want to hear them."""
        if self.choosy or method in NOTIFICATIONS:
            audience = [each for each in audience if each.session and hears(each.session, method)]
        if self.strict:
            heard = list(audience)
            strict = [each for each in heard if each.strict]
            audience = [each for each in heard if not each.strict]
            self.effects.fan_out(strict, list(map(codec.with_version, lines)))
        if self.wire is not None:
            audience = list(audience)
            if audience:
                keys = [each.key for each in audience]
                self.wire.told(method, keys, list(map(len, lines)))
        self.effects.fan_out(audience, lines)

    def watch(self, change: int) -> None:
        """So many people more (or less) look at what passes."""
        self._watchers += change
        if not self._watchers:
            self.wire = None
        elif self.wire is None:
            self.wire = Wire()

    def approval_asked(self, asked: ServerRequest) -> None:
        """A core asks: measure it, and its turn waits for a human from now on."""
        self.effects.approval_asked(asked)
        self._waits(asked, +1)

    def approval_settled(self, asked: ServerRequest) -> None:
        """It is answered or needs no answer any more."""
        self.effects.approval_settled(asked, self.now_ns)
        self._waits(asked, -1)

    def _waits(self, asked: ServerRequest, change: int) -> None:
        turn = None if asked.thread is None else self.turns.of_thread(asked.thread)
        if turn is not None and asked.method not in methods.OF_PROGRAMS:
            turn.time.asked(change, self.now_ns)

    def status_changed(self, thread: str, status: str) -> None:
        """A thread works or is idle; one that stays idle has no running turn, whatever was said.

        A core may say that a turn begins and call it otherwise when it ends.
        """
        turn = self.turns.of_thread(thread)
        if status == "idle" and turn is not None:
            self._idle[thread] = (turn.turn_id, self.clock_s)
        else:
            self._idle.pop(thread, None)

    def end_idle_turns(self, now_ns: int) -> None:
        """End the turns of threads that have been idle for so long that nothing more will come."""
        self.now_ns = now_ns
        for thread, (turn_id, since_s) in list(self._idle.items()):
            if self.clock_s - since_s < IDLE_S:
                continue
            del self._idle[thread]
            ended = self.turns.end(turn_id, "interrupted", now_ns)
            if ended is not None:
                self.effects.log("turn.end_not_said", thread=thread, turn=turn_id)
                self.end_turn(ended)
                for asked in self.server_requests.lose_turn(thread, ended.turn.context):
                    self.resolve(asked, "resolved")

    def check_turns(self, core: CoreSession) -> None:
        """A core that announces turns without end is faulty."""
        if core.turns > MAX_TURNS:
            self.effects.core_faulty(core, f"more than {MAX_TURNS} turns run at once")

    def may_ask(self, core: CoreSession) -> bool:
        """Whether a core may ask something more; one that asks without end is faulty."""
        if core.asked < MAX_ASKED:
            return True
        self.effects.core_faulty(core, f"more than {MAX_ASKED} requests are unanswered")
        return False

    def audience(self, thread: str) -> Iterable[Connection]:
        """Who hears what happens in a thread."""
        return self.initialized.values() if self.broadcast else self.subscribers.of(thread)

    def forget_thread(self, thread: str) -> None:
        """A thread is loaded nowhere any more: what ran and asked in it is over."""
        turn = self.turns.of_thread(thread)
        ended = None if turn is None else self.turns.end(turn.turn_id, "interrupted", self.now_ns)
        if ended is not None:
            self.end_turn(ended)
        for asked in self.server_requests.lose_thread(thread):
            self.resolve(asked, "resolved")
        self.subscribers.forget(thread)
        self.placement.forget(thread)
        self.turns.forget(thread)

    def resolve(self, asked: ServerRequest, why: str) -> None:
        """A server request needs no answer any more; tell whom it was put to."""
        self.end_span(approvals.record(asked, self.now_ns, why, None))
        self.approval_settled(asked)
        if asked.thread is None:
            return
        params = {"threadId": asked.thread, "requestId": asked.request_id}
        line = envelope.our_notification("serverRequest/resolved", params, self.now_ns)
        everybody = map(self.connections.get, sorted(asked.asked))
        audience = [each for each in everybody if each is not None]
        self.deliver(audience, "serverRequest/resolved", line)

    def not_started(self, pending: Pending) -> None:
        """A request that would have begun a turn, or loaded a thread, failed or is lost."""
        if pending.thread is not None and pending.span is not None:
            self.turns.not_started(pending.thread, pending.span)
        self.not_expected(pending)

    def not_expected(self, pending: Pending) -> None:
        """A request that was to load a thread is over."""
        if pending.expects and pending.thread is not None:
            pending.expects = False
            self.placement.expected_no_more(pending.thread)

    def refuse(self, pending: Pending, refusal: Refusal) -> None:
        """Answer a client's request with an error of ours, and end it."""
        connection = pending.connection
        if connection is not None:
            self.send(
                connection,
                codec.error(pending.id, refusal.code, refusal.message, refusal.data),
            )
        reason = None if refusal.data is None else refusal.data.get("reason")
        pending.ended_by = request_spans.ended_by(reason)
        self.settled(pending, error=refusal.code)

    def settled(
        self,
        pending: Pending,
        *,
        core: CoreSession | None = None,
        error: int | str | None = None,
        link: SpanContext | None = None,
        turn_id: str | None = None,
    ) -> None:
        """A client's request is over: free its place, end its span, measure it."""
        if pending.counted:
            pending.counted = False
            assert pending.connection is not None
            self.admission.release(pending.connection.load, pending.size)
        span = pending.span
        if span is None:
            return
        if self.wire is not None:
            key = None if pending.connection is None else pending.connection.key
            took_ns = self.now_ns - span.start_ns
            code = "" if error is None else str(error)
            self.wire.settled(pending.method, key, took_ns, pending.size, code)
        if pending.hop is not None:
            self.end_span(request_spans.end_hop(pending, pending.hop, self.now_ns, error))
        record = request_spans.end_request(
            pending,
            self.now_ns,
            core=None if core is None or core.url else core.index,
            error=error,
            link=link,
            turn_id=turn_id,
        )
        if record is not None:
            self.effects.end_span(record)
        duration_s = (self.now_ns - span.start_ns) / 1e9
        label = pending.traits.label
        if error is None:
            self.effects.call_ended(label, "", duration_s)
        else:
            self.effects.call_ended(label, str(error), duration_s)
            self._log_failure(pending, span.context, label, error)

    def _log_failure(
        self, pending: Pending, context: SpanContext, method: str, error: int | str
    ) -> None:
        self.effects.log(
            "request.failed",
            connection=None if pending.connection is None else pending.connection.key,
            method=method,
            error=error,
            trace_id=context.trace_id,
            span_id=context.span_id,
        )

    def ask(
        self,
        core: CoreSession,
        method: str,
        params: bytes,
        then: Callable[[CoreMessage | None], None],
        *,
        at_once: bool = False,
        lane: int = OUR_LANE,
    ) -> None:
        """Send a request of our own; `then` takes the answer, None when the core is lost.

        Args:
            core: Whom to ask.
            method: What.
            params: JSON.
            then: Called once.
            at_once: Past the queue, for a core that is not open to others yet.
            lane: Whom it is for: it waits, and is forgotten, with what that connection asked.
        """
        pending = Pending(None, b"null", methods.traits(method), len(params), then=then, lane=lane)
        pending.windowed = not at_once
        core_id = core.router.admit(pending)
        line = envelope.request(core_id, pending.traits.json, params)
        if at_once or core.queue.pass_through(True, lane):  # noqa: FBT003 - as declared
            self.effects.write(core, line)
        elif core.queue.put(lane, line, counts=True, core_id=core_id) is None:
            core.router.wait(core_id)
            self.pump(core)
        else:
            core.router.settle(core_id)
            then(None)

    def pump(self, core: CoreSession) -> None:
        """Give a core what waits for it, as far as window and pipe allow."""
        queue = core.queue
        while len(queue) and (lines := queue.take(PUMP_BYTES)):
            for line in lines:
                self.effects.write(core, line)
                core_id = envelope.request_id(line)
                if core_id is not None:
                    core.router.sent(core_id)

    def end_turn(self, ended: EndedTurn) -> None:
        """Export what ended with a turn, and measure it."""
        for record in ended.records:
            self.effects.end_span(record)
        if not ended.turn.core.url:
            self.effects.turn_ended(ended, self.now_ns)
        self.overview.turn_ended(ended, self.now_ns)

    def too_large(self, connection: Connection, head: bytes, limit_bytes: int) -> None:
        """Answer a message that is over the limit; the connection lives."""
        refused = refusal.too_large(limit_bytes)
        answer = codec.error(codec.id_in_head(head), refused.code, refused.message, refused.data)
        self.send(connection, answer)
        self.effects.call_ended("_OTHER", str(refused.code), 0.0)

    def observed(self, ended: Ended) -> None:
        """Export and measure what ended with a notification."""
        match ended:
            case EndedTurn():
                self.end_turn(ended)
            case EndedTool():
                self.effects.tool_ended(ended.name, ended.error, ended.duration_s)
                self.end_span(ended.record)
            case _:
                self.end_span(ended)

    def end_span(self, record: SpanRecord | None) -> None:
        """Export a span, if it is sampled."""
        if record is not None:
            self.effects.end_span(record)
