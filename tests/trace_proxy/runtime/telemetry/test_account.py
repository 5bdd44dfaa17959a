"""Counting for any exporter, one line for each change, and silence from the SDK."""

import logging
import threading
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from tests.trace_proxy.runtime.telemetry.telemetry_fixtures import SECRET
from trace_proxy.runtime.telemetry.account import AccountedExporter, quiet_sdk_logs
from trace_proxy.runtime.telemetry.daemon_thread import finished_in_thread


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


async def test_work_that_outlives_the_loop_is_left_behind() -> None:
    released, ended = threading.Event(), threading.Event()

    def work() -> None:
        released.wait()
        ended.set()

    assert not await finished_in_thread(work, 0.01)
    assert not ended.is_set()
    released.set()
    assert ended.wait(5)
