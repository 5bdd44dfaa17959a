"""OTLP/JSON: for `http/json`, and for the file that Jaeger UI opens.

The stock encoder takes 60 µs a span, in a thread that shares the interpreter with the
event loop.  Records are written here instead; the stock encoder provides everything around
them (resource and scope), takes over what is beyond the limits of a span, and is the
oracle of the property test.
"""

import json
import math
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from trace_proxy.context.span_record import (
    AttributeValue,
    Kind,
    SpanContext,
    SpanEvent,
    SpanRecord,
)
from trace_proxy.runtime.telemetry.record_span import Origin, RecordSpan, trace_state

Document: TypeAlias = dict[str, Any]

_KINDS = {Kind.INTERNAL: 1, Kind.SERVER: 2, Kind.CLIENT: 3}
_FLAGS, _REMOTE_FLAGS = 0x100, 0x300
_encode = msgspec.json.Encoder().encode


def json_of(spans: Sequence[ReadableSpan]) -> bytes:
    """Serialize an `ExportTraceServiceRequest`, without a newline."""
    try:
        return _records(spans)
    except (TypeError, ValueError):  # beyond the limits, or a text that is no UTF-8
        return json.dumps(encode_spans(spans).to_dict(), separators=(",", ":")).encode()


def _records(spans: Sequence[ReadableSpan]) -> bytes:
    groups: dict[Origin, tuple[RecordSpan, list[Document]]] = {}
    for span in spans:
        if type(span) is not RecordSpan:
            raise TypeError
        group = groups.setdefault(span.origin, (span, []))
        group[1].append(_span(span.record, span.origin.limits.max_span_attribute_length))
    return _encode({"resourceSpans": [_around(*group) for group in groups.values()]})


class TraceFileExporter(SpanExporter):
    """Appends a line a batch to a file that nobody else can read.

    Args:
        path: Created with mode 0600; a regular file that exists is made so.

    Raises:
        OSError: It cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "ab", buffering=0)
        if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            os.fchmod(self._file.fileno(), 0o600)
        self._lock = threading.Lock()  # shutdown comes from another thread
        self.last_error = ""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write one line, unbuffered: what was exported survives our own end."""
        line = json_of(spans) + b"\n"
        with self._lock:
            if self._file.closed:
                return SpanExportResult.FAILURE
            try:
                whole = self._file.write(line) == len(line)
            except OSError as error:
                self.last_error = f"the file cannot be written: {error.strerror}"
                return SpanExportResult.FAILURE
        self.last_error = "" if whole else "the file took only a part of a line"
        return SpanExportResult.SUCCESS if whole else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the file; safe from any thread, and twice."""
        with self._lock:
            self._file.close()


def _around(example: RecordSpan, spans: list[Document]) -> Document:
    """Resource and scope as the stock encoder writes them, around our spans."""
    group: Document = encode_spans([example]).to_dict()["resourceSpans"][0]
    group["scopeSpans"][0]["spans"] = spans
    return group


def _span(record: SpanRecord, longest: int | None) -> Document:
    context, parent = record.context, record.parent
    span: Document = {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "flags": _REMOTE_FLAGS if parent is not None and parent.remote else _FLAGS,
        "name": record.name,
        "kind": _KINDS[record.kind],
        "startTimeUnixNano": str(record.start_ns),
        "endTimeUnixNano": str(record.end_ns),
        "attributes": _pairs(record.shared, longest) + _pairs(record.attributes, longest),
        "status": {"message": record.error, "code": 2} if record.error else {},
    }
    if parent is not None:
        span["parentSpanId"] = f"{parent.span_id:016x}"
    if context.state:
        span["traceState"] = trace_state(context.state).to_header()
    if record.links:
        span["links"] = [_link(link) for link in record.links]
    if record.events:
        span["events"] = [_event(event, longest) for event in record.events]
    return span


def _pairs(values: Mapping[str, AttributeValue], longest: int | None) -> list[Document]:
    return [{"key": key, "value": _value(value, longest)} for key, value in values.items()]


def _event(event: SpanEvent, longest: int | None) -> Document:
    return {
        "timeUnixNano": str(event.time_ns),
        "name": event.name,
        "attributes": _pairs(event.attributes, longest),
    }


def _link(context: SpanContext) -> Document:
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "flags": _REMOTE_FLAGS if context.remote else _FLAGS,
    }


def _value(value: AttributeValue, longest: int | None) -> Document:
    """AnyValue in JSON; texts are cut."""
    if isinstance(value, str):
        return {"stringValue": value[:longest]}
    if isinstance(value, tuple):
        return {"arrayValue": {"values": [{"stringValue": each[:longest]} for each in value]}}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if math.isfinite(value):
        return {"doubleValue": value}
    # The JSON mapping of protobuf has words for what JSON has no numbers for.
    return {
        "doubleValue": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    }
