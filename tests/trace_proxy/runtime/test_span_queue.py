"""Spans on their way to an exporter: all of them, in order, in batches."""

import threading
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from trace_proxy.runtime.span_queue import SpanQueue


class Recorder(SpanExporter):
    """Keeps what it is given; may be told to wait, or to raise."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.raises = False
        self.closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.gate.wait(10)
        self.batches.append([span.name for span in spans])
        if self.raises:
            raise RuntimeError
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.closed = True


def spans(count: int, first: int = 0) -> list[ReadableSpan]:
    return [ReadableSpan(name=str(number)) for number in range(first, first + count)]


def test_a_full_batch_is_exported_without_waiting_for_company() -> None:
    exporter = Recorder()
    queue = SpanQueue(exporter, batch_size=4, delay_s=3600)

    for span in spans(5):
        queue.on_end(span)
    assert queue.force_flush(10_000)

    assert [name for batch in exporter.batches for name in batch] == ["0", "1", "2", "3", "4"]
    assert max(map(len, exporter.batches)) <= 4
    queue.shutdown()


def test_a_lonely_span_is_exported_after_the_delay() -> None:
    exporter = Recorder()
    queue = SpanQueue(exporter, batch_size=4, delay_s=0.01)

    queue.on_end(spans(1)[0])
    waited = threading.Event()
    while not exporter.batches and not waited.wait(0.01):
        pass

    assert exporter.batches == [["0"]]
    queue.shutdown()


def test_shutdown_exports_what_waits_and_closes_the_exporter_once() -> None:
    exporter = Recorder()
    queue = SpanQueue(exporter, batch_size=100, delay_s=3600)
    for span in spans(3):
        queue.on_end(span)

    queue.shutdown()
    queue.shutdown()

    assert exporter.batches == [["0", "1", "2"]]
    assert exporter.closed
    assert len(queue) == 0


def test_an_exporter_that_raises_does_not_end_the_thread() -> None:
    exporter = Recorder()
    exporter.raises = True
    queue = SpanQueue(exporter, batch_size=1, delay_s=3600)

    for span in spans(2):
        queue.on_end(span)
    assert queue.force_flush(10_000)

    assert exporter.batches == [["0"], ["1"]]
    queue.shutdown()


def test_a_flush_that_takes_too_long_says_so() -> None:
    exporter = Recorder()
    exporter.gate.clear()
    queue = SpanQueue(exporter, batch_size=1, delay_s=3600)
    queue.on_end(spans(1)[0])

    assert not queue.force_flush(20)

    exporter.gate.set()
    queue.shutdown()
    assert exporter.batches == [["0"]]
