"""Spans between the event loop and the exporter thread: a standard `SpanProcessor`.

The stock `BatchSpanProcessor` does the same; its way in asks for the process id, looks
at the span's context and takes a lock on every span beyond a batch, which together
cost the event loop as much as making the span. Here the way in is an append. Who puts
spans in has decided that they are sampled, and bounds how many wait.
"""

import threading
from collections import deque

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter

_log = structlog.get_logger("trace_proxy.telemetry")


class SpanQueue(SpanProcessor):
    """Hands spans to an exporter, in batches, from a thread of its own.

    Args:
        exporter: Any exporter; called from one thread only.
        batch_size: Spans that wake the exporter, and the most that it gets at once.
        delay_s: How long a span waits for company.
    """

    def __init__(self, exporter: SpanExporter, *, batch_size: int, delay_s: float) -> None:
        self._exporter = exporter
        self._batch_size = batch_size
        self._delay_s = delay_s
        self._spans: deque[ReadableSpan] = deque()
        self._wake = threading.Event()
        self._told = False
        self._closing = False
        self._flushing = False
        self._flushed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="span-export", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<SpanQueue waiting={len(self._spans)}>"

    def __len__(self) -> int:
        return len(self._spans)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing to do: spans come when they have ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span; never waits."""
        spans = self._spans
        spans.append(span)
        if len(spans) >= self._batch_size and not self._told:
            self._told = True
            self._wake.set()

    def _run(self) -> None:
        while True:
            full = self._wake.wait(self._delay_s)
            self._wake.clear()
            self._told = False
            closing, flushing = self._closing, self._flushing
            # Under load whole batches only: a request for each handful would cost more.
            self._export(self._batch_size if full and not closing and not flushing else 1)
            if flushing:
                self._flushing = False
                self._flushed.set()
            if closing:
                return

    def _export(self, least: int) -> None:
        """Export batches as long as that many spans wait."""
        spans = self._spans
        while len(spans) >= least:
            batch = [spans.popleft() for _ in range(min(self._batch_size, len(spans)))]
            try:
                self._exporter.export(batch)
            except Exception as error:  # noqa: BLE001 - a foreign exporter must not end the thread
                _log.warning("telemetry.exporter.failed", error=type(error).__name__)

    def shutdown(self) -> None:
        """Export what waits, then close the exporter; takes as long as the exporter does."""
        if not self._closing:
            self._closing = True
            self._wake.set()
            self._thread.join()
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Export what waits now; False when that took longer."""
        self._flushed.clear()
        self._flushing = True
        self._wake.set()
        return self._flushed.wait(timeout_millis / 1000)
