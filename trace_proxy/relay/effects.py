"""Everything that the hub may ask of the world.

The runtime implements it over sockets, pipes and OpenTelemetry; tests by lists. All
calls return at once and none may call back into the hub.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from trace_proxy.context.span_record import SpanRecord
from trace_proxy.context.trace_context import Rejection
from trace_proxy.spans.turns import EndedTurn
from trace_proxy.state.connection import Connection
from trace_proxy.state.core_session import CoreSession
from trace_proxy.state.server_requests import ServerRequest

Shed = Literal["draining", "overloaded", "handles", "core_queue"]
"""Why a request was refused for now; a label of `trace_proxy.requests.shed`."""


class Effects(Protocol):
    """The hub's way out."""

    def send(self, connection: Connection, message: bytes) -> None:
        """Queue a message for a client."""
        ...

    def fan_out(self, connections: Iterable[Connection], messages: Sequence[bytes]) -> None:
        """Queue the same messages for several clients."""
        ...

    def close(self, connection: Connection, code: int, reason: str) -> None:
        """End a connection with this close code, after what is queued for it."""
        ...

    def write(self, core: CoreSession, line: bytes) -> None:
        """Give a line to a core's stdin; queue and window were asked before."""
        ...

    def end_span(self, record: SpanRecord) -> None:
        """Export a finished span."""
        ...

    def call_ended(self, method: str, error: str, duration_s: float) -> None:
        """Measure an answered, refused or lost request; `error` is empty on success."""
        ...

    def turn_ended(self, ended: EndedTurn, now_ns: int) -> None:
        """Measure a turn: its duration, time to first delta, tokens."""
        ...

    def tool_ended(self, tool: str, error: str, duration_s: float) -> None:
        """Measure a tool call; `error` is empty on success."""
        ...

    def context_rejected(self, connection: Connection, rejection: Rejection) -> None:
        """A client's trace context was refused: count it, warn once a connection."""
        ...

    def approval_asked(self, request: ServerRequest) -> None:
        """A server request is pending."""
        ...

    def approval_settled(self, request: ServerRequest, now_ns: int) -> None:
        """It is no longer: measure how long people took."""
        ...

    def core_waits(self, core: CoreSession) -> None:
        """A core's process runs; it is greeted when its one client has spoken."""
        ...

    def core_ready(self, core: CoreSession) -> None:
        """A core answered `initialize` and its threads are back."""
        ...

    def core_faulty(self, core: CoreSession, why: str) -> None:
        """A core broke the protocol beyond repair: end its process."""
        ...

    def open_peer(self, core: CoreSession) -> None:
        """Connect to another host; `Hub.core_started` tells that it is there."""
        ...

    def close_peer(self, core: CoreSession) -> None:
        """Leave another host; `Hub.peer_lost` tells that it is done."""
        ...

    def relayed(self) -> None:
        """Count a request that was taken to another host."""
        ...

    def owned(self, threads: int, taken_over: int, fenced: int) -> None:
        """Note how many threads we own, and count more that were taken over, or writes fenced."""
        ...

    def log(self, event: str, **fields: object) -> None:
        """Log an event."""
        ...

    def shed(self, why: Shed) -> None:
        """Count a request that was refused for load or drain."""
        ...

    def answer_ignored(self) -> None:
        """Count a client's answer that settled nothing: late, doubled, or not its to give."""
        ...

    def notification_dropped(self) -> None:
        """Count a core's notification whose one hearer has left."""
        ...
