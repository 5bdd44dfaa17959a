"""The main scenes against a real Jaeger: what a person finds there."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.collector import CollectedSpan, tree
from tests.e2e.proxy import Client, Json, Proxy, trace_proxy, turn_params
from tests.e2e.traces import environment, new_trace_id, traceparent
from tests.jaeger.jaeger import Edge, Jaeger

COMMAND_TREE = [
    "{front}: turn/start [server]",
    "  {back}: invoke_agent core-server [internal]",
    "    {back}: chat offline [client]",
    "    {back}: execute_tool shell [internal] ERROR",
    "      client: approval command [client]",
    "    {back}: chat offline [client]",
]


class Names:
    """Services of this test only: other runs have left traces in the same Jaeger."""

    def __init__(self) -> None:
        mark = uuid4().hex[:8]
        self.client, self.front, self.back = f"client-{mark}", f"front-{mark}", f"back-{mark}"

    def drawn(self, lines: list[str]) -> list[str]:
        """The tree with these names in it."""
        return [line.format(front=self.front, back=self.back) for line in lines]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def proxy(jaeger: Jaeger, names: Names) -> AsyncIterator[Proxy]:
    env = {**environment(jaeger.otlp_url), "OTEL_SERVICE_NAME": names.front}
    async with trace_proxy("--core-service-name", names.back, env=env) as proxy:
        yield proxy


async def run(client: Client, text: str, context: Json, decision: str = "") -> str:
    """Run a turn in a trace; returns its thread."""
    thread = await client.thread()
    await client.request("turn/start", turn_params(thread, text), trace=context)
    if decision:
        asked = await client.wait(lambda each: "method" in each and "id" in each)
        await client.send({"id": asked["id"], "result": {"decision": decision}})
    await client.wait_for("turn/completed")
    return thread


async def test_a_turn_is_read_back_by_its_id_with_everything_on_it(
    jaeger: Jaeger, proxy: Proxy, names: Names
) -> None:
    trace_id = new_trace_id()
    async with proxy.client() as client:
        context = {"traceparent": traceparent(trace_id)}
        thread = await run(client, "/run false", context, "accept")
        spans = await jaeger.trace(trace_id, until=6)
    assert tree(spans) == names.drawn(COMMAND_TREE)
    by_name = {span.name: span for span in spans}
    assert by_name["execute_tool shell"].attributes["process.exit.code"] == 1
    assert by_name["execute_tool shell"].message == "The command failed."
    assert by_name["invoke_agent core-server"].attributes["gen_ai.usage.output_tokens"] > 0
    assert by_name["turn/start"].attributes["trace_proxy.client.name"] == "e2e"
    assert {span.attributes.get("gen_ai.conversation.id") for span in spans} == {thread}
    agents = [span for span in spans if span.service == names.back]
    assert {span.attributes["gen_ai.provider.name"] for span in agents} == {"offline"}
    assert {span.scope for span in agents} == {"trace_proxy.gen_ai"}


async def test_services_operations_and_errors_are_found_as_the_readme_says(
    jaeger: Jaeger, proxy: Proxy, names: Names
) -> None:
    failed, trace_id = new_trace_id(), new_trace_id()
    async with proxy.client() as client:
        thread = await run(client, "/fail now", {"traceparent": traceparent(failed)})
        await run(client, "/run false", {"traceparent": traceparent(trace_id)}, "accept")
        await client.error("thread/read", {"threadId": "nonsense"})
        await client.request("model/list", {})
        await jaeger.trace(failed, until=2)
        await jaeger.trace(trace_id, until=6)
    assert await jaeger.services() >= {names.front, names.back}
    assert await jaeger.operations(names.front) >= {
        ("initialize", "server"),
        ("thread/start", "server"),
        ("turn/start", "server"),
    }
    assert await jaeger.operations(names.back) == {
        ("invoke_agent core-server", "internal"),
        ("execute_tool shell", "internal"),
        ("chat offline", "client"),
    }
    assert ("approval command", "client") in await jaeger.operations("client")
    # `error=true` finds nothing in Jaeger's memory storage: it compares text with a flag.
    assert await jaeger.search(names.back, {"error.type": "other"}) == {failed}
    assert await jaeger.search(names.back, {"error.type": "exit_code"}) == {trace_id}
    refused = await jaeger.search(names.front, {"error.type": "-32600"})
    assert len(refused) == 1
    assert await jaeger.search(names.back, {"process.exit.code": "1"}) == {trace_id}
    assert await jaeger.search(names.back, {"gen_ai.conversation.id": thread}) == {failed}
    for service in (names.front, names.back):
        assert trace_id in await jaeger.search(service, {"trace_proxy.client.name": "e2e"})


def exported_client_span(jaeger: Jaeger, service: str) -> tuple[trace.Span, TracerProvider]:
    """A client that traces itself."""
    provider = TracerProvider(resource=Resource({"service.name": service}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{jaeger.otlp_url}/v1/traces", timeout=5)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    span = provider.get_tracer("tests").start_span("ask", kind=trace.SpanKind.CLIENT)
    return span, provider


async def test_the_service_graph_leads_from_the_client_over_the_proxy_to_the_core(
    jaeger: Jaeger, proxy: Proxy, names: Names
) -> None:
    span, provider = await asyncio.to_thread(exported_client_span, jaeger, names.client)
    ids = span.get_span_context()
    trace_id = f"{ids.trace_id:032x}"
    async with proxy.client() as client:
        context = {"traceparent": f"00-{trace_id}-{ids.span_id:016x}-01"}
        await run(client, "hello there", context)
    await asyncio.to_thread(span.end)
    await asyncio.to_thread(provider.shutdown)

    spans = await jaeger.trace(trace_id, until=4)

    assert tree(spans) == [
        f"{names.client}: ask [client]",
        f"  {names.front}: turn/start [server]",
        f"    {names.back}: invoke_agent core-server [internal]",
        f"      {names.back}: chat offline [client]",
    ]
    edges = {edge for edge in await jaeger.dependencies() if edge.parent.startswith(("cl", "fr"))}
    ours = {edge for edge in edges if edge.parent in {names.client, names.front}}
    assert ours == {Edge(names.client, names.front, 1), Edge(names.front, names.back, 1)}


async def test_a_handshake_in_b3_joins_the_trace_of_who_sent_it(
    jaeger: Jaeger, proxy: Proxy, names: Names
) -> None:
    trace_id = new_trace_id()
    async with proxy.client(headers={"b3": f"{trace_id}-00f067aa0ba902b7-1"}) as client:
        await client.turn(await client.thread(), "hello")
        await client.wait_for("turn/completed")
        spans = await jaeger.trace(trace_id, until=5)
    assert tree(spans) == names.drawn(
        [
            "{front}: initialize [server]",
            "{front}: thread/start [server]",
            "{front}: turn/start [server]",
            "  {back}: invoke_agent core-server [internal]",
            "    {back}: chat offline [client]",
        ]
    )


async def test_an_interrupt_from_another_trace_links_to_the_turn(
    jaeger: Jaeger, proxy: Proxy, names: Names
) -> None:
    first, second = new_trace_id(), new_trace_id()
    async with proxy.client() as client:
        thread = await client.thread()
        params = turn_params(thread, "/slow 30")
        context = {"traceparent": traceparent(first)}
        turn = await client.request("turn/start", params, trace=context)
        await client.wait_for("item/agentMessage/delta")
        params = {"threadId": thread, "turnId": turn["turn"]["id"]}
        context = {"traceparent": traceparent(second)}
        await client.request("turn/interrupt", params, trace=context)
        await client.wait_for("turn/completed")
        spans = await jaeger.trace(first, until=2)
        (interrupt,) = await jaeger.trace(second)
    (turn_span,) = [span for span in spans if span.service == names.back]
    assert [(link.trace_id, link.span_id) for link in interrupt.links] == [
        (first, turn_span.span_id)
    ]


async def read_through_jaeger(
    jaeger: Jaeger, lines: list[bytes], trace_id: str
) -> list[CollectedSpan]:
    """Give Jaeger the lines of a trace file, each as OTLP/HTTP JSON."""
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session:
        for line in lines:
            url = f"{jaeger.otlp_url}/v1/traces"
            async with session.post(url, data=line, headers=headers) as response:
                assert response.status == 200, await response.text()
    return await jaeger.trace(trace_id, until=6)


async def test_every_line_of_a_trace_file_is_otlp_that_jaeger_takes(
    jaeger: Jaeger, names: Names, tmp_path: Path
) -> None:
    path, trace_id = tmp_path / "traces.jsonl", new_trace_id()
    options = ("--trace-file", str(path), "--core-service-name", names.back)
    async with trace_proxy(*options, env={"OTEL_SERVICE_NAME": names.front}) as proxy:
        async with proxy.client() as client:
            context = {"traceparent": traceparent(trace_id)}
            await run(client, "/run false", context, "accept")
        async with asyncio.timeout(10):
            while "invoke_agent" not in path.read_text():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)
    lines = path.read_bytes().splitlines()
    assert tree(await read_through_jaeger(jaeger, lines, trace_id)) == names.drawn(COMMAND_TREE)
