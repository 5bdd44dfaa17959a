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
from trace_proxy.context.span_record import AttributeValue, Kind, Service, SpanContext, SpanRecord
from trace_proxy.context.trace_context import Sampling
from trace_proxy.protocol import envelope, experimental, methods
from trace_proxy.relay.board import Board
from trace_proxy.spans import semconv
from trace_proxy.state.connection import Connection, Pending, PlainMethod, RequestSpan
from trace_proxy.state.core_session import CoreState

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
"""Methods of one connection that are remembered; clients use a handful."""

_FRAME: Final = len(b'{"id":,"method":,"params":}')

_DECODE = msgspec.json.Decoder(Message).decode
_SAMPLED_ROOT: Final = 3
_UNSAMPLED_ROOT: Final = 2
_UNDECIDED: Final = Sampling.UNDECIDED
_READY: Final = CoreState.READY
_PROXY: Final = Service.PROXY
_SERVER: Final = Kind.SERVER


class Express:
    """Plain requests of a proxy with one core, and their answers.

    Attributes:
        enabled: False takes every request the general way.
    """

    def __init__(self, board: Board) -> None:
        core = board.cores[0]
        self.enabled = len(board.cores) == 1 and board.content is None
        self._core = core
        self._lanes = core.queue
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
        if method is UNSET or message.trace is not UNSET or method in _NOT_PLAIN:
            return False
        if message.id is UNSET or message.params is UNSET:
            return False
        request_id, params = bytes(message.id), bytes(message.params)
        known = connection.plain.get(method) or self._learn(connection, method)
        if (
            # The three members account for every byte: no other, none twice, no blanks.
            len(data) != known.extent + len(request_id) + len(params)
            or not data.isascii()
            or not (request_id.isdigit() and len(request_id) <= _INTEGER_DIGITS)
            or not codec.is_shallow(data)
            or b"\n" in params
        ):
            return False
        pending = Pending(connection, request_id, method, len(data), None, None)
        return self._send(pending, known, params, now_ns)

    def _send(self, pending: Pending, known: PlainMethod, params: bytes, now_ns: int) -> bool:
        connection = pending.connection
        assert connection is not None
        resolution = connection.context.default
        if resolution.parent is not None or resolution.sampling is not _UNDECIDED:
            return False
        if self._core.state is not _READY:
            return False
        if not self._lanes.pass_through(True, connection.key):  # noqa: FBT003 - as declared
            return False
        if self._admission.admit(connection.load, pending.size) is not None:
            self._lanes.answered(connection.key)
            return False
        ids = self._ids
        trace_id, span_id = ids.new_trace_id(), ids.new_span_id()
        sampled = ids.sampled(None, trace_id, pending.method)
        flags = _SAMPLED_ROOT if sampled else _UNSAMPLED_ROOT
        context = SpanContext(trace_id, span_id, flags)
        pending.span = RequestSpan(context, resolution, now_ns, connection.attributes)
        pending.counted = True
        pending.lane = connection.key
        pending.plain = known
        self._effects.write(
            self._core,
            b'{"id":%d,"method":%b,"params":%b,"trace":{"traceparent":"00-%032x-%016x-%02x"}}'
            % (self._router.admit(pending), known.json, params, trace_id, span_id, flags),
        )
        return True

    def answer(
        self, pending: Pending, connection: Connection, result: msgspec.Raw, now_ns: int
    ) -> None:
        """Hand the result of a plain request to its asker, and end the request."""
        known, span = pending.plain, pending.span
        assert known is not None
        assert span is not None
        self._effects.send(connection, b'{"id":%b,"result":%b}' % (pending.id, result))
        pending.counted = False
        self._admission.release(connection.load, pending.size)
        start_ns = span.start_ns
        if span.context.flags & 1:
            own: dict[str, AttributeValue] = {semconv.JSONRPC_REQUEST_ID: pending.id.decode()}
            end_ns = max(start_ns, now_ns)
            self._effects.end_span(
                SpanRecord(
                    _PROXY,
                    known.span_name,
                    _SERVER,
                    span.context,
                    None,
                    start_ns,
                    end_ns,
                    own,
                    span.resolution.links,
                    "",
                    known.attributes,
                )
            )
        self._effects.call_ended(known.label, "", (now_ns - start_ns) / 1e9)

    def _learn(self, connection: Connection, method: str) -> PlainMethod:
        """What is the same for all plain requests of a method, from now on or only for one."""
        label = methods.label(method)
        attributes: dict[str, AttributeValue] = {
            **connection.attributes,
            semconv.RPC_METHOD: label,
            semconv.CONTEXT_SOURCE: connection.context.default.source.value,
            semconv.CORE_ID: self._core.index,
        }
        if label == "_OTHER":
            attributes[semconv.RPC_METHOD_ORIGINAL] = method[: semconv.ORIGINAL_METHOD_CHARS]
        name = envelope.method_json(method)
        span_name = "jsonrpc" if label == "_OTHER" else method
        known = PlainMethod(name, _FRAME + len(name), label, span_name, attributes)
        if len(connection.plain) < _METHODS_KEPT:
            connection.plain[method] = known
        return known
