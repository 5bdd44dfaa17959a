"""Where spans go, what is dropped, and that a collector's trouble is only the collector's.

The collector is real (tests/collector.py); the environment is set for the whole process,
since the SDK reads its share by itself.
"""

import asyncio
import io
import json
import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from tests.collector import Collector, Mode, spans_from_json, tree
from trace_proxy.errors import ConfigurationError
from trace_proxy.runtime import otlp
from trace_proxy.runtime.daemon_thread import finished_in_thread
from trace_proxy.runtime.export_account import AccountedExporter, quiet_sdk_logs
from trace_proxy.runtime.telemetry import Telemetry
from trace_proxy.span_record import Kind, Service, SpanContext, SpanRecord

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SECRET = "canary-7c1f"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


def telemetry(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Telemetry:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return Telemetry(os.environ, version="1.2.3")


def record(
    span_id: int = 1,
    *,
    service: Service = Service.PROXY,
    parent: SpanContext | None = None,
    attributes: dict[str, str | float] | None = None,
) -> SpanRecord:
    name, kind = ("thread/read", Kind.SERVER)
    if service is Service.CORE:
        name, kind = "invoke_agent", Kind.INTERNAL
    own = SpanContext(TRACE_ID, span_id, flags=3)
    return SpanRecord(service, name, kind, own, parent, 1_000, 2_000, attributes or {})


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a counter that the exporter's thread writes."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a thread counts, and knows no asyncio.Event
            await asyncio.sleep(0.005)


async def test_two_services_leave_through_one_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Collector() as collector:
        exporting = telemetry(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        request = record(1, attributes={"rpc.method": "thread/read", "network.peer.port": 4711})
        exporting.export(request)
        exporting.export(record(2, service=Service.CORE, parent=request.context))

        spans = await collector.wait_for(2)

        assert await exporting.shutdown(5)
        assert tree(spans) == [
            "trace-proxy: thread/read [server]",
            "  core-server: invoke_agent [internal]",
        ]
        by_service = {span.service: span for span in spans}
        assert by_service["trace-proxy"].attributes == request.attributes
        assert by_service["trace-proxy"].scope == "trace_proxy"
        assert by_service["trace-proxy"].resource["service.version"] == "1.2.3"
        assert "service.version" not in by_service["core-server"].resource
        assert exporting.details() == {
            "destination": f"otlp {collector.url}/v1/traces",
            "reachable": True,
            "spans_exported": 2,
            "spans_dropped": 0,
            "last_error": "",
        }
        assert repr(exporting) == f"<Telemetry {exporting.destination} exported=2 dropped=0>"


@pytest.mark.parametrize(
    "extra",
    [
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
        {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"},
        {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
    ],
)
async def test_the_stock_settings_of_otlp_are_honoured(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, str]
) -> None:
    async with Collector() as collector:
        exporting = telemetry(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **extra)
        exporting.export(record(7))

        (span,) = await collector.wait_for(1)

        assert (span.span_id, span.trace_id) == ("0000000000000007", f"{TRACE_ID:032x}")
        assert await exporting.shutdown(5)


@pytest.mark.parametrize(
    ("environ", "proxy", "core"),
    [
        ({}, "trace-proxy", "codex"),
        ({"OTEL_SERVICE_NAME": "edge"}, "edge", "codex"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=edge,team=a"}, "edge", "codex"),
    ],
)
async def test_the_environment_names_the_proxy_and_the_option_names_the_core(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], proxy: str, core: str
) -> None:
    async with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        exporting = Telemetry(os.environ, core_service_name="codex")
        exporting.export(record(1))
        exporting.export(record(2, service=Service.CORE))

        spans = await collector.wait_for(2)

        assert [span.service for span in spans] == [proxy, core]
        assert exporting.resource.attributes["service.name"] == proxy
        assert await exporting.shutdown(5)


DESTINATIONS: list[tuple[dict[str, str], str]] = [
    ({}, "none"),
    ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"}, "none"),
    ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"}, "none"),
    ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
    ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp http://localhost:4318/v1/traces"),
    ({"OTEL_TRACES_EXPORTER": ""}, "none"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318/base/"}, "otlp http://h:4318/base/v1/traces"),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://h/own"}, "otlp https://h/own"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:4318"}, "otlp http://[::1]:4318/v1/traces"),
    (
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"https://me:{SECRET}@h:1/v1?key={SECRET}"},
        "otlp https://h:1/v1",
    ),
]


@pytest.mark.parametrize(("environ", "destination"), DESTINATIONS)
async def test_the_environment_chooses_the_destination(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], destination: str
) -> None:
    exporting = telemetry(monkeypatch, **environ)

    assert exporting.destination == destination
    assert await exporting.shutdown(5)


GRPC_MISSING = (
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is 'grpc': install "
    "opentelemetry-exporter-otlp-proto-grpc, or use http/protobuf"
)
NO_URL = (
    "the OTLP endpoint is no URL: set OTEL_EXPORTER_OTLP_ENDPOINT to one like "
    "http://localhost:4318"
)
MISTAKES: list[tuple[dict[str, str], str]] = [
    (
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        "OTEL_TRACES_EXPORTER is 'zipkin': use otlp, console or none",
    ),
    (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "thrift"},
        "OTEL_EXPORTER_OTLP_PROTOCOL is 'thrift': use http/protobuf, http/json or grpc",
    ),
    (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
        GRPC_MISSING,
    ),
    (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{SECRET}:4318"},
        NO_URL,
    ),
    (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"},
        NO_URL,
    ),
    (
        {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"},
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be a non-negative integer but got many",
    ),
]


@pytest.mark.parametrize(("environ", "message"), MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        telemetry(monkeypatch, **environ)

    assert str(caught.value) == message


async def test_without_a_collector_the_file_takes_the_spans_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_text("")
    path.chmod(0o644)
    exporting = Telemetry(os.environ, trace_file=path)
    exporting.export(record(1, attributes={"text": "x" * 2_000}))
    exporting.export(record(2, service=Service.CORE))

    assert await exporting.shutdown(5)

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    spans = [span for line in lines for span in spans_from_json(line)]
    assert exporting.destination == f"file {path}"
    assert [(span.service, span.name) for span in spans] == [
        ("trace-proxy", "thread/read"),
        ("core-server", "invoke_agent"),
    ]
    assert spans[0].attributes == {"text": "x" * 1_024}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert exporting.details()["spans_exported"] == 2


def test_a_file_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be written \(Is a directory\): choose"):
        Telemetry(os.environ, trace_file=tmp_path)


async def test_a_device_is_no_file_to_make_private() -> None:
    exporting = Telemetry(os.environ, trace_file=Path("/dev/null"))
    exporting.export(record())

    assert await exporting.shutdown(5)


async def test_the_console_is_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    exporting = telemetry(monkeypatch, OTEL_TRACES_EXPORTER="console")
    exporting.export(record(1, attributes={"rpc.method": "thread/read"}))

    assert await exporting.shutdown(5)

    (line,) = stderr.getvalue().splitlines()
    assert json.loads(line)["attributes"] == {"rpc.method": "thread/read"}


@pytest.mark.parametrize(
    ("environ", "length"),
    [
        ({}, 1_024),
        ({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "10"}, 10),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "20"}, 20),
    ],
)
async def test_long_values_are_cut(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], length: int
) -> None:
    async with Collector() as collector:
        exporting = telemetry(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **environ)
        exporting.export(record(1, attributes={"text": "x" * 5_000}))

        (span,) = await collector.wait_for(1)

        assert span.attributes == {"text": "x" * length}
        assert await exporting.shutdown(5)


async def test_attributes_beyond_the_limit_are_dropped_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Collector() as collector:
        exporting = telemetry(
            monkeypatch,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="1",
        )
        exporting.export(record(1, attributes={"first": 1, "second": 2}))

        (span,) = await collector.wait_for(1)

        assert span.attributes == {"second": 2}
        assert await exporting.shutdown(5)


async def test_a_full_queue_drops_and_counts_and_never_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Collector() as collector:
        collector.mode = Mode.HANG
        exporting = telemetry(
            monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_MAX_QUEUE_SIZE="100"
        )
        exporting.export(record())
        await collector.wait_for_requests(1)

        for _ in range(1_000):
            exporting.export(record())

        assert exporting.spans_dropped == 900
        before_s = time.monotonic()
        assert not await exporting.shutdown(0.2)
        assert time.monotonic() - before_s < 1
        assert (exporting.spans_exported, exporting.spans_dropped) == (0, 1_001)


async def test_a_collector_that_comes_and_goes_is_told_twice_and_loses_only_the_meantime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Collector() as collector:
        with capture_logs() as logs:
            exporting = telemetry(
                monkeypatch,
                OTEL_EXPORTER_OTLP_ENDPOINT=f"{collector.url}/?key={SECRET}",
                OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces?key={SECRET}",
                OTEL_EXPORTER_OTLP_TIMEOUT="0.2",
            )
            await collector.stop()
            for lost in range(3):
                exporting.export(record(lost + 1))
                await until(lambda: exporting.spans_dropped > lost)  # noqa: B023 - awaited at once
            gone = exporting.details()
            await collector.start()
            exporting.export(record(9))
            await collector.wait_for(1)
            await until(lambda: exporting.spans_exported == 1)
            assert await exporting.shutdown(5)

    destination = f"otlp {collector.url}/v1/traces"
    assert gone == {
        "destination": destination,
        "reachable": False,
        "spans_exported": 0,
        "spans_dropped": 3,
        "last_error": "cannot connect",
    }
    assert exporting.details()["reachable"] is True
    assert logs == [
        {
            "event": "telemetry.destination.lost",
            "destination": destination,
            "error": "cannot connect",
            "log_level": "warning",
        },
        {
            "event": "telemetry.destination.back",
            "destination": destination,
            "lost": 3,
            "log_level": "info",
        },
    ]


async def test_a_collector_that_answers_503_is_named_as_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Collector() as collector:
        collector.mode = Mode.ANSWER_503
        exporting = telemetry(
            monkeypatch,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_TIMEOUT="0.2",
        )
        exporting.export(record())
        await until(lambda: exporting.spans_dropped == 1)

        assert exporting.last_error == "the collector answered 503"
        assert await exporting.shutdown(5)


async def test_a_collector_that_hangs_is_named_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Collector() as collector:
        collector.mode = Mode.HANG
        exporting = telemetry(
            monkeypatch,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_TIMEOUT="0.1",
        )
        exporting.export(record())
        await until(lambda: exporting.spans_dropped == 1)

        assert exporting.last_error == "no answer in time"
        assert await exporting.shutdown(5)


async def test_what_our_encoder_cannot_say_the_stock_one_says_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Collector() as collector:
        with capture_logs() as logs:
            exporting = telemetry(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
            for span_id in (1, 2):
                exporting.export(record(span_id, attributes={"huge": 2**70, "small": span_id}))
                await collector.wait_for(span_id)
            assert await exporting.shutdown(5)

        assert [span.attributes for span in collector.spans] == [{"small": 1}, {"small": 2}]
        assert [line["event"] for line in logs] == ["telemetry.encoder.fallback"]
        assert exporting.spans_exported == 2


async def test_after_shutdown_spans_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Collector() as collector:
        exporting = telemetry(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        exporting.export(record())

        assert await exporting.shutdown(5)
        assert await exporting.shutdown(5), "and a second time is no harm"
        exporting.export(record())

        assert (exporting.spans_exported, exporting.spans_dropped) == (1, 1)


async def test_without_a_destination_nothing_is_made_or_counted() -> None:
    exporting = Telemetry({})
    exporting.export(record())

    assert await exporting.shutdown(0)
    assert exporting.details() == {
        "destination": "none",
        "reachable": True,
        "spans_exported": 0,
        "spans_dropped": 0,
        "last_error": "",
    }


async def test_numbers_that_are_none_are_ignored_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with capture_logs() as logs:
        exporting = telemetry(
            monkeypatch,
            OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
            OTEL_BSP_MAX_QUEUE_SIZE="plenty",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="0",
        )

    assert [line["variable"] for line in logs] == [
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    ]
    assert await exporting.shutdown(5)


def test_ids_are_never_zero_and_do_not_repeat() -> None:
    drawing = Telemetry({})

    trace_ids = {drawing.new_trace_id() for _ in range(1_000)}
    span_ids = {drawing.new_span_id() for _ in range(1_000)}

    assert len(trace_ids) == len(span_ids) == 1_000
    assert all(0 < trace_id < 2**128 for trace_id in trace_ids)
    assert all(0 < span_id < 2**64 for span_id in span_ids)


SAMPLED = SpanContext(TRACE_ID, 1, flags=1, remote=True)
NOT_SAMPLED = SpanContext(TRACE_ID, 1, flags=2, remote=True)
LOW, HIGH = 1, 2**64 - 1  # trace ids below and above any ratio's bound

# For (no parent, low id), (no parent, high id), (sampled parent), (parent that is not).
SAMPLERS: list[tuple[dict[str, str], tuple[bool, bool, bool, bool]]] = [
    ({}, (True, True, True, False)),
    ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, (True, True, True, False)),
    ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, (False, False, True, False)),
    ({"OTEL_TRACES_SAMPLER": "always_on"}, (True, True, True, True)),
    ({"OTEL_TRACES_SAMPLER": "ALWAYS_OFF"}, (False, False, False, False)),
    (
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
        (True, False, False, False),
    ),
    (
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
        (True, False, True, False),
    ),
    ({"OTEL_TRACES_SAMPLER": "traceidratio"}, (True, True, True, True)),
    (
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"},
        (True, True, True, True),
    ),
    (
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
        (True, True, True, True),
    ),
    ({"OTEL_TRACES_SAMPLER": "xray"}, (True, True, True, False)),
    ({"OTEL_SDK_DISABLED": "true"}, (False, False, True, False)),
]


@pytest.mark.parametrize(("environ", "expected"), SAMPLERS)
def test_the_environment_chooses_the_sampler(
    environ: dict[str, str], expected: tuple[bool, bool, bool, bool]
) -> None:
    sampled = Telemetry(environ).sampled

    assert (
        sampled(None, LOW, "n"),
        sampled(None, HIGH, "n"),
        sampled(SAMPLED, HIGH, "n"),
        sampled(NOT_SAMPLED, HIGH, "n"),
    ) == expected


class ScriptedExporter(SpanExporter):
    """A foreign exporter: it says FAILURE, raises, or takes, in that order."""

    def __init__(self) -> None:
        self.calls = 0
        self.flushed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the interface
        self.calls += 1
        if self.calls == 1:
            return SpanExportResult.FAILURE
        if self.calls == 2:
            raise OSError(SECRET)
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.flushed = timeout_millis
        return True


def test_any_exporter_is_accounted_for_and_its_exceptions_are_not_quoted() -> None:
    real = ScriptedExporter()
    account = AccountedExporter(real, "elsewhere")
    span = ReadableSpan("n")

    with capture_logs() as logs:
        results = [account.export([span, span]) for _ in range(3)]

    assert results == [
        SpanExportResult.FAILURE,
        SpanExportResult.FAILURE,
        SpanExportResult.SUCCESS,
    ]
    assert (account.taken, account.exported, account.failed) == (6, 2, 4)
    assert account.last_error == "OSError"
    assert [line["event"] for line in logs] == [
        "telemetry.destination.lost",
        "telemetry.destination.back",
    ]
    assert account.force_flush(7)
    assert real.flushed == 7


def test_a_failure_after_the_end_is_counted_and_is_no_news() -> None:
    account = AccountedExporter(ScriptedExporter(), "elsewhere")
    account.shutdown()

    with capture_logs() as logs:
        account.export([ReadableSpan("n")])

    assert (account.failed, logs) == (1, [])


def test_the_sdk_is_quoted_once_without_arguments_and_not_about_every_batch() -> None:
    quiet_sdk_logs()
    quiet_sdk_logs()

    with capture_logs() as logs:
        for _ in range(3):
            logging.getLogger("opentelemetry.attributes").warning("Canary %s bites.", SECRET)
            logging.getLogger("opentelemetry.exporter.otlp").error("Failed to export %s", SECRET)
            logging.getLogger("opentelemetry.sdk._shared_internal").warning("Queue full.")

    assert logs == [
        {
            "event": "telemetry.sdk",
            "logger": "opentelemetry.attributes",
            "message": "Canary %s bites.",
            "log_level": "warning",
        }
    ]


async def test_a_batch_beyond_the_limit_of_a_request_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otlp, "MAX_REQUEST_BYTES", 100)
    async with Collector() as collector:
        exporting = telemetry(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        exporting.export(record(1, attributes={"text": "x" * 1_000}))
        await until(lambda: exporting.spans_dropped == 1)

        assert exporting.last_error == "a batch is larger than 64 MiB"
        assert collector.requests == 0
        assert await exporting.shutdown(5)


async def test_work_that_outlives_the_loop_is_left_behind() -> None:
    released, ended = threading.Event(), threading.Event()

    def work() -> None:
        released.wait()
        ended.set()

    assert not await finished_in_thread(work, 0.01)
    assert not ended.is_set()
    released.set()
    assert ended.wait(5)
