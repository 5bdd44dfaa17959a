"""Which trace context wins: a message's, its connection's, the process's, or a new root.

    message `trace` > message `_meta` > handshake traceparent > handshake b3, x-b3-* > TRACEPARENT > new root

What is invalid at one level is reported as a `Rejection` and the next level is tried;
no request fails for its trace. Valid contexts of the handshake that lost become links.
All but the message is settled once a connection (`inherit`), so that a request costs one
call and one parse. Parsing is `w3c` and `b3`; ids are drawn and spans opened elsewhere.
"""

from enum import Enum

import msgspec

from trace_proxy.context import w3c
from trace_proxy.context.carrier import (
    Extracted,
    Handshake,
    Reason,
    Rejection,
    RemoteContext,
    Sampling,
    Source,
)
from trace_proxy.context.extract import (
    NOTHING,
    Propagators,
    from_environment,
    from_handshake,
    from_message,
    from_message_raw,
)
from trace_proxy.context.span_record import SpanContext
from trace_proxy.context.w3c import format_traceparent, own_flags, trace_member

__all__ = [
    "Extracted",
    "Handshake",
    "Inherited",
    "Propagators",
    "Reason",
    "Rejection",
    "RemoteContext",
    "Resolution",
    "Sampling",
    "Source",
    "Trust",
    "format_traceparent",
    "from_environment",
    "from_handshake",
    "from_message",
    "from_message_raw",
    "inherit",
    "own_flags",
    "resolve",
    "resolve_raw",
    "trace_member",
]

# Enum members looked up once: an attribute of an Enum class costs as much as a call.
_YES, _NO, _UNDECIDED = Sampling.YES, Sampling.NO, Sampling.UNDECIDED
_MESSAGE, _GENERATED = Source.MESSAGE, Source.GENERATED


class Trust(Enum):
    """What a client's context may be: the parent of our span, or only a link."""

    PARENT = "parent"
    LINK = "link"


_LINK = Trust.LINK  # for the same reason


class Resolution(msgspec.Struct, frozen=True, gc=False):
    """The context that a request's span is made in.

    Attributes:
        source: `trace_proxy.context.source`; `GENERATED` for a new root.
        parent: None for a new root.
        links: At most four: message, traceparent, b3, x-b3-*.
        sampling: `UNDECIDED` asks our sampler as for a root, in the parent's trace.
        rejections: The message's own; count them.
    """

    source: Source
    parent: SpanContext | None = None
    links: tuple[SpanContext, ...] = ()
    sampling: Sampling = Sampling.UNDECIDED
    rejections: tuple[Rejection, ...] = ()


class Inherited(msgspec.Struct, frozen=True):
    """What the requests of one connection inherit.

    Attributes:
        default: The answer for a request without a `trace`; use it as it is.
        links: The handshake's contexts: losers, as soon as a message's wins.
        trust: As configured.
    """

    default: Resolution
    links: tuple[SpanContext, ...] = ()
    trust: Trust = Trust.PARENT


def inherit(handshake: Handshake, environment: Extracted, trust: Trust) -> Inherited:
    """Settle once for a connection what its requests inherit.

    Under `Trust.LINK` no client joins its own trace, or decides what is recorded. The
    environment is the operator's: it stays the parent of whoever sends no context.
    """
    winner = handshake.winner
    if winner is None or (winner.context is None and trust is Trust.LINK):
        return Inherited(_from_environment(environment), (), trust)
    if winner.context is None:  # a decision alone: it asks for a root, not for the environment
        return Inherited(Resolution(Source.GENERATED, sampling=winner.sampling), (), trust)
    contexts = _distinct((winner.context, *handshake.losers))
    if trust is Trust.LINK:
        return Inherited(Resolution(Source.GENERATED, links=contexts), contexts, trust)
    default = Resolution(handshake.source, winner.context, contexts[1:], winner.sampling)
    return Inherited(default, contexts, trust)


def _from_environment(environment: Extracted) -> Resolution:
    parent = environment.context
    if parent is None:
        return Resolution(Source.GENERATED)
    return Resolution(Source.ENV, parent, sampling=_YES if parent.sampled else _NO)


def resolve(trace: object, inherited: Inherited) -> Resolution:
    """Decide for a request whose `trace` member has been decoded; None when it has none."""
    return _decide(from_message(trace), inherited)


def resolve_raw(
    trace: bytes | msgspec.Raw | None, inherited: Inherited, meta: bytes | None = None
) -> Resolution:
    """Decide for a request whose `trace` member is still JSON text.

    A request without any needs no call: `inherited.default` is the answer.

    Args:
        trace: The member; None without one.
        inherited: What its connection has.
        meta: JSON of `params._meta`, which may hold a context too (MCP SEP-414): the next
            level below `trace`.
    """
    found = NOTHING if trace is None else from_message_raw(trace)
    if meta is not None and found.context is None:
        below = from_message_raw(meta)
        found = Extracted(below.context, (*found.rejections, *below.rejections))
    return _decide(found, inherited)


def _decide(message: Extracted, inherited: Inherited) -> Resolution:
    context = message.context
    if context is None:
        if not message.rejections:
            return inherited.default
        return msgspec.structs.replace(inherited.default, rejections=message.rejections)
    links = inherited.links
    for link in links:
        if link.span_id == context.span_id and link.trace_id == context.trace_id:
            links = tuple(each for each in links if each is not link)
    if inherited.trust is _LINK:
        return Resolution(_GENERATED, None, (context, *links), _UNDECIDED, message.rejections)
    sampling = _YES if context.flags & w3c.SAMPLED else _NO
    return Resolution(_MESSAGE, context, links, sampling, message.rejections)


def _distinct(contexts: tuple[SpanContext, ...]) -> tuple[SpanContext, ...]:
    """Keep the first of each span: clients say the same in several formats."""
    firsts: dict[tuple[int, int], SpanContext] = {}
    for context in contexts:
        firsts.setdefault((context.trace_id, context.span_id), context)
    return tuple(firsts.values())
