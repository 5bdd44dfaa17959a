"""Our OTLP encoder says what the stock one says; parsed bytes are compared, for any span."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans as json_request
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from trace_proxy.context.span_record import (
    AttributeValue,
    Kind,
    Service,
    SpanContext,
    SpanEvent,
    SpanRecord,
)
from trace_proxy.runtime.telemetry.otlp import encoding as otlp_encoding
from trace_proxy.runtime.telemetry.otlp import json_encoding as otlp_json
from trace_proxy.runtime.telemetry.otlp.encoding import SpanEncoder
from trace_proxy.runtime.telemetry.otlp.exporter import OtlpExporter, otlp_exporter
from trace_proxy.runtime.telemetry.record_span import (
    Origin,
    Origins,
    OversizedSpan,
    RecordSpan,
)

LIMITS = SpanLimits(
    max_span_attributes=6, max_links=2, max_events=2, max_span_attribute_length=200
)

# Values are drawn so that equal dictionary keys of different types meet in one cache.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
long_texts = st.sampled_from(["x" * length for length in (63, 64, 117, 128, 129, 199, 200)])
keys = st.sampled_from(["rpc.method", "k", "ключ", "gen_ai.conversation.id"]) | texts
numbers = st.sampled_from([0, 1, -1, 1.0, True, False, 2**63 - 1, -(2**63), float("inf"), -0.0])
scalars = st.one_of(
    numbers,
    texts,
    long_texts,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
)
times_ns = st.integers(0, 2**64 - 1)
trace_ids = st.integers(1, 2**128 - 1)
span_ids = st.integers(1, 2**64 - 1)
states = st.sampled_from(["", "a=1", "a=1,b=2", "rojo=00f067aa0ba902b7 , congo=t61rcWkgMzE"])
contexts = st.builds(SpanContext, trace_ids, span_ids, st.integers(0, 255), states, st.booleans())
arrays = st.lists(texts | long_texts, max_size=3).map(tuple)
own_attributes = st.dictionaries(
    keys.filter(bool), scalars | arrays | st.just("y" * 300), max_size=6
)
events = st.builds(SpanEvent, texts.filter(bool), times_ns, own_attributes)
some_events = st.lists(events, max_size=3).map(tuple)
some_links = st.lists(contexts, max_size=3).map(tuple)
records = st.builds(
    SpanRecord,
    st.sampled_from(Service),
    texts,
    st.sampled_from(Kind),
    contexts,
    st.none() | contexts,
    times_ns,
    times_ns,
    own_attributes,
    some_links,
    st.sampled_from(["", "Internal error"]) | texts,
    st.just({}) | own_attributes,
    st.just(()) | some_events,
)
# What a connection's requests share is one object, as in the proxy; one has it wrong, one
# leaves no room for the request's id.
SHARED: list[dict[str, AttributeValue]] = [
    {"rpc.method": "thread/read", "network.peer.port": 4711, "trace_proxy.core.id": 0},
    {"rpc.method": "_OTHER", "rpc.method_original": "ж" * 150},
    {"rpc.method": "thread/list", "jsonrpc.request.id": "0"},
    {str(number): number for number in range(6)},
]
request_ids = st.integers(0, 10**18).map(str) | st.sampled_from(
    ["", "ж" * 40, "i" * 64, "i" * 65, "i" * 300]
)
# Nearly plain ones: each of these fields is, now and then, what makes a record unusual.
plain_records = st.builds(
    SpanRecord,
    st.just(Service.PROXY) | st.sampled_from(Service),
    st.just("thread/read") | st.sampled_from(["thread/list", "jsonrpc"]),
    st.just(Kind.SERVER) | st.sampled_from(Kind),
    st.builds(SpanContext, trace_ids, span_ids, st.just(3), st.just("") | states),
    st.none() | contexts,
    times_ns,
    times_ns,
    request_ids.map(lambda request_id: {"jsonrpc.request.id": request_id})
    | st.just({"jsonrpc.request.id": 1})
    | own_attributes,
    st.just(()) | some_links,
    st.just("") | st.sampled_from(["", "Internal error"]),
    st.sampled_from(SHARED),
    st.just(()) | some_events,
)
RPC = InstrumentationScope("trace_proxy", "1", "https://opentelemetry.io/schemas/1.44.0")
AGENT = InstrumentationScope("trace_proxy.gen_ai", "1", "https://opentelemetry.io/schemas/gen-ai")
ORIGINS = Origins(
    Origin(Resource({"service.name": "trace-proxy"}), RPC, LIMITS),
    Origin(
        Resource({"service.name": "core-server"}, "https://opentelemetry.io/schemas/1.44.0"),
        AGENT,
        SpanLimits(max_span_attributes=20, max_span_attribute_length=20),
    ),
    Origin(Resource({"service.name": "client"}), InstrumentationScope("trace_proxy"), LIMITS),
)
record_spans = records.map(ORIGINS.dress)
ENCODER = SpanEncoder(ORIGINS)  # one for all examples: what it remembers must never be wrong


def context_of(trace_id: int = 1, span_id: int = 2) -> SpanContext:
    return SpanContext(trace_id, span_id, flags=3)


def record_of(name: str = "thread/read", **attributes: str | float) -> SpanRecord:
    return SpanRecord(Service.PROXY, name, Kind.SERVER, context_of(), None, 1, 2, dict(attributes))


def span_of(record: SpanRecord) -> RecordSpan:
    return RecordSpan(record, ORIGINS.of(record.service))


def dressed(records: Sequence[SpanRecord]) -> list[ReadableSpan]:
    return [ORIGINS.dress(each) for each in records]


def stock(records: Sequence[SpanRecord]) -> ExportTraceServiceRequest:
    """What the stock encoder says, in our order: by service."""
    order = list(Service)
    request: ExportTraceServiceRequest = encode_spans(
        dressed(sorted(records, key=lambda each: order.index(each.service)))
    )
    return request


def parsed(body: bytes) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    return request


@given(st.lists(records, max_size=4))
def test_any_record_is_encoded_as_the_stock_encoder_does(spans: list[SpanRecord]) -> None:
    assert parsed(ENCODER.encode(spans)) == stock(spans)


@given(st.lists(plain_records, max_size=8))
def test_a_plain_record_is_encoded_as_the_stock_encoder_does(spans: list[SpanRecord]) -> None:
    assert parsed(ENCODER.encode(spans)) == stock(spans)


@given(st.lists(records | plain_records, max_size=6))
def test_all_kinds_share_a_request(spans: list[SpanRecord]) -> None:
    assert parsed(ENCODER.encode(spans)) == stock(spans)


@given(st.lists(records | plain_records, max_size=6), st.integers(0, 6))
def test_requests_can_be_concatenated(spans: list[SpanRecord], first: int) -> None:
    both = ENCODER.encode(spans[:first]) + ENCODER.encode(spans[first:])

    parts = stock(spans[:first]), stock(spans[first:])
    assert list(parsed(both).resource_spans) == [
        group for part in parts for group in part.resource_spans
    ]


def plain_record(number: int, shared: dict[str, AttributeValue]) -> SpanRecord:
    return SpanRecord(
        Service.PROXY,
        "thread/read",
        Kind.SERVER,
        context_of(9, number),
        None,
        5,
        6,
        {"jsonrpc.request.id": str(number)},
        shared=shared,
    )


def test_plain_records_take_the_template_and_say_the_same() -> None:
    encoder = SpanEncoder(ORIGINS)
    plain = [plain_record(number, SHARED[0]) for number in range(1, 2_000)]

    for start in range(0, len(plain), 500):  # the template is there from the third record on
        batch = plain[start : start + 500]
        assert parsed(encoder.encode(batch)) == encode_spans(dressed(batch))


def test_a_dictionary_that_took_the_place_of_another_is_not_mistaken_for_it() -> None:
    encoder = SpanEncoder(ORIGINS)
    for number in range(50):  # each is freed before the next one is made
        batch = [plain_record(1, {"number": number})] * 3
        assert parsed(encoder.encode(batch)) == encode_spans(dressed(batch))


@given(st.dictionaries(keys.filter(bool), scalars, max_size=12), some_links, some_events)
def test_what_exceeds_the_limits_is_dropped_and_counted(
    attributes: dict[str, AttributeValue],
    links: tuple[SpanContext, ...],
    events: tuple[SpanEvent, ...],
) -> None:
    record = SpanRecord(
        Service.PROXY,
        "n",
        Kind.CLIENT,
        context_of(),
        None,
        1,
        2,
        attributes,
        links,
        events=events,
    )

    request = parsed(ENCODER.encode([record]))

    assert request == encode_spans([OversizedSpan(record, ORIGINS.proxy)])
    (encoded,) = request.resource_spans[0].scope_spans[0].spans
    assert len(encoded.attributes) == min(len(attributes), 6)
    assert encoded.dropped_attributes_count == max(len(attributes) - 6, 0)
    assert len(encoded.links) == min(len(links), 2)
    assert encoded.dropped_links_count == max(len(links) - 2, 0)
    assert len(encoded.events) == min(len(events), 2)
    assert encoded.dropped_events_count == max(len(events) - 2, 0)


def test_a_span_whose_length_takes_three_bytes_is_encoded_whole() -> None:
    record = record_of(name="n" * 20_000)

    assert parsed(SpanEncoder(ORIGINS).encode([record])) == encode_spans(dressed([record]))


def test_an_untouched_record_span_looks_like_an_ordinary_one() -> None:
    record = record_of(**{"rpc.method": "thread/read", "long": "y" * 300})
    span = span_of(record)

    shown = json.loads(span.to_json())

    assert (shown["name"], shown["kind"]) == ("thread/read", "SpanKind.SERVER")
    assert shown["attributes"] == {"rpc.method": "thread/read", "long": "y" * 200}
    assert span.get_span_context() == span.context
    assert not hasattr(span, "no_such_field")
    assert copy.copy(span_of(record)).to_json() == span.to_json()


def test_the_cache_stays_bounded_and_right_when_values_never_repeat() -> None:
    encoder = SpanEncoder(ORIGINS)
    spans = [
        record_of(request=str(number), port=number)
        for number in range(otlp_encoding.MAX_CACHED + 10)
    ]

    assert parsed(encoder.encode(spans)) == encode_spans(dressed(spans))
    assert parsed(encoder.encode(spans[:2])) == encode_spans(dressed(spans[:2]))


def canonical(document: object) -> object:
    """OTLP JSON with absent and empty being the same, as protobuf's JSON mapping has it."""
    if isinstance(document, list):
        return [canonical(each) for each in document]
    if not isinstance(document, dict):
        return document
    kept = {key: canonical(value) for key, value in document.items()}
    empty: tuple[object, ...] = ("", "0", [])
    return {
        key: value for key, value in kept.items() if key == "stringValue" or value not in empty
    }


@given(st.lists(record_spans, max_size=4))
def test_any_record_is_the_same_json_as_the_stock_encoder_makes(spans: list[RecordSpan]) -> None:
    expected = json.dumps(json_request(spans).to_dict())

    assert canonical(json.loads(otlp_json.json_of(spans))) == canonical(json.loads(expected))


def test_a_full_disk_is_a_failure_with_a_reason() -> None:
    exporter = otlp_json.TraceFileExporter(Path("/dev/full"))

    assert exporter.export([span_of(record_of())]) is SpanExportResult.FAILURE
    assert exporter.last_error == "the file cannot be written: No space left on device"
    exporter.shutdown()


def test_a_closed_file_takes_nothing(tmp_path: Path) -> None:
    exporter = otlp_json.TraceFileExporter(tmp_path / "traces.jsonl")
    exporter.shutdown()
    exporter.shutdown()

    assert exporter.export([span_of(record_of())]) is SpanExportResult.FAILURE


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "\ud800", object()])
def test_a_value_that_otlp_cannot_carry_is_refused(value: object) -> None:
    record = record_of(k=cast("str", value))

    for _ in range(2):
        with pytest.raises((ValueError, TypeError)):
            ENCODER.encode([record_of(), record])
    assert parsed(ENCODER.encode([record_of()])) == stock([record_of()]), "nothing is left over"


NOWHERE = "http://127.0.0.1:9/v1/traces"
STOCK = "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter"


class WithCredentials(SpanExporter):
    """The stock exporter, which knows the plug-ins of OpenTelemetry's Python SDK."""

    def __init__(self, url: str, *, headers: dict[str, str], timeout: float) -> None:
        assert (url, headers) == ("https://h/", {"content-type": "application/x-protobuf"})
        assert timeout == 2.5

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the interface
        return SpanExportResult.SUCCESS


@pytest.mark.parametrize("signal", ["", "TRACES_"])
def test_a_credential_provider_needs_the_stock_exporter(
    monkeypatch: pytest.MonkeyPatch, signal: str
) -> None:
    monkeypatch.setattr(STOCK, WithCredentials)
    environ = {
        f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal}CREDENTIAL_PROVIDER": "cloud",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
    }

    assert isinstance(otlp_exporter("https://h/", environ, ORIGINS), WithCredentials)


@pytest.mark.parametrize("url", [NOWHERE, NOWHERE.replace("http", "https", 1)])
def test_an_exporter_that_was_closed_takes_nothing(url: str) -> None:
    exporter = otlp_exporter(url, {}, ORIGINS)
    assert isinstance(exporter, OtlpExporter)
    exporter.shutdown()
    exporter.shutdown()

    assert exporter.export([span_of(record_of())]) is SpanExportResult.FAILURE
    assert exporter.last_error == "shut down meanwhile"
