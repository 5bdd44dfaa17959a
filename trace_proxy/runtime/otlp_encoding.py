"""OTLP/protobuf by hand: spans in, the bytes of an `ExportTraceServiceRequest` out.

The stock encoder builds a tree of protobuf messages for each span, which costs more
than the rest of the proxy does for a request.  Here a span is one `struct.pack`, a few
cached chunks (names, and attribute pairs of low variety) and one join.  Field numbers
are those of opentelemetry/proto/trace/v1/trace.proto.

A `RecordSpan` is read straight from its record; any other `ReadableSpan` is encoded
field by field.  Both say what `opentelemetry-exporter-otlp-proto-common` says, which is
the oracle of the property tests and, at run time, the fallback (see `otlp`).
"""

import struct
from collections.abc import Iterable, Sequence
from typing import TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, TraceState
from opentelemetry.trace import SpanContext as SdkSpanContext

from trace_proxy.runtime.protobuf import (
    attributes,
    count,
    field,
    fixed32,
    fixed64,
    key_value,
    text,
    varint,
)
from trace_proxy.runtime.record_span import Origin, RecordSpan, trace_state
from trace_proxy.semconv import JSONRPC_REQUEST_ID
from trace_proxy.span_record import AttributeValue, Kind, SpanContext, SpanRecord

# Entries that a cache may have before it starts anew.  A busy proxy has some hundred
# distinct pairs; ids that never repeat only pass through.  4,096 x ~400 bytes = 1.6 MB.
MAX_CACHED = 4_096
# Bytes of a value worth caching: ids, names, methods. Longer ones rarely repeat.
MAX_CACHED_LENGTH = 128

_FLAGS, _REMOTE_FLAGS = 0x100, 0x300  # SpanFlags: "we know whether it is remote", "it is"
_KINDS = {
    SpanKind.INTERNAL: b"\x30\x01",
    SpanKind.SERVER: b"\x30\x02",
    SpanKind.CLIENT: b"\x30\x03",
    SpanKind.PRODUCER: b"\x30\x04",
    SpanKind.CONSUMER: b"\x30\x05",
}
_INTERNAL, _SERVER, _CLIENT = (_KINDS[k] for k in list(_KINDS)[:3])
_ONE_BYTE = 0x80  # a length below this is a varint of one byte
_UNSET = b"\x7a\x00"

# trace_id, span_id, start, end, flags; and the same with a parent_span_id.
_root = struct.Struct("<2s16s 2s8s BQBQ 2sI").pack
_child = struct.Struct("<2s16s 2s8s 2s8s BQBQ 2sI").pack


_Key = TypeVar("_Key")


class _Pairs(dict[tuple[str, AttributeValue], bytes]):
    """(key, value) → the encoded span attribute.

    Only strings are kept here, and integers beside: 1, True and 1.0 are one dictionary
    key, but three values.
    """

    def __init__(self, max_length: int | None) -> None:
        super().__init__()
        self._max_length = max_length
        self._integers: dict[tuple[str, AttributeValue], bytes] = {}
        self._keys = _Keys()

    def __missing__(self, pair: tuple[str, AttributeValue]) -> bytes:
        key, value = pair
        if type(value) is str:
            return self._string(pair, key, value[: self._max_length])
        if type(value) is not int:
            return field(0x4A, key_value(key, value))
        encoded = self._integers.get(pair)
        if encoded is None:
            encoded = field(0x4A, key_value(key, value))
            _remember(self._integers, pair, encoded)
        return encoded

    def _string(self, pair: tuple[str, AttributeValue], key: str, value: str) -> bytes:
        encoded_key, content = self._keys[key], value.encode()
        size = len(content)
        whole = len(encoded_key) + size + 4
        if size > MAX_CACHED_LENGTH or whole >= _ONE_BYTE:
            encoded = field(0x4A, key_value(key, value))
        else:  # all three lengths are one byte: no need to build it from the inside out
            encoded = b"\x4a%c%b\x12%c\x0a%c%b" % (whole, encoded_key, size + 2, size, content)
        if size <= MAX_CACHED_LENGTH and key != JSONRPC_REQUEST_ID:  # never comes twice
            _remember(self, pair, encoded)
        return encoded


class _Keys(dict[str, bytes]):
    """Attribute key → its field in a KeyValue."""

    def __missing__(self, key: str) -> bytes:
        encoded = text(0x0A, key)
        _remember(self, key, encoded)
        return encoded


class _Names(dict[str, bytes]):
    """Span name → its field."""

    def __missing__(self, name: str) -> bytes:
        encoded = text(0x2A, name)
        _remember(self, name, encoded)
        return encoded


class _Heads(dict[int, bytes]):
    """Length of a span → tag and length, as they stand in ScopeSpans."""

    def __missing__(self, length: int) -> bytes:
        encoded = b"\x12" + varint(length)
        _remember(self, length, encoded)
        return encoded


class _Statuses(dict[str, bytes]):
    """Canned error sentence → status field; the empty one is UNSET."""

    def __missing__(self, error: str) -> bytes:
        encoded = field(0x7A, text(0x12, error) + b"\x18\x02")
        _remember(self, error, encoded)
        return encoded


def _remember(cache: dict[_Key, bytes], key: _Key, encoded: bytes) -> None:
    if len(cache) >= MAX_CACHED:
        cache.clear()
    cache[key] = encoded


class SpanEncoder:
    """Encodes batches, and remembers what repeats from one to the next.

    Not safe to share between threads; a span processor exports from one at a time.
    """

    def __init__(self) -> None:
        self._pairs: dict[Origin, _Pairs] = {}
        self._names = _Names()
        self._heads = _Heads()
        self._statuses = _Statuses()
        self._shared: dict[int, tuple[dict[str, AttributeValue], _Pairs, bytes]] = {}

    def encode(self, spans: Sequence[ReadableSpan]) -> bytes:
        """Serialize an `ExportTraceServiceRequest`, grouped by resource and scope.

        Raises:
            Exception: Something in a span has no place in OTLP (an integer beyond 64
                bits, a lone surrogate): nothing is encoded, and the stock encoder, which
                leaves such a value out, should be asked.
        """
        groups = _Groups()
        origin, pairs, encoded = None, _Pairs(None), list[bytes]()
        for span in spans:
            if type(span) is RecordSpan:
                if span.origin is not origin:
                    origin = span.origin
                    pairs = self._pairs_of(origin)
                    encoded = groups.spans_of(origin.resource, origin.scope)
                body = self._record(span.record, pairs)
                encoded += (self._heads[len(body)], body)
            else:
                body = _readable(span)
                others = groups.spans_of(span.resource, span.instrumentation_scope)
                others += (self._heads[len(body)], body)
        return groups.encode()

    def _pairs_of(self, origin: Origin) -> _Pairs:
        pairs = self._pairs.get(origin)
        if pairs is None:
            pairs = self._pairs[origin] = _Pairs(origin.limits.max_span_attribute_length)
        return pairs

    def _shared_of(self, shared: dict[str, AttributeValue], pairs: _Pairs) -> bytes:
        """The attributes of a connection, encoded once; the entry keeps its dict alive."""
        known = self._shared.get(id(shared))
        if known is not None and known[0] is shared and known[1] is pairs:
            return known[2]
        encoded = b"".join(map(pairs.__getitem__, shared.items()))
        if len(self._shared) >= MAX_CACHED:
            self._shared.clear()
        self._shared[id(shared)] = (shared, pairs, encoded)
        return encoded

    def _record(self, record: SpanRecord, pairs: _Pairs) -> bytes:
        context, parent, kind = record.context, record.parent, record.kind
        trace_id = context.trace_id.to_bytes(16, "big")
        span_id = context.span_id.to_bytes(8, "big")
        start_ns, end_ns = record.start_ns, record.end_ns
        if parent is None:
            ids = _root(b"\x0a\x10", trace_id, b"\x12\x08", span_id, 0x39, start_ns, 0x41, end_ns, b"\x85\x01", _FLAGS)  # fmt: skip
        else:
            parent_id = parent.span_id.to_bytes(8, "big")
            flags = _REMOTE_FLAGS if parent.remote else _FLAGS
            ids = _child(b"\x0a\x10", trace_id, b"\x12\x08", span_id, b"\x22\x08", parent_id, 0x39, start_ns, 0x41, end_ns, b"\x85\x01", flags)  # fmt: skip
        return b"".join(
            (
                ids,
                _SERVER
                if kind is Kind.SERVER
                else _INTERNAL
                if kind is Kind.INTERNAL
                else _CLIENT,
                self._names[record.name],
                self._shared_of(record.shared, pairs) if record.shared else b"",
                *map(pairs.__getitem__, record.attributes.items()),
                self._statuses[record.error] if record.error else _UNSET,
                _rare(context, record.links) if context.state or record.links else b"",
            )
        )


def _rare(context: SpanContext, links: Iterable[SpanContext]) -> bytes:
    """What few records have: a trace state and links."""
    state = _state(trace_state(context.state)) if context.state else b""
    return state + b"".join([field(0x6A, _link_ids(link, remote=link.remote)) for link in links])


def _link_ids(context: SpanContext | SdkSpanContext, *, remote: bool) -> bytes:
    trace_id = field(0x0A, context.trace_id.to_bytes(16, "big"))
    span_id = field(0x12, context.span_id.to_bytes(8, "big"))
    return trace_id + span_id + fixed32(0x35, _REMOTE_FLAGS if remote else _FLAGS)


def _state(state: TraceState) -> bytes:
    return text(0x1A, ",".join([f"{key}={value}" for key, value in state.items()]))


class _Groups:
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
        return b"".join(
            [
                field(
                    0x0A,
                    _resource(resource)
                    + b"".join(map(_scope_spans, scopes.items()))
                    + text(0x1A, resource.schema_url),
                )
                for resource, scopes in self._tree.items()
            ]
        )


def _resource(resource: Resource) -> bytes:
    return field(0x0A, attributes(0x0A, resource.attributes))


def _scope_spans(group: tuple[InstrumentationScope | None, list[bytes]]) -> bytes:
    scope, chunks = group
    spans = b"".join(chunks)
    if scope is None:
        return field(0x12, field(0x0A, b"") + spans)
    described = (
        text(0x0A, scope.name) + text(0x12, scope.version) + attributes(0x1A, scope.attributes)
    )
    return field(0x12, field(0x0A, described) + spans + text(0x1A, scope.schema_url))


def _readable(span: ReadableSpan) -> bytes:
    context, parent = span.get_span_context(), span.parent
    assert context is not None, "a span that is exported has ids"
    return b"".join(
        (
            field(0x0A, context.trace_id.to_bytes(16, "big")),
            field(0x12, context.span_id.to_bytes(8, "big")),
            _state(context.trace_state),
            field(0x22, parent.span_id.to_bytes(8, "big")) if parent else b"",
            text(0x2A, span.name),
            _KINDS[span.kind],
            fixed64(0x39, span.start_time or 0),
            fixed64(0x41, span.end_time or 0),
            attributes(0x4A, span.attributes),
            count(0x50, span.dropped_attributes),
            *[field(0x5A, _event(event)) for event in span.events],
            count(0x60, span.dropped_events),
            *[field(0x6A, _link(link)) for link in span.links],
            count(0x70, span.dropped_links),
            _status(span.status),
            b"\x85" + fixed32(0x01, _REMOTE_FLAGS if parent and parent.is_remote else _FLAGS),
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
        _link_ids(link.context, remote=link.context.is_remote)
        + attributes(0x22, link.attributes)
        + count(0x28, link.dropped_attributes)
    )


def _status(status: Status) -> bytes:
    code = status.status_code.value
    return field(0x7A, text(0x12, status.description) + count(0x18, code))
