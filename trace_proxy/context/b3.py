"""The strict front of B3: may these headers go to the propagator at all?

The stock propagator turns an all-zero id into an invalid parent, accepts digits of any
script, and cannot say "no decision". So the headers are checked here first; what passes
is cleaned and extracted by `runtime.propagation`. Nothing here makes a context.

https://github.com/openzipkin/b3-propagation
"""

import re
from collections.abc import Mapping

import msgspec

from trace_proxy.context.carrier import Reason, Sampling

SINGLE = "b3"
TRACE_ID, SPAN_ID = "x-b3-traceid", "x-b3-spanid"
SAMPLED, FLAGS = "x-b3-sampled", "x-b3-flags"
MULTI = (TRACE_ID, SPAN_ID, SAMPLED, FLAGS)

MAX_B3_CHARS = 512  # a complete header has 68; the same bound as a traceparent's

_SPAN = "[0-9a-fA-F]{16}"
_TRACE = f"{_SPAN}(?:{_SPAN})?"  # 64 or 128 bits
_is_single = re.compile(f"({_TRACE})-({_SPAN})(?:-([01d])(?:-{_SPAN})?)?").fullmatch
_is_trace_id, _is_span_id = re.compile(_TRACE).fullmatch, re.compile(_SPAN).fullmatch
_SINGLE_DECISIONS = {"1": Sampling.YES, "d": Sampling.YES, "0": Sampling.NO}
# Old tracers wrote words, and the specification asks to understand them.
_MULTI_DECISIONS = {
    "": Sampling.UNDECIDED,
    "1": Sampling.YES,
    "true": Sampling.YES,
    "0": Sampling.NO,
    "false": Sampling.NO,
}


class B3(msgspec.Struct, frozen=True):
    """What passed the front.

    Attributes:
        carrier: Clean headers for the propagator; None when there were no ids.
        sampling: The decision. Without ids only `NO` binds: a wish to record asks
            for a new root, and that is our sampler's to decide.
    """

    carrier: dict[str, str] | None
    sampling: Sampling


def read_single(value: str) -> B3 | Reason:
    """Check a `b3` header: `0`, `1`, `d`, or `TRACE-SPAN[-DECISION[-PARENT]]`."""
    if len(value) > MAX_B3_CHARS:
        return Reason.TOO_LONG
    if value in _SINGLE_DECISIONS:
        return _without_ids(_SINGLE_DECISIONS[value])
    match = _is_single(value)
    if match is None:
        return Reason.MALFORMED
    trace_id, span_id, decision = match.groups()
    sampling = _SINGLE_DECISIONS[decision] if decision else Sampling.UNDECIDED
    return _refuse_ids(trace_id, span_id) or B3({SINGLE: f"{trace_id}-{span_id}"}, sampling)


def read_multi(headers: Mapping[str, str]) -> B3 | Reason:
    """Check the `x-b3-*` headers, given by lower-case name; at least one is there."""
    if max(map(len, headers.values())) > MAX_B3_CHARS:
        return Reason.TOO_LONG
    trace_id, span_id, sampled, flags = (headers.get(name, "") for name in MULTI)
    decision = _MULTI_DECISIONS.get(sampled.lower())
    if decision is None or flags not in {"", "0", "1"}:
        return Reason.MALFORMED
    if flags == "1":  # debug: implies the decision to record
        decision = Sampling.YES
    if not trace_id and not span_id and (sampled or flags == "1"):
        return _without_ids(decision)
    if not trace_id or not span_id:
        return Reason.INCOMPLETE
    clean = {TRACE_ID: trace_id, SPAN_ID: span_id}
    return _refuse_ids(trace_id, span_id) or B3(clean, decision)


def _without_ids(decision: Sampling) -> B3:
    return B3(None, Sampling.NO if decision is Sampling.NO else Sampling.UNDECIDED)


def _refuse_ids(trace_id: str, span_id: str) -> Reason | None:
    if _is_trace_id(trace_id) is None or _is_span_id(span_id) is None:
        return Reason.MALFORMED
    if not int(trace_id, 16) or not int(span_id, 16):
        return Reason.ZERO_ID
    return None
