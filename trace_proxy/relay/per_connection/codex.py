"""The app-server behind one client: threads and turns, seen from the wire.

Also what is assumed of a program that has not said yet what it is: its names are these
or unknown, and what looks like a turn is one.
"""

from typing import Final

import msgspec
from msgspec import UNSET

from core_server.jsonrpc import codec
from core_server.jsonrpc.messages import Message
from trace_proxy.context.span_record import SpanContext
from trace_proxy.protocol import envelope, methods, shapes
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.relay.per_connection.pairs import INTERRUPT_KEY
from trace_proxy.relay.per_connection.watch import FINE, Verdict, Watch
from trace_proxy.spans import approvals
from trace_proxy.spans import requests as request_spans
from trace_proxy.spans.turn_spans import Turn
from trace_proxy.spans.turns import OBSERVED
from trace_proxy.state.connection import Pending

_AGENT_DELTA: Final = "item/agentMessage/delta"


class CodexWatch(Watch):
    """See the module."""

    METHODS = methods.KNOWN
    SERVER_REQUESTS = methods.SERVER_REQUESTS
    NEW_WORK = methods.NEW_WORK
    HEADERS = None

    def traits(self, method: str, params: bytes | None) -> methods.Traits:  # noqa: ARG002 - as it is
        """As the app-server's are."""
        return methods.traits(method)

    def about(self, pending: Pending, params: bytes | None) -> None:
        """Which thread."""
        pending.thread = envelope.thread_of(params)

    def sent(self, pending: Pending) -> None:
        """A turn may begin before its request is answered."""
        if pending.method == "turn/start" and pending.thread is not None:
            assert pending.span is not None
            self.board.turns.starter(pending.thread, pending.span)

    def answered(self, pending: Pending, message: CoreMessage) -> Verdict:
        """Learn which threads and turns there are."""
        if message.result is UNSET:
            self.board.not_started(pending)
            return FINE
        return self._note(pending, bytes(message.result))

    def _note(self, pending: Pending, result: bytes) -> Verdict:
        board, pair, span = self.board, self.pair, pending.span
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
                return Verdict(turn_id=turn_id)
        except msgspec.DecodeError:  # another protocol with a method of that name
            board.not_started(pending)
        return FINE

    def lost(self, pending: Pending, why: str) -> None:  # noqa: ARG002 - all the same
        """No turn begins."""
        self.board.not_started(pending)

    def heard(self, message: Message, params: bytes, line: bytes) -> None:
        """Notice what a notification says of turns and tools."""
        board, method = self.board, message.method
        if method == _AGENT_DELTA:
            routing = envelope.routing(params)
            if isinstance(routing.turn_id, str) and routing.delta is not UNSET:
                board.turns.delta(routing.turn_id, routing.delta, board.now_ns)
        elif method in OBSERVED:
            board.observed(board.turns.observe(line, self.pair.core, board.now_ns))
            board.check_turns(self.pair.core)
        elif method == "thread/status/changed":
            thread = envelope.routing(params).thread_id
            if isinstance(thread, str):
                board.status_changed(thread, shapes.status_of(params))
        elif method == "thread/closed":
            thread = envelope.routing(params).thread_id
            if isinstance(thread, str) and board.subscribers.remove(thread, self.pair.connection):
                board.turns.forget(thread)

    def server_label(self, method: str) -> str:  # noqa: ARG002 - as it is
        """As the app-server's are."""
        return ""

    def session_of(self, params: bytes) -> str | None:
        """The thread."""
        thread = envelope.routing(params).thread_id
        return thread if isinstance(thread, str) else None

    def asker(self, method: str, params: bytes) -> SpanContext | None:  # noqa: ARG002 - by params
        """The tool, else the turn."""
        return self.board.turns.asker(self.session_of(params), envelope.routing(params).item_id)

    def decision(self, method: str, params: bytes, result: bytes | None) -> str:  # noqa: ARG002 - by result
        """One of the protocol's words."""
        return approvals.decision(result)

    def deadline(self) -> list[bytes]:
        """Interrupt the turns that run here."""
        running = [turn for turn in self.board.turns if turn.core is self.pair.core]
        return [self.interrupt(turn) for turn in running]

    def interrupt(self, turn: Turn) -> bytes:
        """Ask a turn to end because of the drain, under the only id that is not a client's."""
        turn.ended_by = request_spans.DRAIN
        self.pair.interrupts += 1
        params = msgspec.json.encode({"threadId": turn.thread, "turnId": turn.turn_id})
        line = b'{"id":%b,"method":"turn/interrupt","params":%b}' % (INTERRUPT_KEY, params)
        return codec.with_version(line) if self.pair.connection.strict else line

    def ended(self, why: str) -> None:
        """What runs is interrupted."""
        board = self.board
        for turn in board.turns:
            if turn.core is self.pair.core:
                ended = board.turns.end(turn.turn_id, "interrupted", board.now_ns, why)
                if ended is not None:
                    board.end_turn(ended)
