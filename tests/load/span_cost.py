"""What does a span cost?  Microseconds, ours against the stock SDK.

    python -m tests.load.span_cost [--spans N] [--repeat N]

Prints CPU time, the best of a few runs of each step, in one process: the ratios mean
something on any machine.  It measures no proxy: for that see the load harness.
"""

import argparse
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind

from trace_proxy.context.span_record import AttributeValue, Kind, Service, SpanContext, SpanRecord
from trace_proxy.runtime.telemetry.account import quiet_sdk_logs
from trace_proxy.runtime.telemetry.metrics.metrics import Metrics
from trace_proxy.runtime.telemetry.otlp.encoding import SpanEncoder
from trace_proxy.runtime.telemetry.otlp.json_encoding import json_of
from trace_proxy.runtime.telemetry.record_span import Origin, Origins
from trace_proxy.runtime.telemetry.setup import DEFAULT_BATCH_SIZE, Telemetry
from trace_proxy.runtime.telemetry.span_queue import MAX_PART, SpanQueue
from trace_proxy.spans.semconv import JSONRPC_REQUEST_ID

START_NS = 1_780_000_000_000_000_000


class Nowhere(SpanExporter):
    """Accepts everything at once."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the interface
        return SpanExportResult.SUCCESS


class Sink(BaseHTTPRequestHandler):
    """Takes OTLP/HTTP and forgets it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read the body, answer 200."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """Some spans as a busy proxy makes them, and how often to measure."""

    records: list[SpanRecord]
    repeat: int

    def best_us(self, work: Callable[[], None]) -> float:
        """Microseconds a span in the fastest of the runs."""
        times_s = []
        for _ in range(self.repeat):
            before_s = time.process_time()  # not the wall clock: neighbours do not count
            work()
            times_s.append(time.process_time() - before_s)
        return min(times_s) / len(self.records) * 1e6


def attributes_of(number: int) -> dict[str, AttributeValue]:
    """Thirteen attributes; the request id never repeats."""
    return {
        "rpc.system.name": "jsonrpc",
        "rpc.method": ("thread/read", "thread/list", "turn/start")[number % 3],
        "jsonrpc.request.id": str(number),
        "network.transport": "tcp",
        "network.protocol.name": "websocket",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": 40_000 + number % 50,
        "trace_proxy.connection.id": f"c-{number % 50}",
        "trace_proxy.core.id": "0",
        "trace_proxy.client.name": "bench",
        "trace_proxy.client.version": "1",
        "trace_proxy.context.source": "message",
        "gen_ai.conversation.id": f"0199a213-81c0-7800-8aa1-bbab2a0{number % 50:05d}",
    }


def record_of(number: int) -> SpanRecord:
    """A request with a remote parent."""
    trace_id = random.getrandbits(128) | 1
    return SpanRecord(
        Service.PROXY,
        "thread/read",
        Kind.SERVER,
        SpanContext(trace_id, random.getrandbits(64) | 1, 3),
        SpanContext(trace_id, random.getrandbits(64) | 1, 3, remote=True),
        START_NS + number * 1_000,
        START_NS + number * 1_000 + 250_000,
        attributes_of(number),
    )


def plain_of(number: int, shared: dict[str, AttributeValue]) -> SpanRecord:
    """A request as nearly all are: a root that has only its id for itself."""
    return SpanRecord(
        Service.PROXY,
        "thread/read",
        Kind.SERVER,
        SpanContext(random.getrandbits(128) | 1, random.getrandbits(64) | 1, 3),
        None,
        START_NS + number * 1_000,
        START_NS + number * 1_000 + 250_000,
        {JSONRPC_REQUEST_ID: str(number)},
        shared=shared,
    )


def plain_records(count: int) -> list[SpanRecord]:
    """The requests of fifty connections."""
    shared = [attributes_of(number) for number in range(50)]
    for attributes in shared:
        del attributes[JSONRPC_REQUEST_ID]
    return [plain_of(number, shared[number % 50]) for number in range(count)]


def hand_over_us(run: Run) -> float:
    """Record → `Telemetry.export` → a queue that hands whole batches to nobody."""
    telemetry = Telemetry(
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_QUEUE_SIZE": "1000000"}
    )
    queue = SpanQueue(Nowhere(), batch_size=DEFAULT_BATCH_SIZE, delay_s=60, dress=origins().dress)
    telemetry._processor = queue  # noqa: SLF001 - its exporter would encode

    def work() -> None:
        for record in run.records:
            telemetry.export(record)

    best_us = run.best_us(work)
    queue.shutdown()
    return best_us


def encoder_us(run: Run, encode: Callable[[list[SpanRecord]], object]) -> float:
    """An encoder that is given parts as the event loop does."""
    starts = range(0, len(run.records), MAX_PART)
    parts = [run.records[start : start + MAX_PART] for start in starts]

    def work() -> None:
        for part in parts:
            encode(part)

    return run.best_us(work)


def stock_span_us(run: Run) -> float:
    """`start_span` with the attributes, then `end`, as an instrumentation would."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(
            Nowhere(), max_queue_size=2 * len(run.records), max_export_batch_size=len(run.records)
        )
    )
    tracer = provider.get_tracer("bench")

    def work() -> None:
        for record in run.records:
            span = tracer.start_span("thread/read", kind=SpanKind.SERVER)
            span.set_attributes(record.attributes)
            span.end()

    best_us = run.best_us(work)
    provider.shutdown()
    return best_us


def whole_way_cpu_us(run: Run) -> tuple[float, float]:
    """CPU of this process per span, to a collector in another one, and spans lost."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        serve(writing)
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{os.read(reading, 16).decode()}"
    telemetry = Telemetry(os.environ)
    before_s = cpu_s()
    for number, record in enumerate(run.records):
        telemetry.export(record)
        if number % 256 == 0:  # a breath, as the event loop has between its turns
            time.sleep(0.004)
    stop = threading.Thread(target=lambda: wait_for_all(telemetry, len(run.records)))
    stop.start()
    stop.join()
    spent_us = (cpu_s() - before_s) / len(run.records) * 1e6
    os.kill(child, 9)
    os.waitpid(child, 0)
    return spent_us, telemetry.spans_dropped


def serve(writing: int) -> None:
    """Be the collector, for ever."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    os.write(writing, str(server.server_port).encode())
    server.serve_forever()


def wait_for_all(telemetry: Telemetry, count: int) -> None:
    """Return when each span was exported or lost."""
    while telemetry.spans_exported + telemetry.spans_dropped < count:
        time.sleep(0.01)


def observe_us(run: Run) -> float:
    """One observation of a call's duration."""
    metrics = Metrics()

    def work() -> None:
        for _ in run.records:
            metrics.calls.observe("thread/read", "", 0.002)

    return run.best_us(work)


def cpu_s() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def origins() -> Origins:
    """A resource, a scope and the default limits."""
    origin = Origin(Resource.create(), InstrumentationScope("trace_proxy"), SpanLimits())
    return Origins(origin, origin, origin)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--spans", type=int, default=20_480, help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--repeat", type=int, default=5, help="runs of each (default: %(default)s)"
    )
    options = parser.parse_args()
    quiet_sdk_logs()
    run = Run([record_of(number) for number in range(options.spans)], options.repeat)
    plain = Run(plain_records(options.spans), options.repeat)
    ours, dress, to_json = SpanEncoder(origins()).encode, origins().dress, json_of
    whole_us, lost = whole_way_cpu_us(plain)
    lines = [
        ("plain request: record -> queue", hand_over_us(plain)),
        ("plain request: our encoder", encoder_us(plain, ours)),
        (f"plain request: whole way to a collector, CPU ({lost} lost)", whole_us),
        ("request with a parent: our encoder", encoder_us(run, ours)),
        (
            "request with a parent: stock encoder",
            encoder_us(run, lambda part: encode_spans(list(map(dress, part))).SerializeToString()),
        ),
        (
            "request with a parent: our encoder of the trace file",
            encoder_us(run, lambda part: to_json(list(map(dress, part)))),
        ),
        ("stock start_span, set_attributes, end", stock_span_us(run)),
        ("one histogram observation", observe_us(run)),
    ]
    for what, cost_us in lines:
        sys.stdout.write(f"{what:60} {cost_us:7.2f} us a span\n")


if __name__ == "__main__":
    main()
