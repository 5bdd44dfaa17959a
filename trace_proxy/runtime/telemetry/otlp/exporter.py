"""OTLP over HTTP: our encoder, and our client where a plain POST will do.

The stock exporter holds ten megabytes of `requests` and protobuf, and spends twenty times
as long on a span.  So it is imported only when somebody needs it:

    its client    for TLS, a proxy or credentials, see `otlp_settings.is_direct`
    its encoder   when ours cannot encode a batch: slower, and right
    all of it     when it is built otherwise than the one that we know (1.45)

What would tell secrets, the reason of a failure that may quote a URL with its query, is
replaced by words of ours.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Protocol

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from trace_proxy.runtime.telemetry.otlp.client import SHUT_DOWN, OtlpClient
from trace_proxy.runtime.telemetry.otlp.encoding import SpanEncoder
from trace_proxy.runtime.telemetry.otlp.settings import is_direct, otlp_settings
from trace_proxy.runtime.telemetry.record_span import Origins
from trace_proxy.runtime.telemetry.span_queue import AnySpan, Encoded

# The stock exporter's own limit for one request, and what collectors accept at most.
MAX_REQUEST_BYTES = 64 * 1024 * 1024

_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_STOCK = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_STOCK_ENCODER = "opentelemetry.exporter.otlp.proto.common.trace_encoder"

_REASONS = {
    "ConnectTimeout": "cannot connect in time",
    "ConnectionError": "cannot connect",
    "ReadTimeout": "no answer in time",
    "SSLError": "the TLS handshake failed",
}

_log = structlog.get_logger("trace_proxy.telemetry")


class Client(Protocol):
    """Sends a body that comes in parts, retries included, and says why it could not; nothing if it could."""

    def send(self, parts: Sequence[bytes]) -> str:
        """Blocks until it is accepted or given up."""
        ...

    def close(self) -> None:
        """Gives up what is under way; from any thread."""
        ...


class OtlpExporter(SpanExporter):
    """What JSON and protobuf have in common: a body is sent, and a failure has a reason.

    Args:
        client: Sends.
        encode: Encodes; a batch that it refuses by raising is lost.

    Attributes:
        last_error: Why the latest batch failed, in words that quote nothing.
    """

    def __init__(self, client: Client, encode: Callable[[Sequence[ReadableSpan]], bytes]) -> None:
        self._client = client
        self._encode_plainly = encode
        self._closing = threading.Event()
        self.last_error = ""

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
            self.last_error = self._client.send(batch.parts)
        return SpanExportResult.FAILURE if self.last_error else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Stop retrying and close the connection; safe from any thread, and twice."""
        if not self._closing.is_set():
            self._closing.set()
            self._client.close()


class ProtobufExporter(OtlpExporter):
    """Protobuf: encoded by us, in any thread, and by the stock encoder if we cannot."""

    def __init__(self, client: Client, origins: Origins) -> None:
        super().__init__(client, _encode_by_stock)
        self._ours = _Encoders(origins)
        self._fell_back = False

    def encode(self, spans: Sequence[AnySpan]) -> Encoded | None:
        """Encode spans here and now; None when only the stock encoder can."""
        try:
            return Encoded((self._ours.encoder.encode(spans),), len(spans))
        except Exception as error:  # noqa: BLE001 - whatever it is, the stock encoder gets its turn
            if not self._fell_back:
                self._fell_back = True
                _log.warning("telemetry.encoder.fallback", error=type(error).__name__)
            return None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch, with retries; blocks the exporter's thread only."""
        encoded = self.encode(spans)
        return super().export(spans) if encoded is None else self.send(encoded)


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
    settings = otlp_settings(environ, content_type)
    client: Client
    if is_direct(url, environ, settings.headers):
        client = OtlpClient(url, settings)
    else:
        stock: SpanExporter = import_module(_STOCK).OTLPSpanExporter(
            url, headers={"content-type": content_type}
        )
        inside = getattr(stock, "_client", None)
        if inside is None:
            return stock
        client = _StockClient(inside)
    if as_json:
        module = import_module("trace_proxy.runtime.telemetry.otlp.json_encoding")
        return OtlpExporter(client, module.JsonSpanEncoder().encode)
    return ProtobufExporter(client, origins)


def _encode_by_stock(spans: Sequence[ReadableSpan]) -> bytes:
    encoded: bytes = import_module(_STOCK_ENCODER).encode_spans(spans).SerializePartialToString()
    return encoded


class _Sent(Protocol):
    """What the stock client says about one request, retries included."""

    @property
    def success(self) -> bool: ...
    @property
    def status_code(self) -> int | None: ...
    @property
    def error(self) -> Exception | None: ...


class _Inside(Protocol):
    """The stock exporter's client."""

    def export(self, data: bytes) -> _Sent: ...
    def shutdown(self) -> None: ...


class _StockClient:
    """The stock exporter without its encoder."""

    def __init__(self, inside: _Inside) -> None:
        self._inside = inside

    def send(self, parts: Sequence[bytes]) -> str:
        sent = self._inside.export(b"".join(parts))
        return "" if sent.success else _reason(sent)

    def close(self) -> None:
        self._inside.shutdown()


def _reason(sent: _Sent) -> str:
    if sent.status_code is not None:
        return f"the collector answered {sent.status_code}"
    if sent.error is None:
        return SHUT_DOWN
    name = type(sent.error).__name__
    return _REASONS.get(name, name)
