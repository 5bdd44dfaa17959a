"""A running turn and its tools, and the spans that they leave behind.

Times, counts and states only: no prompt, no output, no command line.
"""

from typing import Final

import msgspec

from trace_proxy.context.span_record import AttributeValue, Kind, Service, SpanContext, SpanRecord
from trace_proxy.spans import semconv
from trace_proxy.state.core_session import CoreSession

TOOL_NAME_CHARS: Final = 64

_TOOLS: Final = {
    "commandExecution": "shell",
    "fileChange": "apply_patch",
    "mcpToolCall": None,
    "dynamicToolCall": None,
    "collabAgentToolCall": None,
    "webSearch": "web_search",
    "imageGeneration": "image_generation",
    "imageView": "view_image",
}
"""Items that do something, and the tool's name (None: the item's own `tool`)."""

TURN_STATUS: Final = frozenset({"completed", "interrupted", "failed"})
TOOL_STATUS: Final = frozenset({"inProgress", "completed", "failed", "declined", "interrupted"})
"""What a core may say of how it went; anything else is recorded as `other`."""


def tool_name(kind: str, tool: str | None) -> str | None:
    """What a tool call is called, None for an item that does nothing."""
    if kind not in _TOOLS:
        return None
    return _TOOLS[kind] or (tool or kind)[:TOOL_NAME_CHARS]


class Tool(msgspec.Struct, frozen=True):
    """A tool call that runs."""

    name: str
    context: SpanContext
    start_ns: int


class Turn:
    """A running turn.

    Attributes:
        thread: Its thread.
        turn_id: Its id.
        core: Where it runs.
        context: Its span's.
        parent: The request that began it, or None.
        start_ns: When that was accepted.
        deltas: Text deltas so far.
        output_bytes: Their text, UTF-8.
        total_tokens: Of the thread, input and output, as the core said last.
        ended_by: Who asked it to end, if it was not a client.
    """

    __slots__ = (
        "context",
        "core",
        "deltas",
        "ended_by",
        "first_delta_ns",
        "input_tokens",
        "model",
        "output_bytes",
        "output_tokens",
        "parent",
        "start_ns",
        "thread",
        "tools",
        "total_tokens",
        "turn_id",
    )

    def __init__(
        self,
        thread: str,
        turn_id: str,
        core: CoreSession,
        context: SpanContext,
        parent: SpanContext | None,
        start_ns: int,
    ) -> None:
        self.thread = thread
        self.turn_id = turn_id
        self.core = core
        self.context = context
        self.parent = parent
        self.start_ns = start_ns
        self.first_delta_ns = 0
        self.deltas = 0
        self.output_bytes = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.total_tokens = (-1, -1)
        self.model = ""
        self.ended_by = ""
        self.tools: dict[str, Tool] = {}

    def __repr__(self) -> str:
        return f"<Turn {self.turn_id} thread={self.thread} core={self.core.index}>"

    @property
    def time_to_first_delta_s(self) -> float | None:
        """Seconds from acceptance to the first delta, None before it."""
        return (self.first_delta_ns - self.start_ns) / 1e9 if self.first_delta_ns else None


def tool_record(
    turn: Turn, item_id: str, tool: Tool, end_ns: int, status: str, exit_code: int | None
) -> SpanRecord:
    """The finished span of a tool call; `status` is the item's, or why it ended."""
    attributes: dict[str, AttributeValue] = {
        semconv.OPERATION: "execute_tool",
        semconv.TOOL_NAME: tool.name,
        semconv.TOOL_CALL_ID: item_id[: semconv.ID_CHARS],
        semconv.TOOL_STATUS: status,
        semconv.CONVERSATION_ID: turn.thread[: semconv.ID_CHARS],
        semconv.TURN_ID: turn.turn_id[: semconv.ID_CHARS],
        semconv.CORE_ID: turn.core.index,
    }
    if exit_code is not None:
        attributes[semconv.PROCESS_EXIT_CODE] = exit_code
    error = _TOOL_ERRORS.get(status, "")
    if error:
        attributes[semconv.ERROR_TYPE] = status
    if status in _ENDED_BY:
        attributes[semconv.ENDED_BY] = status
    return SpanRecord(
        service=Service.CORE,
        name=f"execute_tool {tool.name}",
        kind=Kind.INTERNAL,
        context=tool.context,
        parent=turn.context,
        start_ns=tool.start_ns,
        end_ns=max(end_ns, tool.start_ns),
        attributes=attributes,
        error=error,
    )


_ENDED_BY: Final = frozenset({"core_lost", "connection_lost", "drain"})

_TOOL_ERRORS: Final = {
    "failed": "The tool failed.",
    "core_lost": "The core died while the tool ran.",
    "connection_lost": "The connection was lost, and its core ended.",
    "drain": "The drain ended the tool before it was done.",
}


_TURN_ERRORS: Final = {
    "failed": "The turn failed.",
    "core_lost": "The core died during the turn.",
    "connection_lost": "The connection was lost, and its core ended.",
    "drain": "The drain ended the turn before it was done.",
}


def turn_record(turn: Turn, status: str, end_ns: int, why: str) -> SpanRecord:
    """The finished span of a turn; `why` is `core_lost` or `drain` when the core never ended it."""
    attributes: dict[str, AttributeValue] = {
        semconv.OPERATION: "invoke_agent",
        semconv.CONVERSATION_ID: turn.thread[: semconv.ID_CHARS],
        semconv.TURN_ID: turn.turn_id[: semconv.ID_CHARS],
        semconv.TURN_STATUS: status,
        semconv.CORE_ID: turn.core.index,
        semconv.DELTAS: turn.deltas,
        semconv.OUTPUT_BYTES: turn.output_bytes,
    }
    if turn.model:
        attributes[semconv.REQUEST_MODEL] = turn.model[: semconv.ID_CHARS]
    if turn.input_tokens or turn.output_tokens:
        attributes[semconv.INPUT_TOKENS] = turn.input_tokens
        attributes[semconv.OUTPUT_TOKENS] = turn.output_tokens
    if turn.time_to_first_delta_s is not None:
        attributes[semconv.TIME_TO_FIRST_DELTA] = turn.time_to_first_delta_s
    if why or turn.ended_by:
        attributes[semconv.ENDED_BY] = why or turn.ended_by
    error = _TURN_ERRORS.get(why or status, "")
    if error:
        attributes[semconv.ERROR_TYPE] = why or status
    return SpanRecord(
        service=Service.CORE,
        name="invoke_agent",
        kind=Kind.INTERNAL,
        context=turn.context,
        parent=turn.parent,
        start_ns=turn.start_ns,
        end_ns=max(end_ns, turn.start_ns),
        attributes=attributes,
        error=error,
    )
