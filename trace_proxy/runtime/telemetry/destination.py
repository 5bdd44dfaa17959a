"""Where do the spans go?  `OTEL_TRACES_EXPORTER` and friends → one exporter, several, or none.

    none                    OTEL_SDK_DISABLED, or the exporter `none`
    console                 stderr, a JSON line a span (stdout may carry the protocol)
    otlp URL                an endpoint is set
    file PATH               otherwise, when --trace-file is given
    otlp, default endpoint  otherwise, when `otlp` was asked for by name
    none                    otherwise: spans are made and propagated, nothing is exported

`OTEL_TRACES_EXPORTER` is a list.  What it names that we do not know, and a protocol or an
endpoint that cannot be used, is warned about and ignored, as the specification wants: an
environment is shared by many programs, and no trace is worth not serving.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from trace_proxy.errors import ConfigurationError
from trace_proxy.runtime.telemetry.environment import is_disabled, setting, words
from trace_proxy.runtime.telemetry.otlp.exporter import otlp_exporter
from trace_proxy.runtime.telemetry.otlp.settings import either, timeout_s
from trace_proxy.runtime.telemetry.record_span import Origins

# Imported when it is wanted: it takes 0.15 s to load.
_GRPC = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"


_HTTP_PROTOBUF = "http/protobuf"
_HTTP = frozenset({_HTTP_PROTOBUF, "http/json"})

_log = structlog.get_logger("trace_proxy.telemetry")


@dataclass(frozen=True, slots=True)
class TraceDestination:
    """An exporter and how to speak of it.

    Attributes:
        label: `otlp URL`, `file PATH`, `console`, several with commas, or `none`; no secrets.
        exporter: None when nothing is exported.
    """

    label: str
    exporter: SpanExporter | None = None


NOWHERE = TraceDestination("none")


def trace_destination(
    environ: Mapping[str, str], trace_file: Path | None, origins: Origins
) -> TraceDestination:
    """Choose and build the exporter.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    if is_disabled(environ):
        return NOWHERE
    known = [name for name in words(environ, "OTEL_TRACES_EXPORTER") if _is_known(name)]
    if not known:
        return _otlp_or_file(environ, trace_file, origins, asked=False)
    chosen = []
    for name in known:
        if name == "console":
            console = ConsoleSpanExporter(out=sys.stderr, formatter=_line)
            chosen.append(TraceDestination("console", console))
        elif name == "otlp":
            chosen.append(_otlp_or_file(environ, trace_file, origins, asked=True))
    exporting = [each for each in chosen if each.exporter is not None]
    if len(exporting) > 1:
        label = ", ".join([each.label for each in exporting])
        return TraceDestination(label, _Several(exporting))
    return exporting[0] if exporting else NOWHERE


def _is_known(name: str) -> bool:
    if name in ("otlp", "console", "none"):
        return True
    hint = "use otlp, console or none, or several of them with commas"
    _log.warning("telemetry.exporter.unknown", exporter=name[:64], hint=hint)
    return False


class _Several(SpanExporter):
    """Gives each batch to one exporter after the other; it has failed where one has.

    Attributes:
        last_error: Why the latest batch failed, at the first that did.
        refused_spans: Of the latest batch, where most were refused.
        warning: What was said about that.
    """

    def __init__(self, destinations: Sequence[TraceDestination]) -> None:
        self._destinations = destinations
        self.last_error = ""
        self.refused_spans = 0
        self.warning = ""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export to all, whatever becomes of it at one of them."""
        self.last_error, self.refused_spans, self.warning = "", 0, ""
        for each in self._destinations:
            assert each.exporter is not None, "the others were left out"
            why, taken = "", False
            try:
                taken = each.exporter.export(spans) is SpanExportResult.SUCCESS
                why = str(getattr(each.exporter, "last_error", "")) or "a failure"
            except Exception as error:  # noqa: BLE001 - the next one gets the batch all the same
                why = type(error).__name__
            if not taken:
                self.last_error = self.last_error or f"{each.label}: {why}"
            elif getattr(each.exporter, "refused_spans", 0) > self.refused_spans:
                self.refused_spans = getattr(each.exporter, "refused_spans", 0)
                self.warning = str(getattr(each.exporter, "warning", ""))
        return SpanExportResult.FAILURE if self.last_error else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close all of them."""
        for each in self._destinations:
            assert each.exporter is not None, "the others were left out"
            each.exporter.shutdown()


def _otlp_or_file(
    environ: Mapping[str, str], trace_file: Path | None, origins: Origins, *, asked: bool
) -> TraceDestination:
    own = setting(environ, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    shared = setting(environ, "OTEL_EXPORTER_OTLP_ENDPOINT")
    if own or shared or (asked and trace_file is None):
        return _otlp(environ, origins, own, shared)
    if trace_file is not None:
        return TraceDestination(f"file {trace_file}", _file_exporter(trace_file))
    return NOWHERE


def _otlp(environ: Mapping[str, str], origins: Origins, own: str, shared: str) -> TraceDestination:
    protocol = _protocol(environ)
    if protocol in _HTTP:
        url = own or f"{(shared or 'http://localhost:4318').rstrip('/')}/v1/traces"
    else:
        url = own or shared or "http://localhost:4317"
    shown = _without_secrets(url)
    if shown is None:
        hint = "set OTEL_EXPORTER_OTLP_ENDPOINT to a URL like http://localhost:4318"
        _log.warning("telemetry.endpoint.invalid", hint=hint, used="none")
        return NOWHERE
    if protocol in _HTTP:
        as_json = protocol != _HTTP_PROTOBUF
        exporter = otlp_exporter(url, environ, origins, as_json=as_json)
        return TraceDestination(f"otlp {shown}", exporter)
    over_grpc = _grpc_exporter(timeout_s(environ))
    return NOWHERE if over_grpc is None else TraceDestination(f"otlp {shown}", over_grpc)


def _protocol(environ: Mapping[str, str]) -> str:
    asked = either(environ, "PROTOCOL").lower() or _HTTP_PROTOBUF
    if asked in _HTTP or asked == "grpc":
        return asked
    hint = "use http/protobuf, http/json or grpc"
    _log.warning("telemetry.protocol.unknown", protocol=asked[:64], used=_HTTP_PROTOBUF, hint=hint)
    return _HTTP_PROTOBUF


def _grpc_exporter(limit_s: float) -> SpanExporter | None:
    try:
        exporter: SpanExporter = import_module(_GRPC).OTLPSpanExporter(timeout=limit_s)
    except ImportError:
        hint = "install opentelemetry-exporter-otlp-proto-grpc, or use http/protobuf"
        _log.warning("telemetry.grpc.missing", hint=hint, used="none")
        return None
    return exporter


def _without_secrets(url: str) -> str | None:
    """The URL as it may be shown: no credentials, no query. None when it is no HTTP URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not host:
        return None
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}{parts.path}"


def _file_exporter(path: Path) -> SpanExporter:
    try:
        exporter: SpanExporter = import_module(
            "trace_proxy.runtime.telemetry.otlp.json_encoding"
        ).TraceFileExporter(path)
    except OSError as error:
        raise ConfigurationError(
            f"--trace-file {path} cannot be written ({error.strerror}): choose another file"
        ) from None
    return exporter


def _line(span: ReadableSpan) -> str:
    return str(span.to_json(indent=None)) + "\n"
