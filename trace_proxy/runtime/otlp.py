"""OTLP over HTTP with the stock exporter, except for the bytes.

Retries, headers, compression, time-outs and TLS are `OTLPSpanExporter`'s own and follow
`OTEL_EXPORTER_OTLP_*`.  Replaced is what is expensive (the protobuf encoding) and what
would tell secrets (the reason of a failure, which may quote a URL with its query).

When our encoder cannot encode a batch, or the installed exporter is built otherwise than
the one that we know (1.45), the stock code does the whole of it: slower, and right.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from trace_proxy.runtime.direct_session import direct_session
from trace_proxy.runtime.otlp_encoding import SpanEncoder
from trace_proxy.runtime.otlp_json import JsonSpanEncoder

# The stock exporter's own limit for one request, and what collectors accept at most.
MAX_REQUEST_BYTES = 64 * 1024 * 1024

_REASONS = {
    "ConnectTimeout": "cannot connect in time",
    "ConnectionError": "cannot connect",
    "ReadTimeout": "no answer in time",
    "SSLError": "the TLS handshake failed",
}

Encode = Callable[[Sequence[ReadableSpan]], bytes]

_log = structlog.get_logger("trace_proxy.telemetry")


class _Sent(Protocol):
    """What the stock client says about one request, retries included."""

    @property
    def success(self) -> bool: ...
    @property
    def status_code(self) -> int | None: ...
    @property
    def error(self) -> Exception | None: ...


class FastOtlpExporter(SpanExporter):
    """The stock OTLP/HTTP exporter around an encoder of ours.

    Args:
        url: Where to post.
        environ: Says whether the ordinary HTTP client is needed.
        as_json: Speak `http/json` instead of `http/protobuf`.

    Attributes:
        fallbacks: Batches that our encoder could not encode.
        last_error: Why the latest batch failed, in words that quote nothing.
    """

    def __init__(self, url: str, environ: Mapping[str, str], *, as_json: bool = False) -> None:
        headers = {"content-type": "application/json"} if as_json else None
        session = direct_session(url, environ)
        self._stock: SpanExporter = OTLPSpanExporter(url, headers=headers, session=session)
        encoder = JsonSpanEncoder() if as_json else SpanEncoder()
        self._encode: Encode = encoder.encode
        self._closing = threading.Event()
        self.fallbacks = 0
        self.last_error = ""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch, with the stock retries; blocks the exporter's thread only."""
        if self._closing.is_set():
            return SpanExportResult.FAILURE
        client = getattr(self._stock, "_client", None)
        body = self._encoded(spans)
        if body is None or client is None:
            return self._export_by_stock(spans)
        if len(body) > MAX_REQUEST_BYTES:
            self.last_error = "a batch is larger than 64 MiB"
            return SpanExportResult.FAILURE
        sent: _Sent = client.export(body)
        self.last_error = "" if sent.success else _reason(sent)
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Stop retrying and close the connections; safe from any thread, and twice."""
        if not self._closing.is_set():
            self._closing.set()
            self._stock.shutdown()

    def _encoded(self, spans: Sequence[ReadableSpan]) -> bytes | None:
        try:
            return self._encode(spans)
        except Exception as error:  # noqa: BLE001 - whatever it is, the stock encoder gets its turn
            if not self.fallbacks:
                _log.warning("telemetry.encoder.fallback", error=type(error).__name__)
            self.fallbacks += 1
            return None

    def _export_by_stock(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        sent = self._stock.export(spans)
        self.last_error = "" if sent is SpanExportResult.SUCCESS else "the stock exporter failed"
        return sent


def _reason(sent: _Sent) -> str:
    if sent.status_code is not None:
        return f"the collector answered {sent.status_code}"
    if sent.error is None:
        return "shut down meanwhile"
    name = type(sent.error).__name__
    return _REASONS.get(name, name)
