"""A `SpanRecord` in the clothes of a `ReadableSpan`, dressed only when somebody looks.

Building the stock object (two contexts, a status, fourteen fields) costs more than
everything else that the event loop does for a span, and our own OTLP encoder never
needs it: it reads the record. Any other exporter gets a `RecordSpan`, which is two
references; when it touches a field it finds a complete, ordinary `ReadableSpan`, filled
in at that moment, in the exporter's thread.

It is no `Span`: there is nothing to start, to end or to add to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace import SpanContext as SdkSpanContext

from trace_proxy.context.span_record import (
    AttributeValue,
    Kind,
    Service,
    SpanContext,
    SpanRecord,
)

_KINDS = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
}

_FLAGS = tuple(TraceFlags(octet) for octet in range(256))
_UNSET = Status(StatusCode.UNSET)
_NO_STATE = TraceState()


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """What all spans of one service share.

    Attributes:
        resource: Who is speaking.
        scope: Which instrumentation.
        limits: The bounds of a span (`OTEL_SPAN_*_LIMIT`).
    """

    resource: Resource
    scope: InstrumentationScope
    limits: SpanLimits

    @property
    def max_attributes(self) -> float:
        """Attributes that a span may have."""
        most = self.limits.max_span_attributes
        return inf if most is None else most

    @property
    def max_events(self) -> float:
        """Events that a span may have."""
        most = self.limits.max_events
        return inf if most is None else most

    @property
    def max_links(self) -> float:
        """Links that a span may have."""
        most = self.limits.max_links
        return inf if most is None else most


@dataclass(frozen=True, slots=True, eq=False)
class Origins:
    """The services whose spans we export.

    Attributes:
        proxy: Ours.
        core: That of the core's work, seen from the wire.
        client: That of people and programs whom a core asks.
    """

    proxy: Origin
    core: Origin
    client: Origin

    def of(self, service: Service) -> Origin:
        """Whose spans these are."""
        if service is Service.PROXY:
            return self.proxy
        return self.core if service is Service.CORE else self.client

    def dress(self, record: SpanRecord) -> "RecordSpan":
        """The record as a `ReadableSpan`."""
        origin = self.of(record.service)
        irregular = (
            len(record.attributes) + len(record.shared) > origin.max_attributes
            or len(record.links) > origin.max_links
            or len(record.events) > origin.max_events
            or not record.attributes.keys().isdisjoint(record.shared)
        )
        return (OversizedSpan if irregular else RecordSpan)(record, origin)


class RecordSpan(ReadableSpan):
    """One finished span; see the module.

    Args:
        record: What happened.
        origin: Whose it is. The record must not exceed its limits in number
            (else it is an `OversizedSpan`); long values are cut.
    """

    __slots__ = ("_filled", "_own_context", "origin", "record")

    def __init__(self, record: SpanRecord, origin: Origin) -> None:
        self.record = record
        self.origin = origin
        self._own_context: SdkSpanContext | None = None
        self._filled = False

    @property
    def context(self) -> SdkSpanContext:
        """The span's own ids: the one field that every processor reads at once."""
        context = self._own_context
        if context is None:
            context = self._own_context = sdk_context(self.record.context)
        return context

    def __getattr__(self, name: str) -> object:
        """Fill in the stock fields when the first of them is asked for."""
        if name in RecordSpan.__slots__ or self._filled:  # a half-made copy, or no such field
            raise AttributeError(name)
        self._filled = True
        self._fill(self.record, self.origin)
        return object.__getattribute__(self, name)

    def _fill(self, record: SpanRecord, origin: Origin) -> None:
        parent = record.parent
        super().__init__(
            name=record.name,
            context=self.context,
            parent=None if parent is None else sdk_context(parent),
            resource=origin.resource,
            attributes=_bounded_attributes(record, origin.limits),
            events=_bounded_events(record, origin.limits),
            links=_bounded_links(record, origin.limits),
            kind=_KINDS[record.kind],
            status=_status(record.error) if record.error else _UNSET,
            start_time=record.start_ns,
            end_time=record.end_ns,
            instrumentation_scope=origin.scope,
        )


class OversizedSpan(RecordSpan):
    """A record that exceeds the limits, or has an attribute twice.

    The oldest attributes go, and are counted; of two, the span's own stays.

    A type of its own, for encoders that read the record.
    """

    __slots__ = ()


def sdk_context(context: SpanContext) -> SdkSpanContext:
    """The same context as OpenTelemetry's type."""
    state = trace_state(context.state) if context.state else _NO_STATE
    return SdkSpanContext(
        context.trace_id, context.span_id, context.remote, _FLAGS[context.flags & 0xFF], state
    )


@lru_cache(maxsize=256)  # few vendors are between us and a client; 256 x 512 characters at most
def trace_state(header: str) -> TraceState:
    """Parse a `tracestate` header; a header that breaks the rules gives an empty one."""
    return TraceState.from_header([header])


def _bounded_attributes(record: SpanRecord, limits: SpanLimits) -> BoundedAttributes:
    return BoundedAttributes(
        limits.max_span_attributes,
        {
            name: _cut(value, limits)
            for name, value in (*record.shared.items(), *record.attributes.items())
        },
        immutable=True,
    )


def _cut(value: AttributeValue, limits: SpanLimits) -> AttributeValue:
    # Here and not by BoundedAttributes, which warns about each value that it cuts.
    if isinstance(value, str):
        return value[: limits.max_span_attribute_length]
    if isinstance(value, tuple):
        return tuple([each[: limits.max_span_attribute_length] for each in value])
    return value


def _bounded_events(record: SpanRecord, limits: SpanLimits) -> Sequence[Event]:
    events = BoundedList[Event](limits.max_events)
    events.extend(
        [
            Event(
                event.name,
                {name: _cut(value, limits) for name, value in event.attributes.items()},
                event.time_ns,
            )
            for event in record.events
        ]
    )
    return events


def _bounded_links(record: SpanRecord, limits: SpanLimits) -> Sequence[Link]:
    links = BoundedList[Link](limits.max_links)
    links.extend([Link(sdk_context(context)) for context in record.links])
    return links


@lru_cache(maxsize=64)  # canned sentences, one per error code
def _status(error: str) -> Status:
    """The ERROR status with this canned sentence."""
    return Status(StatusCode.ERROR, error)
