"""Where spans go: collectors that fail, the trace file, `OTEL_*`, and what is said of it."""

import asyncio
import json
import signal
import socket
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.collector import CollectedSpan, Collector, Mode, spans_from_json, tree
from tests.e2e.proxy import Client, Proxy, trace_proxy
from tests.e2e.traces import environment, samples, traced

IMPATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1000", "OTEL_BSP_MAX_QUEUE_SIZE": "64"}
EXIT_S = 3.0
"""From the signal to the exit, with nothing running, whatever the collector does."""

REQUESTS = 200


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


async def ask(client: Client, count: int) -> float:
    """Send so many requests at once and take all answers; returns how long it took."""
    begun_s = time.monotonic()
    ids = [await client.begin("model/list", {}) for _ in range(count)]
    for request_id in ids:
        await client.answer(request_id)
    return time.monotonic() - begun_s


async def exits_in_time(proxy: Proxy) -> None:
    begun_s = time.monotonic()
    proxy.signal(signal.SIGTERM)
    assert await proxy.exit_code() == 0
    assert time.monotonic() - begun_s < EXIT_S


async def loses_spans_and_nothing_else(endpoint: str, why: str) -> None:
    """Many requests past a collector that takes none of their spans."""
    env = {**environment(endpoint), **IMPATIENT}
    async with trace_proxy(env=env) as proxy:
        async with proxy.client() as client:
            for _ in range(4):
                assert await ask(client, REQUESTS) < 10
            lost = await proxy.logged("telemetry.destination.lost")
            status, body, _ = await proxy.get("/readyz")
            metrics = samples((await proxy.get("/metrics"))[1])
        await exits_in_time(proxy)
        complaints = [each for each in proxy.log() if each["event"].startswith("telemetry.")]
    details = json.loads(body)["traces"]
    assert status == 200
    assert details["reachable"] is False
    assert details["spans_dropped"] > 0
    assert details["last_error"] == lost["error"] == why
    assert metrics["trace_proxy_spans_dropped_total"] > 0
    assert metrics["trace_proxy_spans_exported_total"] == 0
    told = [each["event"] for each in complaints]
    assert sorted(told) == ["telemetry.destination.lost", "telemetry.spans.dropped"], "once each"


async def test_a_collector_that_is_dead_costs_nothing_but_spans() -> None:
    await loses_spans_and_nothing_else(f"http://127.0.0.1:{free_port()}", "cannot connect")


async def test_a_collector_that_hangs_costs_nothing_but_spans() -> None:
    async with Collector() as collector:
        collector.mode = Mode.HANG
        await loses_spans_and_nothing_else(collector.url, "no answer in time")


async def test_a_collector_that_refuses_costs_nothing_but_spans() -> None:
    async with Collector() as collector:
        collector.mode = Mode.ANSWER_503
        await loses_spans_and_nothing_else(collector.url, "the collector answered 503")


async def test_a_collector_that_comes_back_gets_spans_again() -> None:
    async with Collector() as collector:
        collector.mode = Mode.ANSWER_503
        async with traced(collector=collector, env=IMPATIENT) as stage:
            async with stage.scene() as scene:
                await stage.proxy.logged("telemetry.destination.lost")
                collector.mode = Mode.OK
                await scene.request("model/list", {})
                await scene.becomes("trace-proxy: model/list [server]")
            back = await stage.proxy.logged("telemetry.destination.back")
            details = json.loads((await stage.proxy.get("/readyz"))[1])["traces"]
        assert back["lost"] == details["spans_dropped"] > 0
        assert details["reachable"] is True


async def test_an_idle_proxy_exits_in_time_and_sends_its_last_spans() -> None:
    async with Collector() as collector:
        late = {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
        async with traced(collector=collector, env=late) as stage:
            async with stage.scene() as scene:
                await scene.turn("hello")
            assert collector.requests == 0
            assert stage.proxy.ready["traces"] == f"otlp {collector.url}/v1/traces"
            await exits_in_time(stage.proxy)
            assert tree(scene.spans()) == [
                "trace-proxy: turn/start [server]",
                "  core-server: invoke_agent core-server [internal]",
            ]


OTLP = "otlp http://127.0.0.1:1/v1/traces"


def file_spans(path: Path) -> list[CollectedSpan]:
    lines = path.read_bytes().splitlines()
    return [span for line in lines for span in spans_from_json(json.loads(line), raw=line)]


async def test_without_a_collector_traces_go_to_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    async with trace_proxy("--trace-file", str(path)) as proxy:
        async with proxy.client() as client:
            await client.turn(await client.thread(), "hello there")
            await client.wait_for("turn/completed")
        await exits_in_time(proxy)
        traces = proxy.ready["traces"]
    assert traces == f"file {path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tree(file_spans(path)) == [
        "trace-proxy: initialize [server]",
        "trace-proxy: thread/start [server]",
        "trace-proxy: turn/start [server]",
        "  core-server: invoke_agent core-server [internal]",
        "    core-server: chat offline [client]",
    ]


async def test_without_any_destination_contexts_are_made_all_the_same() -> None:
    async with trace_proxy() as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "hello")
        await client.wait_for("turn/completed")
        ended = await proxy.logged("turn.ended")
        assert proxy.ready["traces"] == "none"
    assert int(ended["trace_id"], 16)


async def exported(env: dict[str, str], *options: str) -> Sequence[CollectedSpan]:
    """The spans of one turn under these settings, once the proxy has ended."""
    async with Collector() as collector:
        async with traced(*options, collector=collector, env=env) as stage:
            async with stage.proxy.client() as client:
                await client.turn(await client.thread(), "hello")
                await client.wait_for("turn/completed")
            await exits_in_time(stage.proxy)
        return collector.spans


async def test_names_and_resources_come_from_the_environment() -> None:
    env = {
        "OTEL_SERVICE_NAME": "edge",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.name=other",
    }
    spans = await exported(env, "--core-service-name", "agent")
    assert {span.service for span in spans} == {"edge", "agent"}
    assert {span.resource["deployment.environment.name"] for span in spans} == {"test"}


@pytest.mark.parametrize(
    "env",
    [
        {"OTEL_TRACES_SAMPLER": "always_off"},
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "console"},
    ],
    ids=["always_off", "ratio 0", "disabled", "none", "console"],
)
async def test_settings_under_which_a_collector_gets_nothing(env: dict[str, str]) -> None:
    assert await exported(env) == []


async def test_the_console_exporter_writes_spans_among_the_log() -> None:
    env = {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    async with trace_proxy(env=env) as proxy:
        async with proxy.client() as client:
            await client.request("model/list", {})
        await exits_in_time(proxy)
        lines = [json.loads(line) for line in proxy.stderr.splitlines()]
        traces = proxy.ready["traces"]
    assert traces == "console"
    assert [line["name"] for line in lines if "name" in line and "event" not in line] == [
        "initialize",
        "model/list",
    ]


async def test_headers_for_the_collector_come_from_the_environment() -> None:
    async with Collector() as collector:
        env = {"OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=mine"}
        async with traced(collector=collector, env=env) as stage, stage.proxy.client():
            await collector.wait_for(1)
    assert collector.headers[-1]["x-tenant"] == "mine"


@pytest.mark.parametrize(
    ("env", "event", "traces"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "telemetry.exporter.unknown", OTLP),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}, "telemetry.protocol.unknown", OTLP),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "-1"}, "telemetry.number.invalid", OTLP),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense"}, "telemetry.endpoint.invalid", "none"),
    ],
    ids=["exporter", "protocol", "limit", "endpoint"],
)
async def test_a_setting_that_means_nothing_is_warned_about_and_does_not_keep_it_from_serving(
    env: dict[str, str], event: str, traces: str
) -> None:
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", **env}
    async with trace_proxy(env=given) as proxy:
        assert await proxy.logged(event)
        assert proxy.ready["traces"] == traces


async def test_log_lines_lead_to_the_trace() -> None:
    async with traced() as stage, stage.scene() as scene:
        await scene.turn("hello")
        failed = await scene.begin("no/such")
        await scene.client.wait(lambda each: each.get("id") == failed)
        turn_line = await stage.proxy.logged("turn.ended")
        error_line = await stage.proxy.logged("request.failed")
        _, turn, request = await scene.becomes(
            "trace-proxy: turn/start [server]",
            "  core-server: invoke_agent core-server [internal]",
            "trace-proxy: jsonrpc [server] ERROR",
        )
    assert (turn_line["trace_id"], turn_line["span_id"]) == (scene.trace_id, turn.span_id)
    assert (error_line["trace_id"], error_line["span_id"]) == (scene.trace_id, request.span_id)
    assert (error_line["method"], error_line["error"]) == ("_OTHER", -32601)


async def test_whatever_a_client_sends_a_log_line_is_one_object() -> None:
    evil = '\n{"event":"forged"}\r\x1b[31m\u2028\x00'
    env = {"LOG_LEVEL": "debug"}
    async with trace_proxy(env=env) as proxy:
        async with proxy.client(headers={"User-Agent": "x"}) as client:
            for message in (
                {"id": evil, "method": evil, "params": {evil: evil}},
                {"id": 1, "method": "turn/start", "params": {"threadId": evil, "input": []}},
                {"id": 2, "method": "model/list", "params": {}, "trace": {"traceparent": evil}},
            ):
                await client.send(message)
                await client.wait(lambda each: "id" in each)
            await client.write(evil)
            await client.wait(lambda each: "error" in each)
        async with asyncio.timeout(10):
            await proxy.logged("connection.closed")
        stderr = proxy.stderr
    lines = [json.loads(line) for line in stderr.splitlines()]
    assert all({"timestamp", "level", "event"} <= line.keys() for line in lines)
    assert "forged" not in {line["event"] for line in lines}
    assert "\x1b" not in stderr


async def test_a_flood_of_errors_is_a_hundred_lines_a_second() -> None:
    async with trace_proxy() as proxy, proxy.client() as client:
        begun_s = time.monotonic()
        errors = 0
        async with asyncio.timeout(20):
            while not proxy.log("events.suppressed"):  # told when a new second begins
                for _ in range(200):
                    await client.begin("no/such")
                for _ in range(200):
                    await client.wait(lambda each: "error" in each)
                errors += 200
        lines = len(proxy.log("request.failed"))
        seconds = time.monotonic() - begun_s
    assert lines <= 100 * (seconds + 2)
    assert lines < errors


TRACED_METRICS = {
    "rpc_server_call_duration_seconds_count",
    "trace_proxy_connections_active",
    "trace_proxy_messages_total",
    "trace_proxy_transferred_bytes_total",
    "trace_proxy_requests_in_flight",
    "trace_proxy_queue_messages",
    "trace_proxy_queue_size_bytes",
    "trace_proxy_turns_running",
    "trace_proxy_turn_duration_seconds_count",
    "trace_proxy_turn_time_to_first_delta_seconds_count",
    "trace_proxy_tokens_total",
    "trace_proxy_approvals_pending",
    "trace_proxy_approval_wait_seconds_count",
    "trace_proxy_core_restarts_total",
    "trace_proxy_drain_state",
    "trace_proxy_spans_dropped_total",
    "trace_proxy_spans_exported_total",
}


async def test_every_metric_is_there_with_a_sensible_value() -> None:
    async with traced() as stage, stage.scene() as scene:
        turn_id = await scene.begin_turn("/run true")
        await scene.client.wait(lambda each: "method" in each and "id" in each)
        during = await stage.metrics()
        turn = {"threadId": scene.thread, "turnId": turn_id}
        await scene.client.request("turn/interrupt", turn)
        await scene.end_turn()
        await scene.turn("hello there")
        after = await stage.metrics()
    assert {name.partition("{")[0] for name in after} >= TRACED_METRICS
    assert during["trace_proxy_turns_running"] == during["trace_proxy_approvals_pending"] == 1
    assert after["trace_proxy_turns_running"] == after["trace_proxy_approvals_pending"] == 0
    assert after["trace_proxy_turn_duration_seconds_count"] == 2
    assert after["trace_proxy_turn_time_to_first_delta_seconds_count"] == 1
    assert after["trace_proxy_approval_wait_seconds_count"] == 1
    assert after["trace_proxy_connections_active"] == 1
    assert after['trace_proxy_drain_state{state="serving"}'] == 1
    assert after['trace_proxy_tokens_total{gen_ai_token_type="output"}'] == 2
    for direction in ("from_clients", "to_clients", "from_cores", "to_cores"):
        assert after[f'trace_proxy_messages_total{{direction="{direction}"}}'] > 3
        assert after[f'trace_proxy_transferred_bytes_total{{direction="{direction}"}}'] > 300
    started = 'rpc_server_call_duration_seconds_count{error_type="",rpc_method="turn/start"}'
    assert after[started] == 2


async def test_without_reads_what_only_looks_leaves_no_span() -> None:
    async with traced("--trace-reads", "off") as stage, stage.scene() as scene:
        for method in ("thread/list", "model/list", "thread/loaded/list"):
            await scene.request(method, {})
        await scene.turn("hello")
        await scene.request("thread/read", {"threadId": scene.thread})
        await scene.request("thread/name/set", {"threadId": scene.thread, "name": "n"})
        await scene.becomes(
            "trace-proxy: turn/start [server]",
            "  core-server: invoke_agent core-server [internal]",
            "trace-proxy: thread/name/set [server]",
        )


async def test_readiness_says_what_runs_and_not_more_than_it_knows_of_the_collector() -> None:
    late = {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
    async with traced(env=late) as stage, stage.scene() as scene:
        turn = await scene.begin_turn("/slow 30")
        told = json.loads((await stage.proxy.get("/readyz"))[1])
        assert (told["turns"], told["traces"]["reachable"]) == (1, None)
        await scene.request("turn/interrupt", {"threadId": scene.thread, "turnId": turn})
        await scene.end_turn()
        assert json.loads((await stage.proxy.get("/readyz"))[1])["turns"] == 0
