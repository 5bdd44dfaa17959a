"""Span records between the event loop and the exporter thread.

The stock `BatchSpanProcessor` does the same with spans; its way in asks for the process id, looks
at the span's context and takes a lock on every span beyond a batch, which together
cost the event loop as much as making the span.  Here the way in is an append.

Who puts a span in also encodes, now and then, a part of a batch, when the exporter can
do that apart from sending: a tenth of a millisecond at once.  In the exporter's thread the
same work would fight with the event loop for the interpreter; whenever that thread wants
it back, after each of its system calls, the loop pays for the hand-over.  So the thread
only sends bytes, and many of them at once.

Who puts spans in has decided that they are sampled, and bounds how many wait.
"""

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple, Protocol, runtime_checkable

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from trace_proxy.context.span_record import SpanRecord

MAX_PART: Final = 128
"""Spans that are encoded at once: the event loop pauses for so long."""

MAX_BATCH_BYTES: Final = 1024 * 1024
"""A batch is full with so much, too: long values must not make a request that is refused."""

MAX_READY_BYTES: Final = 16 * 1024 * 1024
"""Encoded and not sent: a full default queue is half of it. Beyond it, spans wait as they are."""

_log = structlog.get_logger("trace_proxy.telemetry")


class Encoded(NamedTuple):
    """A batch, or a part of one, ready to be sent.

    Attributes:
        parts: Their concatenation is what is sent.
        spans: How many they hold.
    """

    parts: tuple[bytes, ...]
    spans: int

    @property
    def size(self) -> int:
        """Of all parts, in bytes."""
        return sum(map(len, self.parts))


@runtime_checkable
class EncodingExporter(Protocol):
    """An exporter whose `export` has two halves that may be called apart.

    What it encodes can be concatenated, as protobuf messages can.
    """

    def encode(self, records: Sequence[SpanRecord]) -> Encoded | None:
        """Encode records, in any thread; None when they have to be exported the plain way."""
        ...

    def send(self, batch: Encoded) -> SpanExportResult:
        """Send it, in the exporter's thread."""
        ...


class _Wish(threading.Event):
    """Among the batches: set when all that was put before is exported."""

    def __init__(self, *, last: bool = False) -> None:
        super().__init__()
        self.last = last  # the thread ends then
        self.gathered = False


class SpanQueue:
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
        parts = 1 if self._encoding is None else math.ceil(batch_size / MAX_PART)
        self._batch_size = batch_size
        self._part_size = batch_size // parts
        self._delay_s = delay_s
        self._dress = dress
        self._spans: deque[SpanRecord] = deque()
        self._lock = threading.Lock()  # over the parts, and held for no longer than a glance
        self._parts: list[bytes] = []
        self._parts_spans = self._parts_bytes = 0
        self._ready_bytes = self._sent_bytes = 0
        self._ready: SimpleQueue[Encoded | list[SpanRecord] | _Wish] = SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="span-export", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        waiting = len(self._spans) + self._parts_spans
        return f"<SpanQueue waiting={waiting} batches={self._ready.qsize()}>"

    def put(self, record: SpanRecord) -> None:
        """Queue a finished span; never waits."""
        spans = self._spans
        spans.append(record)
        if len(spans) >= self._part_size:
            part = self._take()
            if part:  # the exporter's thread may have been quicker
                self._add(part)

    def _take(self) -> list[SpanRecord]:
        """The oldest spans, one part at most. Any thread may take: each span goes to one."""
        spans = self._spans
        part: list[SpanRecord] = []
        with contextlib.suppress(IndexError):  # another thread had the rest
            for _ in range(min(self._part_size, len(spans))):
                part.append(spans.popleft())  # noqa: PERF401 - what was taken must be kept
        return part

    def _add(self, part: list[SpanRecord]) -> None:
        """Encode spans, and let the exporter's thread have them when a batch is full."""
        encoded = self._encode(part)
        if encoded is None:
            self._ready.put(part)
            return
        size = encoded.size
        with self._lock:
            self._parts += encoded.parts
            self._parts_spans += encoded.spans
            self._parts_bytes += size
            self._ready_bytes += size
            # There is always room for one part more.
            full = self._parts_spans > self._batch_size - self._part_size
            batch = self._cut() if full or self._parts_bytes >= MAX_BATCH_BYTES else None
        if batch is not None:
            self._ready.put(batch)

    def _encode(self, part: list[SpanRecord]) -> Encoded | None:
        """None where the exporter's thread has to see the spans themselves."""
        if self._encoding is None or self._ready_bytes - self._sent_bytes >= MAX_READY_BYTES:
            return None
        return self._encoding.encode(part)

    def _cut(self) -> Encoded:
        """Make a batch of the parts there are. The lock is held."""
        batch = Encoded(tuple(self._parts), self._parts_spans)
        self._parts.clear()
        self._parts_spans = self._parts_bytes = 0
        return batch

    def _run(self) -> None:
        while True:
            try:
                ready = self._ready.get(timeout=self._delay_s)
            except Empty:
                self._gather()
                continue
            if not isinstance(ready, _Wish):
                self._export(ready)
            elif not ready.gathered:
                self._gather()
                ready.gathered = True
                self._ready.put(ready)  # once more, behind what was gathered
            else:
                ready.set()
                if ready.last:
                    return

    def _gather(self) -> None:
        """Make a batch of what is none yet, in the exporter's thread."""
        for _ in range(1 + len(self._spans) // self._part_size):
            part = self._take()
            if part:
                self._add(part)
        with self._lock:
            batch = self._cut()
        if batch.spans:
            self._ready.put(batch)

    def _export(self, batch: Encoded | list[SpanRecord]) -> None:
        try:
            if isinstance(batch, Encoded):
                assert self._encoding is not None, "who else has encoded it?"
                self._sent_bytes += batch.size
                self._encoding.send(batch)
            else:
                encoded = None if self._encoding is None else self._encoding.encode(batch)
                if encoded is None or self._encoding is None:
                    self._exporter.export([self._dress(record) for record in batch])
                else:
                    self._encoding.send(encoded)
        except Exception as error:  # noqa: BLE001 - a foreign exporter must not end the thread
            _log.warning("telemetry.exporter.failed", error=type(error).__name__)

    def shutdown(self) -> None:
        """Export what waits, then close the exporter; takes as long as the exporter does."""
        if not self._closing:
            self._closing = True
            self._ready.put(_Wish(last=True))
            self._thread.join()
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Export what waits now; False when that took longer, or the queue is shut down."""
        done = _Wish()
        self._ready.put(done)
        return done.wait(timeout_millis / 1000)
