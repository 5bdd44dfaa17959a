"""The way of an answer back: settled once, to its asker, under its own id.

Some answers tell more than their asker: a thread now lives here, a turn now runs.
That is noted for connections that have left as well, because the core goes on.
"""

from collections.abc import Callable

import msgspec
from msgspec import UNSET

from trace_proxy.context.span_record import SpanContext
from trace_proxy.protocol import envelope, methods, refusal, shapes
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.relay.board import Board
from trace_proxy.spans.turn_spans import Turn
from trace_proxy.state import handles
from trace_proxy.state.connection import Connection, Pending
from trace_proxy.state.core_session import CoreSession


class Answers:
    """Responses of cores."""

    def __init__(
        self, board: Board, relay: Callable[[CoreSession, Pending, CoreMessage], bool]
    ) -> None:
        self._board = board
        self._relay = relay

    def take(self, core: CoreSession, message: CoreMessage) -> bool:
        """Hand a response to its asker; False when nobody asked (any more)."""
        assert message.id is not UNSET
        pending = core.router.settle(message.id)
        if pending is None:
            return False
        board = self._board
        if pending.windowed:
            core.queue.answered(pending.lane, pending.core_id)
        connection, link, turn_id, error = pending.connection, None, None, None
        if pending.then is not None:
            pending.then(message)
            return True
        if message.error is not UNSET:
            if pending.kept is not None and self._relay(core, pending, message):
                return True
            board.not_started(pending)
            error = envelope.error_code(message)
        elif pending.traits.tells:
            link, turn_id = self._note(core, pending, message)
        if pending.names is not None:
            self._note_handle(pending, pending.names, failed=error is not None)
        if connection is not None:
            self._hand_on(connection, pending, message)
            board.settled(pending, core=core, error=error, link=link, turn_id=turn_id)
        return True

    def unusable(self, core: CoreSession, core_id: int) -> None:
        """An answer came that cannot be read, or not be handed on: its request gets an error."""
        pending = core.router.settle(core_id)
        if pending is None:
            return
        board = self._board
        if pending.windowed:
            core.queue.answered(pending.lane, core_id)
        if pending.then is not None:
            pending.then(None)
            return
        board.not_started(pending)
        if pending.names is not None:
            self._note_handle(pending, pending.names, failed=True)
        if pending.connection is not None:
            board.refuse(pending, refusal.CORE_ANSWER)

    def _hand_on(self, connection: Connection, pending: Pending, message: CoreMessage) -> None:
        board = self._board
        answer = envelope.answer(pending.id, message)
        if pending.handle is not None:
            failed = message.error is not UNSET
            answer = handles.restore(answer, pending.handle, failed=failed)
        board.send(connection, answer)
        if pending.traits.tells and pending.method == "thread/resume" and message.error is UNSET:
            self._replay(pending)
        if board.content is not None and pending.span is not None:
            board.content.of_answer(pending.span, message)

    def _note(
        self, core: CoreSession, pending: Pending, message: CoreMessage
    ) -> tuple[SpanContext | None, str | None]:
        """Learn from an answer; returns the turn to link to and its id."""
        assert message.result is not UNSET
        board = self._board
        try:
            if pending.method == "turn/start":
                return self._turn_started(
                    core, pending, shapes.TURN.decode(message.result).turn.id
                )
            if pending.method in methods.SUBSCRIBING:
                self._thread_loaded(core, pending, shapes.THREAD.decode(message.result))
            elif pending.method == "review/start":
                self._review_started(core, pending, shapes.REVIEW.decode(message.result))
        except msgspec.DecodeError:
            board.not_started(pending)
            board.effects.log("core.answer_not_understood", core=core.index, method=pending.method)
        turn = board.turns.of_thread(pending.thread) if pending.thread else None
        if turn is None:
            return pending.about or (None, None)
        return turn.context, turn.turn_id

    def _thread_loaded(
        self, core: CoreSession, pending: Pending, result: shapes.ThreadResult
    ) -> None:
        board, thread = self._board, result.thread.id
        board.not_expected(pending)
        pending.thread = thread
        board.placement.place(thread, core)
        board.turns.loaded(
            thread, model=result.model, provider=result.provider, name=result.thread.agent
        )
        if pending.connection is not None:
            board.subscribers.add(thread, pending.connection)
        if pending.method == "thread/resume":
            board.subscribers.resumed(thread, pending.connection)
            board.server_requests.resumed(thread)

    def _review_started(
        self, core: CoreSession, pending: Pending, result: shapes.ReviewResult
    ) -> None:
        """A review may run in a thread of its own; who asked for it hears it."""
        board, thread, span = self._board, result.review_thread_id, pending.span
        if thread == pending.thread or board.turns.of_thread(thread) is not None:
            return
        board.not_started(pending)
        pending.thread = thread
        board.placement.place(thread, core)
        if span is not None:
            board.turns.starter(thread, span)
        if pending.connection is not None:
            board.subscribers.add(thread, pending.connection)

    def _turn_started(
        self, core: CoreSession, pending: Pending, turn_id: str
    ) -> tuple[SpanContext | None, str]:
        """A turn runs, unless it had been running: then this request joined it."""
        board, span = self._board, pending.span
        if board.fleet and pending.thread is not None and pending.connection is not None:
            # It may have been loaded by this very request, whose host before is gone.
            board.placement.place(pending.thread, core)
            board.subscribers.add(pending.thread, pending.connection)
        if core.url:  # the turn's spans are made where it runs
            return None, turn_id
        if span is None or span.turn is None or pending.thread is None:
            return None, turn_id
        turn = Turn(pending.thread, turn_id, core, span.turn, span.context, span.start_ns)
        context = board.turns.answered(turn, span)
        if context is None:  # it joined none
            session = pending.connection and pending.connection.session
            board.effects.log(
                "turn.started",
                thread=pending.thread,
                turn=turn_id,
                client=session.client_name if session else None,
                trace_id=turn.context.trace_id,
            )
        return context, turn_id

    def _note_handle(self, pending: Pending, name: tuple[str, str], *, failed: bool) -> None:
        """Forget a handle that was not opened, or is closed."""
        family = methods.HANDLES[pending.method]
        opens = pending.method == family.opens
        over = failed or family.scoped_to_request if opens else not failed
        if over and pending.connection is not None:
            pending.connection.handles.pop(name, None)

    def _replay(self, pending: Pending) -> None:
        """Ask the late subscriber what others have been asked already."""
        connection, thread = pending.connection, pending.thread
        assert connection is not None
        for asked in self._board.server_requests.of_thread(thread):
            if asked.ask(connection):
                self._board.send(connection, asked.message())
