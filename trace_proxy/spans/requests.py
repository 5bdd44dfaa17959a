"""Spans of requests: their context when they arrive, one record when they are answered.

Nothing is open in between: ids are drawn and sampling is decided at the start, the
record is built at the end, once. Turns, tools and approvals are in `turns`.
"""

from typing import Final

import msgspec

from core_server.jsonrpc import codes
from trace_proxy.context.ids import Ids
from trace_proxy.context.span_record import (
    STILL_OPEN,
    AttributeValue,
    Kind,
    Service,
    SpanContext,
    SpanRecord,
)
from trace_proxy.context.trace_context import Resolution, Sampling, own_flags, resolve_raw
from trace_proxy.context.w3c import RANDOM
from trace_proxy.protocol import methods
from trace_proxy.protocol.authority import parse_ws_url
from trace_proxy.spans import semconv
from trace_proxy.state.connection import Connection, Hop, Pending, RequestSpan

_QUOTE, _BACKSLASH = b'"\\'

REQUEST_ID_CHARS: Final = 64
"""Ids are short; what is longer was made to fill our memory."""

_SENTENCES: Final = {
    codes.PARSE_ERROR: "The message is not JSON.",
    codes.INVALID_REQUEST: "The request is not valid.",
    codes.METHOD_NOT_FOUND: "The method is not known.",
    codes.INVALID_PARAMS: "The params are not valid.",
    codes.INTERNAL_ERROR: "The core failed.",
    codes.OVERLOADED: "The request was shed.",
    codes.CORE_LOST: "The core died before it answered.",
}
# Members of enums looked up once: an attribute of an Enum class costs as much as a call.
_PROXY, _SERVER = Service.PROXY, Kind.SERVER
_NO, _UNDECIDED = Sampling.NO, Sampling.UNDECIDED

_OTHER_SENTENCE: Final = "The request was answered with an error."
CONNECTION_LOST: Final = "connection_lost"
TOOL_ERROR: Final = "tool_error"
"""What a request failed with that has no JSON-RPC code."""

_WORDS: Final = {
    CONNECTION_LOST: "The connection was lost before the answer.",
    TOOL_ERROR: "The tool failed.",
}

DRAIN: Final = "drain"
"""Ended by it: `trace_proxy.ended_by`."""

_DRAINED_SENTENCE: Final = "The proxy was draining."
CLIENT_CHARS: Final = 256
"""Of a client's name and version, as in log lines; real names are below 40."""

_ENDED_BY: Final = {"draining": DRAIN, "overloaded": "overload", "coreLost": "core_lost"}


def ended_by(reason: object) -> str:
    """Who ended a request that was refused: `data.reason` on the wire as spans have it."""
    return _ENDED_BY.get(reason, "") if isinstance(reason, str) else ""


def attributes_of(connection: Connection) -> dict[str, AttributeValue]:
    """The attributes that all requests of a connection share."""
    peer, session = connection.peer, connection.session
    shared: dict[str, AttributeValue] = {
        semconv.RPC_SYSTEM: "jsonrpc",
        semconv.NETWORK_TRANSPORT: peer.transport,
        semconv.CONNECTION_ID: str(connection.key),
    }
    if peer.websocket:
        shared[semconv.NETWORK_PROTOCOL] = "websocket"
    if peer.address:
        shared[semconv.NETWORK_PEER_ADDRESS] = peer.address
    if peer.port:
        shared[semconv.NETWORK_PEER_PORT] = peer.port
    if peer.server_address:
        shared[semconv.SERVER_ADDRESS] = peer.server_address
    if peer.server_port:
        shared[semconv.SERVER_PORT] = peer.server_port
    if connection.strict:
        shared[semconv.JSONRPC_VERSION] = "2.0"
    if peer.user:
        shared[semconv.USER_ID] = peer.user
    if session is not None:
        shared[semconv.CLIENT_NAME] = session.client_name[:CLIENT_CHARS]
        shared[semconv.CLIENT_VERSION] = session.client_version[:CLIENT_CHARS]
    return shared


def introduce(connection: Connection, initialize: Pending) -> None:
    """A client said its name: it stands on this request and on all that follow."""
    connection.attributes = attributes_of(connection)
    connection.shared.clear()
    if initialize.span is not None:
        initialize.span = msgspec.structs.replace(
            initialize.span, attributes=connection.attributes
        )


def begin_request(
    connection: Connection,
    method: str,
    trace: bytes | None,
    now_ns: int,
    ids: Ids,
    meta: bytes | None = None,
) -> RequestSpan:
    """Decide a request's context: whose child, sampled or not.

    Args:
        connection: Who sent it.
        method: Its method.
        trace: JSON of its `trace` member, None without one.
        now_ns: When it was parsed, Unix nanoseconds.
        ids: Source of ids and of the sampler's decision.
        meta: JSON of its `params._meta`, read where `trace` says nothing.
    """
    inherited, turn, opening = connection.context, None, b""
    if trace is None and meta is None:
        resolution, opening = inherited.default, connection.opening
    else:
        resolution = resolve_raw(trace, inherited, meta)
    parent = resolution.parent
    if parent is None or resolution.sampling is _UNDECIDED:
        context = child_of(resolution, method, ids)
    else:  # nearly all: a client that traces
        sampled = ids.sampled(parent, parent.trace_id, method)
        flags = parent.flags & RANDOM | sampled
        context = SpanContext(parent.trace_id, ids.new_span_id(), flags, parent.state)
    if method == "turn/start":
        turn = SpanContext(context.trace_id, ids.new_span_id(), context.flags, context.state)
    return RequestSpan(context, resolution, now_ns, connection.attributes, turn, opening)


def child_of(resolution: Resolution, name: str, ids: Ids) -> SpanContext:
    """Draw the context of a new span below what won."""
    parent, sampling = resolution.parent, resolution.sampling
    if parent is not None:
        sampled = ids.sampled(None if sampling is _UNDECIDED else parent, parent.trace_id, name)
        flags = parent.flags & RANDOM | sampled
        return SpanContext(parent.trace_id, ids.new_span_id(), flags, parent.state)
    trace_id = ids.new_trace_id()
    sampled = sampling is not _NO and ids.sampled(None, trace_id, name)
    return SpanContext(trace_id, ids.new_span_id(), RANDOM | sampled)


def below(parent: SpanContext | None, name: str, ids: Ids) -> SpanContext:
    """Draw the context of a span of ours below another one of ours, or of a new root."""
    if parent is not None:
        return SpanContext(parent.trace_id, ids.new_span_id(), parent.flags, parent.state)
    trace_id = ids.new_trace_id()
    sampled = ids.sampled(None, trace_id, name)
    return SpanContext(trace_id, ids.new_span_id(), own_flags(None, sampled=sampled))


def end_request(
    pending: Pending,
    now_ns: int,
    *,
    core: int | None = None,
    error: int | str | None = None,
    link: SpanContext | None = None,
    turn_id: str | None = None,
) -> SpanRecord | None:
    """The finished span of a request, None when it is not sampled.

    Args:
        pending: The request.
        now_ns: When its answer was handed on, Unix nanoseconds.
        core: The core that answered.
        error: JSON-RPC code, or `connection_lost`; None on success.
        link: The turn that the request is about.
        turn_id: Its id.
    """
    span = pending.span
    if span is None or not span.context.flags & 1:
        return None
    traits = pending.traits
    attributes: dict[str, AttributeValue] = {semconv.JSONRPC_REQUEST_ID: _text(pending.id)}
    if traits.attributes:
        attributes.update(traits.attributes)
    if pending.thread is not None:
        # Any `gen_ai.*` key makes a span one of an agent's where traces are shown.
        about = semconv.CONVERSATION_ID if span.turn is not None else semconv.THREAD_ID
        attributes[about] = pending.thread[: semconv.ID_CHARS]
    if turn_id is not None:
        attributes[semconv.TURN_ID] = turn_id[: semconv.ID_CHARS]
    sentence = ""
    if error is not None:
        attributes[semconv.ERROR_TYPE] = str(error)
        sentence = _note_error(attributes, error)
        if pending.ended_by:
            attributes[semconv.ENDED_BY] = pending.ended_by
            sentence = _DRAINED_SENTENCE if pending.ended_by == DRAIN else sentence
    return SpanRecord(
        _PROXY,
        traits.span_name,
        _SERVER,
        span.context,
        span.resolution.parent,
        span.start_ns,
        # We answered it ourselves while it was handled: only who exports it has a clock.
        now_ns if now_ns > span.start_ns else STILL_OPEN,
        attributes,
        span.resolution.links if link is None else (*span.resolution.links, link),
        sentence,
        _shared(pending, span, core),
    )


_SHARED_KEPT: Final = 64
"""Of one connection: clients use a handful of methods."""


def _shared(pending: Pending, span: RequestSpan, core: int | None) -> dict[str, AttributeValue]:
    """What this span has in common with others of its connection and method: one object."""
    connection, traits, resolution = pending.connection, pending.traits, span.resolution
    if (
        connection is None
        or connection.attributes is not span.attributes  # some of its own, as content is
        or resolution.rejections
    ):
        return _described(traits, span, core)
    key = (traits.name, resolution is connection.context.default, core)
    shared = connection.shared.get(key)
    if shared is None:
        shared = _described(traits, span, core)
        if len(connection.shared) < _SHARED_KEPT and len(traits.name) < methods.MAX_KEPT_CHARS:
            connection.shared[key] = shared
    return shared


def _described(
    traits: methods.Traits, span: RequestSpan, core: int | None
) -> dict[str, AttributeValue]:
    """The attributes of a request but for its id, its thread and its end."""
    described = {
        **span.attributes,
        semconv.RPC_METHOD: traits.label,
        semconv.CONTEXT_SOURCE: span.resolution.source.value,
    }
    if traits.label == "_OTHER":
        described[semconv.RPC_METHOD_ORIGINAL] = traits.name[: semconv.ORIGINAL_METHOD_CHARS]
    if core is not None:
        described[semconv.CORE_ID] = core
    return described


def end_hop(pending: Pending, hop: Hop, now_ns: int, error: int | str | None) -> SpanRecord | None:
    """The finished span of a request's way to another host, None when it is not sampled."""
    span = pending.span
    if span is None or not hop.context.flags & 1:
        return None
    method = pending.traits.label
    authority = parse_ws_url(hop.url)
    assert authority is not None, "peers have URLs that were read"
    attributes: dict[str, AttributeValue] = {
        semconv.RPC_SYSTEM: "jsonrpc",
        semconv.RPC_METHOD: method,
        semconv.SERVER_ADDRESS: authority.host,
        semconv.SERVER_PORT: authority.port or (443 if hop.url.startswith("wss") else 80),
    }
    if pending.thread is not None:
        attributes[semconv.THREAD_ID] = pending.thread[: semconv.ID_CHARS]
    sentence = ""
    if error is not None:
        attributes[semconv.ERROR_TYPE] = str(error)
        sentence = _note_error(attributes, error)
    return SpanRecord(
        service=Service.PROXY,
        name="jsonrpc" if method == "_OTHER" else method,
        kind=Kind.CLIENT,
        context=hop.context,
        parent=span.context,
        start_ns=hop.start_ns,
        end_ns=max(now_ns, hop.start_ns),
        attributes=attributes,
        error=sentence,
    )


def _note_error(attributes: dict[str, AttributeValue], error: int | str) -> str:
    if isinstance(error, str):
        return _WORDS.get(error, _OTHER_SENTENCE)
    attributes[semconv.RPC_STATUS_CODE] = str(error)
    return _SENTENCES.get(error, _OTHER_SENTENCE)


def _text(request_id: bytes) -> str:
    """An id for people: integers in decimal, strings bare and cut."""
    if request_id[0] != _QUOTE:
        return request_id.decode()
    if len(request_id) > 6 * REQUEST_ID_CHARS:  # one character takes six bytes at most
        return request_id[1 : REQUEST_ID_CHARS + 1].decode(errors="replace")
    if _BACKSLASH not in request_id:
        return request_id[1:-1].decode()[:REQUEST_ID_CHARS]
    return msgspec.json.decode(request_id, type=str)[:REQUEST_ID_CHARS]
