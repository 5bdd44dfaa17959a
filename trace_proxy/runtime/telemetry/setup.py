"""The way of a span out of the process: record → queue → exporter thread → collector.

The event loop puts the record into a `SpanQueue`, a standard `SpanProcessor`, and encodes
a batch of them when it is full; the rest happens in the queue's thread.  Nothing here
waits for a collector, and a queue that is full drops the new span and counts it, so a
dead collector costs memory for one queue and nothing else.  No `TracerProvider`: it would
own ids, sampling and clocks, which are the machines' business.

`shutdown` is the one place that waits, with a deadline: the SDK's own flush takes as
long as the collector likes (seven to thirty seconds when it is dead), so it runs in a
daemon thread that is left behind when the time is over.
"""

import random
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    Resource,
)
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from trace_proxy.context.span_record import STILL_OPEN, SpanRecord
from trace_proxy.protocol.methods import READS
from trace_proxy.runtime.telemetry.account import AccountedExporter, accounted, quiet_sdk_logs
from trace_proxy.runtime.telemetry.daemon_thread import finished_in_thread, start_daemon
from trace_proxy.runtime.telemetry.destination import trace_destination
from trace_proxy.runtime.telemetry.environment import (
    DAY_MS,
    DEFAULT_VALUE_LENGTH,
    positive_integer,
    span_limits,
)
from trace_proxy.runtime.telemetry.record_span import Origin, Origins
from trace_proxy.runtime.telemetry.sampling import sampler_of, without
from trace_proxy.runtime.telemetry.span_queue import SpanQueue

SERVICE = "trace-proxy"
CLIENT_SERVICE = "client"
"""Of approvals and whatever else a core asks: who is waited for then is a client."""

# RPC spans; and turns, tools and model calls, whose conventions have a schema of their own.
SCOPE, SCHEMA = "trace_proxy", "https://opentelemetry.io/schemas/1.44.0"
AGENT_SCOPE = "trace_proxy.gen_ai"
AGENT_SCHEMA = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"

# A quarter of a second at 60,000 spans/s, which rides out one slow request to the
# collector; some 8 MB of bytes when the collector is dead and the queue stays full.
DEFAULT_QUEUE_SIZE = 16_384
MAX_QUEUE_SIZE = 1_000_000  # about a gigabyte: who asks for more has mistyped
# Half a megabyte.  Each batch wakes the exporter's thread, which takes the interpreter from
# the event loop three times: larger ones gain nothing that could be measured.
DEFAULT_BATCH_SIZE = 1_024
# How long a span waits for company when there is little traffic: a person clicks from
# the console to the trace, and the specification's 5 s would show them nothing.
DEFAULT_DELAY_MS = 1_000

_bits = random.getrandbits

_log = structlog.get_logger("trace_proxy.telemetry")


class Telemetry:
    """Exports spans, draws ids, decides about sampling.

    Args:
        environ: `os.environ`: what the SDK reads by itself (headers, TLS, resource
            attributes) it reads from the process.
        trace_file: `--trace-file`.
        core_service_name: `service.name` of spans that describe the core's work.
        trace_reads: Whether requests that only look are recorded.
        version: Of this program, for the scope and the resource.

    Attributes:
        destination: `otlp URL` (no credentials, no query), `file PATH`, `console` or `none`.
        sampled: `sampled(parent, trace_id, name)` → whether a span is recorded. The caller
            asks before it makes one, and exports none that is not.

    Raises:
        ConfigurationError: The trace file is unusable.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        trace_file: Path | None = None,
        core_service_name: str = "core-server",
        trace_reads: bool = True,
        version: str = "",
    ) -> None:
        quiet_sdk_logs()
        self._origins = _origins(environ, core_service_name, version)
        chosen = trace_destination(environ, trace_file, self._origins)
        self.destination = chosen.label
        sample = sampler_of(environ)
        self.sampled = sample if trace_reads else without(READS, sample)
        self._queue_size = positive_integer(
            environ, "OTEL_BSP_MAX_QUEUE_SIZE", DEFAULT_QUEUE_SIZE, MAX_QUEUE_SIZE
        )
        self._queued = self._refused = 0
        self._closed = self._abandoned = False
        self._account: AccountedExporter | None = None
        if chosen.exporter is not None:
            self._account = accounted(chosen.exporter, chosen.label)
            self._processor = self._span_queue(self._account, environ)

    def _span_queue(self, exporter: SpanExporter, environ: Mapping[str, str]) -> SpanQueue:
        batch_size = positive_integer(
            environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", DEFAULT_BATCH_SIZE, MAX_QUEUE_SIZE
        )
        delay_ms = positive_integer(environ, "OTEL_BSP_SCHEDULE_DELAY", DEFAULT_DELAY_MS, DAY_MS)
        return SpanQueue(
            exporter,
            batch_size=min(batch_size, self._queue_size),
            delay_s=delay_ms / 1000,
            dress=self._origins.dress,
        )

    @property
    def resource(self) -> Resource:
        """Who the proxy is, for other signals."""
        return self._origins.proxy.resource

    @property
    def max_value_chars(self) -> int:
        """What is longer is cut from an attribute."""
        return self._origins.proxy.limits.max_span_attribute_length or DEFAULT_VALUE_LENGTH

    def __repr__(self) -> str:
        return (
            f"<Telemetry {self.destination} exported={self.spans_exported} "
            f"dropped={self.spans_dropped}>"
        )

    def export(self, record: SpanRecord) -> None:
        """Queue one finished, sampled span; returns at once and never raises.

        Beyond the queue's bound, and after `shutdown`, the span is counted as dropped.
        """
        account = self._account
        if account is None:
            return
        # What the exporter has not taken yet is in the queue.
        if self._closed or self._queued - account.taken >= self._queue_size:
            self._refused += 1
            if self._refused == 1:
                _log.warning("telemetry.spans.dropped", queue=self._queue_size, **self.details())
            return
        self._queued += 1
        if record.end_ns == STILL_OPEN:
            end_ns = max(time.time_ns(), record.start_ns + 1)
            record = msgspec.structs.replace(record, end_ns=end_ns)
        self._processor.put(record)

    def new_trace_id(self) -> int:
        """128 random bits, never zero (so a root may say so: flag 2 of W3C level 2)."""
        return _bits(128) or 1

    def new_span_id(self) -> int:
        """64 random bits, never zero."""
        return _bits(64) or 1

    @property
    def spans_exported(self) -> int:
        """Spans that the destination has accepted."""
        return 0 if self._account is None else self._account.exported

    @property
    def spans_dropped(self) -> int:
        """Spans lost: the queue was full, the destination refused, or the time was over."""
        account = self._account
        if account is None:
            return 0
        left = self._queued - account.exported - account.failed if self._abandoned else 0
        return self._refused + account.failed + left

    @property
    def last_error(self) -> str:
        """Why the latest failed batch failed, without anything secret; empty if none did."""
        return "" if self._account is None else self._account.last_error

    def details(self) -> dict[str, str | int | bool | None]:
        """The state of the export for `/readyz`; it never makes the proxy unready."""
        return {
            "destination": self.destination,
            "reachable": None if self._account is None else self._account.reachable,
            "spans_exported": self.spans_exported,
            "spans_dropped": self.spans_dropped,
            "last_error": self.last_error,
        }

    async def shutdown(self, timeout_s: float) -> bool:
        """Send what is queued, then stop; takes at most `timeout_s`, and no loop time.

        Returns:
            Whether the exporter was through in time. What it could not send is dropped
            and counted either way.
        """
        account = self._account
        if account is None or self._closed:
            return not self._abandoned
        self._closed = True
        finished = await finished_in_thread(self._processor.shutdown, timeout_s)
        if not finished:
            self._abandoned = True
            # Ends the exporter's retries; another thread, since it may have to wait too.
            start_daemon(account.shutdown)
        return finished


def _origins(environ: Mapping[str, str], core_service_name: str, version: str) -> Origins:
    limits, proxy = span_limits(environ), _resource(version)
    rpc = InstrumentationScope(SCOPE, version, SCHEMA)
    agent = InstrumentationScope(AGENT_SCOPE, version, AGENT_SCHEMA)
    return Origins(
        proxy=Origin(proxy, rpc, limits),
        core=Origin(_beside(proxy, core_service_name), agent, limits),
        client=Origin(_beside(proxy, CLIENT_SERVICE), rpc, limits),
    )


def _resource(version: str) -> Resource:
    """Ours under the detected one: what the environment says about the service wins."""
    detected = Resource.create()
    if str(detected.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        detected = detected.merge(Resource({SERVICE_NAME: SERVICE}))
    ours = {SERVICE_INSTANCE_ID: str(uuid.uuid4())}
    if version:
        ours[SERVICE_VERSION] = version
    return Resource(ours).merge(detected)


def _beside(proxy: Resource, service: str) -> Resource:
    """Another service of the same machine and deployment, with an instance id of its own."""
    others = {key: value for key, value in proxy.attributes.items() if key != SERVICE_VERSION}
    instance = f"{others[SERVICE_INSTANCE_ID]}/{service}"
    others[SERVICE_INSTANCE_ID] = str(uuid.uuid5(uuid.NAMESPACE_OID, instance))
    others[SERVICE_NAME] = service
    return Resource(others, proxy.schema_url)
