"""Numbers go in as plain attributes and come out as Prometheus text and as OTLP."""

import threading
from bisect import bisect_left
from itertools import pairwise

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from trace_proxy.errors import ConfigurationError
from trace_proxy.runtime.telemetry.metrics.instruments import (
    MAX_LABEL_SETS,
    OTHER,
    CallDurations,
    Distribution,
    Tally,
)
from trace_proxy.runtime.telemetry.metrics.metrics import CALL_BOUNDS_S, Metrics
from trace_proxy.runtime.telemetry.metrics.prometheus import CONTENT_TYPE, Scrape
from trace_proxy.runtime.telemetry.metrics.push import MetricsPush, metrics_push

RESOURCE = Resource({"service.name": "trace-proxy"})


def scraped(metrics: Metrics) -> dict[str, float]:
    """Every sample of ours that is not zero, as it stands in the text."""
    samples = {}
    for family in text_string_to_metric_families(Scrape(metrics.instruments()).render().decode()):
        for sample in family.samples:
            if sample.value and not sample.name.startswith("process_"):
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


def test_what_the_hot_path_counted_is_scraped() -> None:
    metrics = Metrics()
    metrics.drain_state = "draining"
    metrics.connections = 2
    metrics.messages_from_clients += 3
    metrics.bytes_from_clients += 300
    metrics.messages_to_cores += 4
    metrics.approvals_pending += 5
    metrics.core_restarts += 6
    metrics.tokens.add("output", by=70)
    metrics.shed.add("overloaded")
    metrics.shed.add("overloaded")
    metrics.cut.add("slow")
    metrics.core_faults.add("garbage")
    metrics.context_rejected.add("b3", "zero")
    metrics.in_flight = lambda: 8
    metrics.turns_running = lambda: 1
    metrics.queue_messages = lambda: {"to_cores": 9}
    metrics.queue_bytes = lambda: {"to_cores": 900}
    metrics.spans_exported = lambda: 10
    metrics.spans_dropped = lambda: 11

    assert scraped(metrics) == {
        "trace_proxy_drain_state{state=draining}": 1,
        "trace_proxy_connections_active{}": 2,
        "trace_proxy_messages_total{direction=from_clients}": 3,
        "trace_proxy_transferred_bytes_total{direction=from_clients}": 300,
        "trace_proxy_messages_total{direction=to_cores}": 4,
        "trace_proxy_turns_running{}": 1,
        "trace_proxy_approvals_pending{}": 5,
        "trace_proxy_core_restarts_total{}": 6,
        "trace_proxy_tokens_total{gen_ai_token_type=output}": 70,
        "trace_proxy_requests_shed_total{reason=overloaded}": 2,
        "trace_proxy_connections_cut_total{reason=slow}": 1,
        "trace_proxy_core_faults_total{reason=garbage}": 1,
        "trace_proxy_context_rejected_total{reason=zero,source=b3}": 1,
        "trace_proxy_requests_in_flight{}": 8,
        "trace_proxy_queue_messages{queue=to_cores}": 9,
        "trace_proxy_queue_size_bytes{queue=to_cores}": 900,
        "trace_proxy_spans_exported_total{}": 10,
        "trace_proxy_spans_dropped_total{}": 11,
    }


def test_calls_fall_into_the_recommended_buckets() -> None:
    metrics = Metrics()
    metrics.calls.observe("thread/read", "", 0.005)
    metrics.calls.observe("thread/read", "", 0.3)
    metrics.calls.observe("turn/start", "-32001", 11.0)

    samples = scraped(metrics)

    read = "rpc_server_call_duration_seconds{}{{error_type=,{}rpc_method=thread/read}}"
    start = "rpc_server_call_duration_seconds{}{{error_type=-32001,{}rpc_method=turn/start}}"
    assert [samples[read.format("_bucket", f"le={bound},")] for bound in CALL_BOUNDS_S] == [
        *[1] * 7,
        *[2] * 7,
    ]
    assert samples[read.format("_count", "")] == 2
    assert samples[read.format("_sum", "")] == pytest.approx(0.305)
    assert start.format("_bucket", "le=10.0,") not in samples, "above the last bound"
    assert samples[start.format("_bucket", "le=+Inf,")] == 1


def test_turns_deltas_and_approvals_have_their_own_buckets() -> None:
    metrics = Metrics()
    metrics.turn_duration.observe(3600)
    metrics.time_to_first_delta.observe(0.2)
    metrics.approval_wait.observe(60)

    samples = scraped(metrics)

    assert samples["trace_proxy_turn_duration_seconds_bucket{le=3600.0}"] == 1
    assert samples["trace_proxy_turn_time_to_first_delta_seconds_bucket{le=0.25}"] == 1
    assert samples["trace_proxy_approval_wait_seconds_bucket{le=60.0}"] == 1
    assert "trace_proxy_approval_wait_seconds_bucket{le=30.0}" not in samples


def test_the_process_is_measured_and_the_text_says_what_it_is() -> None:
    text = Scrape(Metrics().instruments()).render().decode()

    assert {"process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"} <= {
        line.split(" ")[0] for line in text.splitlines()
    }
    assert CONTENT_TYPE.startswith("text/plain; version=")


def test_ten_thousand_methods_are_bounded_series() -> None:
    calls = CallDurations((1.0,))
    for number in range(10_000):
        calls.observe(f"method-{number}", "", 0.5)

    series = dict(calls.read())

    assert len(series) == MAX_LABEL_SETS + 1
    assert series[OTHER, OTHER].counts == [10_000 - MAX_LABEL_SETS, 0]
    assert series["method-0", ""].counts == [1, 0]


def test_ten_thousand_reasons_are_bounded_counts() -> None:
    tally = Tally()
    for number in range(10_000):
        tally.add("message", f"reason-{number}")
    tally.add("message", "reason-0")

    counts = dict(tally.read())

    assert len(counts) == MAX_LABEL_SETS + 1
    assert counts[OTHER, OTHER] == 10_000 - MAX_LABEL_SETS
    assert counts["message", "reason-0"] == 2


@given(
    st.lists(st.floats(0, 1_000), min_size=1, unique=True).map(sorted).map(tuple),
    st.lists(st.floats(0, 2_000)),
)
def test_every_value_is_counted_once_in_the_bucket_that_bounds_it(
    bounds: tuple[float, ...], values: list[float]
) -> None:
    distribution = Distribution(bounds)
    for value in values:
        distribution.observe(value)

    edges = [float("-inf"), *bounds, float("inf")]
    assert distribution.counts == [
        sum(low < value <= high for value in values) for low, high in pairwise(edges)
    ]
    assert distribution.total == pytest.approx(sum(values))
    assert all(bisect_left(bounds, bound) == place for place, bound in enumerate(bounds))


class KeepingExporter(MetricExporter):
    """Keeps what it is given; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.batches: list[MetricsData] = []
        self.failures = failures
        self.pushed = threading.Semaphore(0)
        self.closed = threading.Event()

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 0,  # noqa: ARG002 - the SDK's signature
        **_kwargs: object,
    ) -> MetricExportResult:
        self.pushed.release()
        if self.failures:
            self.failures -= 1
            raise OSError
        self.batches.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:  # noqa: ARG002 - as above
        return True

    def shutdown(self, timeout_millis: float = 0, **_kwargs: object) -> None:  # noqa: ARG002 - as above
        self.closed.set()


async def test_a_push_says_what_a_scrape_says() -> None:
    metrics, exporter = Metrics(), KeepingExporter()
    metrics.calls.observe("thread/read", "", 0.3)
    metrics.connections = 2
    metrics.shed.add("overloaded", by=3)
    push = MetricsPush(exporter, metrics.instruments(), RESOURCE, interval_s=3_600)

    assert await push.shutdown(5)

    (batch,) = exporter.batches
    (resource,) = batch.resource_metrics
    assert resource.resource == RESOURCE
    found = {each.name: each for each in resource.scope_metrics[0].metrics}
    calls = found["rpc.server.call.duration"]
    assert calls.unit == "s"
    assert isinstance(calls.data, Histogram)
    (point,) = calls.data.data_points
    assert (point.attributes, point.count, point.sum) == ({"rpc.method": "thread/read"}, 1, 0.3)
    assert list(point.bucket_counts) == [int(place == 7) for place in range(15)]
    assert point.explicit_bounds == CALL_BOUNDS_S
    assert isinstance(found["trace_proxy.connections.active"].data, Gauge)
    shed = found["trace_proxy.requests.shed"].data
    assert isinstance(shed, Sum)
    assert shed.is_monotonic
    assert [(each.attributes, each.value) for each in shed.data_points] == [
        ({"reason": "overloaded"}, 3)
    ]
    assert exporter.closed.wait(5)


async def test_a_push_that_fails_is_followed_by_another() -> None:
    exporter = KeepingExporter(failures=1)
    with capture_logs() as logs:
        push = MetricsPush(exporter, Metrics().instruments(), RESOURCE, interval_s=0.01)
        assert exporter.pushed.acquire(timeout=5)
        assert exporter.pushed.acquire(timeout=5)
        assert await push.shutdown(5)

    assert exporter.batches
    assert logs == [
        {"event": "telemetry.metrics.failed", "error": "OSError", "log_level": "warning"}
    ]


async def test_the_environment_asks_for_a_push(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/metrics", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    environ = {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "often"}
    with capture_logs() as logs:
        push = metrics_push(environ, Metrics().instruments(), RESOURCE)
    assert push is not None
    assert await push.shutdown(5)
    await runner.cleanup()

    assert [line["variable"] for line in logs] == ["OTEL_METRIC_EXPORT_INTERVAL"]
    (body,) = received
    request = ExportMetricsServiceRequest()
    request.ParseFromString(body)
    names = {each.name for each in request.resource_metrics[0].scope_metrics[0].metrics}
    assert {"rpc.server.call.duration", "trace_proxy.spans.dropped"} <= names


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_METRICS_EXPORTER": "prometheus"},
        {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_pushed_unless_it_is_asked_for(environ: dict[str, str]) -> None:
    assert metrics_push(environ, Metrics().instruments(), RESOURCE) is None


def test_an_unknown_metrics_exporter_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        metrics_push({"OTEL_METRICS_EXPORTER": "statsd"}, [], RESOURCE)

    assert str(caught.value) == "OTEL_METRICS_EXPORTER is 'statsd': use otlp, prometheus or none"
