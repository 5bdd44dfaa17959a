"""The collector that other tests rely on, tried with the stock exporter."""

import asyncio
import gzip
import json

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.collector import CollectedLink, Collector, Mode, tree

LINKED = trace.SpanContext(7, 8, is_remote=True)


def three_spans() -> list[ReadableSpan]:
    """A server span with a failed child in another service, and its linked grandchild."""
    memory = InMemorySpanExporter()

    def tracer(service: str) -> trace.Tracer:
        resource = Resource({"service.name": service})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(memory))
        return provider.get_tracer("tests")

    proxy, core = tracer("trace-proxy"), tracer("core-server")
    root = proxy.start_span(
        "turn/start",
        kind=trace.SpanKind.SERVER,
        attributes={"text": "x", "number": 2**60, "ratio": 0.5, "yes": True, "list": ["a", "b"]},
    )
    turn = core.start_span("invoke_agent", trace.set_span_in_context(root))
    tool = core.start_span(
        "execute_tool", trace.set_span_in_context(turn), links=[trace.Link(LINKED)]
    )
    tool.add_event("stopped")
    tool.end()
    turn.set_status(trace.StatusCode.ERROR, "The turn failed.")
    turn.end()
    root.end()
    return list(memory.get_finished_spans())


async def export(
    collector: Collector,
    compression: Compression = Compression.NoCompression,
    timeout_s: float = 5,
) -> SpanExportResult:
    """Export with the stock exporter in a thread: it blocks."""
    url = f"{collector.url}/v1/traces"
    exporter: SpanExporter = OTLPSpanExporter(url, compression=compression, timeout=timeout_s)
    try:
        return await asyncio.to_thread(exporter.export, three_spans())
    finally:
        exporter.shutdown()


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_what_the_stock_exporter_sends_is_read_back_whole(compression: Compression) -> None:
    async with Collector() as collector:
        assert await export(collector, compression) is SpanExportResult.SUCCESS
        tool, turn, root = await collector.wait_for(3)

    assert tree([tool, turn, root]) == [
        "trace-proxy: turn/start [server]",
        "  core-server: invoke_agent [internal] ERROR",
        "    core-server: execute_tool [internal]",
    ]
    assert root.attributes == {
        "text": "x",
        "number": 2**60,
        "ratio": 0.5,
        "yes": True,
        "list": ["a", "b"],
    }
    assert (turn.status, turn.message) == ("error", "The turn failed.")
    assert (root.status, root.parent_span_id) == ("unset", "")
    assert (turn.trace_id, turn.parent_span_id) == (root.trace_id, root.span_id)
    assert (len(root.trace_id), len(root.span_id)) == (32, 16)
    assert tool.links == (CollectedLink(f"{7:032x}", f"{8:016x}"),)
    assert tool.events == ("stopped",)
    assert root.start_ns < root.end_ns
    assert root.flags == 0x100, "is_remote is known; the stock exporter leaves the low byte empty"
    assert (root.scope, root.resource) == ("tests", {"service.name": "trace-proxy"})
    assert b"turn/start" in root.raw


async def test_it_takes_otlp_json_too() -> None:
    link = {"traceId": "c" * 32, "spanId": "d" * 16, "traceState": "a=1"}
    span = {"traceId": "a" * 32, "spanId": "b" * 16, "name": "n", "kind": 3, "links": [link]}
    body = gzip.compress(
        json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    )
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    async with Collector() as collector, aiohttp.ClientSession() as session:
        url = f"{collector.url}/v1/traces"
        async with session.post(url, data=body, headers=headers) as response:
            assert response.status == 200
        async with session.post(url, data=b"\xff\xff") as refused:
            assert refused.status == 400

    assert tree(collector.spans) == [": n [client]"]
    assert collector.spans[0].trace_id == "a" * 32
    assert collector.spans[0].links == (CollectedLink("c" * 32, "d" * 16, "a=1"),)


async def test_it_answers_503_when_told() -> None:
    async with Collector() as collector:
        collector.mode = Mode.ANSWER_503
        assert await export(collector, timeout_s=0.5) is SpanExportResult.FAILURE

        assert collector.requests >= 1
        assert collector.spans == []


async def test_it_hangs_until_its_mode_changes() -> None:
    async with Collector() as collector, asyncio.TaskGroup() as tasks:
        collector.mode = Mode.HANG
        exporting = tasks.create_task(export(collector, timeout_s=0.3))
        await collector.wait_for_requests(1)
        assert await exporting is SpanExportResult.FAILURE

        collector.mode = Mode.OK
        assert await export(collector) is SpanExportResult.SUCCESS


async def test_it_goes_and_comes_back_on_the_same_port() -> None:
    async with Collector() as collector:
        url = collector.url
        await collector.stop()
        assert await export(collector, timeout_s=0.3) is SpanExportResult.FAILURE

        await collector.start()
        assert await export(collector) is SpanExportResult.SUCCESS
        assert collector.url == url
        assert len(collector.spans) == 3


async def test_stopping_lets_go_of_what_hangs() -> None:
    async with asyncio.TaskGroup() as tasks:
        async with Collector() as collector:
            collector.mode = Mode.HANG
            exporting = tasks.create_task(export(collector, timeout_s=0.3))
            await collector.wait_for_requests(1)
        assert await exporting is SpanExportResult.FAILURE


async def test_what_did_not_come_in_time_is_said_with_what_did() -> None:
    async with Collector() as collector:
        await export(collector)

        with pytest.raises(AssertionError, match=r"3 spans came:\ntrace-proxy: turn/start"):
            await collector.wait_for(lambda spans: len(spans) > 3, timeout_s=0.01)


async def test_a_span_without_its_parent_stands_at_the_left() -> None:
    async with Collector() as collector:
        await export(collector)

    assert tree(collector.spans[:2]) == [
        "core-server: invoke_agent [internal] ERROR",
        "  core-server: execute_tool [internal]",
    ]
