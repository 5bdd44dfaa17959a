"""Where do the spans go?  `OTEL_TRACES_EXPORTER` and friends → one exporter, or none.

    none                    OTEL_SDK_DISABLED, or the exporter `none`
    console                 stderr, a JSON line a span (stdout may carry the protocol)
    otlp URL                an endpoint is set
    file PATH               otherwise, when --trace-file is given
    otlp, default endpoint  otherwise, when `otlp` was asked for by name
    none                    otherwise: spans are made and propagated, nothing is exported

The SDK would ignore the first and the protocol when it is set up in code, so they are
read here.  Headers, TLS, time-out and compression the exporters read themselves.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

from trace_proxy.errors import ConfigurationError
from trace_proxy.runtime.telemetry.environment import is_disabled, setting
from trace_proxy.runtime.telemetry.otlp.exporter import otlp_exporter
from trace_proxy.runtime.telemetry.record_span import Origins

# Imported when it is wanted: it takes 0.15 s to load.
_GRPC = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"


@dataclass(frozen=True, slots=True)
class TraceDestination:
    """An exporter and how to speak of it.

    Attributes:
        label: `otlp URL`, `file PATH`, `console` or `none`; without secrets.
        exporter: None when nothing is exported.
    """

    label: str
    exporter: SpanExporter | None = None


def trace_destination(
    environ: Mapping[str, str], trace_file: Path | None, origins: Origins
) -> TraceDestination:
    """Choose and build the exporter.

    Raises:
        ConfigurationError: An unknown exporter or protocol, a URL that is none, a file
            that cannot be written, a package that is not installed.
    """
    if is_disabled(environ):
        return TraceDestination("none")
    exporter = setting(environ, "OTEL_TRACES_EXPORTER").lower()
    match exporter:
        case "none":
            return TraceDestination("none")
        case "console":
            return TraceDestination(
                "console", ConsoleSpanExporter(out=sys.stderr, formatter=_line)
            )
        case "otlp" | "":
            return _otlp_or_file(environ, trace_file, origins, asked=bool(exporter))
        case _:
            raise ConfigurationError(
                f"OTEL_TRACES_EXPORTER is {exporter[:64]!r}: use otlp, console or none"
            )


def _otlp_or_file(
    environ: Mapping[str, str], trace_file: Path | None, origins: Origins, *, asked: bool
) -> TraceDestination:
    own = setting(environ, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    shared = setting(environ, "OTEL_EXPORTER_OTLP_ENDPOINT")
    if own or shared or (asked and trace_file is None):
        return _otlp(environ, origins, own, shared)
    if trace_file is not None:
        return TraceDestination(f"file {trace_file}", _file_exporter(trace_file))
    return TraceDestination("none")


def _otlp(environ: Mapping[str, str], origins: Origins, own: str, shared: str) -> TraceDestination:
    name = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
    if not setting(environ, name):
        name = "OTEL_EXPORTER_OTLP_PROTOCOL"
    protocol = setting(environ, name).lower() or "http/protobuf"
    match protocol:
        case "http/protobuf" | "http/json":
            url = own or f"{(shared or 'http://localhost:4318').rstrip('/')}/v1/traces"
            label = f"otlp {_without_secrets(url)}"
            as_json = protocol == "http/json"
            return TraceDestination(label, otlp_exporter(url, environ, origins, as_json=as_json))
        case "grpc":
            url = own or shared or "http://localhost:4317"
            return TraceDestination(f"otlp {_without_secrets(url)}", _grpc_exporter(name))
        case _:
            raise ConfigurationError(
                f"{name} is {protocol[:64]!r}: use http/protobuf, http/json or grpc"
            )


def _grpc_exporter(name: str) -> SpanExporter:
    try:
        exporter: SpanExporter = import_module(_GRPC).OTLPSpanExporter()
    except ImportError:
        raise ConfigurationError(
            f"{name} is 'grpc': install opentelemetry-exporter-otlp-proto-grpc, or use http/protobuf"
        ) from None
    return exporter


def _without_secrets(url: str) -> str:
    """The URL as it may be shown: no credentials, no query.

    Raises:
        ConfigurationError: It is no HTTP URL. The message does not quote it either.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError(
            "the OTLP endpoint is no URL: set OTEL_EXPORTER_OTLP_ENDPOINT to one like "
            "http://localhost:4318"
        )
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
