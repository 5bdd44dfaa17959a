"""Any `ReadableSpan` as OTLP/protobuf, field by field, and the groups around the spans.

The complete and slow half of our encoder: it knows events, foreign links and counts of
what was dropped.  `otlp_encoding` comes here for whatever is no plain record of ours.
Field numbers are those of opentelemetry/proto/trace/v1/trace.proto.
"""

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, TraceState
from opentelemetry.trace import SpanContext as SdkSpanContext

from trace_proxy.runtime.protobuf import attributes, count, field, fixed32, fixed64, text, varint
from trace_proxy.span_record import SpanContext

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
    """The spans of one request by resource and scope, in order of appearance."""

    def __init__(self) -> None:
        self._tree: dict[Resource, dict[InstrumentationScope | None, list[bytes]]] = {}
        # A resource hashes by dumping itself as JSON: look up by identity first.
        self._known: dict[tuple[int, int], list[bytes]] = {}

    def spans_of(self, resource: Resource, scope: InstrumentationScope | None) -> list[bytes]:
        """The chunks of this group, to append to. Both arguments must outlive this object."""
        identity = (id(resource), id(scope))
        chunks = self._known.get(identity)
        if chunks is None:
            scopes = self._tree.setdefault(resource, {})
            chunks = self._known[identity] = scopes.setdefault(scope, [])
        return chunks

    def encode(self) -> bytes:
        """Serialize the `ExportTraceServiceRequest` around all of them."""
        parts: list[bytes] = []
        for resource, scopes in self._tree.items():
            about, url = _resource(resource), text(0x1A, resource.schema_url)
            inner = [part for group in scopes.items() for part in _scope_spans(group)]
            length = len(about) + sum(map(len, inner)) + len(url)
            parts += (b"\x0a" + varint(length), about, *inner, url)
        return b"".join(parts)  # a batch is copied twice: here, and where its spans are joined


def _resource(resource: Resource) -> bytes:
    return field(0x0A, attributes(0x0A, resource.attributes))


def _scope_spans(group: tuple[InstrumentationScope | None, list[bytes]]) -> tuple[bytes, ...]:
    scope, chunks = group
    spans = b"".join(chunks)
    about, url = field(0x0A, b""), b""
    if scope is not None:
        described = (
            text(0x0A, scope.name) + text(0x12, scope.version) + attributes(0x1A, scope.attributes)
        )
        about, url = field(0x0A, described), text(0x1A, scope.schema_url)
    return b"\x12" + varint(len(about) + len(spans) + len(url)), about, spans, url


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
