"""What a 2xx answer means, in both encodings and in none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from trace_proxy.runtime.telemetry.otlp.answer import Taken, read_answer
from trace_proxy.runtime.telemetry.otlp.http_post import Answer

PROTOBUF, JSON = "application/x-protobuf", "application/json"


def answer(content_type: str, body: bytes) -> Answer:
    return Answer(200, content_type=content_type, body=body)


@given(st.integers(0, 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_partial_success_is_read_as_the_stock_library_writes_it(
    refused: int, message: str
) -> None:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = refused
    response.partial_success.error_message = message
    partial = {"rejectedSpans": str(refused), "errorMessage": message}

    assert read_answer(answer(PROTOBUF, response.SerializeToString())) == Taken(refused, message)
    in_json = json.dumps({"partialSuccess": partial}).encode()
    assert read_answer(answer(JSON, in_json)) == Taken(refused, message)


@given(st.sampled_from([PROTOBUF, JSON, "", "text/plain"]), st.binary(max_size=40))
def test_no_body_breaks_it(content_type: str, body: bytes) -> None:
    taken = read_answer(answer(content_type, body))

    assert (taken is None) is (body.lstrip()[:1] == b"<")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("text/html", b""), ("text/plain", b"\n <!doctype html>"), (PROTOBUF, b"<html>")],
)
def test_a_page_is_no_collectors(content_type: str, body: bytes) -> None:
    assert read_answer(answer(content_type, body)) is None


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (PROTOBUF, b""),
        (PROTOBUF, b"\x0a\x00"),
        (PROTOBUF, b"\x09" + b"\x00" * 8 + b"\x15" + b"\x00" * 4),
        (PROTOBUF, b"\x08\x01"),
        (PROTOBUF, b"\x0a\x02\x0a\x00"),
        (PROTOBUF, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        (PROTOBUF, b"\x0b\x0c"),
        (PROTOBUF, b"\x0a\x0b\x08" + b"\xff" * 9 + b"\x01"),
        (JSON, b"{}"),
        (JSON, b'{"partialSuccess":{"rejectedSpans":"many"}}'),
        (JSON, b'{"partialSuccess":{"rejectedSpans":-5}}'),
        ("text/plain", b"thank you"),
    ],
)
def test_what_says_nothing_of_refused_spans_took_all(content_type: str, body: bytes) -> None:
    assert read_answer(answer(content_type, body)) == Taken()
