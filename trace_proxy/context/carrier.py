"""What a carrier can tell about a trace: the words that `w3c`, `b3` and `trace_context` share.

A carrier is the `trace` member of a message, the headers of a handshake, or the
environment. This module only names what was found in one, or why it was refused. The
values of `Source` and `Reason` are metric labels and attributes: few and fixed.
"""

from enum import Enum

import msgspec

from trace_proxy.context.span_record import SpanContext


class Source(Enum):
    """Where a context came from: the value of `trace_proxy.context.source`."""

    MESSAGE = "message"
    TRACEPARENT = "traceparent"
    B3 = "b3"
    ENV = "env"
    GENERATED = "generated"


class Reason(Enum):
    """Why a carrier's context was refused."""

    WRONG_TYPE = "wrong_type"  # JSON, but not an object, or a traceparent that is no string
    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    BAD_VERSION = "bad_version"  # traceparent version ff
    ZERO_ID = "zero_id"
    DUPLICATE = "duplicate"  # the header came twice
    INCOMPLETE = "incomplete"  # one B3 id without the other
    STATE_WRONG_TYPE = "tracestate_wrong_type"  # from here on the traceparent was kept
    STATE_TOO_LONG = "tracestate_too_long"
    STATE_MALFORMED = "tracestate_malformed"


class Sampling(Enum):
    """What the outside decided about recording; `UNDECIDED` leaves it to our sampler."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"


class Rejection(msgspec.Struct, frozen=True):
    """One refused context: count it, and warn once a connection."""

    source: Source
    reason: Reason


class RemoteContext(msgspec.Struct, frozen=True):
    """What a level said: ids and a decision, or (`b3: 0`, `b3: 1`) a decision alone.

    Attributes:
        context: The ids; its sampled flag is set only when `sampling` is `YES`.
        sampling: The decision, which flags cannot hold when there is none.
    """

    context: SpanContext | None
    sampling: Sampling


class Extracted(msgspec.Struct, frozen=True, gc=False):
    """What a W3C carrier held: a valid context or none, and what was refused."""

    context: SpanContext | None = None
    rejections: tuple[Rejection, ...] = ()


class Handshake(msgspec.Struct, frozen=True):
    """What a handshake's headers said.

    Attributes:
        source: Whose `winner` is.
        winner: The first valid context; without any, a decision without ids or None.
        losers: The other valid contexts, in order; they become links.
        rejections: Count these once a connection.
    """

    source: Source = Source.GENERATED
    winner: RemoteContext | None = None
    losers: tuple[SpanContext, ...] = ()
    rejections: tuple[Rejection, ...] = ()
