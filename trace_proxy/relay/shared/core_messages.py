"""What a core says unasked: notifications to who should hear them, requests to who may answer.

Lines travel on as they came. The few that are rewritten hold an id or a handle that
clients know by another name.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from msgspec import UNSET

from trace_proxy.protocol import envelope, methods, shapes
from trace_proxy.protocol.envelope import CoreMessage, Routing
from trace_proxy.relay.board import Board
from trace_proxy.relay.shared.initialize import GREETING_NOTIFICATIONS, Greetings
from trace_proxy.spans import approvals
from trace_proxy.spans import requests as request_spans
from trace_proxy.spans.turns import OBSERVED, EndedTurn
from trace_proxy.state import handles
from trace_proxy.state.connection import Connection
from trace_proxy.state.core_session import CoreSession
from trace_proxy.state.server_requests import ServerRequest

_RESOLVED: Final = "serverRequest/resolved"
_AGENT_DELTA: Final = "item/agentMessage/delta"
_USAGE: Final = "thread/tokenUsage/updated"
_MODEL_CALL: Final = "rawResponse/completed"
_SETTINGS: Final = "thread/settings/updated"

_SPECIAL: Final = (
    OBSERVED
    | GREETING_NOTIFICATIONS
    | methods.REPLAYED_TO_REQUESTER
    | methods.UNLOADING
    | frozenset(methods.HANDLES)
    | methods.TOLD_TO_ASKER
    | {_RESOLVED, _SETTINGS, "thread/status/changed"}
)


_NOWHERE: Final = Routing()
"""Params that say nothing of threads and turns."""


class CoreMessages:
    """Notifications and requests of cores.

    Attributes:
        run: Equal notifications that wait for `deliver_run`.
    """

    def __init__(self, board: Board, greetings: Greetings, follow: Callable[[str], bool]) -> None:
        self._board = board
        self._follow = follow
        self._greetings = greetings
        self.run: list[bytes] = []
        self._run_method = ""
        self._run_params = _NOWHERE
        self._run_relayed = False

    def notification(self, core: CoreSession, message: CoreMessage, line: bytes) -> None:
        """Deliver a notification; takes note of what it says about turns and threads.

        A run of equal ones (a turn that streams) waits for `deliver_run`, to be delivered
        together.
        """
        method, params = message.method, message.params
        assert method is not UNSET
        if type(params) is not Routing:
            params = _NOWHERE
        run = self._run_params
        if (
            self.run
            and method == self._run_method
            and params.thread_id == run.thread_id
            and params.turn_id == run.turn_id
        ):
            self.run.append(line)
        else:
            self.deliver_run()
            if method in _SPECIAL:
                self._special(core, message, line)
                return
            self.run, self._run_method, self._run_params = [line], method, params
            self._run_relayed = core.url != ""
        if method == _AGENT_DELTA and type(params.turn_id) is str and params.delta is not UNSET:
            self._board.turns.delta(params.turn_id, params.delta, self._board.now_ns)

    def deliver_run(self) -> None:
        """Deliver what waits, before anything else is."""
        if self.run:
            run, self.run = self.run, []
            audience = self._audience(
                self._run_method, self._run_params, relayed=self._run_relayed
            )
            self._board.deliver(audience, self._run_method, *run)

    def _audience(self, method: str, params: object, *, relayed: bool) -> Iterable[Connection]:
        """Who hears it; what another host has told is told to no other host, or it goes round."""
        audience = self._listeners(method, params)
        return [each for each in audience if not each.peer.hop] if relayed else audience

    def _listeners(self, method: str, params: object) -> Iterable[Connection]:
        board = self._board
        if (
            not board.broadcast
            and isinstance(params, Routing)
            and isinstance(params.thread_id, str)
            and method not in methods.EVERYBODY
        ):
            return board.subscribers.of(params.thread_id)
        if board.fleet and isinstance(params, Routing) and isinstance(params.thread_id, str):
            subscribed = board.subscribers.of(params.thread_id)
            hops = [each for each in subscribed if each.peer.hop]
            return [*board.initialized.values(), *hops]
        return board.initialized.values()

    def _special(self, core: CoreSession, message: CoreMessage, line: bytes) -> None:
        board, method = self._board, message.method
        assert method is not UNSET
        audience = self._audience(method, message.params, relayed=core.url != "")
        if method in OBSERVED:
            self._observe(core, message, line, audience)
        elif method == _RESOLVED:
            self._resolved(core, line, audience)
        elif method in methods.HANDLES:
            self._to_owner(method, line)
        elif method in methods.TOLD_TO_ASKER:
            self._to_asker(core, method, line)
        elif method in methods.REPLAYED_TO_REQUESTER:
            board.deliver(self._requesters(core) or audience, method, line)
        elif core.url and method in GREETING_NOTIFICATIONS:
            pass  # of another host's core: our clients have heard our own's
        elif method not in GREETING_NOTIFICATIONS or self._greetings.keep(method, line):
            board.deliver(audience, method, line)
            if isinstance(message.params, Routing) and isinstance(message.params.thread_id, str):
                self._note(core, message.params.thread_id, method, line)

    def _observe(
        self,
        core: CoreSession,
        message: CoreMessage,
        line: bytes,
        audience: Iterable[Connection],
    ) -> None:
        """Show turns and tools what they are to see, before it is delivered."""
        board, method = self._board, message.method
        assert method is not UNSET
        if method == _USAGE:
            audience = self._usage_audience(message.params, audience)
        ended = board.turns.observe(line, core, board.now_ns)
        board.check_turns(core)
        if method != _MODEL_CALL or not _is_unasked(line):
            board.deliver(audience, method, line)
        board.observed(ended)
        if isinstance(ended, EndedTurn):
            for asked in board.server_requests.lose_turn(ended.turn.thread, ended.turn.context):
                board.resolve(asked, "resolved")

    def _usage_audience(
        self, params: object, audience: Iterable[Connection]
    ) -> Iterable[Connection]:
        """What is repeated after a resume is for who resumed; what a turn uses is for all."""
        board = self._board
        if not isinstance(params, Routing) or not isinstance(params.thread_id, str):
            return audience
        if isinstance(params.turn_id, str) and board.turns.get(params.turn_id) is not None:
            return audience
        repeated_for = board.subscribers.replayed(params.thread_id)
        return audience if repeated_for is None else repeated_for

    def _note(self, core: CoreSession, thread: str, method: str, line: bytes) -> None:
        """Learn the model of a thread, and that it is loaded nowhere any more."""
        board = self._board
        if method == _SETTINGS:
            model = _model(line)
            if model:
                board.turns.loaded(thread, model=model)
            return
        status = "" if method in methods.UNLOADING else shapes.status_of(envelope.params_of(line))
        if status:
            board.status_changed(thread, status)
        if board.placement.home(thread) in (None, core) and (
            method in methods.UNLOADING or (status == "notLoaded" and not self._moved(thread))
        ):
            board.forget_thread(thread)

    def _moved(self, thread: str) -> bool:
        """In a fleet it may be loaded elsewhere now: whoever hears it goes there.

        Other hosts have just heard it, too, and go there by themselves.
        """
        self._board.subscribers.leave_hops(thread)
        if not self._follow(thread):
            return False
        board = self._board
        for asked in board.server_requests.lose_thread(thread):
            board.resolve(asked, "resolved")
        board.placement.forget(thread)
        return True

    def _requesters(self, core: CoreSession) -> list[Connection]:
        """Whose history requests are in flight at this core."""
        return [
            each.connection
            for each in core.router.requests()
            if each.method in methods.HISTORY and each.connection is not None
        ]

    def _to_owner(self, method: str, line: bytes) -> None:
        owned = handles.owner(method, envelope.params_of(line))
        connection = None if owned is None else self._board.connections.get(owned[0])
        if owned is None or connection is None:
            self._board.effects.notification_dropped()
            return
        _, handle, params = owned
        self._board.deliver((connection,), method, envelope.replace_params(line, params))
        if method in methods.HANDLE_ENDS:
            connection.handles.pop((methods.HANDLES[method].opens, handle), None)

    def _to_asker(self, core: CoreSession, method: str, line: bytes) -> None:
        """Part of an answer: for who asked, under his id of the request."""
        params = envelope.params_of(line)
        named = envelope.named_request(params)
        asked = None if named is None else core.router.get(named)
        if asked is None or asked.connection is None:
            self._board.effects.notification_dropped()
            return
        renamed = envelope.with_member(params, "requestId", asked.id)
        told = envelope.replace_params(line, renamed)
        self._board.deliver((asked.connection,), method, told)

    def _resolved(self, core: CoreSession, line: bytes, audience: Iterable[Connection]) -> None:
        """Tell it under the id that clients know."""
        board = self._board
        params = envelope.params_of(line)
        try:
            core_id = shapes.RESOLVED.decode(params).request_id
        except msgspec.DecodeError:
            return
        ours, unanswered = board.server_requests.resolved(core, core_id)
        if unanswered is not None:
            board.end_span(approvals.record(unanswered, board.now_ns, "resolved", None))
            board.approval_settled(unanswered)
        if ours >= 0:
            renamed = envelope.with_member(params, "requestId", b"%d" % ours)
            board.deliver(audience, _RESOLVED, envelope.replace_params(line, renamed))

    def request(self, core: CoreSession, message: CoreMessage, line: bytes) -> None:
        """Ask those who may answer; remember it for who comes later."""
        board = self._board
        assert message.id is not UNSET
        assert message.method is not UNSET
        asked = board.server_requests.known(core, message.id)
        if asked is None:
            if board.server_requests.repeated(core, message.id):
                return
            if not board.may_ask(core):
                return
            asked = self._open(core, message, line)
        if asked.thread is None:
            audience: Iterable[Connection] = board.initialized.values()
        else:
            audience = board.subscribers.of(asked.thread)
        for connection in audience:
            if not (core.url and connection.peer.hop) and asked.ask(connection):
                question = asked.message()
                board.send(connection, question)
                if board.wire is not None:
                    board.wire.told(asked.method, [connection.key], [len(question)])

    def _open(self, core: CoreSession, message: CoreMessage, line: bytes) -> ServerRequest:
        board, params = self._board, message.params
        assert message.id is not UNSET
        assert message.method is not UNSET
        routing = params if isinstance(params, Routing) else Routing()
        thread, item = routing.thread_id, routing.item_id
        if not isinstance(thread, str):
            thread, item = _first_version(line)
        parent = board.turns.asker(thread, item)
        context = request_spans.below(parent, methods.server_label(message.method), board.ids)
        if core.url:  # its span is made where the turn runs
            context = msgspec.structs.replace(context, flags=context.flags & ~1)
        asked = ServerRequest(
            board.server_requests.next_id(),
            core,
            message.id,
            message.method,
            envelope.params_of(line),
            thread,
            context,
            parent,
            board.now_ns,
        )
        board.server_requests.open(asked)
        board.approval_asked(asked)
        return asked


def _first_version(line: bytes) -> tuple[str | None, str | None]:
    """The thread and the item of an approval of the protocol's first version."""
    try:
        found = shapes.FIRST_VERSION.decode(envelope.params_of(line))
    except msgspec.DecodeError:
        return None, None
    return found.conversation_id, found.call_id


def _is_unasked(line: bytes) -> bool:
    try:
        return shapes.MODEL_CALLED.decode(envelope.params_of(line)).unasked
    except msgspec.DecodeError:
        return False


def _model(line: bytes) -> str:
    try:
        return shapes.SETTINGS_UPDATED.decode(envelope.params_of(line)).thread_settings.model
    except msgspec.DecodeError:
        return ""
