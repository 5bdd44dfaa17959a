"""Where spans go, what is dropped, and that a collector's trouble is only the collector's.

The collector is real (tests/collector.py); the environment is set for the whole process,
since the SDK reads its share by itself.
"""

import asyncio
import os
import sys
import time

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.collector import Collector, Mode, tree
from tests.trace_proxy.runtime.telemetry.telemetry_fixtures import (
    SECRET,
    TRACE_ID,
    clean_environment,
    record,
    telemetry,
    until,
)
from trace_proxy.context.span_record import STILL_OPEN, Service
from trace_proxy.runtime.telemetry.otlp import exporter as otlp
from trace_proxy.runtime.telemetry.setup import Telemetry


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


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
        assert by_service["core-server"].scope == "trace_proxy.gen_ai"
        instances = {span.resource["service.instance.id"] for span in spans}
        assert len(instances) == 2
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

        assert exporting.details()["reachable"] is None, "nothing was answered yet"
        with capture_logs() as logs:
            for _ in range(1_000):
                exporting.export(record())

        assert exporting.spans_dropped == 900
        dropped = [line for line in logs if line["event"] == "telemetry.spans.dropped"]
        assert [line["queue"] for line in dropped] == [100], "once, not for each"
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
                OTEL_EXPORTER_OTLP_TIMEOUT="200",
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


@pytest.mark.parametrize(
    ("mode", "said"),
    [(Mode.ANSWER_503, "the collector answered 503"), (Mode.HANG, "no answer in time")],
)
async def test_what_a_collector_does_wrong_is_named(
    mode: Mode, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Collector() as collector:
        collector.mode = mode
        exporting = telemetry(
            monkeypatch,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_TIMEOUT="200",
        )
        exporting.export(record())
        await until(lambda: exporting.spans_dropped == 1)

        assert exporting.last_error == said
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


async def test_what_has_no_end_yet_ends_when_it_is_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Collector() as collector:
        exporting = telemetry(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        before_ns, ahead_ns = time.time_ns(), time.time_ns() + 10**12
        for start_ns in (before_ns, ahead_ns):
            open_record = msgspec.structs.replace(record(), start_ns=start_ns, end_ns=STILL_OPEN)
            exporting.export(open_record)

        here, ahead = await collector.wait_for(2)

        assert before_ns <= here.end_ns <= time.time_ns()
        assert (ahead.start_ns, ahead.end_ns) == (ahead_ns, ahead_ns + 1)
        assert await exporting.shutdown(5)


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
async def test_what_a_collector_refuses_of_a_batch_is_dropped_and_told_once(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    async with Collector() as collector:
        collector.refuses = (1, "no room for that")
        with capture_logs() as logs:
            exporting = telemetry(
                monkeypatch,
                OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            )
            for number in range(3):
                exporting.export(record(number + 1))
                await until(lambda: exporting.spans_dropped == number + 1)  # noqa: B023 - at once
            assert await exporting.shutdown(5)

    assert (exporting.spans_exported, exporting.spans_dropped) == (0, 3)
    assert exporting.details()["reachable"] is True
    assert [(line["event"], line["message"]) for line in logs] == [
        ("telemetry.spans.refused", "no room for that")
    ]


async def test_a_web_page_is_no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Collector() as collector:
        collector.mode = Mode.WEB_PAGE
        exporting = telemetry(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        exporting.export(record())
        await until(lambda: exporting.spans_dropped == 1)

        assert exporting.last_error == "a web page answered: is the endpoint a collector?"
        assert await exporting.shutdown(5)


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
        "reachable": None,
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


_IMPORTED = """
import asyncio, os, sys
import trace_proxy.runtime.app
from tests.trace_proxy.runtime.telemetry.telemetry_fixtures import record
from trace_proxy.runtime.telemetry.setup import Telemetry

async def export():
    exporting = Telemetry(os.environ)
    exporting.export(record())
    assert await exporting.shutdown(5)
    assert exporting.spans_exported == 1

asyncio.run(export())
heavy = ("google.protobuf", "opentelemetry.proto", "requests", "urllib3", "charset_normalizer")
print(*[name for name in heavy if name in sys.modules])
"""


async def test_a_plain_collector_costs_neither_requests_nor_protobuf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _IMPORTED, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            imported, _ = await process.communicate()

    assert (process.returncode, imported) == (0, b"\n")
    assert len(collector.spans) == 1


async def test_thousands_of_spans_arrive_once_each_in_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Collector() as collector:
        exporting = telemetry(
            monkeypatch,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="300",
        )
        for number in range(5_000):
            exporting.export(record(number + 1, service=list(Service)[number % 2]))
        await collector.wait_for(5_000)
        assert await exporting.shutdown(5)

    assert len({span.span_id for span in collector.spans}) == 5_000
    assert 17 <= collector.requests < 100
    assert (exporting.spans_exported, exporting.spans_dropped) == (5_000, 0)


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
