"""What the hub tells of its work, as spans, metrics and log lines."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import structlog

from trace_proxy.context.trace_context import Rejection
from trace_proxy.queues.client_queue import TotalOutbound
from trace_proxy.relay.board import Board
from trace_proxy.relay.effects import Shed
from trace_proxy.runtime.telemetry.metrics.metrics import Metrics
from trace_proxy.runtime.telemetry.setup import Telemetry
from trace_proxy.spans.turn_spans import Failure
from trace_proxy.spans.turns import EndedTurn
from trace_proxy.state.connection import Connection
from trace_proxy.state.server_requests import ServerRequest

if TYPE_CHECKING:
    from trace_proxy.runtime.telemetry.metrics.prometheus import Scrape

LABEL_CHARS: Final = 64
"""Of a model or a provider; their names are below 40."""

LINES_A_SECOND: Final = 100
"""Of the hub's events: a client that sends nothing but errors must not fill a disk."""

PAGES_PER_S: Final = 4
"""Of metrics, rendered for all who ask: each holds up everybody for milliseconds."""

_BURST_S: Final = 1.0
"""After a quiet time so many seconds' worth is made at once."""

_log = structlog.get_logger("trace_proxy")


class Pages:
    """A page that takes long to make, and that anybody may ask for as often as he likes.

    Who asks gets one that was made after he asked: all who wait get the same one.

    Args:
        make: Makes the page.
        per_second: So many at once, and then a second.
    """

    def __init__(self, make: Callable[[], bytes], per_second: int) -> None:
        self._make = make
        self._interval_s = 1 / per_second
        self._due_s = 0.0
        self._lock = asyncio.Lock()
        self._made = 0
        self._page = b""

    def __repr__(self) -> str:
        return f"<Pages made={self._made}>"

    async def page(self) -> bytes:
        """The next one."""
        made = self._made
        async with self._lock:
            if self._made == made:  # and not meanwhile for another, which will do
                now_s = asyncio.get_running_loop().time()
                self._due_s = max(self._due_s + self._interval_s, now_s - _BURST_S)
                await asyncio.sleep(max(0.0, self._due_s - now_s))
                self._page = self._make()
                self._made += 1
            return self._page


class Meters:
    """The measuring half of `Effects`.

    Args:
        telemetry: Where spans go.
        metrics: What is counted.
    """

    def __init__(self, telemetry: Telemetry, metrics: Metrics) -> None:
        self._telemetry = telemetry
        self._metrics = metrics
        self.end_span = telemetry.export
        self.call_ended = metrics.calls.observe
        self._pages: Pages | None = None
        self._warned: set[int] = set()
        self.log = SparingLog()
        self._log_refused = SparingLog()  # strangers must not silence the hub

    def watch(self, board: Board, total: TotalOutbound) -> None:
        """Read these at scrape time."""
        metrics = self._metrics
        metrics.in_flight = lambda: board.admission.requests
        metrics.turns_running = lambda: len(board.turns)
        metrics.queue_bytes = lambda: {
            "clients": total.size_bytes,
        }
        metrics.queue_messages = lambda: {"cores": sum(len(core.queue) for core in board.cores)}
        metrics.spans_dropped = lambda: self._telemetry.spans_dropped
        metrics.spans_exported = lambda: self._telemetry.spans_exported

    async def scraped(self) -> bytes:
        """What `/metrics` answers; the first time in a thread, because it loads a library."""
        if self._pages is None:
            scrape = await asyncio.to_thread(_scrape_of, self._metrics)
            self._pages = self._pages or Pages(scrape.render, PAGES_PER_S)
        return await self._pages.page()

    def turn_ended(self, ended: EndedTurn, now_ns: int) -> None:
        """Measure a turn."""
        turn, metrics = ended.turn, self._metrics
        metrics.turn_duration.observe((now_ns - turn.start_ns) / 1e9)
        if turn.time_to_first_delta_s is not None:
            metrics.time_to_first_delta.observe(turn.time_to_first_delta_s)
        metrics.tokens.add("input", by=turn.input_tokens)
        metrics.tokens.add("output", by=turn.output_tokens)
        self._agent_ended(ended, now_ns)
        _log.info(
            "turn.ended",
            thread=turn.thread,
            turn=turn.turn_id,
            status=ended.status,
            trace_id=turn.context.trace_id,
            span_id=turn.context.span_id,
        )

    def _agent_ended(self, ended: EndedTurn, now_ns: int) -> None:
        turn, metrics = ended.turn, self._metrics
        failed = ended.status == "failed" and not ended.why
        error = ended.why or ((turn.failure or Failure()).kind if failed else "")
        about = ("invoke_agent", turn.agent.provider[:LABEL_CHARS], turn.agent.model[:LABEL_CHARS])
        metrics.agents.observe((now_ns - turn.start_ns) / 1e9, *about, error)
        for kind, tokens in (("input", turn.input_tokens), ("output", turn.output_tokens)):
            if tokens:
                metrics.agent_tokens.observe(tokens, *about, kind)

    def tool_ended(self, tool: str, error: str, duration_s: float) -> None:
        """Measure a tool call."""
        self._metrics.tools.observe(duration_s, "execute_tool", tool, error)

    def approval_asked(self, request: ServerRequest) -> None:
        """Count a pending server request."""
        self._metrics.approvals_pending += 1
        _log.debug("approval.asked", request=request.request_id, method=request.method)

    def approval_settled(self, request: ServerRequest, now_ns: int) -> None:
        """Measure how long it waited."""
        self._metrics.approvals_pending -= 1
        self._metrics.approval_wait.observe((now_ns - request.start_ns) / 1e9)

    def context_rejected(self, connection: Connection, rejection: Rejection) -> None:
        """Count a refused trace context; warn once a connection."""
        source, reason = rejection.source.value, rejection.reason.value
        self._metrics.context_rejected.add(source, reason)
        if connection.key not in self._warned:
            if len(self._warned) > 10_000:  # a flood of connections must not grow it
                self._warned.clear()
            self._warned.add(connection.key)
            _log.warning(
                "context.rejected", connection=connection.key, source=source, reason=reason
            )

    def environment_rejected(self, rejections: Iterable[Rejection]) -> None:
        """Count what is wrong with `TRACEPARENT`, once a process."""
        for rejection in rejections:
            source, reason = rejection.source.value, rejection.reason.value
            self._metrics.context_rejected.add(source, reason)
            _log.warning("context.rejected", source=source, reason=reason)

    def shed(self, why: Shed) -> None:
        """Count a request that was refused for load or drain."""
        self._metrics.shed.add(why)

    def relayed(self) -> None:
        """Count a request that was taken to another host."""
        self._metrics.relayed += 1

    def owned(self, threads: int, taken_over: int, fenced: int) -> None:
        """Note what our cores own, and count what they took over and were refused."""
        self._metrics.threads_owned = threads
        self._metrics.taken_over += taken_over
        self._metrics.fenced += fenced

    def answer_ignored(self) -> None:
        """Count a client's answer that settled nothing."""
        self._metrics.ignored.add("answer")

    def notification_dropped(self) -> None:
        """Count a core's notification whose one hearer has left."""
        self._metrics.ignored.add("notification")

    def connection_refused(self, status: int, reason: str) -> None:
        """Count somebody who was not let in."""
        self._metrics.refused.add(reason)
        self._log_refused("connection.refused", status=status, reason=reason)

    def authenticated(self, user: str) -> None:
        """Count a connection of somebody whose name is known."""
        self._metrics.users.add(user)


class SparingLog:
    """Logs events at info; what is more than a log can use is only counted."""

    def __init__(self) -> None:
        self._second_s = 0.0
        self._lines = 0

    def __call__(self, event: str, **fields: object) -> None:
        """Log one."""
        now_s = time.monotonic()
        if now_s - self._second_s >= 1.0:
            if self._lines > LINES_A_SECOND:
                _log.warning("events.suppressed", count=self._lines - LINES_A_SECOND)
            self._second_s, self._lines = now_s, 0
        self._lines += 1
        if self._lines <= LINES_A_SECOND:
            _log.info(event, **fields)


def _scrape_of(metrics: Metrics) -> "Scrape":
    from trace_proxy.runtime.telemetry.metrics.prometheus import Scrape  # noqa: PLC0415 - 4 MB, not always needed

    return Scrape(metrics.instruments())
