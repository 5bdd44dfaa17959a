"""`OTEL_*` variables as OpenTelemetry wants them read.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/: an
empty variable is an unset one, and a number that is none is warned about and ignored.
"""

from collections.abc import Iterator, Mapping

import structlog
from opentelemetry.sdk.trace import SpanLimits

DEFAULT_VALUE_LENGTH = 1_024
"""Characters of an attribute; the specification's default, no limit, is none for a proxy."""

_DEFAULT_COUNT = 128  # of attributes, events and links: the specification's
_MOST = 1_000_000

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


def words(environ: Mapping[str, str], name: str) -> Iterator[str]:
    """The members of a variable that is a list, lower case, none twice and none empty."""
    members = [member.strip().lower() for member in setting(environ, name).split(",")]
    return iter(dict.fromkeys(filter(None, members)))


def span_limits(environ: Mapping[str, str]) -> SpanLimits:
    """The bounds of a span, by `OTEL_ATTRIBUTE_*`, `OTEL_SPAN_*`, `OTEL_EVENT_*`, `OTEL_LINK_*`.

    Nothing is left to `SpanLimits` to read: it raises where the specification warns.
    """
    most = _limit(environ, "OTEL_ATTRIBUTE_COUNT_LIMIT", _DEFAULT_COUNT)
    longest = _limit(environ, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", DEFAULT_VALUE_LENGTH)
    return SpanLimits(
        max_attributes=most,
        max_span_attributes=_limit(environ, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", most),
        max_event_attributes=_limit(environ, "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", most),
        max_link_attributes=_limit(environ, "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", most),
        max_events=_limit(environ, "OTEL_SPAN_EVENT_COUNT_LIMIT", _DEFAULT_COUNT),
        max_links=_limit(environ, "OTEL_SPAN_LINK_COUNT_LIMIT", _DEFAULT_COUNT),
        max_attribute_length=longest,
        max_span_attribute_length=_limit(
            environ, "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", longest
        ),
    )


def _limit(environ: Mapping[str, str], name: str, default: int) -> int:
    """A number from 0, or the default, which takes the place of `unset` too."""
    text = setting(environ, name).lower()
    if text in ("", "unset"):
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not 0 <= number <= _MOST:
        _log.warning("telemetry.number.invalid", variable=name, value=text[:64], used=default)
        return default
    return number
