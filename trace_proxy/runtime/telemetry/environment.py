"""`OTEL_*` variables as OpenTelemetry wants them read.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/: an
empty variable is an unset one, and a number that is none is warned about and ignored.
"""

from collections.abc import Mapping

import structlog

DAY_MS = 86_400_000  # a period longer than this is a typing error

_log = structlog.get_logger("trace_proxy.telemetry")


def setting(environ: Mapping[str, str], name: str) -> str:
    """A variable without white space around it; empty when it is not set."""
    return environ.get(name, "").strip()


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether `OTEL_SDK_DISABLED` says so."""
    return setting(environ, "OTEL_SDK_DISABLED").lower() == "true"


def positive_integer(environ: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A number from 1 to `most`, or the default."""
    text = setting(environ, name)
    try:
        number = int(text or default)
    except ValueError:
        number = 0
    if not 0 < number <= most:
        _log.warning("telemetry.number.invalid", variable=name, value=text[:64], used=default)
        return default
    return number
