"""Turns, the tools they use and the models they ask, as the wire shows them, for any core.

    turn/start answered | turn/started  ->  RUNNING  --turn/completed | core lost-->  gone
    item/started -> running --item/completed--> gone          (below its turn)
    rawResponse/completed: a request to the model that is over (below its turn)

Deltas are counted on the turn; messages and reasoning have no span of their own.
Whether work is left is answered from here too: a turn runs until the core says
`turn/completed`, long after `turn/start` was answered.

A subagent has a thread of its own, and its turns are nobody's request. What ties them to
the tool that set it to work is the thread's id in that tool's item; they hang below it as
long as its turn runs, and are linked to it later.
"""

from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from trace_proxy.context.ids import Ids
from trace_proxy.context.span_record import SpanContext, SpanRecord
from trace_proxy.context.w3c import own_flags
from trace_proxy.spans.turn_spans import (
    AGENT_NAME_CHARS,
    TOOL_STATUS,
    TURN_STATUS,
    Agent,
    Item,
    ModelCall,
    Tool,
    Turn,
    Usage,
    call_record,
    failure_of,
    mcp_server,
    text_of,
    tool_error,
    tool_record,
    turn_record,
)
from trace_proxy.state.connection import RequestSpan
from trace_proxy.state.core_session import CoreSession

ITEMS_PER_TURN: Final = 1024
"""Tool calls that may run at once in a turn before further ones get no span."""

ENDED_KEPT: Final = 256
"""Turns that ended, in case their `turn/start` is answered later, or they end twice."""

AGENTS_KEPT: Final = 8_192
"""Threads of which model, name and tokens are known; some 300 bytes each."""

CORE_NAME: Final = "core-server"

_LATEST_MS: Final = 2**43
"""In the year 2248; nanoseconds of what is later do not fit into a span."""

_SETTING_TO_WORK: Final = frozenset(
    {"spawnAgent", "sendInput", "resumeAgent", "spawn_agent", "message_agent"}
)
"""Tools after which another agent may begin a turn."""


class _TokenUsage(msgspec.Struct):
    last: Usage = msgspec.field(default_factory=Usage)
    total: Usage | None = None


class _Error(msgspec.Struct, rename="camel"):
    codex_error_info: object = None


class _Turn(msgspec.Struct, rename="camel"):
    id: str = ""
    status: str = ""
    root_turn_id: str | None = None
    error: object = None


class _Params(ModelCall, rename="camel"):
    thread_id: str | UnsetType = UNSET
    turn_id: str | UnsetType = UNSET
    turn: _Turn | UnsetType = UNSET
    item: Item | UnsetType = UNSET
    token_usage: _TokenUsage | UnsetType = UNSET
    error: _Error | UnsetType = UNSET
    will_retry: bool = False
    to_model: object = None


class _Notification(msgspec.Struct):
    method: str
    params: _Params


class _OnlyTurnId(msgspec.Struct):
    id: str


class _OnlyEnd(msgspec.Struct, rename="camel"):
    thread_id: str
    turn: _OnlyTurnId


class _EndNotification(msgspec.Struct):
    """What must be understood of `turn/completed`, whatever else a core puts there."""

    method: str
    params: _OnlyEnd


_DECODER = msgspec.json.Decoder(_Notification)
_END_DECODER = msgspec.json.Decoder(_EndNotification)

OBSERVED: Final = frozenset(
    {
        "turn/started",
        "turn/completed",
        "item/started",
        "item/completed",
        "thread/tokenUsage/updated",
        "error",
        "model/rerouted",
        "rawResponse/completed",
    }
)
"""Notifications that `Turns.observe` wants to see whole."""


class EndedTurn(msgspec.Struct, frozen=True):
    """A turn that is over: how, the spans that end with it, and `why` if not by itself."""

    turn: Turn
    status: str
    records: tuple[SpanRecord, ...]
    why: str = ""


class EndedTool(msgspec.Struct, frozen=True):
    """A tool call that is over.

    Attributes:
        name: Of the tool.
        error: What failed, empty when nothing did.
        duration_s: How long it took.
        record: Its span, None when it is not sampled.
    """

    name: str
    error: str
    duration_s: float
    record: SpanRecord | None


Ended: TypeAlias = EndedTurn | EndedTool | SpanRecord | None
"""What ended with a notification: a turn, a tool, a model call, or nothing."""


class Turns:
    """All running turns.

    Args:
        ids: Randomness and sampling.
        core_name: What an agent is called that has no name, of a core that has none.
    """

    __slots__ = (
        "_agents",
        "_by_id",
        "_by_thread",
        "_core_name",
        "_early",
        "_ended",
        "_ids",
        "_starters",
    )

    def __init__(self, ids: Ids, core_name: str = CORE_NAME) -> None:
        self._ids = ids
        self._core_name = core_name
        self._by_id: dict[str, Turn] = {}
        self._by_thread: dict[str, Turn] = {}
        self._early: dict[int, str] = {}
        self._ended: dict[str, Turn] = {}
        self._starters: dict[str, RequestSpan] = {}
        self._agents: dict[str, Agent] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Turn]:
        return iter(list(self._by_id.values()))

    def __repr__(self) -> str:
        return f"<Turns running={len(self._by_id)}>"

    def of_thread(self, thread: str) -> Turn | None:
        """The turn that runs in a thread."""
        return self._by_thread.get(thread)

    def asker(self, thread: str | None, item: object) -> SpanContext | None:
        """Who asks when a core asks for an item of a thread: the tool, else its turn."""
        turn = None if thread is None else self._by_thread.get(thread)
        if turn is None:
            return None
        tool = turn.tools.get(item) if isinstance(item, str) else None
        return turn.context if tool is None else tool.context

    def get(self, turn_id: str) -> Turn | None:
        """A running turn."""
        return self._by_id.get(turn_id)

    def agent(self, thread: str) -> Agent:
        """What is known of who works in a thread; the oldest is forgotten where it is too much."""
        agent = self._agents.get(thread)
        if agent is None:
            if len(self._agents) >= AGENTS_KEPT:
                del self._agents[next(iter(self._agents))]
            agent = self._agents[thread] = Agent()
        return agent

    def loaded(self, thread: str, *, model: str = "", provider: str = "", name: str = "") -> None:
        """A core said who works in a thread; what is empty stays as it was."""
        agent = self.agent(thread)
        agent.model = model or agent.model
        agent.provider = provider or agent.provider
        agent.name = _name(name) or agent.name

    def starter(self, thread: str, span: RequestSpan) -> None:
        """A request that will begin a turn was sent; `turn/started` may come before its answer."""
        self._starters[thread] = span

    @property
    def announced(self) -> Collection[str]:
        """Threads whose turn was asked for and not refused, and has not been seen to begin."""
        return self._starters.keys()

    def not_started(self, thread: str, span: RequestSpan) -> None:
        """It was refused: the thread's next turn is not its child."""
        if span.turn is not None:
            self._early.pop(span.turn.span_id, None)
        if self._starters.get(thread) is span:
            del self._starters[thread]

    def forget(self, thread: str) -> None:
        """The thread is unloaded; what it left behind goes too."""
        self._starters.pop(thread, None)
        self._agents.pop(thread, None)

    def begin(self, turn: Turn) -> bool:
        """A turn runs. False when it is known already: a second `turn/start` joined it."""
        if turn.turn_id in self._by_id:
            return False
        starter = self._starters.get(turn.thread)
        if starter is not None and starter.turn is turn.context:
            del self._starters[turn.thread]
        turn.agent = self.agent(turn.thread)
        turn.agent_name = turn.agent.name or _server_name(turn.core.greeting) or self._core_name
        if turn.agent.spawner is not None and turn.root is None:  # a person talks to a subagent
            turn.links = (turn.agent.spawner[0],)
        turn.index = turn.agent.turns
        turn.agent.turns += 1
        self._by_id[turn.turn_id] = turn
        self._by_thread[turn.thread] = turn
        turn.core.turns += 1
        return True

    def answered(self, turn: Turn, span: RequestSpan) -> SpanContext | None:
        """A `turn/start` was answered: its turn runs, has run already, or was joined.

        Returns:
            The span of the turn that the request joined, to be linked.
        """
        known = self._by_id.get(turn.turn_id) or self._ended.get(turn.turn_id)
        if known is None:
            if self._early.pop(turn.context.span_id, None) is not None:
                span_id = self._ids.new_span_id()  # a turn from nowhere was taken for this one
                turn.context = msgspec.structs.replace(turn.context, span_id=span_id)
            turn.asker = span.attributes
            self.begin(turn)
            return None
        self.not_started(turn.thread, span)
        return None if known.parent == span.context else known.context

    def delta(self, turn_id: str, text: str, now_ns: int) -> None:
        """Count a delta of the agent's text."""
        turn = self._by_id.get(turn_id)
        if turn is not None:
            turn.delta(len(text) if text.isascii() else len(text.encode()), now_ns)

    def observe(self, line: bytes, core: CoreSession, now_ns: int) -> Ended:
        """Take one of the `OBSERVED` notifications."""
        try:
            notification = _DECODER.decode(line)
        except msgspec.DecodeError:
            return self._observe_odd(line, core, now_ns)
        params = notification.params
        if params.thread_id is UNSET:
            return None
        if params.turn is not UNSET:
            if notification.method == "turn/started":
                self._started(params.thread_id, params.turn, core, now_ns)
                return None
            if notification.method == "turn/completed":
                return self._completed(params.thread_id, params.turn, core, now_ns)
        if params.turn_id is UNSET:
            return None
        if params.token_usage is not UNSET:
            self._used(params.thread_id, params.turn_id, params.token_usage)
        turn = self._by_id.get(params.turn_id)
        return None if turn is None else self._within(turn, notification, now_ns)

    def _within(self, turn: Turn, notification: _Notification, now_ns: int) -> Ended:
        """Something happened in a running turn."""
        params = notification.params
        match notification.method:
            case "item/started" if params.item is not UNSET:
                at_ms = params.item.started_at_ms or params.started_at_ms
                self._tool_started(turn, params.item, _nanoseconds(at_ms, now_ns))
            case "item/completed" if params.item is not UNSET:
                at_ms = params.item.completed_at_ms or params.completed_at_ms
                return self._tool_ended(turn, params.item, _nanoseconds(at_ms, now_ns))
            case "error" if params.error is not UNSET:
                failure = failure_of(params.error.codex_error_info)
                if params.will_retry:
                    turn.retried(failure, now_ns)
                else:
                    turn.failure = failure
            case "model/rerouted":
                turn.response_model = text_of(params.to_model)
            case "rawResponse/completed":
                return self._model_called(turn, params, now_ns)
            case _:
                pass
        return None

    def _model_called(self, turn: Turn, call: ModelCall, now_ns: int) -> SpanRecord | None:
        """A request to the model is over; without its own times it is no span."""
        start_ns = _nanoseconds(call.started_at_ms, 0)
        if not start_ns or not turn.context.flags & 1:
            return None
        end_ns = _nanoseconds(call.completed_at_ms, now_ns)
        context = turn.below(self._ids.new_span_id())
        return call_record(turn, call, context, start_ns, end_ns)

    def _observe_odd(self, line: bytes, core: CoreSession, now_ns: int) -> EndedTurn | None:
        """Members of other types than ours: not understood, but the end of a turn must be."""
        try:
            notification = _END_DECODER.decode(line)
        except msgspec.DecodeError:
            return None
        if notification.method != "turn/completed":
            return None
        turn = _Turn(notification.params.turn.id)
        return self._completed(notification.params.thread_id, turn, core, now_ns)

    def _completed(
        self, thread: str, turn: _Turn, core: CoreSession, now_ns: int
    ) -> EndedTurn | None:
        """A turn may end before we heard of it: then it began with this."""
        self._started(thread, turn, core, now_ns)
        status = turn.status if turn.status in TURN_STATUS else "other"
        running = self._by_id.get(turn.id)
        if running is not None and isinstance(turn.error, dict):
            running.failure = failure_of(turn.error.get("codexErrorInfo"))
        return self.end(turn.id, status, now_ns)

    def _started(self, thread: str, turn: _Turn, core: CoreSession, now_ns: int) -> None:
        turn_id = self._first_name(thread, turn)
        if not turn_id or turn_id in self._by_id or turn_id in self._ended:
            return
        starter = self._starters.pop(thread, None)
        if starter is None:
            self.begin(self._from_nowhere(thread, turn, turn_id, core, now_ns))
            return
        if starter.turn is not None:
            self._early[starter.turn.span_id] = turn_id
            begun = Turn(thread, turn_id, core, starter.turn, starter.context, starter.start_ns)
        else:
            parent = starter.context
            begun = Turn(thread, turn_id, core, self._child(parent, core), parent, now_ns)
        begun.asker = starter.attributes
        self.begin(begun)

    def _first_name(self, thread: str, turn: _Turn) -> str:
        """The id that a turn ends with: a review is called otherwise where it starts.

        Its `rootTurnId` is then a turn of the same thread: the one in the answer.
        """
        root = turn.root_turn_id
        if not root or root == turn.id:
            return turn.id
        known = self._by_id.get(root) or self._ended.get(root)
        if known is not None:
            return root if known.thread == thread else turn.id
        return root if thread in self._starters and self.agent(thread).spawner is None else turn.id

    def _from_nowhere(
        self, thread: str, turn: _Turn, turn_id: str, core: CoreSession, now_ns: int
    ) -> Turn:
        """A turn that nobody asked for: a subagent's, or a root."""
        spawner = self.agent(thread).spawner
        sender = None if spawner is None else self._by_id.get(spawner[1])
        root = self._by_id.get(turn.root_turn_id or "") or sender
        parent = None
        if spawner is not None and sender is not None:
            parent = spawner[0]
        elif root is not None:
            parent = root.context
        begun = Turn(thread, turn_id, core, self._child(parent, core), parent, now_ns)
        if root is not None:
            begun.root = root.root or root
            begun.root.subagents += 1
            begun.asker = root.asker
        return begun

    def _child(self, parent: SpanContext | None, core: CoreSession) -> SpanContext:
        trace_id = self._ids.new_trace_id() if parent is None else parent.trace_id
        # Of another host's turn the spans are made there; here it is only known to run.
        sampled = not core.url and self._ids.sampled(parent, trace_id, "invoke_agent")
        state = "" if parent is None else parent.state
        flags = own_flags(parent, sampled=sampled)
        return SpanContext(trace_id, self._ids.new_span_id(), flags, state)

    def _used(self, thread: str, turn_id: str, usage: _TokenUsage) -> None:
        """Add what a response of the model used; the same total again is a replay.

        Cores repeat a thread's total when it is resumed and when a turn starts.
        """
        agent = self.agent(thread)
        if usage.total is not None:
            total = usage.total.both
            if total == agent.total:
                return
            agent.total = total
        turn = self._by_id.get(turn_id)
        if turn is not None:
            turn.consume(usage.last)

    def _tool_started(self, turn: Turn, item: Item, start_ns: int) -> None:
        name = item.tool_name
        if name is None or item.id in turn.tools or len(turn.tools) >= ITEMS_PER_TURN:
            return
        context = turn.below(self._ids.new_span_id())
        turn.tools[item.id] = tool = Tool(name, context, start_ns, mcp_server(item))
        turn.time.tools(+1, start_ns)
        self._set_to_work(turn, item, tool)

    def _set_to_work(self, turn: Turn, item: Item, tool: Tool) -> None:
        """A tool names the threads of other agents, at its start or at its end."""
        if tool.name not in _SETTING_TO_WORK:
            return
        for thread in item.agents:
            agent = self.agent(thread)
            agent.spawner = tool.context, turn.turn_id
            running = self._by_thread.get(thread)
            if running is not None and running.parent == turn.context:
                running.parent = tool.context  # it was quicker than the item that names it
            agent.model = text_of(item.model) or agent.model or turn.agent.model
            agent.provider = agent.provider or turn.agent.provider
            agent.name = _name(text_of(item.agent_path).rpartition("/")[2]) or agent.name

    def _tool_ended(self, turn: Turn, item: Item, end_ns: int) -> EndedTool | None:
        tool = turn.tools.pop(item.id, None)
        if tool is None:
            return None
        turn.time.tools(-1, end_ns)
        self._set_to_work(turn, item, tool)
        status = item.status if item.status in TOOL_STATUS else "other"
        if item.type == "subAgentActivity":  # it has none, and is over at once
            status = "completed"
        record = None
        if turn.context.flags & 1:
            record = tool_record(turn, item.id, tool, end_ns, status, item.exit_code)
        duration_s = max(end_ns - tool.start_ns, 0) / 1e9
        return EndedTool(tool.name, tool_error(status, item.exit_code), duration_s, record)

    def end(self, turn_id: str, status: str, now_ns: int, why: str = "") -> EndedTurn | None:
        """A turn is over: completed, interrupted, failed.

        Args:
            turn_id: Which.
            status: The turn's status on the wire.
            now_ns: Unix nanoseconds.
            why: `core_lost` when it did not end by itself.
        """
        turn = self._by_id.pop(turn_id, None)
        if turn is None:
            return None
        if self._by_thread.get(turn.thread) is turn:
            del self._by_thread[turn.thread]
        turn.core.turns -= 1
        self._ended[turn_id] = turn
        if len(self._ended) > ENDED_KEPT:
            del self._ended[next(iter(self._ended))]
        if not turn.context.flags & 1:
            return EndedTurn(turn, status, (), why)
        tools = (
            tool_record(turn, item_id, tool, now_ns, why or "interrupted", None)
            for item_id, tool in turn.tools.items()
        )
        return EndedTurn(turn, status, (*tools, turn_record(turn, status, now_ns, why)), why)


def _name(text: str) -> str:
    """A name of an agent that can be one."""
    return text[:AGENT_NAME_CHARS] if text.isprintable() else ""


class _Server(msgspec.Struct):
    name: str = ""


class _Greeting(msgspec.Struct, rename="camel"):
    server_info: _Server = msgspec.field(default_factory=_Server)


_GREETING = msgspec.json.Decoder(_Greeting)


@lru_cache(maxsize=64)
def _server_name(greeting: bytes | None) -> str:
    """`serverInfo.name` of what a core answered to `initialize`, empty if it says none."""
    try:
        return _name(_GREETING.decode(greeting or b"{}").server_info.name)
    except msgspec.DecodeError:
        return ""


def _nanoseconds(milliseconds: float | None, otherwise_ns: int) -> int:
    """A time that a core tells, if it can be one."""
    if milliseconds is None or not 0 < milliseconds < _LATEST_MS:
        return otherwise_ns
    return int(milliseconds) * 1_000_000
