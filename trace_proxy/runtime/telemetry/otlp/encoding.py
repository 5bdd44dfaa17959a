"""OTLP/protobuf by hand: records in, the bytes of an `ExportTraceServiceRequest` out.

The stock encoder builds a tree of protobuf messages for each span, which costs more
than the rest of the proxy does for a request.  Here a span is one `struct.pack` and a few
cached chunks, all joined once for the whole batch.

    plain record    nearly all: no link, no error, and of its own only the request's id and
                    its thread; all else comes from the `_Stem` of its connection and method
    any record      pair by pair, from caches
    beyond limits   as its `ReadableSpan` has been cut

All three say what `opentelemetry-exporter-otlp-proto-common` says, which is the oracle
of the property tests and, at run time, the fallback (see `exporter`).  Field numbers are
those of opentelemetry/proto/trace/v1/trace.proto.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from opentelemetry.sdk.trace import Event

from trace_proxy.context.span_record import (
    AttributeValue,
    Kind,
    Service,
    SpanContext,
    SpanEvent,
    SpanRecord,
)
from trace_proxy.runtime.telemetry.otlp.protobuf import (
    attributes,
    count,
    field,
    fixed32,
    fixed64,
    key_value,
    text,
    varint,
)
from trace_proxy.runtime.telemetry.record_span import Origin, Origins, OversizedSpan, trace_state
from trace_proxy.spans.semconv import JSONRPC_REQUEST_ID, THREAD_ID

LOCAL_FLAGS, REMOTE_FLAGS = 0x100, 0x300
"""SpanFlags: "we know whether the parent is remote", and "it is"."""

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
_PLAIN: Final = frozenset({JSONRPC_REQUEST_ID, THREAD_ID})
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
        if type(value) is tuple:
            most = self._max_length
            return field(0x4A, key_value(key, [each[:most] for each in value]))
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
        parent: Of the record before; the handshake's, of most.
        above: Its field.
    """

    __slots__ = (
        "above",
        "attributes",
        "kind",
        "name",
        "parent",
        "room",
        "service",
        "shared",
        "size",
        "tail",
    )

    def __init__(self, record: SpanRecord, attributes: bytes) -> None:
        self.shared = record.shared
        self.attributes = attributes
        self.name, self.kind, self.service = record.name, record.kind, record.service
        self.tail = b""
        self.size, self.room = 0, -1
        self.parent: SpanContext | None = None
        self.above = _LOCAL

    def grow(self, record: SpanRecord, origin: Origin, name: bytes) -> None:
        """Take a record as the example of the plain ones."""
        self.name, self.kind = record.name, record.kind
        self.tail = b"".join((_kind(self.kind), name, self.attributes, _UNSET))
        self.size = _IDS_SIZE + len(self.tail) + len(_ID_HEADS[0])
        if len(self.shared) + len(
            _PLAIN
        ) <= origin.max_attributes and self.shared.keys().isdisjoint(_PLAIN):
            longest = origin.limits.max_span_attribute_length
            self.room = _MAX_PLAIN_ID if longest is None else min(longest, _MAX_PLAIN_ID)


class _Source:
    """What the encoder knows about one of our services.

    Attributes:
        chunks: Of the spans of one request, to be joined.
    """

    __slots__ = (
        "_head",
        "_tail",
        "chunks",
        "most",
        "most_events",
        "most_links",
        "origin",
        "pairs",
    )

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.pairs = _Pairs(origin.limits.max_span_attribute_length)
        self.most, self.most_links = origin.max_attributes, origin.max_links
        self.most_events = origin.max_events
        self.chunks: list[bytes] = []
        resource, scope = origin.resource, origin.scope
        described = text(0x0A, scope.name) + text(0x12, scope.version)
        self._head = (
            field(0x0A, attributes(0x0A, resource.attributes)),
            field(0x0A, described + attributes(0x1A, scope.attributes)),
        )
        self._tail = text(0x1A, resource.schema_url), text(0x1A, scope.schema_url)

    def drain(self) -> bytes:
        """The `ResourceSpans` around the chunks, which start anew; nothing without any."""
        if not self.chunks:
            return b""
        spans = b"".join(self.chunks)  # copied twice: here, and where all are joined
        self.chunks = []
        (resource, scope), (resource_url, scope_url) = self._head, self._tail
        within = len(scope) + len(spans) + len(scope_url)
        opening = b"\x12" + varint(within)
        around = len(resource) + len(opening) + within + len(resource_url)
        head = (b"\x0a" + varint(around), resource, opening, scope)
        return b"".join((*head, spans, scope_url, resource_url))


class SpanEncoder:
    """Encodes batches, and remembers what repeats from one to the next.

    Not safe to share between threads.

    Args:
        origins: Whose the records are.
    """

    def __init__(self, origins: Origins) -> None:
        self._proxy = _Source(origins.proxy)
        self._others = {
            service: _Source(origins.of(service)) for service in (Service.CORE, Service.CLIENT)
        }
        self._names = _Fields(0x2A)
        self._heads = _Heads()
        self._statuses = _Statuses()
        self._stems: dict[int, _Stem] = {}

    def encode(self, records: Sequence[SpanRecord]) -> bytes:
        """Serialize an `ExportTraceServiceRequest`, grouped by service.

        Raises:
            Exception: Something in a span has no place in OTLP (an integer beyond 64
                bits, a lone surrogate): nothing is encoded, and the stock encoder, which
                leaves such a value out, should be asked.
        """
        sources = (self._proxy, *self._others.values())
        for source in sources:
            source.chunks = []  # of a request that could not be encoded
        self._add_all(records)
        return b"".join([source.drain() for source in sources])

    def _add_all(self, records: Sequence[SpanRecord]) -> None:
        heads, stem_of = self._heads, self._stems.get
        service, source, chunks = Service.PROXY, self._proxy, self._proxy.chunks
        for span in records:
            if span.service is not service:
                service = span.service
                source = self._proxy if service is Service.PROXY else self._others[service]
                chunks = source.chunks
            stem, own, thread = stem_of(id(span.shared)), span.attributes, b""
            if (
                stem is not None
                and stem.shared is span.shared
                and stem.name == span.name
                and stem.service is service
                and stem.kind is span.kind
                and not (span.links or span.error or span.events or span.context.state)
            ):
                request_id = own.get(JSONRPC_REQUEST_ID)
                if len(own) == 2 and (about := own.get(THREAD_ID)) is not None:
                    thread = source.pairs[THREAD_ID, about]
                    count = 2
                else:
                    count = 1
                if len(own) == count and type(request_id) is str:
                    content, context, parent = request_id.encode(), span.context, span.parent
                    size = len(content)
                    if size <= stem.room:
                        if parent is stem.parent:
                            above = stem.above
                        else:
                            above = _LOCAL if parent is None else _parent(parent)
                            stem.parent, stem.above = parent, above
                        ids = _ids(
                            context.trace_id.to_bytes(16, "big"),
                            b"\x12\x08",
                            context.span_id.to_bytes(8, "big"),
                            *(0x39, span.start_ns, 0x41, span.end_ns),
                        )
                        head = heads[stem.size + size + len(thread) + len(above)]
                        chunks += (head, ids, above, stem.tail, thread, _ID_HEADS[size], content)
                        continue
            self._add(span, source, chunks)

    def _add(self, record: SpanRecord, source: _Source, chunks: list[bytes]) -> None:
        """Any record."""
        own, shared, context = record.attributes, record.shared, record.context
        links, parent, events = record.links, record.parent, record.events
        trace_id = context.trace_id.to_bytes(16, "big")
        span_id = context.span_id.to_bytes(8, "big")
        if (
            len(own) + len(shared) > source.most
            or len(links) > source.most_links
            or len(events) > source.most_events
            or (shared and not own.keys().isdisjoint(shared))
        ):
            described: Iterable[bytes] = (_cut(record, source.origin),)
        else:
            described = (
                self._shared(record, source) if shared else b"",
                *map(source.pairs.__getitem__, own.items()),
                _links(links) if links else b"",
                _events(events, source.pairs) if events else b"",
            )
        body = b"".join(
            (
                _ids(trace_id, b"\x12\x08", span_id, 0x39, record.start_ns, 0x41, record.end_ns),
                _LOCAL if parent is None else _parent(parent),
                _kind(record.kind),
                self._names[record.name],
                *described,
                self._statuses[record.error],
                _state(context.state) if context.state else b"",
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
        elif not stem.tail and record.attributes.keys() <= _PLAIN:
            stem.grow(record, source.origin, self._names[record.name])
        return stem.attributes


def _kind(kind: Kind) -> bytes:
    # No dictionary: the hash of an Enum's member is a call.
    return _SERVER if kind is Kind.SERVER else _INTERNAL if kind is Kind.INTERNAL else _CLIENT


def _cut(record: SpanRecord, origin: Origin) -> bytes:
    """Attributes, events and links of a record that has too many: what is left, and counts."""
    span = OversizedSpan(record, origin)
    kept = len(span.links)
    return b"".join(
        (
            attributes(0x4A, span.attributes),
            count(0x50, span.dropped_attributes),
            *map(_event, span.events),
            count(0x60, span.dropped_events),
            _links(record.links[len(record.links) - kept :]),
            count(0x70, span.dropped_links),
        )
    )


def _event(event: Event) -> bytes:
    about = fixed64(0x09, event.timestamp) + text(0x12, event.name)
    return field(0x5A, about + attributes(0x1A, event.attributes))


def _events(events: Iterable[SpanEvent], pairs: _Pairs) -> bytes:
    encoded = []
    for event in events:
        about = [fixed64(0x09, event.time_ns), text(0x12, event.name)]
        # A pair's field is that of a span's attribute; an event's has another number.
        about += [b"\x1a" + pairs[pair][1:] for pair in event.attributes.items()]
        encoded.append(field(0x5A, b"".join(about)))
    return b"".join(encoded)


def _parent(parent: SpanContext) -> bytes:
    span_id = parent.span_id.to_bytes(8, "big")
    return _below(
        b"\x22\x08", span_id, b"\x85\x01", REMOTE_FLAGS if parent.remote else LOCAL_FLAGS
    )


def _state(header: str) -> bytes:
    """A span's trace state; one that breaks the rules is absent."""
    return text(0x1A, ",".join([f"{key}={value}" for key, value in trace_state(header).items()]))


def _links(links: Iterable[SpanContext]) -> bytes:
    return b"".join([field(0x6A, _link(link)) for link in links])


def _link(link: SpanContext) -> bytes:
    trace_id = field(0x0A, link.trace_id.to_bytes(16, "big"))
    span_id = field(0x12, link.span_id.to_bytes(8, "big"))
    return trace_id + span_id + fixed32(0x35, REMOTE_FLAGS if link.remote else LOCAL_FLAGS)


def _remember(cache: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(cache) >= MAX_CACHED:
        cache.clear()
    cache[key] = value
