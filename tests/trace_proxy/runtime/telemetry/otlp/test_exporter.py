"""Our OTLP encoder says what the stock one says; parsed bytes are compared, for any span."""

import copy
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans as json_request
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace import SpanContext as SdkSpanContext
from opentelemetry.util.types import AnyValue

from trace_proxy.context.span_record import AttributeValue, Kind, Service, SpanContext, SpanRecord
from trace_proxy.runtime.telemetry.otlp import encoding as otlp_encoding
from trace_proxy.runtime.telemetry.otlp import json_encoding as otlp_json
from trace_proxy.runtime.telemetry.otlp.encoding import SpanEncoder
from trace_proxy.runtime.telemetry.otlp.exporter import OtlpExporter, otlp_exporter
from trace_proxy.runtime.telemetry.record_span import (
    Origin,
    Origins,
    OversizedSpan,
    RecordSpan,
    sdk_context,
)

Attributes: TypeAlias = dict[str, AnyValue]

LIMITS = SpanLimits(max_span_attributes=6, max_links=2, max_span_attribute_length=200)

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
values = st.recursive(
    scalars | st.none() | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
times_ns = st.integers(0, 2**64 - 1)
trace_ids = st.integers(1, 2**128 - 1)
span_ids = st.integers(1, 2**64 - 1)
states = st.sampled_from(["", "a=1", "a=1,b=2", "rojo=00f067aa0ba902b7 , congo=t61rcWkgMzE"])
any_attributes = st.dictionaries(keys, values, max_size=5)

sdk_contexts = st.builds(
    SdkSpanContext,
    trace_ids,
    span_ids,
    st.booleans(),
    st.builds(TraceFlags, st.integers(0, 255)),
    st.builds(lambda state: TraceState.from_header([state]), states),
)


def bounded_attributes(attributes: Attributes, most: int | None) -> BoundedAttributes:
    return BoundedAttributes(most, attributes)


def bounded_links(links: list[Link], most: int | None) -> BoundedList[Link]:
    return BoundedList.from_seq(most, links)


def bounded_events(events: list[Event], most: int | None) -> BoundedList[Event]:
    return BoundedList.from_seq(most, events)


mosts = st.none() | st.integers(0, 3)
some_attributes = st.none() | any_attributes | st.builds(bounded_attributes, any_attributes, mosts)
links = st.builds(Link, sdk_contexts, some_attributes)
events = st.builds(Event, texts, some_attributes, times_ns)
resources = st.builds(
    Resource,
    st.dictionaries(keys, scalars, max_size=3),
    st.sampled_from(["", "https://opentelemetry.io/schemas/1.44.0"]),
)
scopes = st.none() | st.builds(
    InstrumentationScope,
    texts,
    st.none() | texts,
    st.none() | texts,
    st.none() | st.dictionaries(keys, scalars, max_size=3),
)


@st.composite
def statuses(draw: st.DrawFn) -> Status:
    code = draw(st.sampled_from(StatusCode))
    return Status(code, draw(st.none() | texts) if code is StatusCode.ERROR else None)


@st.composite
def readable_spans(draw: st.DrawFn) -> ReadableSpan:
    return ReadableSpan(
        name=draw(texts),
        context=draw(sdk_contexts),
        parent=draw(st.none() | sdk_contexts),
        resource=draw(resources),
        attributes=draw(some_attributes),
        events=draw(st.builds(bounded_events, st.lists(events, max_size=3), mosts)),
        links=draw(st.builds(bounded_links, st.lists(links, max_size=3), mosts) | st.just(())),
        kind=draw(st.sampled_from(SpanKind)),
        status=draw(statuses()),
        start_time=draw(st.none() | times_ns),
        end_time=draw(times_ns),
        instrumentation_scope=draw(scopes),
    )


contexts = st.builds(SpanContext, trace_ids, span_ids, st.integers(0, 255), states, st.booleans())
own_attributes = st.dictionaries(keys.filter(bool), scalars | st.just("y" * 300), max_size=6)
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
)
ORIGINS = Origins(
    Origin(
        Resource({"service.name": "trace-proxy"}), InstrumentationScope("trace_proxy", "1"), LIMITS
    ),
    Origin(
        Resource({"service.name": "core-server"}),
        InstrumentationScope("trace_proxy", "1"),
        SpanLimits(max_span_attributes=20, max_span_attribute_length=20),
    ),
)
record_spans = records.map(ORIGINS.dress)
JSON_ENCODER = otlp_json.JsonSpanEncoder()
ENCODER = SpanEncoder(ORIGINS)  # one for all examples: what it remembers must never be wrong


def context_of(trace_id: int = 1, span_id: int = 2) -> SpanContext:
    return SpanContext(trace_id, span_id, flags=3)


def record_of(name: str = "thread/read", **attributes: str | float) -> SpanRecord:
    return SpanRecord(Service.PROXY, name, Kind.SERVER, context_of(), None, 1, 2, dict(attributes))


def span_of(record: SpanRecord) -> RecordSpan:
    return RecordSpan(record, ORIGINS.of(record.service))


def dressed(spans: Sequence[SpanRecord | ReadableSpan]) -> list[ReadableSpan]:
    return [ORIGINS.dress(each) if isinstance(each, SpanRecord) else each for each in spans]


def parsed(body: bytes) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    return request


@given(st.lists(readable_spans(), max_size=4))
def test_any_readable_span_is_encoded_as_the_stock_encoder_does(spans: list[ReadableSpan]) -> None:
    assert parsed(ENCODER.encode(spans)) == encode_spans(spans)


@given(st.lists(records, max_size=4))
def test_any_record_is_encoded_as_the_stock_encoder_does(spans: list[SpanRecord]) -> None:
    assert parsed(ENCODER.encode(spans)) == encode_spans(dressed(spans))


@given(st.lists(plain_records, max_size=8))
def test_a_plain_record_is_encoded_as_the_stock_encoder_does(spans: list[SpanRecord]) -> None:
    assert parsed(ENCODER.encode(spans)) == encode_spans(dressed(spans))


@given(st.lists(records | plain_records | readable_spans() | record_spans, max_size=6))
def test_all_kinds_share_a_request(spans: list[SpanRecord | ReadableSpan]) -> None:
    assert parsed(ENCODER.encode(spans)) == encode_spans(dressed(spans))


@given(st.lists(records | plain_records, max_size=6), st.integers(0, 6))
def test_requests_can_be_concatenated(spans: list[SpanRecord], first: int) -> None:
    both = ENCODER.encode(spans[:first]) + ENCODER.encode(spans[first:])

    parts = encode_spans(dressed(spans[:first])), encode_spans(dressed(spans[first:]))
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


@given(st.dictionaries(keys.filter(bool), scalars, max_size=12), some_links)
def test_what_exceeds_the_limits_is_dropped_and_counted(
    attributes: dict[str, str | float], links: tuple[SpanContext, ...]
) -> None:
    record = SpanRecord(
        Service.PROXY, "n", Kind.CLIENT, context_of(), None, 1, 2, attributes, links
    )

    request = parsed(ENCODER.encode([record]))

    assert request == encode_spans([OversizedSpan(record, ORIGINS.proxy)])
    (encoded,) = request.resource_spans[0].scope_spans[0].spans
    assert len(encoded.attributes) == min(len(attributes), 6)
    assert encoded.dropped_attributes_count == max(len(attributes) - 6, 0)
    assert len(encoded.links) == min(len(links), 2)
    assert encoded.dropped_links_count == max(len(links) - 2, 0)


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
    stock = json.dumps(json_request(spans).to_dict())

    assert canonical(json.loads(JSON_ENCODER.encode(spans))) == canonical(json.loads(stock))


@given(st.lists(record_spans | readable_spans(), max_size=4))
def test_foreign_spans_are_left_to_the_stock_json_encoder(spans: list[ReadableSpan]) -> None:
    stock = json.dumps(json_request(spans).to_dict())

    assert canonical(json.loads(JSON_ENCODER.encode(spans))) == canonical(json.loads(stock))


def test_the_json_cache_stays_bounded_and_right() -> None:
    encoder = otlp_json.JsonSpanEncoder()
    spans = [span_of(record_of(request=str(number))) for number in range(otlp_json.MAX_CACHED + 9)]

    (group,) = json.loads(encoder.encode(spans))["resourceSpans"]

    assert [span["attributes"] for span in group["scopeSpans"][0]["spans"]] == [
        [{"key": "request", "value": {"stringValue": str(number)}}] for number in range(len(spans))
    ]


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
    span = ReadableSpan(
        "n", sdk_context(context_of()), attributes=cast("Attributes", {"k": value})
    )

    with pytest.raises((ValueError, TypeError)):
        SpanEncoder(ORIGINS).encode([span])


NOWHERE = "http://127.0.0.1:9/v1/traces"
STOCK = "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter"


class BuiltOtherwise(SpanExporter):
    """A stock exporter of another version: it has nothing inside that we know."""

    def __init__(self, url: str, *, headers: dict[str, str]) -> None:
        assert (url, headers) == ("https://h/", {"content-type": "application/x-protobuf"})

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the interface
        return SpanExportResult.SUCCESS


def test_a_stock_exporter_that_is_built_otherwise_does_it_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(STOCK, BuiltOtherwise)

    assert isinstance(otlp_exporter("https://h/", {}, ORIGINS), BuiltOtherwise)


@pytest.mark.parametrize("url", [NOWHERE, NOWHERE.replace("http", "https", 1)])
def test_an_exporter_that_was_closed_takes_nothing(url: str) -> None:
    exporter = otlp_exporter(url, {}, ORIGINS)
    assert isinstance(exporter, OtlpExporter)
    exporter.shutdown()
    exporter.shutdown()

    assert exporter.export([span_of(record_of())]) is SpanExportResult.FAILURE
    assert exporter.last_error == "shut down meanwhile"


def test_over_tls_the_stock_client_sends_and_says_why_it_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening: refused
        url = f"https://127.0.0.1:{taken.getsockname()[1]}/"
        exporter = otlp_exporter(url, os.environ, ORIGINS)
        assert isinstance(exporter, OtlpExporter)

        assert exporter.export([span_of(record_of())]) is SpanExportResult.FAILURE
    assert exporter.last_error == "cannot connect"
    exporter.shutdown()
