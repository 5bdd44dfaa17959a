"""OTLP over HTTP: our encoder and our client.

The stock exporter holds ten megabytes of `requests` and protobuf, and spends twenty times
as long on a span.  So it is imported only when somebody needs it:

    its encoder   when ours cannot encode a batch: slower, and right
    all of it     for a credential provider, a plug-in of OpenTelemetry's Python SDK

What would tell secrets, the reason of a failure that may quote a URL with its query, is
replaced by words of ours.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from trace_proxy.context.span_record import SpanRecord
from trace_proxy.runtime.telemetry.otlp.client import SHUT_DOWN, OtlpClient
from trace_proxy.runtime.telemetry.otlp.encoding import SpanEncoder
from trace_proxy.runtime.telemetry.otlp.settings import otlp_settings, timeout_s
from trace_proxy.runtime.telemetry.record_span import Origins
from trace_proxy.runtime.telemetry.span_queue import Encoded

# The stock exporter's own limit for one request, and what collectors accept at most.
MAX_REQUEST_BYTES = 64 * 1024 * 1024

_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_STOCK = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_STOCK_ENCODER = "opentelemetry.exporter.otlp.proto.common.trace_encoder"

# Either names an entry point that builds a `requests.Session` with credentials in it.
_PROVIDERS = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
)

_log = structlog.get_logger("trace_proxy.telemetry")


class OtlpExporter(SpanExporter):
    """What JSON and protobuf have in common: a body is sent, and a failure has a reason.

    Args:
        client: Sends.
        encode: Encodes; a batch that it refuses by raising is lost.

    Attributes:
        last_error: Why the latest batch failed, in words that quote nothing.
        refused_spans: Of the latest batch that arrived: what the collector did not take.
        warning: Its words about that.
    """

    def __init__(
        self, client: OtlpClient, encode: Callable[[Sequence[ReadableSpan]], bytes]
    ) -> None:
        self._client = client
        self._encode_plainly = encode
        self._closing = threading.Event()
        self.last_error = ""
        self.refused_spans = 0
        self.warning = ""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch, with retries; blocks the exporter's thread only."""
        return self.send(Encoded((self._encode_plainly(spans),), len(spans)))

    def send(self, batch: Encoded) -> SpanExportResult:
        """Send a batch that is encoded, with retries; blocks the exporter's thread only."""
        if self._closing.is_set():
            self.last_error = SHUT_DOWN
        elif batch.size > MAX_REQUEST_BYTES:
            self.last_error = "a batch is larger than 64 MiB"
        else:
            client = self._client
            self.last_error = client.send(batch.parts)
            self.refused_spans, self.warning = client.refused_spans, client.warning
        return SpanExportResult.FAILURE if self.last_error else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Stop retrying and close the connection; safe from any thread, and twice."""
        if not self._closing.is_set():
            self._closing.set()
            self._client.close()


class ProtobufExporter(OtlpExporter):
    """Protobuf: encoded by us, in any thread, and by the stock encoder if we cannot."""

    def __init__(self, client: OtlpClient, origins: Origins) -> None:
        super().__init__(client, _encode_by_stock)
        self._ours = _Encoders(origins)
        self._fell_back = False

    def encode(self, records: Sequence[SpanRecord]) -> Encoded | None:
        """Encode records here and now; None when only the stock encoder can."""
        try:
            return Encoded((self._ours.encoder.encode(records),), len(records))
        except Exception as error:  # noqa: BLE001 - whatever it is, the stock encoder gets its turn
            if not self._fell_back:
                self._fell_back = True
                _log.warning("telemetry.encoder.fallback", error=type(error).__name__)
            return None


class _Encoders(threading.local):
    """An encoder for each thread that asks: two at most, the event loop's and the exporter's."""

    def __init__(self, origins: Origins) -> None:
        self.encoder = SpanEncoder(origins)


def otlp_exporter(
    url: str, environ: Mapping[str, str], origins: Origins, *, as_json: bool = False
) -> SpanExporter:
    """Build the lightest exporter that does what the environment asks for.

    Args:
        url: Where to post; it has been checked.
        environ: `OTEL_EXPORTER_OTLP_*`; the stock exporter reads the process's own.
        origins: Whose spans they are.
        as_json: Speak `http/json` instead of `http/protobuf`.
    """
    content_type = _JSON if as_json else _PROTOBUF
    if any(environ.get(name) for name in _PROVIDERS):
        stock: SpanExporter = import_module(_STOCK).OTLPSpanExporter(
            url, headers={"content-type": content_type}, timeout=timeout_s(environ)
        )
        return stock
    client = OtlpClient(url, otlp_settings(environ, url, content_type))
    if as_json:
        module = import_module("trace_proxy.runtime.telemetry.otlp.json_encoding")
        return OtlpExporter(client, module.json_of)
    return ProtobufExporter(client, origins)


def _encode_by_stock(spans: Sequence[ReadableSpan]) -> bytes:
    encoded: bytes = import_module(_STOCK_ENCODER).encode_spans(spans).SerializePartialToString()
    return encoded
