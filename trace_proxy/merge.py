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
from trace_proxy import envelope, refusal
from trace_proxy.connection import Pending
from trace_proxy.core_session import CoreSession, CoreState
from trace_proxy.envelope import CoreMessage
from trace_proxy.switchboard import Switchboard

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


class Merge:
    """Requests that concern all cores."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board

    def ask(self, pending: Pending, params: bytes | None) -> None:
        """Ask whom it takes, answer when all have answered."""
        connection = pending.connection
        assert connection is not None
        cores = [core for core in self._board.cores if core.state is CoreState.READY]
        if not cores:
            self._board.refuse(pending, refusal.no_core())
            return
        connection.in_flight[id(pending)] = pending
        if pending.method == LOADED:
            self._ask_all(pending, params, cores)
        else:
            core = min(cores, key=lambda each: each.load)
            self._ask_one(pending, params, core)

    def _ask_one(self, pending: Pending, params: bytes | None, core: CoreSession) -> None:
        def answered(message: CoreMessage | None) -> None:
            if message is None:
                self._lost(pending)
            elif message.result is UNSET:
                self._finish(pending, envelope.answer(pending.id, message), failed=True)
            else:
                result = self._corrected(bytes(message.result), core)
                self._finish(pending, codec.result(pending.id, result))

        self._board.ask(core, pending.method, params or b"{}", answered)

    def _ask_all(self, pending: Pending, params: bytes | None, cores: list[CoreSession]) -> None:
        found: set[str] = set()
        left = len(cores)

        def answered(message: CoreMessage | None) -> None:
            nonlocal left
            left -= 1
            if message is not None and message.result is not UNSET:
                found.update(_loaded(message.result))
            if left == 0:
                result = _page(sorted(found), params)
                self._finish(pending, codec.result(pending.id, result))

        for core in cores:
            self._board.ask(core, LOADED, b"{}", answered)

    def _lost(self, pending: Pending) -> None:
        if pending.connection is not None:
            del pending.connection.in_flight[id(pending)]
            self._board.refuse(pending, refusal.no_core())

    def _finish(self, pending: Pending, answer: bytes, *, failed: bool = False) -> None:
        connection = pending.connection
        if connection is None:
            return
        self._board.send(connection, answer)
        del connection.in_flight[id(pending)]
        self._board.settled(pending, error="merge" if failed else None)

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

    def _with_status(self, thread: Raw, asked: CoreSession) -> Raw:
        thread_id = msgspec.json.decode(thread, type=_Listed).id
        home = self._board.placement.home(thread_id)
        if home is None or home is asked:
            return thread
        running = self._board.turns.of_thread(thread_id)
        status = {"type": "idle"} if running is None else {"type": "active", "activeFlags": []}
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
