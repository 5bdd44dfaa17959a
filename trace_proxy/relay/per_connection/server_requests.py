"""What a client's own core asks its client, watched: one CLIENT span until it is settled.

    core asks -> PENDING --client answers | core resolves it | either is gone--> gone

The requests themselves pass through untouched; `server_requests` is the table.
"""

import msgspec
from msgspec import UNSET

from core_server.jsonrpc.messages import Message
from trace_proxy.protocol import envelope, methods
from trace_proxy.relay.board import Board
from trace_proxy.relay.per_connection.pairs import Pair, key_of
from trace_proxy.spans import approvals
from trace_proxy.spans import requests as request_spans
from trace_proxy.state.connection import Connection
from trace_proxy.state.core_session import CoreSession
from trace_proxy.state.server_requests import ServerRequest


class _Resolved(msgspec.Struct, rename="camel"):
    request_id: msgspec.Raw


_RESOLVED = msgspec.json.Decoder(_Resolved)


class PairRequests:
    """Server requests of cores that have one client each."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def opened(self, pair: Pair, key: bytes, message: Message) -> None:
        """A core asks; a second request with the same id takes the place of the first."""
        board = self._board
        assert message.method is not UNSET
        self._settle(pair, key, "other", None)
        params = b"null" if message.params is UNSET else bytes(message.params)
        routing = envelope.routing(params)
        thread = routing.thread_id if isinstance(routing.thread_id, str) else None
        parent = board.turns.asker(thread, routing.item_id)
        if parent is None:
            asker = pair.connection.context.default
            parent = asker.parent
            context = request_spans.child_of(
                asker, methods.server_label(message.method), board.ids
            )
        else:
            context = request_spans.below(parent, message.method, board.ids)
        asked = ServerRequest(
            board.server_requests.next_id(),
            pair.core,
            key.decode(),
            message.method,
            params,
            thread,
            context,
            parent,
            board.now_ns,
        )
        asked.ask(pair.connection)
        board.server_requests.open(asked)
        board.approval_asked(asked)

    def answered(self, pair: Pair, key: bytes, message: Message) -> None:
        """The client answered."""
        result = None if message.result is UNSET else bytes(message.result)
        self._settle(pair, key, approvals.decision(result), pair.connection)

    def resolved(self, pair: Pair, params: bytes) -> None:
        """The core says that a request is settled, perhaps before the client answered."""
        try:
            key = key_of(Message(id=_RESOLVED.decode(params).request_id))
        except msgspec.DecodeError:
            return
        if key is not None:
            self._settle(pair, key, "resolved", None)

    def lost(self, core: CoreSession, why: str) -> None:
        """The core or its client is gone."""
        for asked in self._board.server_requests.lose(core):
            self._end(asked, why, None)

    def _settle(self, pair: Pair, key: bytes, how: str, by: Connection | None) -> None:
        _, asked = self._board.server_requests.resolved(pair.core, key.decode())
        if asked is not None:
            self._end(asked, how, by)

    def _end(self, asked: ServerRequest, how: str, by: Connection | None) -> None:
        board = self._board
        board.end_span(approvals.record(asked, board.now_ns, how, by))
        board.approval_settled(asked)
