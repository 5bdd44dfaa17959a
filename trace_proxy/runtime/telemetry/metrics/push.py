"""The same numbers as `/metrics`, pushed by OTLP when `OTEL_METRICS_EXPORTER=otlp`.

The SDK has no observable histogram, so its meters cannot read ours; but what its
exporter takes is plain data.  A daemon thread makes that from the instruments at every
`OTEL_METRIC_EXPORT_INTERVAL` and hands it to the stock exporter, which knows endpoints,
headers and retries.  No `MeterProvider`, and nothing on the hot path.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import cast

import structlog
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from trace_proxy.errors import ConfigurationError
from trace_proxy.runtime.telemetry.daemon_thread import finished_in_thread, start_daemon
from trace_proxy.runtime.telemetry.environment import (
    DAY_MS,
    is_disabled,
    positive_integer,
    setting,
)
from trace_proxy.runtime.telemetry.metrics.instruments import (
    Distribution,
    Instrument,
    Kind,
    Labels,
)

DEFAULT_INTERVAL_MS = 60_000  # OpenTelemetry's default

_CUMULATIVE = AggregationTemporality.CUMULATIVE

# Optional in OTLP and left out; only the SDK's annotation insists on a number.
_UNKNOWN = cast("float", None)

_log = structlog.get_logger("trace_proxy.telemetry")


class MetricsPush:
    """Pushes instruments to a collector from a thread of its own, until `shutdown`.

    Args:
        exporter: Any of the SDK's.
        instruments: What to read.
        resource: Whose they are.
        interval_s: Seconds between two pushes.
    """

    def __init__(
        self,
        exporter: MetricExporter,
        instruments: Sequence[Instrument],
        resource: Resource,
        interval_s: float,
    ) -> None:
        self._exporter = exporter
        self._instruments = instruments
        self._resource = resource
        self._interval_s = interval_s
        self._start_ns = time.time_ns()
        self._stopping = threading.Event()
        self._thread = start_daemon(self._run, "metrics-push")

    async def shutdown(self, timeout_s: float) -> bool:
        """Push once more and stop; takes at most `timeout_s`.

        Returns:
            Whether it was through in time.
        """
        self._stopping.set()
        finished = await finished_in_thread(self._thread.join, timeout_s)
        start_daemon(self._exporter.shutdown)
        return finished

    def _run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stopping.wait(self._interval_s)
            try:
                self._exporter.export(self._snapshot(time.time_ns()))
            except Exception as error:  # noqa: BLE001 - a push that fails is followed by another
                _log.warning("telemetry.metrics.failed", error=type(error).__name__)

    def _snapshot(self, now_ns: int) -> MetricsData:
        metrics = [_metric(each, self._start_ns, now_ns) for each in self._instruments]
        scope = ScopeMetrics(InstrumentationScope("trace_proxy"), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


def metrics_push(
    environ: Mapping[str, str], instruments: Sequence[Instrument], resource: Resource
) -> MetricsPush | None:
    """Start pushing if the environment asks for it (`OTEL_METRICS_EXPORTER=otlp`).

    Raises:
        ConfigurationError: The variable names something else than otlp, prometheus or
            none. `prometheus` needs nothing more than `/metrics`.
    """
    name = setting(environ, "OTEL_METRICS_EXPORTER").lower()
    if name not in {"", "none", "otlp", "prometheus"}:
        raise ConfigurationError(
            f"OTEL_METRICS_EXPORTER is {name[:64]!r}: use otlp, prometheus or none"
        )
    if is_disabled(environ) or name != "otlp":
        return None
    module = import_module("opentelemetry.exporter.otlp.proto.http.metric_exporter")
    interval_ms = positive_integer(
        environ, "OTEL_METRIC_EXPORT_INTERVAL", DEFAULT_INTERVAL_MS, DAY_MS
    )
    return MetricsPush(module.OTLPMetricExporter(), instruments, resource, interval_ms / 1_000)


def _metric(instrument: Instrument, start_ns: int, now_ns: int) -> Metric:
    points: list[NumberDataPoint] = []
    histograms: list[HistogramDataPoint] = []
    for values, reading in instrument.read():
        labels = _labels(instrument.labels, values)
        if isinstance(reading, Distribution):
            histograms.append(_histogram(labels, reading, start_ns, now_ns))
        else:
            points.append(NumberDataPoint(labels, start_ns, now_ns, reading))
    data: Sum | Gauge | Histogram
    match instrument.kind:
        case Kind.COUNTER:
            data = Sum(points, _CUMULATIVE, is_monotonic=True)
        case Kind.GAUGE:
            data = Gauge(points)
        case Kind.HISTOGRAM:
            data = Histogram(histograms, _CUMULATIVE)
    return Metric(instrument.name, instrument.text, instrument.unit, data)


def _histogram(
    labels: dict[str, str], seconds: Distribution, start_ns: int, now_ns: int
) -> HistogramDataPoint:
    counts = list(seconds.counts)
    return HistogramDataPoint(
        labels,
        start_ns,
        now_ns,
        count=sum(counts),
        sum=seconds.total,
        bucket_counts=counts,
        explicit_bounds=seconds.bounds,
        min=_UNKNOWN,
        max=_UNKNOWN,
    )


def _labels(names: Labels, values: Labels) -> dict[str, str]:
    # An empty label value is an absent label: a call that succeeded has no error.type.
    return {name: value for name, value in zip(names, values, strict=True) if value}
