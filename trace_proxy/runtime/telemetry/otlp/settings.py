"""`OTEL_EXPORTER_OTLP_*` as the specification has them, read without the stock exporter.

The variable for traces goes before the one for all signals, whole: they are not merged.
What is unusable is warned about and ignored, since one environment serves many programs:
https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
"""

import math
import ssl
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
from opentelemetry.util.re import parse_env_headers

from trace_proxy.runtime.telemetry.environment import setting

DEFAULT_TIMEOUT_S: Final = 10.0  # OpenTelemetry's default
MIN_TIMEOUT_MS: Final = 100
"""Below this a number was meant as seconds, as OpenTelemetry's Python SDK reads it."""

USER_AGENT: Final = f"OTel-OTLP-Exporter-Python/{version('opentelemetry-sdk')} trace-proxy"
OUR_HEADERS: Final = frozenset({"content-type", "content-encoding", "user-agent"})
"""Headers without anything of the user's in them."""

# A header that says how the request itself is sent.
_FRAMING: Final = frozenset(
    {
        *("connection", "content-length", "expect", "host", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    }
)

_log = structlog.get_logger("trace_proxy.telemetry")


class Compression(Enum):
    """`OTEL_EXPORTER_OTLP_COMPRESSION`; the value is the content encoding."""

    NONE = "none"
    DEFLATE = "deflate"
    GZIP = "gzip"


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """How to post spans.

    Attributes:
        headers: Lower-case names; they may hold secrets.
        timeout_s: For one batch, all its retries included.
        compression: Of the body.
        tls: What the collector must prove, and how we do; None without https.
    """

    headers: Mapping[str, str]
    timeout_s: float = DEFAULT_TIMEOUT_S
    compression: Compression = Compression.NONE
    tls: ssl.SSLContext | None = None


def otlp_settings(environ: Mapping[str, str], url: str, content_type: str) -> OtlpSettings:
    """Read headers, time-out, compression and certificates."""
    headers = {"user-agent": USER_AGENT}
    for name, value in parse_env_headers(either(environ, "HEADERS"), liberal=True).items():
        if _is_sendable(name, value):
            headers[name] = value
        else:
            _log.warning("telemetry.otlp.header", name=name[:64])
    headers["content-type"] = content_type
    compression = _compression(either(environ, "COMPRESSION").lower())
    if compression is not Compression.NONE:
        headers["content-encoding"] = compression.value
    parts = urlsplit(url)
    if parts.username is None and parts.hostname and "authorization" not in headers:
        headers |= _netrc_login(parts.hostname, environ)
    tls = _tls(environ) if parts.scheme == "https" else None
    return OtlpSettings(headers, timeout_s(environ), compression, tls)


def either(environ: Mapping[str, str], name: str) -> str:
    """The variable for traces, or else the one for all signals."""
    return setting(environ, f"OTEL_EXPORTER_OTLP_TRACES_{name}") or setting(
        environ, f"OTEL_EXPORTER_OTLP_{name}"
    )


def timeout_s(environ: Mapping[str, str]) -> float:
    """`OTEL_EXPORTER_OTLP_TIMEOUT`, which is in milliseconds; 0 is warned about like no number."""
    text = either(environ, "TIMEOUT")
    if not text:
        return DEFAULT_TIMEOUT_S
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        _log.warning("telemetry.otlp.timeout", value=text[:64], used_s=DEFAULT_TIMEOUT_S)
        return DEFAULT_TIMEOUT_S
    if number < MIN_TIMEOUT_MS:
        hint = "OTEL_EXPORTER_OTLP_TIMEOUT is in milliseconds; so little is taken for seconds"
        _log.warning("telemetry.otlp.timeout", value=text[:64], used_s=number, hint=hint)
        return number
    return number / 1000


def _compression(text: str) -> Compression:
    try:
        return Compression(text or "none")
    except ValueError:
        _log.warning("telemetry.otlp.compression", value=text[:64], used="none")
        return Compression.NONE


def _is_sendable(name: str, value: str) -> bool:
    """Whether it is one line of ASCII, and no header that frames the request."""
    lines = name + value
    return lines.isascii() and lines.isprintable() and name not in _FRAMING


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Whom we trust, and who we are; without a usable file the handshake will fail, and say so."""
    context = ssl.create_default_context()
    authority = either(environ, "CERTIFICATE")
    ours, key = either(environ, "CLIENT_CERTIFICATE"), either(environ, "CLIENT_KEY")
    try:
        if authority:
            context = ssl.create_default_context(cafile=authority)
        if ours:
            context.load_cert_chain(ours, key or None)
    except (OSError, ssl.SSLError) as error:
        files = {"authority": authority, "certificate": ours, "key": key}
        _log.warning("telemetry.otlp.certificate", error=type(error).__name__, **files)
    return context


def _netrc_login(host: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The login that `.netrc` has for a host; a file that cannot be read is ignored."""
    named = environ.get("NETRC")
    for path in [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]:
        try:
            expanded = path.expanduser()
            if expanded.exists():
                found = netrc(expanded).authenticators(host)
                if found is None:
                    return {}
                login = b64encode(f"{found[0]}:{found[2]}".encode()).decode()
                return {"authorization": f"Basic {login}"}
        except (NetrcParseError, OSError, RuntimeError):
            return {}
    return {}
