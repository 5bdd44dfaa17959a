"""What is understood of one client and its core, by the protocol that they speak.

`passthrough` passes messages on and tells a watch of each; a watch knows what they are
called, which of them are work, and whose child a span is. It sends nothing itself: what
a program is told at the drain's deadline, and when it has to go, it only says.
Here is what holds for all protocols; `codex`, `acp`, `mcp` and `lsp` know more.
"""

from typing import ClassVar

from core_server.jsonrpc.messages import Message
from trace_proxy.context.span_record import SpanContext
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.protocol.methods import Traits, foreign
from trace_proxy.relay.board import Board
from trace_proxy.relay.per_connection.pairs import Pair
from trace_proxy.state.connection import Pending
from trace_proxy.state.server_requests import ServerRequest


class Verdict:
    """What an answer means for its request's span.

    Attributes:
        error: Why it failed although it has a result; empty: it did not.
        turn_id: The turn that it began.
    """

    __slots__ = ("error", "turn_id")

    def __init__(self, error: str = "", turn_id: str | None = None) -> None:
        self.error = error
        self.turn_id = turn_id


FINE = Verdict()


class Watch:
    """One client and its core.

    Args:
        board: What all watches share.
        pair: Whom it watches.
        targets: What stands in span names though clients or programs choose it; all watches
            share it, and together they add only so many.
    """

    METHODS: ClassVar[frozenset[str]] = frozenset()
    """What clients ask, by name; anything else shows as `_OTHER`."""

    SERVER_REQUESTS: ClassVar[frozenset[str]] = frozenset()
    """What programs ask."""

    NEW_WORK: ClassVar[frozenset[str]] = frozenset()
    """Refused while draining."""

    WATCHED: ClassVar[frozenset[str]] = frozenset()
    """Those whose requests are told to `about`, `sent`, `answered` and `lost`."""

    CARRIES_CONTEXT: ClassVar[bool] = False
    """Whether requests that are known by name are handed on with a context in `_meta`."""

    HEADERS: ClassVar[bool | None] = False
    """Whether its programs speak messages behind headers, and no lines; None: who knows."""

    def __init__(self, board: Board, pair: Pair, targets: set[str]) -> None:
        self.board = board
        self.pair = pair
        self.targets = targets
        self._traits: dict[str, Traits] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pair!r}>"

    def traits(self, method: str, params: bytes | None) -> Traits:  # noqa: ARG002 - of some
        """What there is to know about a request's method."""
        known = self._traits.get(method)
        if known is None:
            known = foreign(
                method,
                known=method in self.METHODS,
                new_work=method in self.NEW_WORK,
                watched=method in self.WATCHED,
                attributes=self.attributes(method),
            )
            if method in self.METHODS:
                self._traits[method] = known
        return known

    def attributes(self, method: str) -> dict[str, str]:  # noqa: ARG002 - of some
        """What the span of a request says beside the usual."""
        return {}

    def server_label(self, method: str) -> str:
        """What a program's request is called; empty: as the app-server's are."""
        return method if method in self.SERVER_REQUESTS else "_OTHER"

    def about(self, pending: Pending, params: bytes | None) -> None:
        """Look at a request before it is admitted."""

    def sent(self, pending: Pending) -> None:
        """It is on its way to the program."""

    def context_for(self, pending: Pending) -> SpanContext | None:
        """What is handed on with a request, None for nothing."""
        if not self.CARRIES_CONTEXT or pending.method not in self.METHODS:
            return None
        assert pending.span is not None
        return pending.span.turn or pending.span.context

    def answered(self, pending: Pending, message: CoreMessage) -> Verdict:  # noqa: ARG002 - of some
        """A request was answered, with a result or an error."""
        return FINE

    def lost(self, pending: Pending, why: str) -> None:
        """It never will be: refused, or a side is gone.

        Args:
            pending: The request.
            why: `core_lost`, `drain`, or empty: its client left.
        """

    def heard(self, message: Message, params: bytes, line: bytes) -> None:
        """The program said a notification."""

    def told(self, message: Message, params: bytes) -> None:
        """The client said a notification."""

    def asker(self, method: str, params: bytes) -> SpanContext | None:  # noqa: ARG002 - of some
        """Below what a program's request hangs; None: below what its client came with."""
        return None

    def session_of(self, params: bytes) -> str | None:  # noqa: ARG002 - of some
        """The thread or session that a program's request is about."""
        return None

    def decision(self, method: str, params: bytes, result: bytes | None) -> str:  # noqa: ARG002 - of some
        """How a program's request was answered, in a bounded word; `error` where it failed."""
        return "error" if result is None else "answered"

    def waits(self, asked: ServerRequest, change: int) -> None:
        """The program asked something (+1), or it is settled (-1)."""

    def deadline(self) -> list[bytes]:
        """The drain waits no longer: what asks the program to end its work."""
        return []

    def farewell(self) -> tuple[bytes, ...]:
        """What a program wants to be told before its input ends; see `PassThrough.farewell`."""
        return ()

    def ended(self, why: str) -> None:
        """Its core is gone or told to go: all that it did is over, for `why` as in `lost`."""
