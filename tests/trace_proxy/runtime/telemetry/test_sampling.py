"""The environment's sampler, asked about roots and about children."""

import pytest

from tests.trace_proxy.runtime.telemetry.telemetry_fixtures import TRACE_ID
from trace_proxy.context.span_record import SpanContext
from trace_proxy.runtime.telemetry.setup import Telemetry

SAMPLED = SpanContext(TRACE_ID, 1, flags=1, remote=True)
NOT_SAMPLED = SpanContext(TRACE_ID, 1, flags=2, remote=True)
LOW, HIGH = 1, 2**64 - 1  # trace ids below and above any ratio's bound

# For (no parent, low id), (no parent, high id), (sampled parent), (parent that is not).
SAMPLERS: list[tuple[dict[str, str], tuple[bool, bool, bool, bool]]] = [
    ({}, (True, True, True, False)),
    ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, (True, True, True, False)),
    ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, (False, False, True, False)),
    ({"OTEL_TRACES_SAMPLER": "always_on"}, (True, True, True, True)),
    ({"OTEL_TRACES_SAMPLER": "ALWAYS_OFF"}, (False, False, False, False)),
    (
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
        (True, False, False, False),
    ),
    (
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
        (True, False, True, False),
    ),
    ({"OTEL_TRACES_SAMPLER": "traceidratio"}, (True, True, True, True)),
    (
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"},
        (True, True, True, True),
    ),
    (
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
        (True, True, True, True),
    ),
    ({"OTEL_TRACES_SAMPLER": "xray"}, (True, True, True, False)),
    ({"OTEL_SDK_DISABLED": "true"}, (False, False, True, False)),
]


@pytest.mark.parametrize(("environ", "expected"), SAMPLERS)
def test_the_environment_chooses_the_sampler(
    environ: dict[str, str], expected: tuple[bool, bool, bool, bool]
) -> None:
    sampled = Telemetry(environ).sampled

    assert (
        sampled(None, LOW, "n"),
        sampled(None, HIGH, "n"),
        sampled(SAMPLED, HIGH, "n"),
        sampled(NOT_SAMPLED, HIGH, "n"),
    ) == expected


def test_without_reads_what_only_looks_is_not_recorded_whoever_asks() -> None:
    quiet, all_of_them = Telemetry({}, trace_reads=False), Telemetry({})
    for parent in (None, SAMPLED, NOT_SAMPLED):
        assert not quiet.sampled(parent, HIGH, "thread/list")
        for name in ("turn/start", "invoke_agent", "thread/start"):
            expected = all_of_them.sampled(parent, HIGH, name)
            assert quiet.sampled(parent, HIGH, name) is expected
