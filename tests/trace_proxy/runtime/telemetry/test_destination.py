"""Which variable or option sends the spans where, and what a mistake is answered."""

import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.collector import Collector, spans_from_json
from tests.trace_proxy.runtime.telemetry.telemetry_fixtures import (
    SECRET,
    clean_environment,
    record,
    telemetry,
    until,
)
from trace_proxy.context.span_record import Service
from trace_proxy.errors import ConfigurationError
from trace_proxy.runtime.telemetry.setup import Telemetry


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


DESTINATIONS: list[tuple[dict[str, str], str]] = [
    ({}, "none"),
    ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"}, "none"),
    ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"}, "none"),
    ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
    ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp http://localhost:4318/v1/traces"),
    ({"OTEL_TRACES_EXPORTER": ""}, "none"),
    ({"OTEL_TRACES_EXPORTER": " , "}, "none"),
    ({"OTEL_TRACES_EXPORTER": "none,console"}, "console"),
    (
        {"OTEL_TRACES_EXPORTER": "console,otlp"},
        "console, otlp http://localhost:4318/v1/traces",
    ),
    (
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:1",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://own:2/x",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json",
        },
        "otlp http://own:2/x",
    ),
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


# What is ignored, the event that says so, and where the spans go all the same.
MISTAKES: list[tuple[dict[str, str], str, str]] = [
    ({"OTEL_TRACES_EXPORTER": "zipkin"}, "telemetry.exporter.unknown", "none"),
    (
        {"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        "telemetry.exporter.unknown",
        "otlp http://127.0.0.1:9/v1/traces",
    ),
    ({"OTEL_TRACES_EXPORTER": "console,jaeger"}, "telemetry.exporter.unknown", "console"),
    (
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "thrift",
        },
        "telemetry.protocol.unknown",
        "otlp http://127.0.0.1:9/v1/traces",
    ),
    (
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        },
        "telemetry.grpc.missing",
        "none",
    ),
    (
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{SECRET}:4318"},
        "telemetry.endpoint.invalid",
        "none",
    ),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "telemetry.endpoint.invalid", "none"),
    ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"}, "telemetry.number.invalid", "none"),
    ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "-1"}, "telemetry.number.invalid", "none"),
    ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "9" * 30}, "telemetry.number.invalid", "none"),
    ({"OTEL_SPAN_EVENT_COUNT_LIMIT": "1e3"}, "telemetry.number.invalid", "none"),
]


@pytest.mark.parametrize(("environ", "event", "destination"), MISTAKES)
async def test_a_shared_environment_never_keeps_it_from_starting(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], event: str, destination: str
) -> None:
    with capture_logs() as logs:
        exporting = telemetry(monkeypatch, **environ)
        exporting.export(record())
        await exporting.shutdown(5)

    assert exporting.destination == destination
    warnings = [line["event"] for line in logs if line["event"] != "telemetry.destination.lost"]
    assert warnings == [event]
    assert SECRET not in repr(logs)


async def test_a_list_sends_to_each_and_one_that_fails_keeps_nothing_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    async with Collector() as collector:
        exporting = telemetry(
            monkeypatch,
            OTEL_TRACES_EXPORTER="otlp, console,otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_TIMEOUT="100",
        )
        exporting.export(record(1))
        await collector.wait_for(1)
        await until(lambda: exporting.spans_exported == 1)
        await collector.stop()
        exporting.export(record(2))
        await until(lambda: exporting.spans_dropped == 1)

    assert exporting.destination == f"otlp {collector.url}/v1/traces, console"
    assert exporting.last_error == f"otlp {collector.url}/v1/traces: cannot connect"
    assert len(stderr.getvalue().splitlines()) == 2, "the console had both"
    assert await exporting.shutdown(5)


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
