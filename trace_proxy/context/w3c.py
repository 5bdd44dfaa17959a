"""W3C trace context level 2: text to `SpanContext` and back, strictly and fast.

This parser stands on the way of every request, where the stock propagator would cost
ten times as much; in the tests that propagator is its oracle. We differ on purpose:
no white space around a `traceparent`, unknown flag bits are cleared (section 3.2.2.5),
`tracestate` keys follow level 2. Who wins among several contexts is `trace_context`.
"""

import re
from functools import lru_cache

import msgspec

from trace_proxy.context.carrier import Reason
from trace_proxy.context.span_record import SpanContext

SAMPLED = 0x01
RANDOM = 0x02
"""Trace flags, section 3.2.2.5: `RANDOM` says the trace id's last 7 bytes are random."""

MAX_TRACEPARENT_CHARS = 512  # 55 today; room for later versions, and the stock propagator's bound
MAX_TRACESTATE_CHARS = 8_192  # 16 times what section 3.3.1.5 asks to propagate
MAX_TRACESTATE_MEMBERS = 32  # section 3.3.1.1

_IDS_AND_FLAGS = r"-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"
_is_version_00 = re.compile("00" + _IDS_AND_FLAGS).fullmatch
_is_later_version = re.compile("(?!00|ff)[0-9a-f]{2}" + _IDS_AND_FLAGS + "(?:-.*)?").fullmatch
_KNOWN_BITS = {digit: int(digit, 16) & (SAMPLED | RANDOM) for digit in "0123456789abcdef"}

_KEY = r"[a-z0-9][a-z0-9_\-*/@]{0,255}"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_is_member = re.compile(f"({_KEY})={_VALUE}").fullmatch


def parse_traceparent(text: str, state: str = "") -> SpanContext | Reason:
    """Read a `traceparent` (section 3.2).

    Args:
        text: The value, without white space around it.
        state: The `tracestate` that came with it, already checked.

    Returns:
        A remote context with the known flag bits, or why it was refused.
    """
    if _is_version_00(text) is None:
        refused = _refuse(text)
        if refused is not None:
            return refused
    trace_id, span_id = int(text[3:35], 16), int(text[36:52], 16)
    if trace_id and span_id:
        return SpanContext(trace_id, span_id, _KNOWN_BITS[text[54]], state, True)  # noqa: FBT003 - positional: half the time
    return Reason.ZERO_ID


def _refuse(text: str) -> Reason | None:
    """Say what is wrong with a traceparent, or None when a later version's start can be read."""
    if len(text) > MAX_TRACEPARENT_CHARS:
        return Reason.TOO_LONG
    if _is_later_version(text) is not None:
        return None
    return Reason.BAD_VERSION if text.startswith("ff-") else Reason.MALFORMED


# 128 entries of at most 8,192 characters: 1 MiB at worst. A client repeats its tracestate.
@lru_cache(maxsize=128)
def check_tracestate(text: str) -> str | Reason:
    """Check a `tracestate` (section 3.3); several headers come joined by a comma.

    Returns:
        The members without optional white space and empty ones, or why all were refused.
    """
    if len(text) > MAX_TRACESTATE_CHARS:
        return Reason.STATE_TOO_LONG
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    matches = [match for member in members if (match := _is_member(member))]
    keys = {match[1] for match in matches}
    if len(keys) < len(members) or len(members) > MAX_TRACESTATE_MEMBERS:
        return Reason.STATE_MALFORMED
    return ",".join(members)


def format_traceparent(context: SpanContext) -> str:
    """Write a `traceparent` of version 00."""
    ids = (context.trace_id, context.span_id, context.flags)
    return "00-%032x-%016x-%02x" % ids  # noqa: UP031 - half the time of an f-string


def opening_of(trace_id: int) -> bytes:
    """The beginning of a `trace` member, up to the span's id."""
    return b',"trace":{"traceparent":"00-%032x-' % trace_id


def trace_member(context: SpanContext, opening: bytes = b"") -> bytes:
    """Write a message's `trace` member, with the comma in front; `tracestate` if there is one.

    Args:
        context: Whose.
        opening: `opening_of` its trace, where that was made before; empty otherwise.
    """
    if opening and not context.state:
        return b'%b%016x-%02x"}' % (opening, context.span_id, context.flags)
    ids = (context.trace_id, context.span_id, context.flags)
    if not context.state:
        return b',"trace":{"traceparent":"00-%032x-%016x-%02x"}' % ids
    state = msgspec.json.encode(context.state)
    return b',"trace":{"traceparent":"00-%032x-%016x-%02x","tracestate":%b}' % (*ids, state)


def own_flags(parent: SpanContext | None, *, sampled: bool) -> int:
    """Return the flags of our own span: the random bit is a root's, and inherited.

    A root's trace id is drawn at random, hence 03 or 02; whose trace id came from
    outside may only repeat what was said about it (section 3.2.2.5.2).
    """
    random = RANDOM if parent is None else parent.flags & RANDOM
    return random | SAMPLED if sampled else random
