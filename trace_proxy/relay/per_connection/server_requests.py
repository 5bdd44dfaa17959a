"""What a client's own core asks its client, watched: one CLIENT span until it is settled.

    core asks -> PENDING --client answers | core resolves it | either is gone--> gone

The requests themselves pass through untouched; `server_requests` is the table.
"""

import msgspec
from msgspec import UNSET

from core_server.jsonrpc.messages import Message
from trace_proxy.protocol import methods
from trace_proxy.relay.board import Board
from trace_proxy.relay.per_connection.pairs import Pair, key_of
from trace_proxy.relay.per_connection.watch import Watch
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

    def opened(self, watch: Watch, key: bytes, message: Message) -> None:
        """A core asks; a second request with the same id takes the place of the first."""
        board, pair = self._board, watch.pair
        assert message.method is not UNSET
        self._settle(pair, key, "other", None)
        if not board.may_ask(pair.core):
            return
        params = b"null" if message.params is UNSET else bytes(message.params)
        label = watch.server_label(message.method)
        parent = watch.asker(message.method, params)
        if parent is None:
            asker = pair.connection.context.default
            parent = asker.parent
            name = label or methods.server_label(message.method)
            context = request_spans.child_of(asker, name, board.ids)
        else:
            context = request_spans.below(parent, message.method, board.ids)
        asked = ServerRequest(
            board.server_requests.next_id(),
            pair.core,
            key.decode(),
            message.method,
            params,
            watch.session_of(params),
            context,
            parent,
            board.now_ns,
            label=label,
        )
        asked.ask(pair.connection)
        board.server_requests.open(asked)
        board.approval_asked(asked)
        watch.waits(asked, +1)

    def answered(self, watch: Watch, key: bytes, message: Message) -> None:
        """The client answered."""
        pair = watch.pair
        _, asked = self._board.server_requests.resolved(pair.core, key.decode())
        if asked is None:
            return
        watch.waits(asked, -1)
        result = None if message.result is UNSET else bytes(message.result)
        decided = watch.decision(asked.method, asked.params, result)
        self._end(asked, decided, pair.connection, result or b"")

    def resolved(self, watch: Watch, params: bytes) -> None:
        """The core says that a request is settled, perhaps before the client answered."""
        try:
            key = key_of(Message(id=_RESOLVED.decode(params).request_id))
        except msgspec.DecodeError:
            return
        if key is not None:
            self._settle(watch.pair, key, "resolved", None)

    def lost(self, core: CoreSession, why: str) -> None:
        """The core or its client is gone."""
        for asked in self._board.server_requests.lose(core):
            self._end(asked, why, None)

    def _settle(self, pair: Pair, key: bytes, how: str, by: Connection | None) -> None:
        _, asked = self._board.server_requests.resolved(pair.core, key.decode())
        if asked is not None:
            self._end(asked, how, by)

    def _end(
        self, asked: ServerRequest, how: str, by: Connection | None, answer: bytes = b""
    ) -> None:
        board = self._board
        record = approvals.record(asked, board.now_ns, how, by)
        if board.content is not None and record is not None:
            board.content.of_approval(record, asked.params, answer)
        board.end_span(record)
        board.approval_settled(asked)
