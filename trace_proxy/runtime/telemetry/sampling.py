"""Shall this span be recorded?  The SDK's samplers behind two short cuts.

Nearly every installation has `parentbased_always_on`, whose answer is one bit of the
parent; the SDK needs a context, a span and a result object to say the same.
`OTEL_TRACES_SAMPLER` and `_ARG` are read as OpenTelemetry says: an unknown value is
warned about and the default used, since one environment often serves many programs.
"""

from collections.abc import Callable, Collection, Mapping

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    DEFAULT_OFF,
    Decision,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from trace_proxy.context.span_record import SpanContext
from trace_proxy.runtime.telemetry.environment import is_disabled, setting
from trace_proxy.runtime.telemetry.record_span import sdk_context

Sample = Callable[[SpanContext | None, int, str], bool]
"""(parent, trace id, span name) → whether the span is recorded and exported."""

DEFAULT = "parentbased_always_on"

_NO_PARENT = Context()

_log = structlog.get_logger("trace_proxy.telemetry")


def sampler_of(environ: Mapping[str, str]) -> Sample:
    """Choose by `OTEL_SDK_DISABLED`, `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`."""
    if is_disabled(environ):
        return _as_the_parent
    name = setting(environ, "OTEL_TRACES_SAMPLER").lower() or DEFAULT
    if name not in _SAMPLERS:
        _log.warning("telemetry.sampler.unknown", sampler=name[:64], used=DEFAULT)
        name = DEFAULT
    return _SAMPLERS[name](environ)


def without(names: Collection[str], sample: Sample) -> Sample:
    """Never record spans of these names, and leave the others to `sample`."""

    def chosen(parent: SpanContext | None, trace_id: int, name: str) -> bool:
        return name not in names and sample(parent, trace_id, name)

    return chosen


def sampled_by(sampler: Sampler) -> Sample:
    """Ask any SDK sampler; RECORD_ONLY is no, since nothing is exported then."""

    def sample(parent: SpanContext | None, trace_id: int, name: str) -> bool:
        context = _NO_PARENT
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(sdk_context(parent)), _NO_PARENT)
        decision = sampler.should_sample(context, trace_id, name).decision
        return decision is Decision.RECORD_AND_SAMPLE

    return sample


def _as_the_parent_or_yes(parent: SpanContext | None, _trace_id: int, _name: str) -> bool:
    return parent is None or parent.flags & 1 != 0


def _as_the_parent(parent: SpanContext | None, _trace_id: int, _name: str) -> bool:
    # A disabled SDK hands contexts on as they came (OpenTelemetry: a no-op tracer).
    return parent is not None and bool(parent.flags & 1)


def _never(_parent: SpanContext | None, _trace_id: int, _name: str) -> bool:
    return False


def _always(_parent: SpanContext | None, _trace_id: int, _name: str) -> bool:
    return True


def _rate(environ: Mapping[str, str]) -> float:
    text = setting(environ, "OTEL_TRACES_SAMPLER_ARG")
    try:
        rate = float(text or 1)
    except ValueError:
        rate = -1
    if not 0 <= rate <= 1:  # also not-a-number
        _log.warning("telemetry.sampler.rate", arg=text[:64], used=1.0)
        return 1.0
    return rate


_SAMPLERS: dict[str, Callable[[Mapping[str, str]], Sample]] = {
    "parentbased_always_on": lambda _: _as_the_parent_or_yes,
    "parentbased_always_off": lambda _: sampled_by(DEFAULT_OFF),
    "parentbased_traceidratio": lambda environ: sampled_by(
        ParentBasedTraceIdRatio(_rate(environ))
    ),
    "always_on": lambda _: _always,
    "always_off": lambda _: _never,
    "traceidratio": lambda environ: sampled_by(TraceIdRatioBased(_rate(environ))),
}
