"""The strict front and the stock propagators together."""

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from structlog.testing import capture_logs

from trace_proxy.context.span_record import SpanContext
from trace_proxy.context.trace_context import (
    Extracted,
    Handshake,
    Reason,
    Rejection,
    RemoteContext,
    Sampling,
    Source,
)
from trace_proxy.runtime.telemetry.propagation import Propagation, extract_b3

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def context(flags: int = 1) -> SpanContext:
    return SpanContext(int(TRACE, 16), int(SPAN, 16), flags, remote=True)


@pytest.mark.parametrize(
    ("headers", "flags", "sampling"),
    [
        ([("b3", f"{TRACE}-{SPAN}-1")], 1, Sampling.YES),
        ([("b3", f"{TRACE}-{SPAN}-d-{SPAN}")], 1, Sampling.YES),
        ([("b3", f"{TRACE}-{SPAN}-0")], 0, Sampling.NO),
        ([("b3", f"{TRACE}-{SPAN}")], 0, Sampling.UNDECIDED),
        ([("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN)], 0, Sampling.UNDECIDED),
        ([("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Flags", "1")], 1, Sampling.YES),
    ],
)
def test_b3_of_a_handshake_goes_through_the_stock_propagator(
    headers: list[tuple[str, str]], flags: int, sampling: Sampling
) -> None:
    found = Propagation({}).handshake(headers)

    assert found == Handshake(Source.B3, RemoteContext(context(flags), sampling))


def test_a_64_bit_trace_id_is_padded() -> None:
    assert extract_b3({"b3": f"{SPAN}-{SPAN}"}) == SpanContext(
        int(SPAN, 16), int(SPAN, 16), 1, remote=True
    )


@pytest.mark.parametrize("carrier", [{"b3": "0"}, {"x-b3-traceid": TRACE}])
def test_without_ids_there_is_no_context_even_where_a_span_is_current(
    carrier: dict[str, str],
) -> None:
    ours = trace.SpanContext(1, 1, is_remote=False)
    token = otel_context.attach(trace.set_span_in_context(trace.NonRecordingSpan(ours)))
    try:
        assert extract_b3(carrier) is None
    finally:
        otel_context.detach(token)


def test_a_zero_b3_id_does_not_replace_a_valid_traceparent() -> None:
    found = Propagation({}).handshake([("traceparent", PARENT), ("b3", f"{'0' * 32}-{SPAN}-1")])

    assert found == Handshake(
        Source.TRACEPARENT,
        RemoteContext(context(), Sampling.YES),
        rejections=(Rejection(Source.B3, Reason.ZERO_ID),),
    )


def test_the_environment_is_the_fallback_parent() -> None:
    assert Propagation({"TRACEPARENT": PARENT}).environment == Extracted(context())
    assert Propagation({"TRACEPARENT": "x"}).environment == Extracted(
        None, (Rejection(Source.ENV, Reason.MALFORMED),)
    )
    assert Propagation({}).environment == Extracted()


def test_otel_propagators_governs_handshake_and_environment() -> None:
    off = Propagation({"OTEL_PROPAGATORS": "none", "TRACEPARENT": PARENT})

    assert off.environment == Extracted()
    assert off.handshake([("traceparent", PARENT), ("b3", "0")]) == Handshake()


def test_unknown_propagators_are_warned_about_once_and_by_name() -> None:
    with capture_logs() as logs:
        propagation = Propagation({"OTEL_PROPAGATORS": "jaeger,tracecontext," + "x" * 1_000})
        found = propagation.handshake([("traceparent", PARENT), ("b3", "0")])

    assert found == Handshake(Source.TRACEPARENT, RemoteContext(context(), Sampling.YES))
    assert logs == [
        {
            "event": "propagators.unknown",
            "ignored": ["jaeger", "x" * 64],
            "hint": "OTEL_PROPAGATORS takes tracecontext, b3, b3multi or none",
            "log_level": "warning",
        }
    ]
