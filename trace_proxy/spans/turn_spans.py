"""A running turn, its tools and its model calls, and the spans that they leave behind.

Times, counts and states only: no prompt, no output, no command line.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from trace_proxy.context.span_record import (
    AttributeValue,
    Kind,
    Service,
    SpanContext,
    SpanEvent,
    SpanRecord,
)
from trace_proxy.spans import semconv
from trace_proxy.spans.turn_time import TurnTime
from trace_proxy.state.core_session import CoreSession

TOOL_NAME_CHARS: Final = 64
AGENT_NAME_CHARS: Final = 64
AGENTS_PER_TOOL: Final = 64
"""Threads of one item that are looked at; the reference spawns one with each."""

RETRIES_KEPT: Final = 32
"""Events of one turn; the reference retries 5 times for each request to its model."""

OTHER_ERROR: Final = "_OTHER"
"""What the conventions say of a failure whose kind is not known."""

_KIND: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

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

_ACTIVITIES: Final = {
    "started": "spawn_agent",
    "interacted": "message_agent",
    "interrupted": "interrupt_agent",
}
"""Of a `subAgentActivity`: what the agent did with another one, by `kind`."""

_MCP: Final = "mcpToolCall"
_TIMEOUT_EXIT_CODE: Final = 124
"""As `timeout(1)` has it, and cores with it."""

TURN_STATUS: Final = frozenset({"completed", "interrupted", "failed"})
TOOL_STATUS: Final = frozenset({"inProgress", "completed", "failed", "declined", "interrupted"})
"""What a core may say of how it went; anything else is recorded as `other`."""


def text_of(value: object) -> str:
    """A text, empty when it is none."""
    return value if isinstance(value, str) else ""


class Item(msgspec.Struct, rename="camel"):
    """What is read of an item. Where types differ among kinds of items, any is let through."""

    type: str = ""
    id: str = ""
    tool: str | None = None
    kind: object = None
    server: object = None
    status: str | None = None
    exit_code: int | None = None
    model: object = None
    receiver_thread_ids: object = None
    agent_thread_id: object = None
    agent_path: object = None
    started_at_ms: int | float | None = None
    completed_at_ms: int | float | None = None

    @property
    def tool_name(self) -> str | None:
        """What the tool call is called, None for an item that does nothing."""
        if self.type == "subAgentActivity":
            return _ACTIVITIES.get(text_of(self.kind))
        if self.type not in _TOOLS:
            return None
        return _TOOLS[self.type] or (self.tool or self.type)[:TOOL_NAME_CHARS]

    @property
    def agents(self) -> tuple[str, ...]:
        """The threads of the agents that it concerns."""
        named = self.receiver_thread_ids
        threads = named if isinstance(named, list) else [self.agent_thread_id]
        return tuple([each for each in threads[:AGENTS_PER_TOOL] if isinstance(each, str)])


class Usage(msgspec.Struct, rename="camel"):
    """Tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_output_tokens: int = 0

    def add(self, more: "Usage") -> None:
        """Count more of each."""
        self.input_tokens += more.input_tokens
        self.output_tokens += more.output_tokens
        self.cached_input_tokens += more.cached_input_tokens
        self.reasoning_output_tokens += more.reasoning_output_tokens

    @property
    def both(self) -> tuple[int, int]:
        """Input and output."""
        return self.input_tokens, self.output_tokens


class Failure(msgspec.Struct, frozen=True):
    """Why a turn failed, or a request to its model: what of it may be shown.

    Attributes:
        kind: A word of the core's, or `_OTHER`.
        http_status: Of the model's endpoint, 0 when it is not told.
    """

    kind: str = OTHER_ERROR
    http_status: int = 0

    def attributes(self) -> dict[str, AttributeValue]:
        """Of a span or an event."""
        said: dict[str, AttributeValue] = {semconv.ERROR_TYPE: self.kind}
        if self.http_status:
            said[semconv.HTTP_STATUS] = self.http_status
        return said


def failure_of(info: object) -> Failure:
    """Read `codexErrorInfo`: a word, or an object with one member that may have a status."""
    status: object = None
    if isinstance(info, dict) and len(info) == 1:
        info, about = next(iter(info.items()))
        status = about.get("httpStatusCode") if isinstance(about, dict) else None
    if not isinstance(info, str) or not _KIND.fullmatch(info):
        return Failure()
    known = type(status) is int and 100 <= status <= 599
    return Failure(info, status if known and isinstance(status, int) else 0)


class Agent:
    """What is known of a thread: who works there, with which model.

    Attributes:
        name: What the agent is called, empty when it is nobody in particular.
        model: What it asks for.
        provider: Whose model that is.
        turns: How many have begun.
        total: Tokens of all its turns, as the core said last; None before that.
        spawner: The tool that set it to work last, and the turn of that, for a subagent.
    """

    __slots__ = ("model", "name", "provider", "spawner", "total", "turns")

    def __init__(self, model: str = "", provider: str = "") -> None:
        self.name = ""
        self.model = model
        self.provider = provider
        self.turns = 0
        self.total: tuple[int, int] | None = None
        self.spawner: tuple[SpanContext, str] | None = None

    def __repr__(self) -> str:
        return f"<Agent {self.name or 'root'} model={self.model} turns={self.turns}>"


class Tool(msgspec.Struct, frozen=True):
    """A tool call that runs."""

    name: str
    context: SpanContext
    start_ns: int
    mcp_server: str | None = None


class Turn:
    """A running turn.

    Attributes:
        thread: Its thread.
        turn_id: Its id.
        core: Where it runs.
        context: Its span's.
        parent: The request, or the tool of another agent, that began it, or None.
        start_ns: When that was accepted.
        links: What else it has to do with.
        agent: Who works, as known when it began.
        agent_name: Never empty.
        index: 0 for the first of its thread.
        root: The turn that it is a subagent's part of, or None.
        deltas: Text deltas so far.
        output_bytes: Their text, UTF-8.
        used: Tokens of its own.
        subagents: Turns of subagents, and their tokens.
        failure: Why it failed, once that is told.
        retries: Requests to the model that were made again.
        ended_by: Who asked it to end, if it was not a client.
        asker: Span attributes of the connection that began it; read, never changed.
        time: Where its time goes.
    """

    __slots__ = (
        "_shared",
        "agent",
        "agent_name",
        "asker",
        "context",
        "core",
        "deltas",
        "ended_by",
        "failure",
        "first_delta_ns",
        "index",
        "links",
        "output_bytes",
        "parent",
        "response_model",
        "retries",
        "root",
        "start_ns",
        "subagent_usage",
        "subagents",
        "thread",
        "time",
        "tools",
        "turn_id",
        "used",
        "waited_ms",
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
        self.links: tuple[SpanContext, ...] = ()
        self.agent = Agent()
        self.agent_name = ""
        self.index = 0
        self.root: Turn | None = None
        self.first_delta_ns = 0
        self.waited_ms = 0
        self.deltas = 0
        self.output_bytes = 0
        self.used = Usage()
        self.subagents = 0
        self.subagent_usage = Usage()
        self.response_model = ""
        self.failure: Failure | None = None
        self.retries: list[SpanEvent] = []
        self.ended_by = ""
        self.asker: Mapping[str, AttributeValue] = {}
        self.time = TurnTime(start_ns)
        self.tools: dict[str, Tool] = {}
        self._shared: dict[str, AttributeValue] = {}

    def __repr__(self) -> str:
        return f"<Turn {self.turn_id} thread={self.thread} core={self.core.index}>"

    @property
    def input_tokens(self) -> int:
        """Its own."""
        return self.used.input_tokens

    @property
    def output_tokens(self) -> int:
        """Its own."""
        return self.used.output_tokens

    @property
    def time_to_first_delta_s(self) -> float | None:
        """Seconds from acceptance to the first delta, humans left out; None before it."""
        if not self.first_delta_ns:
            return None
        return max(self.first_delta_ns - self.start_ns - self.waited_ms * 1_000_000, 0) / 1e9

    def delta(self, size: int, now_ns: int) -> None:
        """Text came, of so many bytes."""
        if self.deltas == 0:
            self.first_delta_ns = now_ns
            self.waited_ms = self.time.split_ms(now_ns)[2]
        self.deltas += 1
        self.output_bytes += size

    def consume(self, more: Usage) -> None:
        """Tokens were used, by this turn and so by the one that it is a part of."""
        self.used.add(more)
        if self.root is not None:
            self.root.subagent_usage.add(more)

    def retried(self, failure: Failure, now_ns: int) -> None:
        """A request to the model failed and is made again."""
        if len(self.retries) < RETRIES_KEPT:
            self.retries.append(SpanEvent(semconv.RETRY_EVENT, now_ns, failure.attributes()))

    @property
    def shared(self) -> dict[str, AttributeValue]:
        """What all its spans say."""
        if not self._shared:
            thread = self.thread[: semconv.ID_CHARS]
            said: dict[str, AttributeValue] = {
                semconv.CONVERSATION_ID: thread,
                semconv.SESSION_ID: thread,
                semconv.TURN_ID: self.turn_id[: semconv.ID_CHARS],
                semconv.CORE_ID: self.core.index,
                semconv.AGENT_NAME: self.agent_name,
            }
            if self.agent.provider:
                said[semconv.PROVIDER] = self.agent.provider[: semconv.ID_CHARS]
            for name in (semconv.CLIENT_NAME, semconv.USER_ID):
                value = self.asker.get(name)
                if value:
                    said[name] = value
            self._shared = said
        return self._shared

    def below(self, span_id: int) -> SpanContext:
        """The context of a span of this turn."""
        own = self.context
        return SpanContext(own.trace_id, span_id, own.flags, own.state)


_TOOL_ERRORS: Final = {
    "exit_code": "The command failed.",
    "timeout": "The command took too long.",
    "tool_error": "The tool failed.",
    "declined": "The tool was declined.",
    "cancelled": "The tool was cancelled.",
    "core_lost": "The core died while the tool ran.",
    "connection_lost": "The connection was lost, and its core ended.",
    "drain": "The drain ended the tool before it was done.",
}

_ENDED_BY: Final = frozenset({"core_lost", "connection_lost", "drain"})


def tool_error(status: str, exit_code: int | None) -> str:
    """What failed: a value for `error.type`, empty when nothing did."""
    match status:
        case "declined":
            return "declined"
        case "interrupted":
            return "cancelled"
        case "failed" if exit_code == _TIMEOUT_EXIT_CODE:
            return "timeout"
        case "failed":
            return "tool_error" if exit_code is None else "exit_code"
        case _:
            return status if status in _ENDED_BY else ""


def tool_record(
    turn: Turn, item_id: str, tool: Tool, end_ns: int, status: str, exit_code: int | None
) -> SpanRecord:
    """The finished span of a tool call; `status` is the item's, or why it ended."""
    attributes: dict[str, AttributeValue] = {
        semconv.OPERATION: "execute_tool",
        semconv.TOOL_NAME: tool.name,
        semconv.TOOL_TYPE: "function" if tool.mcp_server is None else "extension",
        semconv.TOOL_CALL_ID: item_id[: semconv.ID_CHARS],
        semconv.TOOL_STATUS: status,
    }
    if tool.mcp_server is not None:
        attributes[semconv.MCP_METHOD] = "tools/call"
        attributes[semconv.MCP_SERVER] = tool.mcp_server
    if exit_code is not None:
        attributes[semconv.PROCESS_EXIT_CODE] = exit_code
    kind = tool_error(status, exit_code)
    if kind:
        attributes[semconv.ERROR_TYPE] = kind
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
        error=_TOOL_ERRORS.get(kind, ""),
        shared=turn.shared,
    )


def mcp_server(item: Item) -> str | None:
    """Whose tool it is, for one that is called by MCP."""
    return text_of(item.server)[:TOOL_NAME_CHARS] if item.type == _MCP else None


class ModelCall(msgspec.Struct, rename="camel"):
    """What is read of `rawResponse/completed`."""

    response_id: str = ""
    model: str = ""
    usage: Usage = msgspec.field(default_factory=Usage)
    started_at_ms: int | float | None = None
    completed_at_ms: int | float | None = None


def call_record(
    turn: Turn, call: ModelCall, context: SpanContext, start_ns: int, end_ns: int
) -> SpanRecord:
    """The finished span of a request to the model."""
    model = (call.model or turn.response_model or turn.agent.model)[: semconv.ID_CHARS]
    attributes: dict[str, AttributeValue] = {semconv.OPERATION: "chat"}
    if model:
        attributes[semconv.REQUEST_MODEL] = model
    if turn.response_model:
        attributes[semconv.RESPONSE_MODEL] = turn.response_model[: semconv.ID_CHARS]
    if call.response_id:
        attributes[semconv.RESPONSE_ID] = call.response_id[: semconv.ID_CHARS]
    _add_usage(attributes, call.usage)
    return SpanRecord(
        service=Service.CORE,
        name=f"chat {model}" if model else "chat",
        kind=Kind.CLIENT,
        context=context,
        parent=turn.context,
        start_ns=start_ns,
        end_ns=max(end_ns, start_ns),
        attributes=attributes,
        shared=turn.shared,
    )


def _add_usage(attributes: dict[str, AttributeValue], *used: Usage) -> None:
    total = Usage()
    for each in used:
        total.add(each)
    if not any(total.both):
        return
    attributes[semconv.INPUT_TOKENS], attributes[semconv.OUTPUT_TOKENS] = total.both
    if total.cached_input_tokens:
        attributes[semconv.CACHED_INPUT_TOKENS] = total.cached_input_tokens
    if total.reasoning_output_tokens:
        attributes[semconv.REASONING_TOKENS] = total.reasoning_output_tokens


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
        semconv.AGENT_ID: turn.thread[: semconv.ID_CHARS],
        semconv.TURN_STATUS: status,
        semconv.TURN_INDEX: turn.index,
        semconv.DELTAS: turn.deltas,
        semconv.OUTPUT_BYTES: turn.output_bytes,
    }
    if turn.agent.model:
        attributes[semconv.REQUEST_MODEL] = turn.agent.model[: semconv.ID_CHARS]
    if turn.response_model:
        attributes[semconv.RESPONSE_MODEL] = turn.response_model[: semconv.ID_CHARS]
    _add_usage(attributes, turn.used, turn.subagent_usage)
    if turn.subagents:
        attributes[semconv.SUBAGENTS] = turn.subagents
        attributes[semconv.SUBAGENT_INPUT_TOKENS] = turn.subagent_usage.input_tokens
        attributes[semconv.SUBAGENT_OUTPUT_TOKENS] = turn.subagent_usage.output_tokens
    _add_times(attributes, turn, end_ns)
    if why or turn.ended_by:
        attributes[semconv.ENDED_BY] = why or turn.ended_by
    error = _TURN_ERRORS.get(why or status, "")
    if why and error:
        attributes[semconv.ERROR_TYPE] = why
    elif error:
        attributes.update((turn.failure or Failure()).attributes())
    return SpanRecord(
        service=Service.CORE,
        name=f"invoke_agent {turn.agent_name}",
        kind=Kind.INTERNAL,
        context=turn.context,
        parent=turn.parent,
        start_ns=turn.start_ns,
        end_ns=max(end_ns, turn.start_ns),
        attributes=attributes,
        links=turn.links,
        error=error,
        shared=turn.shared,
        events=tuple(turn.retries),
    )


def _add_times(attributes: dict[str, AttributeValue], turn: Turn, end_ns: int) -> None:
    if turn.time_to_first_delta_s is not None:
        attributes[semconv.TIME_TO_FIRST_DELTA] = turn.time_to_first_delta_s
    waiting_ms = turn.time.split_ms(end_ns)[2]
    if waiting_ms:
        attributes[semconv.WAITING] = waiting_ms / 1000
