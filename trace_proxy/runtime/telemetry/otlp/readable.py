"""Any `ReadableSpan` as OTLP/protobuf, field by field, and the groups around the spans.

The complete and slow half of our encoder: it knows events, foreign links and counts of
what was dropped.  `otlp_encoding` comes here for whatever is no plain record of ours.
Field numbers are those of opentelemetry/proto/trace/v1/trace.proto.
"""

from collections.abc import Mapping
from typing import TypeAlias, TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, TraceState
from opentelemetry.trace import SpanContext as SdkSpanContext

from trace_proxy.context.span_record import SpanContext
from trace_proxy.runtime.telemetry.otlp.protobuf import (
    attributes,
    count,
    field,
    fixed32,
    fixed64,
    text,
    varint,
)

_Scope: TypeAlias = InstrumentationScope | None
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

LOCAL_FLAGS, REMOTE_FLAGS = 0x100, 0x300
"""SpanFlags: "we know whether the parent is remote", and "it is"."""

KINDS = {
    SpanKind.INTERNAL: b"\x30\x01",
    SpanKind.SERVER: b"\x30\x02",
    SpanKind.CLIENT: b"\x30\x03",
    SpanKind.PRODUCER: b"\x30\x04",
    SpanKind.CONSUMER: b"\x30\x05",
}
"""The whole field."""


class Groups:
    """The spans of one request by resource and scope, in order of appearance.

    Args:
        fields: `fields_of` resources and scopes that come in every request, by identity:
            they are encoded once. Their owner keeps them alive.
    """

    def __init__(self, fields: Mapping[int, bytes]) -> None:
        self._fields = fields
        self._tree: list[tuple[Resource, list[tuple[_Scope, list[bytes]]]]] = []
        # By identity first: to hash a resource is to dump it as JSON.
        self._known: dict[tuple[int, int], list[bytes]] = {}

    def spans_of(self, resource: Resource, scope: InstrumentationScope | None) -> list[bytes]:
        """The chunks of this group, to append to. Both arguments must outlive this object."""
        identity = (id(resource), id(scope))
        chunks = self._known.get(identity)
        if chunks is None:
            scopes = _found(self._tree, resource)
            chunks = self._known[identity] = _found(scopes, scope)
        return chunks

    def encode(self) -> bytes:
        """Serialize the `ExportTraceServiceRequest` around all of them."""
        parts: list[bytes] = []
        for resource, scopes in self._tree:
            about = self._fields.get(id(resource)) or _resource(resource)
            inner = [part for scope, chunks in scopes for part in self._scope(scope, chunks)]
            url = text(0x1A, resource.schema_url)
            length = len(about) + sum(map(len, inner)) + len(url)
            parts += (b"\x0a" + varint(length), about, *inner, url)
        return b"".join(parts)  # a batch is copied twice: here, and where its spans are joined

    def _scope(self, scope: _Scope, chunks: list[bytes]) -> tuple[bytes, ...]:
        spans = b"".join(chunks)
        about = self._fields.get(id(scope)) or _about_scope(scope)
        url = b"" if scope is None else text(0x1A, scope.schema_url)
        return b"\x12" + varint(len(about) + len(spans) + len(url)), about, spans, url


def fields_of(resource: Resource, scope: InstrumentationScope) -> dict[int, bytes]:
    """How the two are described, by their identity."""
    return {id(resource): _resource(resource), id(scope): _about_scope(scope)}


def _found(entries: list[tuple[_Key, list[_Value]]], wanted: _Key) -> list[_Value]:
    """What stands beside an equal key; a new entry if none does. There are very few."""
    for key, value in entries:
        if key is wanted or key == wanted:
            return value
    new: list[_Value] = []
    entries.append((wanted, new))
    return new


def _resource(resource: Resource) -> bytes:
    return field(0x0A, attributes(0x0A, resource.attributes))


def _about_scope(scope: _Scope) -> bytes:
    if scope is None:
        return field(0x0A, b"")
    return field(
        0x0A,
        text(0x0A, scope.name) + text(0x12, scope.version) + attributes(0x1A, scope.attributes),
    )


def readable_span(span: ReadableSpan) -> bytes:
    """Encode one span, without its tag and length.

    Raises:
        Exception: Something in it has no place in OTLP.
    """
    context, parent = span.get_span_context(), span.parent
    assert context is not None, "a span that is exported has ids"
    return b"".join(
        (
            field(0x0A, context.trace_id.to_bytes(16, "big")),
            field(0x12, context.span_id.to_bytes(8, "big")),
            state_field(context.trace_state),
            field(0x22, parent.span_id.to_bytes(8, "big")) if parent else b"",
            text(0x2A, span.name),
            KINDS[span.kind],
            fixed64(0x39, span.start_time or 0),
            fixed64(0x41, span.end_time or 0),
            attributes(0x4A, span.attributes),
            count(0x50, span.dropped_attributes),
            *[field(0x5A, _event(event)) for event in span.events],
            count(0x60, span.dropped_events),
            *[field(0x6A, _link(link)) for link in span.links],
            count(0x70, span.dropped_links),
            _status(span.status),
            b"\x85" + fixed32(0x01, REMOTE_FLAGS if parent and parent.is_remote else LOCAL_FLAGS),
        )
    )


def _event(event: Event) -> bytes:
    return (
        fixed64(0x09, event.timestamp)
        + text(0x12, event.name)
        + attributes(0x1A, event.attributes)
        + count(0x20, event.dropped_attributes)
    )


def _link(link: Link) -> bytes:
    return (
        link_ids(link.context, remote=link.context.is_remote)
        + attributes(0x22, link.attributes)
        + count(0x28, link.dropped_attributes)
    )


def _status(status: Status) -> bytes:
    code = status.status_code.value
    return field(0x7A, text(0x12, status.description) + count(0x18, code))


def link_ids(context: SpanContext | SdkSpanContext, *, remote: bool) -> bytes:
    """Encode what a link says about its target."""
    trace_id = field(0x0A, context.trace_id.to_bytes(16, "big"))
    span_id = field(0x12, context.span_id.to_bytes(8, "big"))
    return trace_id + span_id + fixed32(0x35, REMOTE_FLAGS if remote else LOCAL_FLAGS)


def state_field(state: TraceState) -> bytes:
    """Encode a span's trace state; an empty one is absent."""
    return text(0x1A, ",".join([f"{key}={value}" for key, value in state.items()]))
