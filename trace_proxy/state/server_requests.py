"""Requests of a core to its clients, approvals above all: asked of many, answered once.

    core asks -> PENDING --first answer of a subscriber--> ANSWERED --resolved | core lost--> gone
                    ^ a late subscriber is asked too (replay)

Clients see an id of ours, the same on every connection. An answer counts when its
sender was asked, the id has the right type, and the core still lives in the epoch
that asked. A disconnect settles nothing: another subscriber may still answer.
"""

from typing import Final

import msgspec

from trace_proxy.context.span_record import SpanContext
from trace_proxy.protocol import envelope
from trace_proxy.state.connection import Connection
from trace_proxy.state.core_session import CoreSession

ANSWERED_KEPT: Final = 1024
"""Answered requests whose `serverRequest/resolved` has not come; cores send it at once."""


class ServerRequest(msgspec.Struct):
    """A server request.

    Attributes:
        request_id: Ours, an integer, the same on every connection.
        core: Who asked.
        core_id: Its id there, a string or an integer.
        method: E.g. `item/commandExecution/requestApproval`.
        params: JSON.
        thread: Whose it is, None when it concerns no thread.
        context: Its span's.
        parent: The tool or turn it belongs to.
        start_ns: When it was first asked.
        asked: Keys of the connections that have seen it and are still there.
        times: How many have seen it.
        repeats: How often its core may ask it again, since its thread was resumed so often.
        label: Its method where another protocol than the app-server's knows it.
    """

    request_id: int
    core: CoreSession
    core_id: int | str
    method: str
    params: bytes
    thread: str | None
    context: SpanContext
    parent: SpanContext | None
    start_ns: int
    asked: set[int] = msgspec.field(default_factory=set)
    times: int = 0
    repeats: int = 0
    label: str = ""

    def ask(self, connection: Connection) -> bool:
        """Note that a connection is asked; False when it was before."""
        if connection.key in self.asked:
            return False
        self.asked.add(connection.key)
        self.times += 1
        return True

    def message(self) -> bytes:
        """The request as clients see it."""
        return envelope.server_request(self.request_id, self.method, self.params)


class _Answered(msgspec.Struct):
    """A request that was answered, until its core says that it has seen the answer.

    Attributes:
        request_id: Ours.
        thread: Whose it was.
        repeats: As while it was pending; a repeat may cross the answer.
    """

    request_id: int
    thread: str | None
    repeats: int


class ServerRequests:
    """All server requests of all cores."""

    __slots__ = ("_answered", "_by_core", "_by_thread", "_next_id", "_pending")

    def __init__(self) -> None:
        self._pending: dict[int, ServerRequest] = {}
        self._by_thread: dict[str | None, dict[int, ServerRequest]] = {}
        self._by_core: dict[tuple[int, int | str], ServerRequest] = {}
        self._answered: dict[tuple[int, int | str], _Answered] = {}
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._pending)

    def __repr__(self) -> str:
        return f"<ServerRequests pending={len(self._pending)}>"

    def next_id(self) -> int:
        """An id that no client has seen."""
        self._next_id += 1
        return self._next_id - 1

    def known(self, core: CoreSession, core_id: int | str) -> ServerRequest | None:
        """A pending request that a core asks again (on a second `thread/resume`)."""
        request = self._by_core.get((core.index, core_id))
        if request is not None and request.repeats:
            request.repeats -= 1
        return request

    def resumed(self, thread: str) -> None:
        """A thread was resumed: its core asks again what it believes to be unanswered."""
        for request in self.of_thread(thread):
            request.repeats += 1
        for answered in self._answered.values():
            if answered.thread == thread:
                answered.repeats += 1

    def repeated(self, core: CoreSession, core_id: int | str) -> bool:
        """Whether a request only repeats one whose answer is on its way; true once each."""
        answered = self._answered.get((core.index, core_id))
        if answered is None or not answered.repeats:
            return False
        answered.repeats -= 1
        return True

    def open(self, request: ServerRequest) -> None:
        """Enter a request."""
        self._pending[request.request_id] = request
        request.core.asked += 1
        self._by_thread.setdefault(request.thread, {})[request.request_id] = request
        self._by_core[request.core.index, request.core_id] = request

    def of_thread(self, thread: str | None) -> list[ServerRequest]:
        """What is pending in a thread (None: in no thread), oldest first."""
        return list(self._by_thread.get(thread, {}).values())

    def leave(self, connection: Connection) -> None:
        """A connection has left; what it was asked stays pending, others may answer."""
        for thread in (None, *connection.threads):
            for request in self._by_thread.get(thread, {}).values():
                request.asked.discard(connection.key)

    def pending(self) -> list[ServerRequest]:
        """All that is pending, oldest first."""
        return list(self._pending.values())

    def answer(self, request_id: bytes, connection: Connection) -> ServerRequest | None:
        """The first answer of somebody who was asked; None for every other."""
        if not request_id.isdigit():
            return None
        request = self._pending.get(int(request_id))
        if request is None or connection.key not in request.asked:
            return None
        if request.thread is not None and request.thread not in connection.threads:
            return None
        self._remove(request)
        answered = _Answered(request.request_id, request.thread, request.repeats)
        self._answered[request.core.index, request.core_id] = answered
        if len(self._answered) > ANSWERED_KEPT:
            del self._answered[next(iter(self._answered))]
        return request

    def resolved(self, core: CoreSession, core_id: int | str) -> tuple[int, ServerRequest | None]:
        """A core says `serverRequest/resolved`.

        Returns:
            Our id of it (-1 when there is none), and the request if nobody answered it:
            the core settled it itself, by an interrupt or because it expired.
        """
        answered = self._answered.pop((core.index, core_id), None)
        request = self._by_core.get((core.index, core_id))
        if request is not None:
            self._remove(request)
            return request.request_id, request
        return (-1 if answered is None else answered.request_id), None

    def lose(self, core: CoreSession) -> list[ServerRequest]:
        """The core is gone, and with it all that it asked."""
        lost = [each for each in self._pending.values() if each.core is core]
        for request in lost:
            self._remove(request)
        for key in [key for key in self._answered if key[0] == core.index]:
            del self._answered[key]
        return lost

    def lose_turn(self, thread: str, turn: SpanContext) -> list[ServerRequest]:
        """The turn is over, and its core said nothing of what it had asked."""
        lost = [
            each
            for each in self.of_thread(thread)
            if each.parent is not None and each.parent.trace_id == turn.trace_id
        ]
        for request in lost:
            self._remove(request)
        return lost

    def lose_thread(self, thread: str) -> list[ServerRequest]:
        """The thread is gone, and with it all that it asked."""
        lost = self.of_thread(thread)
        for request in lost:
            self._remove(request)
        return lost

    def _remove(self, request: ServerRequest) -> None:
        del self._pending[request.request_id]
        request.core.asked -= 1
        here = self._by_thread[request.thread]
        del here[request.request_id]
        if not here:
            del self._by_thread[request.thread]
        del self._by_core[request.core.index, request.core_id]
