"""An MCP server behind its client: tool calls are the work, and each is one span.

Conventions: OpenTelemetry's for MCP (https://opentelemetry.io/docs/specs/semconv/gen-ai/mcp/).
A tool's name is part of a span's name, and the server's or the client's to choose: only so
many different ones are known, what comes later stands on the span and not in its name.
"""

from typing import Final

from msgspec import UNSET

from trace_proxy.context.span_record import SpanContext
from trace_proxy.protocol import mcp
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.protocol.methods import Traits, foreign
from trace_proxy.protocol.program import INITIALIZE
from trace_proxy.relay.board import Board
from trace_proxy.relay.per_connection.pairs import Pair
from trace_proxy.relay.per_connection.watch import FINE, Verdict, Watch
from trace_proxy.spans import requests as request_spans
from trace_proxy.spans import semconv
from trace_proxy.state.connection import Pending

TARGETS_KEPT: Final = 1024
"""Names of tools and prompts that make span names, of all clients; servers offer dozens."""

_FAILED: Final = Verdict(request_spans.TOOL_ERROR)
_TARGETS: Final = {mcp.CALL: semconv.TOOL_NAME, mcp.PROMPT: semconv.PROMPT_NAME}


class McpWatch(Watch):
    """See the module."""

    METHODS = mcp.METHODS
    SERVER_REQUESTS = mcp.SERVER_REQUESTS
    NEW_WORK = mcp.NEW_WORK
    WATCHED = frozenset({INITIALIZE, mcp.CALL})
    CARRIES_CONTEXT = True

    def __init__(self, board: Board, pair: Pair, targets: set[str]) -> None:
        super().__init__(board, pair, targets)
        self._say(semconv.MCP_SESSION, str(pair.connection.key))

    def traits(self, method: str, params: bytes | None) -> Traits:
        """By its method, and the tool or prompt that it names."""
        key = _TARGETS.get(method)
        name = "" if key is None else mcp.name_of(params)
        if key is None or not name:
            return super().traits(method, params)
        target = f"{method} {name}"
        known = self._traits.get(target)
        if known is not None:
            return known
        attributes = {**self.attributes(method), key: name}
        if method == mcp.CALL:
            attributes[semconv.OPERATION] = "execute_tool"
        room = target in self.targets or len(self.targets) < TARGETS_KEPT
        learned = foreign(
            method,
            known=True,
            new_work=method in self.NEW_WORK,
            watched=method in self.WATCHED,
            target=name if room else "",
            attributes=attributes,
        )
        if room:
            self.targets.add(target)
            self._traits[target] = learned
        return learned

    def attributes(self, method: str) -> dict[str, str]:
        """The method, in the words of MCP's conventions."""
        return {semconv.MCP_METHOD: method} if method in self.METHODS else {}

    def _say(self, name: str, value: str) -> None:
        """All requests of the connection say it from now on."""
        connection = self.pair.connection
        connection.attributes = {**connection.attributes, name: value}
        connection.shared.clear()

    def answered(self, pending: Pending, message: CoreMessage) -> Verdict:
        """Notice the agreed version, and a tool that failed."""
        if message.result is UNSET:
            return FINE
        result = bytes(message.result)
        if pending.method == INITIALIZE:
            version = mcp.version_in(result)
            if version:
                self._say(semconv.MCP_VERSION, version)
        elif pending.method == mcp.CALL and mcp.tool_failed(result):
            return _FAILED
        return FINE

    def asker(self, method: str, params: bytes) -> SpanContext | None:  # noqa: ARG002 - it does not say
        """The tool call that runs: a server says not for which it asks, so only if it is one."""
        running = self._running()
        if len(running) != 1 or running[0].span is None:
            return None
        return running[0].span.context

    def decision(self, method: str, params: bytes, result: bytes | None) -> str:
        """An elicitation has words for it."""
        if method == "elicitation/create":
            return mcp.elicited(result)
        return super().decision(method, params, result)

    def deadline(self) -> list[bytes]:
        """Cancel the tool calls that run."""
        return [mcp.cancelled(each.id) for each in self._running()]

    def _running(self) -> list[Pending]:
        in_flight = self.pair.connection.in_flight.values()
        return [each for each in in_flight if each.method == mcp.CALL]
