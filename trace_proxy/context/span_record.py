"""A span as the machines describe it: complete, immutable, free of OpenTelemetry.

`spans` decides that a span ended and hands one of these out; `runtime.telemetry`
turns it into a `ReadableSpan` and gives it to a standard `SpanProcessor`. Nothing
here is mutable, so a record may cross to the exporter thread without a lock.
"""

from enum import Enum

import msgspec

AttributeValue = str | bool | int | float | tuple[str, ...]
"""The attribute types that we record; OTLP knows more, we need no more."""


STILL_OPEN = 0
"""As `end_ns`: what is handled within one call of a machine ends when the call does."""


class Service(Enum):
    """Under whose `service.name` a span is exported."""

    PROXY = "proxy"
    CORE = "core"
    CLIENT = "client"


class Kind(Enum):
    """SpanKind, https://opentelemetry.io/docs/specs/otel/trace/api/#spankind."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


class SpanContext(msgspec.Struct, frozen=True, gc=False):
    """The part of a span that travels: W3C trace context level 2.

    Attributes:
        trace_id: 128 bits, never zero.
        span_id: 64 bits, never zero.
        flags: The trace-flags octet: bit 0 sampled, bit 1 random trace id.
        state: `tracestate` as received, already checked; empty when there is none.
        remote: Whether another process made it.
    """

    trace_id: int
    span_id: int
    flags: int = 0
    state: str = ""
    remote: bool = False

    @property
    def sampled(self) -> bool:
        """Whether bit 0 of the flags is set."""
        return bool(self.flags & 1)


class SpanEvent(msgspec.Struct, frozen=True, gc=False):
    """Something that happened at one moment of a span.

    Attributes:
        name: Bounded in variety.
        time_ns: Unix time, nanoseconds.
        attributes: Few, bounded in length.
    """

    name: str
    time_ns: int
    attributes: dict[str, AttributeValue] = msgspec.field(default_factory=dict)


class SpanRecord(msgspec.Struct, frozen=True, gc=False):
    """One finished span.

    Attributes:
        service: Whose resource it is exported under.
        name: Span name, bounded in variety.
        kind: SpanKind.
        context: Its own ids.
        parent: The parent's context, or None for a root.
        start_ns: Unix time, nanoseconds.
        end_ns: Unix time, nanoseconds, never before `start_ns`; `STILL_OPEN`: it ends
            when it is exported.
        attributes: Its own: few, already bounded in number and length.
        shared: What it has in common with the other spans of its connection; the same
            object for all of them and never changed, so that an exporter encodes it once.
        links: Contexts of related spans, without attributes.
        error: A canned sentence when the status is ERROR, else empty (status unset).
        events: What happened in it, in order; bounded in number by who records it.
    """

    service: Service
    name: str
    kind: Kind
    context: SpanContext
    parent: SpanContext | None
    start_ns: int
    end_ns: int
    attributes: dict[str, AttributeValue]
    links: tuple[SpanContext, ...] = ()
    error: str = ""
    shared: dict[str, AttributeValue] = msgspec.field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
