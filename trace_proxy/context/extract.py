"""Extract a trace context from its carriers: a message, a handshake, the environment.

Every function here says what it found and what it refused, and raises nothing: no
request fails for its trace. The formats are `w3c` and `b3`; which of several contexts
wins is `trace_context`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from trace_proxy.context import b3, w3c
from trace_proxy.context.carrier import (
    Extracted,
    Handshake,
    Reason,
    Rejection,
    RemoteContext,
    Sampling,
    Source,
)
from trace_proxy.context.span_record import SpanContext

ExtractB3 = Callable[[Mapping[str, str]], SpanContext | None]
"""The B3 propagator, which lives in a shell: clean headers in, context out."""

NOTHING = Extracted()
"""No context, and nothing to complain about."""

_HEADERS = frozenset({"traceparent", "tracestate", b3.SINGLE, *b3.MULTI})


class Propagators(msgspec.Struct, frozen=True):
    """Which formats count in handshake and environment; a message is always W3C.

    Attributes:
        w3c: `tracecontext`.
        b3: `b3` or `b3multi`; as OpenTelemetry says, either reads both forms.
        unknown: Names that mean nothing to us, for one warning.
    """

    w3c: bool = True
    b3: bool = True
    unknown: tuple[str, ...] = ()

    @classmethod
    def parse(cls, names: str) -> "Propagators":
        """Read the value of `OTEL_PROPAGATORS`; empty means all that we know.

        `none` switches everything off; `baggage` is known and never forwarded.
        """
        words = list(dict.fromkeys(word.strip() for word in names.split(",") if word.strip()))
        if not words:
            return cls()
        known = {"tracecontext", "b3", "b3multi", "baggage", "none"}
        on = set(words) if "none" not in words else set()
        unknown = tuple(word for word in words if word not in known)
        return cls("tracecontext" in on, bool(on & {"b3", "b3multi"}), unknown)


class _TraceField(msgspec.Struct, gc=False):
    """A `trace` member as it should be. Other members are not ours to judge."""

    traceparent: str
    tracestate: str | None = None


_decode = msgspec.json.Decoder(_TraceField).decode
_decode_anything = msgspec.json.Decoder().decode
# The envelope only skips over this text: it may hold broken UTF-8, or nest without end.
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)


def from_message(trace: object) -> Extracted:
    """Read a message's decoded `trace` member; null, or no traceparent, is no context."""
    if trace is None:
        return NOTHING
    if not isinstance(trace, dict):
        return Extracted(None, (Rejection(Source.MESSAGE, Reason.WRONG_TYPE),))
    return _extract(Source.MESSAGE, trace.get("traceparent"), trace.get("tracestate"))


def from_message_raw(raw: bytes | msgspec.Raw) -> Extracted:
    """Read a message's `trace` member from its JSON text: the fast way."""
    try:
        field = _decode(raw)
    except _UNREADABLE:
        return _from_odd_message(raw)
    state = w3c.check_tracestate(field.tracestate) if field.tracestate else ""
    if type(state) is str:
        context = w3c.parse_traceparent(field.traceparent, state)
        if type(context) is SpanContext:
            return Extracted(context)
    return _extract(Source.MESSAGE, field.traceparent, field.tracestate)


def _from_odd_message(raw: bytes | msgspec.Raw) -> Extracted:
    try:
        trace = _decode_anything(raw)
    except _UNREADABLE:
        return Extracted(None, (Rejection(Source.MESSAGE, Reason.MALFORMED),))
    return from_message(trace)


def from_environment(environ: Mapping[str, str], propagators: Propagators) -> Extracted:
    """Read `TRACEPARENT` and `TRACESTATE`; an empty variable is an unset one."""
    if not propagators.w3c:
        return NOTHING
    parent, state = environ.get("TRACEPARENT"), environ.get("TRACESTATE")
    return _extract(Source.ENV, parent or None, state)


def _extract(source: Source, traceparent: object, tracestate: object) -> Extracted:
    """Read a W3C pair; a bad tracestate is dropped alone, without a parent it is not read."""
    if traceparent is None:
        return NOTHING
    if not isinstance(traceparent, str):
        return Extracted(None, (Rejection(source, Reason.WRONG_TYPE),))
    state = _read_state(tracestate)
    rejections: tuple[Rejection, ...] = ()
    if isinstance(state, Reason):
        rejections, state = (Rejection(source, state),), ""
    context = w3c.parse_traceparent(traceparent, state)
    if isinstance(context, Reason):
        return Extracted(None, (Rejection(source, context),))
    return Extracted(context, rejections)


def _read_state(tracestate: object) -> str | Reason:
    if tracestate is None:
        return ""
    if not isinstance(tracestate, str):
        return Reason.STATE_WRONG_TYPE
    return w3c.check_tracestate(tracestate)


def from_handshake(
    headers: Iterable[tuple[str, str]], propagators: Propagators, extract_b3: ExtractB3
) -> Handshake:
    """Read the headers of a handshake, in order of rank; names in any case.

    Contexts rank before decisions without ids: a traceparent beats `b3: 0`.
    """
    values = _collect(headers)
    found: list[tuple[Source, RemoteContext]] = []
    rejections: tuple[Rejection, ...] = ()
    if propagators.w3c:
        w3c_pair = _extract_w3c(values)
        rejections = w3c_pair.rejections
        if w3c_pair.context is not None:
            decision = Sampling.YES if w3c_pair.context.sampled else Sampling.NO
            found.append((Source.TRACEPARENT, RemoteContext(w3c_pair.context, decision)))
    for outcome in _extract_b3(values, extract_b3) if propagators.b3 else ():
        if isinstance(outcome, Reason):
            rejections = (*rejections, Rejection(Source.B3, outcome))
        else:
            found.append((Source.B3, outcome))
    if not found:
        return Handshake(rejections=rejections)
    found.sort(key=lambda item: item[1].context is None)  # stable: rank is kept
    source, winner = found[0]
    losers = tuple(remote.context for _, remote in found[1:] if remote.context is not None)
    return Handshake(source, winner, losers, rejections)


def _collect(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in headers:
        if (known := name.lower()) in _HEADERS:
            values.setdefault(known, []).append(value)
    return values


def _extract_w3c(values: Mapping[str, list[str]]) -> Extracted:
    """Read exactly one `traceparent`; its `tracestate` may be spread over several headers."""
    parents, states = values.get("traceparent", ()), values.get("tracestate")
    if len(parents) > 1:
        return Extracted(None, (Rejection(Source.TRACEPARENT, Reason.DUPLICATE),))
    state = None if states is None else ",".join(states)
    return _extract(Source.TRACEPARENT, next(iter(parents), None), state)


def _extract_b3(
    values: Mapping[str, list[str]], extract_b3: ExtractB3
) -> Iterator[RemoteContext | Reason]:
    """Read the single header, then the many, as far as either is there."""
    for names in ((b3.SINGLE,), b3.MULTI):
        given = {name: values[name] for name in names if name in values}
        if not given:
            continue
        if any(len(each) > 1 for each in given.values()):
            yield Reason.DUPLICATE
            continue
        first = {name: each[0] for name, each in given.items()}
        read = b3.read_single(first[b3.SINGLE]) if b3.SINGLE in first else b3.read_multi(first)
        yield read if isinstance(read, Reason) else _propagate(read, extract_b3)


def _propagate(checked: b3.B3, extract_b3: ExtractB3) -> RemoteContext | Reason:
    """Let the propagator read what the front has checked; the decision is the front's."""
    if checked.carrier is None:
        return RemoteContext(None, checked.sampling)
    context = extract_b3(checked.carrier)
    if context is None:
        return Reason.MALFORMED
    flags = w3c.SAMPLED if checked.sampling is Sampling.YES else 0
    return RemoteContext(msgspec.structs.replace(context, flags=flags), checked.sampling)
