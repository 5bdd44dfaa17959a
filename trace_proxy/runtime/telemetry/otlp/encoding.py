"""OTLP/protobuf by hand: records in, the bytes of an `ExportTraceServiceRequest` out.

The stock encoder builds a tree of protobuf messages for each span, which costs more
than the rest of the proxy does for a request.  Here a span is one `struct.pack` and a few
cached chunks, all joined once for the whole batch.

    plain record    nearly all: no parent, no link, no error, and of its own only the
                    request's id; all else comes from the `_Stem` of its connection
    any record      pair by pair, from caches
    anything else   field by field, see `otlp_readable`

All three say what `opentelemetry-exporter-otlp-proto-common` says, which is the oracle
of the property tests and, at run time, the fallback (see `otlp`).
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias, TypeVar

from opentelemetry.sdk.trace import ReadableSpan

from trace_proxy.context.span_record import AttributeValue, Kind, Service, SpanContext, SpanRecord
from trace_proxy.runtime.telemetry.otlp.protobuf import field, fixed32, key_value, text, varint
from trace_proxy.runtime.telemetry.otlp.readable import (
    LOCAL_FLAGS,
    REMOTE_FLAGS,
    Groups,
    fields_of,
    link_ids,
    readable_span,
    state_field,
)
from trace_proxy.runtime.telemetry.record_span import Origin, Origins, OversizedSpan, trace_state
from trace_proxy.spans.semconv import JSONRPC_REQUEST_ID

Spans: TypeAlias = Sequence[SpanRecord | ReadableSpan]

# Entries that a cache may have before it starts anew.  A busy proxy has some hundred
# distinct pairs; ids that never repeat only pass through.  4,096 x ~400 bytes = 1.6 MB.
MAX_CACHED: Final = 4_096
# Bytes of a value worth caching: ids, names, methods. Longer ones rarely repeat.
MAX_CACHED_LENGTH: Final = 128

_INTERNAL, _SERVER, _CLIENT = b"\x30\x01", b"\x30\x02", b"\x30\x03"
_ONE_BYTE: Final = 0x80  # a length below this is a varint of one byte
_UNSET: Final = b"\x7a\x00"
_LOCAL: Final = b"\x85" + fixed32(0x01, LOCAL_FLAGS)
_below = struct.Struct("<2s8s2sI").pack  # the parent's id, and whether it is remote

# trace_id, span_id, start, end, behind the tag and length of the first.
_IDS: Final = b"\x0a\x10"
_IDS_STRUCT: Final = struct.Struct("<16s2s8sBQBQ")
_ids = _IDS_STRUCT.pack
_IDS_SIZE: Final = len(_IDS) + _IDS_STRUCT.size

_REQUEST_ID_KEY: Final = text(0x0A, JSONRPC_REQUEST_ID)
_PLAIN: Final = frozenset({JSONRPC_REQUEST_ID})
_MAX_PLAIN_ID: Final = 64  # characters: what is longer is no id of a machine
# Length of a request id → all that stands before it in its attribute.
_ID_HEADS: Final = [
    b"\x4a%c%b\x12%c\x0a%c" % (len(_REQUEST_ID_KEY) + size + 4, _REQUEST_ID_KEY, size + 2, size)
    for size in range(_MAX_PLAIN_ID + 1)
]


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Pairs(dict[tuple[str, AttributeValue], bytes]):
    """(key, value) → the encoded span attribute.

    Only strings are kept here, and integers beside: 1, True and 1.0 are one dictionary
    key, but three values.
    """

    def __init__(self, max_length: int | None) -> None:
        super().__init__()
        self._max_length = max_length
        self._integers: dict[tuple[str, AttributeValue], bytes] = {}
        self._keys = _Fields(0x0A)

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


class _Fields(dict[str, bytes]):
    """A text that repeats (span name, attribute key) → its field."""

    def __init__(self, tag: int) -> None:
        super().__init__()
        self._tag = tag

    def __missing__(self, value: str) -> bytes:
        encoded = text(self._tag, value)
        _remember(self, value, encoded)
        return encoded


class _Heads(dict[int, bytes]):
    """Length of a span → tag and length, as they stand in ScopeSpans, and the first id's."""

    def __missing__(self, length: int) -> bytes:
        encoded = b"\x12" + varint(length) + _IDS
        _remember(self, length, encoded)
        return encoded


class _Statuses(dict[str, bytes]):
    """Canned error sentence → status field; the empty one is UNSET."""

    def __missing__(self, error: str) -> bytes:
        encoded = field(0x7A, text(0x12, error) + b"\x18\x02") if error else _UNSET
        _remember(self, error, encoded)
        return encoded


class _Stem:
    """What the records with one `shared` object have in common, encoded once.

    Attributes:
        shared: Kept alive, so that its `id()` is its own.
        attributes: The shared attributes.
        name, kind, service: Of the plain records that come with it.
        tail: All but ids, times and the request's id, of such a record; empty before the
            second one, since most connections are idle.
        size: Of such a record with an empty request id.
        room: Bytes that its request id may have; negative where none is plain.
    """

    __slots__ = ("attributes", "kind", "name", "room", "service", "shared", "size", "tail")

    def __init__(self, record: SpanRecord, attributes: bytes) -> None:
        self.shared = record.shared
        self.attributes = attributes
        self.name, self.kind, self.service = record.name, record.kind, record.service
        self.tail = b""
        self.size, self.room = 0, -1

    def grow(self, record: SpanRecord, origin: Origin, name: bytes) -> None:
        """Take a record as the example of the plain ones."""
        self.name, self.kind = record.name, record.kind
        self.tail = b"".join((_kind(self.kind), name, self.attributes, _UNSET, _LOCAL))
        self.size = _IDS_SIZE + len(self.tail) + len(_ID_HEADS[0])
        if len(self.shared) < origin.max_attributes and JSONRPC_REQUEST_ID not in self.shared:
            longest = origin.limits.max_span_attribute_length
            self.room = _MAX_PLAIN_ID if longest is None else min(longest, _MAX_PLAIN_ID)


class _Source:
    """What the encoder knows about one of our services."""

    __slots__ = ("most", "most_links", "origin", "pairs")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.pairs = _Pairs(origin.limits.max_span_attribute_length)
        self.most, self.most_links = origin.max_attributes, origin.max_links


class SpanEncoder:
    """Encodes batches, and remembers what repeats from one to the next.

    Not safe to share between threads.

    Args:
        origins: Whose the records are. Other spans bring their own resource and scope.
    """

    def __init__(self, origins: Origins) -> None:
        self._proxy, self._core = _Source(origins.proxy), _Source(origins.core)
        self._fields = {
            **fields_of(origins.proxy.resource, origins.proxy.scope),
            **fields_of(origins.core.resource, origins.core.scope),
        }
        self._origins = origins  # keeps alive what is known by its identity
        self._names = _Fields(0x2A)
        self._heads = _Heads()
        self._statuses = _Statuses()
        self._stems: dict[int, _Stem] = {}

    def encode(self, spans: Spans) -> bytes:
        """Serialize an `ExportTraceServiceRequest`, grouped by resource and scope.

        Raises:
            Exception: Something in a span has no place in OTLP (an integer beyond 64
                bits, a lone surrogate): nothing is encoded, and the stock encoder, which
                leaves such a value out, should be asked.
        """
        groups, heads, stem_of = Groups(self._fields), self._heads, self._stems.get
        service, source, chunks = None, self._proxy, list[bytes]()
        for span in spans:
            if type(span) is not SpanRecord:
                _add_readable(span, groups)
                continue
            if span.service is not service:
                service = span.service
                source = self._proxy if service is Service.PROXY else self._core
                origin = source.origin
                chunks = groups.spans_of(origin.resource, origin.scope)
            stem, own = stem_of(id(span.shared)), span.attributes
            if (
                len(own) == 1
                and stem is not None
                and stem.shared is span.shared
                and stem.name == span.name
                and stem.kind is span.kind
                and stem.service is service
                and span.parent is None
                and not span.links
                and not span.error
            ):
                request_id, context = own.get(JSONRPC_REQUEST_ID), span.context
                if type(request_id) is str and not context.state:
                    content = request_id.encode()
                    size = len(content)
                    if size <= stem.room:
                        trace_id = context.trace_id.to_bytes(16, "big")
                        span_id = context.span_id.to_bytes(8, "big")
                        ids = _ids(trace_id, b"\x12\x08", span_id, 0x39, span.start_ns, 0x41, span.end_ns)  # fmt: skip
                        chunks += (heads[stem.size + size], ids, stem.tail, _ID_HEADS[size], content)  # fmt: skip
                        continue
            self._add(span, source, chunks)
        return groups.encode()

    def _add(self, record: SpanRecord, source: _Source, chunks: list[bytes]) -> None:
        """Any record."""
        own, shared, context = record.attributes, record.shared, record.context
        links, parent = record.links, record.parent
        if (
            len(own) + len(shared) > source.most
            or len(links) > source.most_links
            or (shared and not own.keys().isdisjoint(shared))
        ):
            body = readable_span(OversizedSpan(record, source.origin))
            chunks += (b"\x12", varint(len(body)), body)
            return
        trace_id = context.trace_id.to_bytes(16, "big")
        span_id = context.span_id.to_bytes(8, "big")
        body = b"".join(
            (
                _ids(trace_id, b"\x12\x08", span_id, 0x39, record.start_ns, 0x41, record.end_ns),
                _LOCAL if parent is None else _parent(parent),
                _kind(record.kind),
                self._names[record.name],
                self._shared(record, source) if shared else b"",
                *map(source.pairs.__getitem__, own.items()),
                self._statuses[record.error],
                _rare(context, links) if context.state or links else b"",
            )
        )
        chunks += (self._heads[len(body) + len(_IDS)], body)

    def _shared(self, record: SpanRecord, source: _Source) -> bytes:
        """The attributes of a connection, encoded once."""
        shared, key = record.shared, id(record.shared)
        stem = self._stems.get(key)
        if stem is None or stem.shared is not shared or stem.service is not record.service:
            # Not from the cache of pairs: what is shared is kept here.
            once = _Pairs(source.origin.limits.max_span_attribute_length)
            stem = _Stem(record, b"".join(map(once.__getitem__, shared.items())))
            _remember(self._stems, key, stem)
        elif not stem.tail and record.attributes.keys() == _PLAIN:
            stem.grow(record, source.origin, self._names[record.name])
        return stem.attributes


def _kind(kind: Kind) -> bytes:
    # No dictionary: the hash of an Enum's member is a call.
    return _SERVER if kind is Kind.SERVER else _INTERNAL if kind is Kind.INTERNAL else _CLIENT


def _add_readable(span: SpanRecord | ReadableSpan, groups: Groups) -> None:
    assert isinstance(span, ReadableSpan), "what is no record of ours is one of those"
    body = readable_span(span)
    chunks = groups.spans_of(span.resource, span.instrumentation_scope)
    chunks += (b"\x12", varint(len(body)), body)


def _parent(parent: SpanContext) -> bytes:
    span_id = parent.span_id.to_bytes(8, "big")
    return _below(
        b"\x22\x08", span_id, b"\x85\x01", REMOTE_FLAGS if parent.remote else LOCAL_FLAGS
    )


def _rare(context: SpanContext, links: Iterable[SpanContext]) -> bytes:
    """What few records have: a trace state and links."""
    state = state_field(trace_state(context.state)) if context.state else b""
    return state + b"".join([field(0x6A, link_ids(link, remote=link.remote)) for link in links])


def _remember(cache: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(cache) >= MAX_CACHED:
        cache.clear()
    cache[key] = value
