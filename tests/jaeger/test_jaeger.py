"""The Jaeger client itself, with three spans of the stock exporter under two services."""

import asyncio
from uuid import uuid4

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind

from tests.collector import tree
from tests.jaeger.jaeger import Edge, Jaeger


def send_three_spans(jaeger: Jaeger, front: str, back: str, tag: str) -> str:
    """Send a request that one service passes on to another; returns the trace id."""
    exporter: SpanExporter = OTLPSpanExporter(f"{jaeger.otlp_url}/v1/traces", timeout=5)

    def tracer(service: str) -> trace.Tracer:
        provider = TracerProvider(
            resource=Resource({"service.name": service}), shutdown_on_exit=False
        )
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return provider.get_tracer("tests")

    root = tracer(front).start_span("request", kind=SpanKind.SERVER, attributes={"a.tag": tag})
    below = tracer(back)
    turn = below.start_span("turn", trace.set_span_in_context(root), SpanKind.SERVER)
    tool = below.start_span("tool", trace.set_span_in_context(turn))
    tool.set_status(trace.StatusCode.ERROR, "The tool failed.")
    for span in (tool, turn, root):
        span.end()
    exporter.shutdown()
    return f"{root.get_span_context().trace_id:032x}"


async def test_what_was_exported_is_read_back_and_shows_in_every_view(jaeger: Jaeger) -> None:
    mark = uuid4().hex
    front, back = f"front-{mark}", f"back-{mark}"
    trace_id = await asyncio.to_thread(send_three_spans, jaeger, front, back, mark)

    spans = await jaeger.trace(trace_id, until=3)

    assert tree(spans) == [
        f"{front}: request [server]",
        f"  {back}: turn [server]",
        f"    {back}: tool [internal] ERROR",
    ]
    assert {span.trace_id for span in spans} == {trace_id}
    assert await jaeger.services() >= {front, back}
    assert await jaeger.operations(back) == {("turn", "server"), ("tool", "internal")}
    assert await jaeger.search(front, {"a.tag": mark}) == {trace_id}
    assert await jaeger.search(front, {"a.tag": "other"}, at_least=0) == set()
    assert Edge(front, back, 1) in await jaeger.dependencies()


async def test_a_trace_that_never_comes_is_said_to_be_missing(jaeger: Jaeger) -> None:
    with pytest.raises(AssertionError, match=r"Jaeger has of trace .*:\nnothing"):
        await jaeger.trace(uuid4().hex, timeout_s=0.3)
