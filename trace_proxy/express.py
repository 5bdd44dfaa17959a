"""The short way of the plain request: nearly all traffic, at a third of the cost.

A plain request concerns nobody but its asker: no thread, no handle, no gate beyond
`initialize`, no trace context of its own. `requests` and `answers` would do the same
with it, step by step; here the steps are one after the other in one function each,
because a call for every step is what a proxy in Python spends its time on. Whatever is
unusual in any way is left to them: nothing has happened yet when `request` says no.
A property test holds both ways to the same effects.
"""

from typing import Final

import msgspec
from msgspec import UNSET

from core_server.jsonrpc import codec
from core_server.jsonrpc.messages import Message
from trace_proxy import envelope, experimental, methods, semconv
from trace_proxy.connection import Connection, Pending, RequestSpan
from trace_proxy.context.trace_context import Sampling
from trace_proxy.core_session import CoreState
from trace_proxy.span_record import AttributeValue, Kind, Service, SpanContext, SpanRecord
from trace_proxy.switchboard import Switchboard

_NOT_PLAIN: Final = (
    methods.NEW_WORK
    | methods.MERGED
    | methods.ABOUT_THREADS
    | frozenset(methods.HANDLES)
    | experimental.METHODS
    | frozenset(experimental.PARAMS)
    | {"initialize"}
)

_INTEGER_DIGITS: Final = 18
"""Integers of so many digits are 64-bit integers, whatever they are."""

_METHODS_KEPT: Final = 32
"""Methods of one connection whose attributes are kept; clients use a handful."""

_DECODE = msgspec.json.Decoder(Message).decode
_SAMPLED_ROOT: Final = 3
_UNSAMPLED_ROOT: Final = 2
_UNDECIDED: Final = Sampling.UNDECIDED
_PROXY: Final = Service.PROXY
_SERVER: Final = Kind.SERVER


class Express:
    """Plain requests of a proxy with one core, and their answers.

    Attributes:
        enabled: False takes every request the general way.
    """

    def __init__(self, board: Switchboard) -> None:
        core = board.cores[0]
        self._board = board
        self.enabled = len(board.cores) == 1
        self._core = core
        self._lanes = core.lanes
        self._router = core.router
        self._ids = board.ids
        self._admission = board.admission
        self._effects = board.effects

    def request(self, connection: Connection, data: bytes, now_ns: int) -> bool:
        """Take a message if it is a plain request; False, and nothing done, if not."""
        if not self.enabled or connection.session is None or connection.strict:
            return False
        try:
            message = _DECODE(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        method = message.method
        if (
            method is UNSET
            or message.id is UNSET
            or message.params is UNSET
            or message.trace is not UNSET
            or method in _NOT_PLAIN
        ):
            return False
        request_id, params = bytes(message.id), bytes(message.params)
        if (
            # The three members account for every byte: no other, none twice, no blanks.
            len(data) != 29 + len(request_id) + len(method) + len(params)
            or not data.isascii()
            or not (request_id.isdigit() and len(request_id) <= _INTEGER_DIGITS)
            or not codec.is_shallow(data)
            or b"\n" in params
        ):
            return False
        return self._send(connection, request_id, method, params, len(data), now_ns)

    def _send(
        self,
        connection: Connection,
        request_id: bytes,
        method: str,
        params: bytes,
        size: int,
        now_ns: int,
    ) -> bool:
        resolution = connection.context.default
        if self._board.content is not None:
            return False
        if resolution.parent is not None or resolution.sampling is not _UNDECIDED:
            return False
        if self._core.state is not CoreState.READY or not self._lanes.pass_through(True):  # noqa: FBT003 - as declared
            return False
        if self._admission.admit(connection.key, size) is not None:
            self._lanes.answered()
            return False
        ids = self._ids
        trace_id, span_id = ids.new_trace_id(), ids.new_span_id()
        flags = _SAMPLED_ROOT if ids.sampled(None, trace_id, method) else _UNSAMPLED_ROOT
        context = SpanContext(trace_id, span_id, flags)
        span = RequestSpan(context, resolution, now_ns, connection.attributes)
        pending = Pending(
            connection, request_id, method, size, span=span, counted=True, plain=True
        )
        core_id = self._router.admit(pending)
        name = envelope.method_json(method)
        self._effects.write(
            self._core,
            b'{"id":%d,"method":%b,"params":%b,"trace":{"traceparent":"00-%032x-%016x-%02x"}}'
            % (core_id, name, params, trace_id, span_id, flags),
        )
        return True

    def answer(self, pending: Pending, result: bytes, now_ns: int) -> None:
        """Hand the result of a plain request to its asker, and end the request."""
        connection, span = pending.connection, pending.span
        assert connection is not None
        assert span is not None
        self._effects.send(connection, b'{"id":%b,"result":%b}' % (pending.id, result))
        pending.counted = False
        self._admission.release(connection.key, pending.size)
        method = pending.method
        label = method if method in methods.KNOWN else "_OTHER"
        if span.context.flags & 1:
            start_ns, links = span.start_ns, span.resolution.links
            shared = connection.plain_attributes.get(method)
            if shared is None:
                shared = self._share(connection, method, label, span)
            own: dict[str, AttributeValue] = {semconv.JSONRPC_REQUEST_ID: pending.id.decode()}
            name = label if label is method else "jsonrpc"
            end_ns = max(now_ns, start_ns)
            record = SpanRecord(
                *(_PROXY, name, _SERVER, span.context, None, start_ns, end_ns),
                *(own, links, "", shared),
            )
            self._effects.end_span(record)
        self._effects.call_ended(label, "", (now_ns - span.start_ns) / 1e9)

    def _share(
        self, connection: Connection, method: str, label: str, span: RequestSpan
    ) -> dict[str, AttributeValue]:
        """All attributes of a connection's plain requests of one method, but their ids."""
        shared: dict[str, AttributeValue] = {
            **span.attributes,
            semconv.RPC_METHOD: label,
            semconv.CONTEXT_SOURCE: span.resolution.source.value,
            semconv.CORE_ID: self._core.index,
        }
        if label == "_OTHER":
            shared[semconv.RPC_METHOD_ORIGINAL] = method[: semconv.ORIGINAL_METHOD_CHARS]
        if len(connection.plain_attributes) < _METHODS_KEPT:
            connection.plain_attributes[method] = shared
        return shared
