"""Where OpenTelemetry's propagators are called, behind the strict front of `extract`.

A thin shell: it is given the environment and the headers, and decides nothing. W3C is
read by `w3c` alone; for B3 the checked headers go through the stock propagator.
"""

from collections.abc import Iterable, Mapping

import structlog
from opentelemetry.context import Context
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.trace import get_current_span

from trace_proxy.context import b3, trace_context
from trace_proxy.context.carrier import Extracted, Handshake
from trace_proxy.context.extract import Propagators
from trace_proxy.context.span_record import SpanContext

_log = structlog.stdlib.get_logger(__name__)

_SINGLE, _MULTI = B3SingleFormat(), B3MultiFormat()

# A configuration may hold anything; a warning repeats this much of a name.
_MAX_NAME_CHARS = 64


def extract_b3(carrier: Mapping[str, str]) -> SpanContext | None:
    """Read checked B3 headers, named in lower case.

    Returns:
        A remote context, or None where the propagator finds no valid one.
    """
    propagator = _SINGLE if b3.SINGLE in carrier else _MULTI
    # An explicit empty context: a span that is current here must not be mistaken for theirs.
    found = get_current_span(propagator.extract(carrier, Context())).get_span_context()
    if not found.is_valid:
        return None
    return SpanContext(found.trace_id, found.span_id, int(found.trace_flags), remote=True)


class Propagation:
    """Extraction as this process's environment configures it.

    Args:
        environ: Read once, here: `OTEL_PROPAGATORS`, `TRACEPARENT`, `TRACESTATE`. Unknown
            propagators are warned about, once.

    Attributes:
        environment: The process's own parent; its rejections count once.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._propagators = Propagators.parse(environ.get("OTEL_PROPAGATORS", ""))
        self.environment: Extracted = trace_context.from_environment(environ, self._propagators)
        if self._propagators.unknown:
            _log.warning(
                "propagators.unknown",
                ignored=[name[:_MAX_NAME_CHARS] for name in self._propagators.unknown],
                hint="OTEL_PROPAGATORS takes tracecontext, b3, b3multi or none",
            )

    def handshake(self, headers: Iterable[tuple[str, str]]) -> Handshake:
        """Read the headers of one websocket handshake."""
        return trace_context.from_handshake(headers, self._propagators, extract_b3)
