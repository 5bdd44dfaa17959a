"""Spans on their way to an exporter: all of them, in order, in batches."""

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from trace_proxy.context.span_record import Kind, Service, SpanContext, SpanRecord
from trace_proxy.runtime.telemetry import span_queue
from trace_proxy.runtime.telemetry.span_queue import Encoded, SpanQueue


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


class Encoder(Recorder):
    """Encodes in whatever thread asks; refuses what is called `hard`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded_in: list[str] = []
        self.parts: list[list[str]] = []
        self.filler = b""

    def encode(self, records: Sequence[SpanRecord]) -> Encoded | None:
        names = [each.name for each in records]
        if "hard" in names:
            return None
        self.encoded_in.append(threading.current_thread().name)
        return Encoded((" ".join(names).encode() + self.filler,), len(names))

    def send(self, batch: Encoded) -> SpanExportResult:
        self.gate.wait(10)
        parts = [part.removesuffix(self.filler).decode() for part in batch.parts]
        self.parts.append(parts)
        self.batches.append(" ".join(parts).split())
        assert batch.spans == len(self.batches[-1])
        return SpanExportResult.SUCCESS


def dress(record: SpanRecord) -> ReadableSpan:
    return ReadableSpan(name=f"dressed {record.name}" if record.name.isalpha() else record.name)


def queue_of(exporter: SpanExporter, batch_size: int, delay_s: float = 3600) -> SpanQueue:
    return SpanQueue(exporter, batch_size=batch_size, delay_s=delay_s, dress=dress)


def record(name: str) -> SpanRecord:
    return SpanRecord(Service.PROXY, name, Kind.SERVER, SpanContext(1, 2), None, 1, 2, {})


def names_of(exporter: Recorder) -> list[str]:
    return [name for batch in exporter.batches for name in batch]


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def spans(count: int, first: int = 0) -> list[SpanRecord]:
    return [record(str(number)) for number in range(first, first + count)]


def test_a_full_batch_is_exported_without_waiting_for_company() -> None:
    exporter = Recorder()
    queue = queue_of(exporter, 4)

    for span in spans(5):
        queue.put(span)
    assert queue.force_flush(10_000)

    assert [name for batch in exporter.batches for name in batch] == ["0", "1", "2", "3", "4"]
    assert max(map(len, exporter.batches)) <= 4
    queue.shutdown()


def test_a_lonely_span_is_exported_after_the_delay() -> None:
    exporter = Recorder()
    queue = queue_of(exporter, 4, delay_s=0.01)

    queue.put(spans(1)[0])
    waited = threading.Event()
    while not exporter.batches and not waited.wait(0.01):
        pass

    assert exporter.batches == [["0"]]
    queue.shutdown()


def test_shutdown_exports_what_waits_and_closes_the_exporter_once() -> None:
    exporter = Recorder()
    queue = queue_of(exporter, 100)
    for span in spans(3):
        queue.put(span)

    queue.shutdown()
    queue.shutdown()

    assert exporter.batches == [["0", "1", "2"]]
    assert exporter.closed
    assert repr(queue) == "<SpanQueue waiting=0 batches=0>"


def test_an_exporter_that_raises_does_not_end_the_thread() -> None:
    exporter = Recorder()
    exporter.raises = True
    queue = queue_of(exporter, 1)

    for span in spans(2):
        queue.put(span)
    assert queue.force_flush(10_000)

    assert exporter.batches == [["0"], ["1"]]
    queue.shutdown()


def test_a_flush_that_takes_too_long_says_so() -> None:
    exporter = Recorder()
    exporter.gate.clear()
    queue = queue_of(exporter, 1)
    queue.put(spans(1)[0])

    assert not queue.force_flush(20)

    exporter.gate.set()
    queue.shutdown()
    assert exporter.batches == [["0"]]


def test_any_exporter_gets_records_as_ordinary_spans() -> None:
    exporter = Recorder()
    queue = queue_of(exporter, 2)

    queue.put(record("a"))
    queue.put(record("b"))
    queue.shutdown()

    assert exporter.batches == [["dressed a", "dressed b"]]


def test_parts_are_encoded_by_who_fills_them_and_sent_as_one_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(span_queue, "MAX_PART", 3)
    exporter = Encoder()
    queue = queue_of(exporter, 10)  # in parts of two

    for span in spans(17):
        queue.put(span)
    assert queue.force_flush(10_000)

    assert exporter.parts[0] == ["0 1", "2 3", "4 5", "6 7", "8 9"]
    assert names_of(exporter) == numbers(17)
    assert max(map(len, exporter.batches)) <= 10
    assert exporter.encoded_in == ["MainThread"] * 8 + ["span-export"]
    queue.shutdown()


def test_a_batch_with_many_bytes_is_sent_before_it_has_many_spans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(span_queue, "MAX_PART", 1)
    monkeypatch.setattr(span_queue, "MAX_BATCH_BYTES", 200)
    exporter = Encoder()
    exporter.filler = b"x" * 99
    queue = queue_of(exporter, 1_000)

    for span in spans(5):
        queue.put(span)
    queue.shutdown()

    assert exporter.batches == [["0", "1"], ["2", "3"], ["4"]]


def test_beyond_so_many_bytes_spans_wait_as_they_are_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(span_queue, "MAX_READY_BYTES", 300)
    exporter = Encoder()
    exporter.filler = b"x" * 99
    exporter.gate.clear()  # a collector that takes its time
    queue = queue_of(exporter, 1)

    for span in spans(10):
        queue.put(span)
    assert len(exporter.encoded_in) <= 4  # one may be on its way
    exporter.gate.set()
    queue.shutdown()

    assert names_of(exporter) == numbers(10)


def test_what_cannot_be_encoded_is_exported_the_plain_way() -> None:
    exporter = Encoder()
    queue = queue_of(exporter, 1)

    for name in ("easy", "hard", "easy"):
        queue.put(record(name))
    queue.shutdown()

    assert exporter.batches == [["easy"], ["dressed hard"], ["easy"]]


@pytest.mark.parametrize("exporter_type", [Recorder, Encoder])
def test_spans_of_many_threads_arrive_once_each(exporter_type: type[Recorder]) -> None:
    exporter = exporter_type()
    queue = queue_of(exporter, 7, delay_s=0.001)

    def put(first: int) -> None:
        for span in spans(500, first):
            queue.put(span)

    threads = [threading.Thread(target=put, args=(first,)) for first in range(0, 2_000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.force_flush(10_000)

    assert sorted(names_of(exporter), key=int) == numbers(2_000)
    assert max(map(len, exporter.batches)) <= 7
    queue.shutdown()


def test_two_flushes_and_a_shutdown_do_not_wait_for_each_other() -> None:
    exporter = Encoder()
    queue = queue_of(exporter, 100)
    flushed: list[bool] = []
    exporter.gate.clear()

    def flush() -> None:
        flushed.append(queue.force_flush(1_000))

    threads = [threading.Thread(target=flush) for _ in range(2)]
    queue.put(record("a"))
    for thread in threads:
        thread.start()
    exporter.gate.set()
    queue.shutdown()
    for thread in threads:
        thread.join()

    assert names_of(exporter) == ["a"]
