"""What became of the spans that were handed to an exporter, and is anybody there?

A thin exporter around the real one: counts, and says in one log line that the
destination is gone and in one that it is back.  The SDK's own words about that (a line
or more for each batch, with URLs in them) are kept out of the log by `quiet_sdk_logs`.

It decides nothing about retries or time-outs: those are the real exporter's.
"""

import logging
from collections.abc import Callable, Sequence

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from trace_proxy.context.span_record import SpanRecord
from trace_proxy.runtime.telemetry.span_queue import Encoded, EncodingExporter

# Distinct SDK messages that are logged in the life of the process: the SDK has fewer.
MAX_SDK_MESSAGES = 100

# What these loggers say, the account says better, or on every span.
_KEPT_QUIET = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal")

_log = structlog.get_logger("trace_proxy.telemetry")


class AccountedExporter(SpanExporter):
    """Counts what goes through, and tells when the destination comes and goes.

    All counters are written by the exporter's thread only; reading them is safe anywhere.

    Args:
        exporter: The real one; any will do.
        destination: How to name it in the log.

    Attributes:
        taken: Spans that left the queue.
        exported: Spans that the destination has accepted.
        failed: Spans given up, after the exporter's own retries, or refused by a
            destination that took the others.
        reachable: Whether the latest batch arrived; None before there was one.
        last_error: Why the latest failed batch failed; empty when there was none.
    """

    def __init__(self, exporter: SpanExporter, destination: str) -> None:
        self._exporter = exporter
        self._destination = destination
        self.taken = 0
        self.exported = 0
        self.failed = 0
        self.reachable: bool | None = None
        self.last_error = ""
        self._warned = ""
        self._closing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Pass a batch on; an exporter that raises has failed like any other."""
        return self._account(len(spans), lambda: self._exporter.export(spans))

    def _account(self, spans: int, export: Callable[[], SpanExportResult]) -> SpanExportResult:
        self.taken += spans
        try:
            result = export()
            why = (
                str(getattr(self._exporter, "last_error", "")) or "the exporter reports a failure"
            )
        except Exception as error:  # noqa: BLE001 - a foreign exporter may raise anything
            result, why = SpanExportResult.FAILURE, type(error).__name__
        if result is SpanExportResult.SUCCESS:
            refused = min(int(getattr(self._exporter, "refused_spans", 0)), spans)
            self.exported += spans - refused
            self.failed += refused
            self._back()
            self._warn(refused, str(getattr(self._exporter, "warning", "")))
        else:
            self.failed += spans
            self._gone(why)
        return result

    def shutdown(self) -> None:
        """Close the real exporter; what fails from now on is counted, and not news."""
        self._closing = True
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Pass the request on."""
        return self._exporter.force_flush(timeout_millis)

    def _warn(self, refused: int, warning: str) -> None:
        """Say once what a collector says about batches that it did not take whole."""
        if (refused or warning) and not self._warned:
            self._warned = warning or "no reason given"
            _log.warning(
                "telemetry.spans.refused",
                destination=self._destination,
                spans=refused,
                message=self._warned,
            )

    def _gone(self, why: str) -> None:
        self.last_error = why
        was, self.reachable = self.reachable, False
        if was is not False and not self._closing:
            _log.warning("telemetry.destination.lost", destination=self._destination, error=why)

    def _back(self) -> None:
        was, self.reachable = self.reachable, True
        if was is False:
            _log.info(
                "telemetry.destination.back", destination=self._destination, lost=self.failed
            )


class AccountedEncodingExporter(AccountedExporter):
    """The same for an exporter that encodes apart from sending."""

    def __init__(
        self, exporter: SpanExporter, encoding: EncodingExporter, destination: str
    ) -> None:
        super().__init__(exporter, destination)
        self._encoding = encoding

    def encode(self, records: Sequence[SpanRecord]) -> Encoded | None:
        """Encode records, in any thread; nothing is counted yet."""
        return self._encoding.encode(records)

    def send(self, batch: Encoded) -> SpanExportResult:
        """Pass on a batch that came from `encode`."""
        return self._account(batch.spans, lambda: self._encoding.send(batch))


def accounted(exporter: SpanExporter, destination: str) -> AccountedExporter:
    """Put the account around any exporter."""
    if isinstance(exporter, EncodingExporter):
        return AccountedEncodingExporter(exporter, exporter, destination)
    return AccountedExporter(exporter, destination)


class _SdkLog(logging.Handler):
    """Says each of the SDK's messages once, without its arguments: they may quote anything."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = str(record.msg)
        if record.name.startswith(_KEPT_QUIET) or message in self._seen:
            return
        if len(self._seen) < MAX_SDK_MESSAGES:
            self._seen.add(message)
            _log.warning("telemetry.sdk", logger=record.name, message=message)


def quiet_sdk_logs() -> None:
    """Take the SDK's and its HTTP client's log lines out of the way; idempotent.

    Formatting a warning for each dropped span would cost more than the span, so the
    loggers that would say one are switched off, not only filtered.
    """
    sdk = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _SdkLog) for handler in sdk.handlers):
        sdk.addHandler(_SdkLog())
    sdk.propagate = False
    logging.getLogger("opentelemetry.sdk._shared_internal").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.WARNING)  # DEBUG would tell URLs with queries
