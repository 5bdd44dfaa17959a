"""`OTEL_EXPORTER_OTLP_*` as the stock HTTP exporter reads them, without importing it.

It comes with `requests` and protobuf: ten megabytes, for a POST to the collector next
door.  What only those can do (TLS, proxies, credentials) is recognized here and left to
them; see `otlp`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import structlog
from opentelemetry.exporter.otlp.proto.http.version import __version__
from opentelemetry.util.re import parse_env_headers

from trace_proxy.runtime.telemetry.environment import setting

DEFAULT_TIMEOUT_S = 10.0  # OpenTelemetry's default
USER_AGENT = f"OTel-OTLP-Exporter-Python/{__version__}"

_PROVIDERS = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
)

# What `requests` would send as it is (RFC 3986, section 2).
_PLAIN_URL = re.compile(r"http://[-\w.~:/?#\[\]@!$&'()*+,;=%]+", re.ASCII | re.IGNORECASE)

# A header that says how the request itself is sent.
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "te", "trailer", "transfer-encoding", "upgrade"}
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
    """

    headers: Mapping[str, str]
    timeout_s: float = DEFAULT_TIMEOUT_S
    compression: Compression = Compression.NONE


def otlp_settings(environ: Mapping[str, str], content_type: str) -> OtlpSettings:
    """Read headers, time-out and compression; what is unusable is warned about and ignored."""
    headers = {"content-type": content_type, "user-agent": USER_AGENT}
    headers.update(parse_env_headers(_either(environ, "HEADERS"), liberal=True))
    headers["content-type"] = content_type
    compression = _compression(_either(environ, "COMPRESSION").lower())
    if compression is not Compression.NONE:
        headers.setdefault("content-encoding", compression.value)
    return OtlpSettings(headers, _timeout_s(_either(environ, "TIMEOUT")), compression)


def is_direct(url: str, environ: Mapping[str, str], headers: Mapping[str, str]) -> bool:
    """Whether a plain POST by ourselves says all that the stock exporter would say."""
    parts = urlsplit(url)
    if not _PLAIN_URL.fullmatch(url) or parts.username is not None or parts.hostname is None:
        return False
    if any(environ.get(name) for name in _PROVIDERS):
        return False
    if not _FRAMING.isdisjoint(headers) or not all(map(_is_sendable, headers.items())):
        return False
    return not (_has_proxy(parts) or _has_netrc_entry(parts.hostname, environ))


def _either(environ: Mapping[str, str], name: str) -> str:
    """The variable for traces, or else the one for all signals."""
    return setting(environ, f"OTEL_EXPORTER_OTLP_TRACES_{name}") or setting(
        environ, f"OTEL_EXPORTER_OTLP_{name}"
    )


def _timeout_s(text: str) -> float:
    try:
        timeout_s = float(text or DEFAULT_TIMEOUT_S)
    except ValueError:
        timeout_s = math.nan
    if not 0 <= timeout_s < math.inf:
        _log.warning("telemetry.otlp.timeout", value=text[:64], used=DEFAULT_TIMEOUT_S)
        return DEFAULT_TIMEOUT_S
    return timeout_s


def _compression(text: str) -> Compression:
    try:
        return Compression(text or "none")
    except ValueError:
        _log.warning("telemetry.otlp.compression", value=text[:64], used="none")
        return Compression.NONE


def _is_sendable(header: tuple[str, str]) -> bool:
    """Whether it is one line of ASCII."""
    name, value = header
    return name.isascii() and name.isprintable() and value.isascii() and value.isprintable()


def _has_proxy(parts: SplitResult) -> bool:
    proxies = getproxies()
    return bool(proxies.keys() & {"http", "all"}) and not proxy_bypass(parts.netloc)


def _has_netrc_entry(host: str, environ: Mapping[str, str]) -> bool:
    """Whether `requests` would find a password; a file that it cannot read it ignores."""
    named = environ.get("NETRC")
    paths = [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]
    for path in paths:
        try:
            expanded = path.expanduser()
            if expanded.exists():
                return bool(netrc(expanded).authenticators(host))
        except (NetrcParseError, OSError, RuntimeError):
            return False
    return False
