"""W3C trace context of a request: handed on to the engine and to commands, never judged."""

import re
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")


class Trace(msgspec.Struct, frozen=True):
    """The context; empty where there is none or a bad one."""

    traceparent: str | None = None
    tracestate: str | None = None


NO_TRACE: Final = Trace("", "")
_TRACE: Final = msgspec.json.Decoder(Trace)


def trace_of(raw: Raw | UnsetType) -> Trace:
    """The request's trace context; one of the wrong type or form counts as none."""
    if raw is UNSET:
        return NO_TRACE
    try:
        trace = _TRACE.decode(raw)
    except msgspec.DecodeError:
        return NO_TRACE
    if not _TRACEPARENT.match(trace.traceparent or ""):
        return NO_TRACE
    state = trace.tracestate or ""
    return Trace(trace.traceparent, state if _TRACESTATE.fullmatch(state) else "")
