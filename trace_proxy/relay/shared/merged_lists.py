"""One list out of several cores: `thread/loaded/list` is the union, `thread/list` is one's.

Cores of a pool share a store, so each lists the same threads; but only a thread's home
knows its status, so what others say of it is corrected. Loaded threads are sorted by
id and paged by us: a cursor is the last id given out, and stays valid as threads come
and go.
"""

from typing import Final

import msgspec
from msgspec import UNSET, Raw

from core_server.jsonrpc import codec
from trace_proxy.protocol import envelope, refusal
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.relay.board import Board
from trace_proxy.state.connection import Pending
from trace_proxy.state.core_session import CoreSession, CoreState

LOADED: Final = "thread/loaded/list"
_encode = msgspec.json.Encoder().encode
_Document = dict[str, Raw]


class _Page(msgspec.Struct):
    cursor: str | None = None
    limit: int | None = None


class _Loaded(msgspec.Struct):
    data: list[str]


class _Listed(msgspec.Struct):
    id: str


class _Found(msgspec.Struct):
    thread: Raw


class MergedLists:
    """Requests that concern all cores."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def ask(self, pending: Pending, params: bytes | None) -> None:
        """Ask whom it takes, answer when all have answered."""
        connection = pending.connection
        assert connection is not None
        cores = [core for core in self._board.cores if core.state is CoreState.READY]
        if not cores:
            self._board.refuse(pending, refusal.NO_CORE)
            return
        connection.in_flight[id(pending)] = pending
        if pending.method == LOADED:
            self._ask_all(pending, params, cores, connection.key)
        else:
            core = min(cores, key=lambda each: each.load)
            self._ask_one(pending, params, core, connection.key)

    def _ask_one(
        self, pending: Pending, params: bytes | None, core: CoreSession, lane: int
    ) -> None:
        def answered(message: CoreMessage | None) -> None:
            if message is None or message.result is UNSET:
                self._fail(pending, message)
            else:
                self._finish(pending, self._corrected(bytes(message.result), core))

        self._board.ask(core, pending.method, params or b"{}", answered, lane=lane)

    def _ask_all(
        self, pending: Pending, params: bytes | None, cores: list[CoreSession], lane: int
    ) -> None:
        answers: list[CoreMessage | None] = []

        def answered(message: CoreMessage | None) -> None:
            answers.append(message)
            if len(answers) < len(cores):
                return
            results = [each.result for each in answers if each is not None and each.result]
            if results:
                found = {thread for each in results for thread in _loaded(each)}
                self._finish(pending, _page(sorted(found), params))
            else:
                self._fail(pending, next((each for each in answers if each is not None), None))

        for core in cores:
            self._board.ask(core, LOADED, b"{}", answered, lane=lane)

    def _finish(self, pending: Pending, result: bytes) -> None:
        connection = pending.connection
        if connection is not None:
            del connection.in_flight[id(pending)]
            self._board.send(connection, codec.result(pending.id, result))
            self._board.settled(pending)

    def _fail(self, pending: Pending, message: CoreMessage | None) -> None:
        """Hand on a core's error; None: no core is left to say anything."""
        connection = pending.connection
        if connection is None:
            return
        del connection.in_flight[id(pending)]
        if message is None:
            self._board.refuse(pending, refusal.NO_CORE)
        else:
            self._board.send(connection, envelope.answer(pending.id, message))
            self._board.settled(pending, error=envelope.error_code(message))

    def _corrected(self, result: bytes, asked: CoreSession) -> bytes:
        """Put the right status on threads whose home is another core."""
        try:
            document = msgspec.json.decode(result, type=_Document)
            threads = msgspec.json.decode(document["data"], type=list[Raw])
            threads = [self._with_status(thread, asked) for thread in threads]
        except (msgspec.DecodeError, KeyError):
            return result
        document["data"] = Raw(_encode(threads))
        return _encode(document)

    def _with_status(self, listed: Raw, asked: CoreSession) -> Raw:
        """An entry of `thread/list`, or one of `thread/search`, which holds a thread."""
        try:
            return self._corrected_thread(listed, asked)
        except msgspec.ValidationError:
            thread = msgspec.json.decode(listed, type=_Found).thread
        corrected = bytes(self._corrected_thread(thread, asked))
        return Raw(envelope.with_member(bytes(listed), "thread", corrected))

    def _corrected_thread(self, thread: Raw, asked: CoreSession) -> Raw:
        thread_id = msgspec.json.decode(thread, type=_Listed).id
        home = self._board.placement.home(thread_id)
        if home is None or home is asked:
            return thread
        status: dict[str, object] = {"type": "idle"}
        if self._board.turns.of_thread(thread_id) is not None:
            waits = bool(self._board.server_requests.of_thread(thread_id))
            status = {"type": "active", "activeFlags": ["waitingOnApproval"] if waits else []}
        return Raw(envelope.with_member(bytes(thread), "status", _encode(status)))


def _loaded(result: Raw) -> list[str]:
    try:
        return msgspec.json.decode(result, type=_Loaded).data
    except msgspec.DecodeError:
        return []


def _page(threads: list[str], params: bytes | None) -> bytes:
    """The part of the union that was asked for."""
    try:
        asked = msgspec.json.decode(params or b"{}", type=_Page)
    except msgspec.DecodeError:
        asked = _Page()
    if asked.cursor is not None:
        threads = [each for each in threads if each > asked.cursor]
    page = threads if asked.limit is None else threads[: max(asked.limit, 1)]
    more = len(page) < len(threads)
    return _encode({"data": page, "nextCursor": page[-1] if more else None})
