"""Spans between the event loop and the exporter thread: a standard `SpanProcessor`.

The stock `BatchSpanProcessor` does the same; its way in asks for the process id, looks
at the span's context and takes a lock on every span beyond a batch, which together
cost the event loop as much as making the span.  Here the way in is an append.

Who puts the span in that fills a batch also encodes it, when the exporter can do that
apart from sending: a quarter of a millisecond at once.  In the exporter's thread the same
work would take the interpreter away from the event loop some hundred times, and each
time the two wait for each other.  So the thread only sends bytes.  Who puts spans in has
decided that they are sampled, and bounds how many wait.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from trace_proxy.span_record import SpanRecord

AnySpan: TypeAlias = SpanRecord | ReadableSpan

MAX_READY_BYTES: Final = 16 * 1024 * 1024
"""Encoded and not sent: a full default queue is half of it. Beyond it, spans wait as they are."""

_log = structlog.get_logger("trace_proxy.telemetry")


class Encoded(NamedTuple):
    """A batch, ready to be sent.

    Attributes:
        body: What is sent.
        spans: How many it holds.
    """

    body: bytes
    spans: int


@runtime_checkable
class EncodingExporter(Protocol):
    """An exporter whose `export` has two halves that may be called apart."""

    def encode(self, spans: Sequence[AnySpan]) -> Encoded | None:
        """Encode a batch, in any thread; None when it has to be exported the plain way."""
        ...

    def send(self, batch: Encoded) -> SpanExportResult:
        """Send it, in the exporter's thread."""
        ...


class SpanQueue(SpanProcessor):
    """Hands spans to an exporter, in batches, from a thread of its own.

    Args:
        exporter: Any exporter; its `export` is called from one thread only. One that
            is an `EncodingExporter` too gets the short way.
        batch_size: Spans that wake the exporter, and the most that it gets at once.
        delay_s: How long a span waits for company.
        dress: Makes a `ReadableSpan` of a record, for the exporter's `export`.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        batch_size: int,
        delay_s: float,
        dress: Callable[[SpanRecord], ReadableSpan],
    ) -> None:
        self._exporter = exporter
        self._encoding = exporter if isinstance(exporter, EncodingExporter) else None
        self._batch_size = batch_size
        self._delay_s = delay_s
        self._dress = dress
        self._spans: deque[AnySpan] = deque()
        # Whole batches; an event is a wish to hear that everything before it is done.
        self._ready: SimpleQueue[Encoded | list[AnySpan] | threading.Event] = SimpleQueue()
        self._counting = threading.Lock()
        self._ready_bytes = self._sent_bytes = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="span-export", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<SpanQueue waiting={len(self._spans)} batches={self._ready.qsize()}>"

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing to do: spans come when they have ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span; never waits."""
        self.put(span)

    def put(self, span: AnySpan) -> None:
        """Queue a span or a record; never waits."""
        spans = self._spans
        spans.append(span)
        if len(spans) >= self._batch_size:
            batch = self._take()
            if batch:  # the exporter's thread may have been quicker
                self._ready.put(self._encode(batch) or batch)

    def _take(self) -> list[AnySpan]:
        """The oldest spans, one batch at most. Any thread may take: each span goes to one."""
        spans = self._spans
        batch: list[AnySpan] = []
        with contextlib.suppress(IndexError):  # another thread had the rest
            for _ in range(min(self._batch_size, len(spans))):
                batch.append(spans.popleft())  # noqa: PERF401 - what was taken must be kept
        return batch

    def _encode(self, batch: list[AnySpan]) -> Encoded | None:
        """None where the exporter's thread has to see the spans themselves."""
        if self._encoding is None or self._ready_bytes - self._sent_bytes >= MAX_READY_BYTES:
            return None
        encoded = self._encoding.encode(batch)
        if encoded is not None:
            with self._counting:  # put may be called from several threads
                self._ready_bytes += len(encoded.body)
        return encoded

    def _run(self) -> None:
        while True:
            try:
                ready = self._ready.get(timeout=self._delay_s)
            except Empty:
                self._export_rest()
                continue
            if isinstance(ready, threading.Event):
                self._export_rest()
                ready.set()
                if self._closing:
                    return
            else:
                self._export(ready)

    def _export_rest(self) -> None:
        """Export what is no whole batch. More than one is left only if several threads put."""
        for _ in range(1 + len(self._spans) // self._batch_size):
            batch = self._take()
            if batch:
                self._export(self._encode(batch) or batch)

    def _export(self, batch: Encoded | list[AnySpan]) -> None:
        try:
            if isinstance(batch, Encoded):
                assert self._encoding is not None, "who else has encoded it?"
                self._sent_bytes += len(batch.body)
                self._encoding.send(batch)
            else:
                self._exporter.export([self._dressed(span) for span in batch])
        except Exception as error:  # noqa: BLE001 - a foreign exporter must not end the thread
            _log.warning("telemetry.exporter.failed", error=type(error).__name__)

    def _dressed(self, span: AnySpan) -> ReadableSpan:
        return self._dress(span) if isinstance(span, SpanRecord) else span

    def shutdown(self) -> None:
        """Export what waits, then close the exporter; takes as long as the exporter does."""
        if not self._closing:
            self._closing = True
            self._ready.put(threading.Event())
            self._thread.join()
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Export what waits now; False when that took longer, or the queue is shut down."""
        done = threading.Event()
        self._ready.put(done)
        return done.wait(timeout_millis / 1000)
