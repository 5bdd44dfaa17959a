"""Turns and the tools they use, as the wire shows them, for any core.

    turn/start answered | turn/started  ->  RUNNING  --turn/completed | core lost-->  gone
    item/started -> running --item/completed--> gone          (below its turn)

Deltas are counted on the turn; messages and reasoning have no span of their own.
Whether work is left is answered from here too: a turn runs until the core says
`turn/completed`, long after `turn/start` was answered.
"""

from collections.abc import Collection, Iterator
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from trace_proxy.context.ids import Ids
from trace_proxy.context.span_record import SpanContext, SpanRecord
from trace_proxy.context.w3c import own_flags
from trace_proxy.spans.turn_spans import (
    TOOL_STATUS,
    TURN_STATUS,
    Tool,
    Turn,
    tool_name,
    tool_record,
    turn_record,
)
from trace_proxy.state.connection import RequestSpan
from trace_proxy.state.core_session import CoreSession

ITEMS_PER_TURN: Final = 1024
"""Tool calls that may run at once in a turn before further ones get no span."""

ENDED_KEPT: Final = 256
"""Turns that ended, in case their `turn/start` is answered later, or they end twice."""

_LATEST_MS: Final = 2**43
"""In the year 2248; nanoseconds of what is later do not fit into a span."""


class _Usage(msgspec.Struct, rename="camel"):
    input_tokens: int = 0
    output_tokens: int = 0


class _TokenUsage(msgspec.Struct):
    last: _Usage = msgspec.field(default_factory=_Usage)
    total: _Usage | None = None


class _Item(msgspec.Struct, rename="camel"):
    type: str = ""
    id: str = ""
    tool: str | None = None
    status: str | None = None
    exit_code: int | None = None
    started_at_ms: int | float | None = None
    completed_at_ms: int | float | None = None


class _Turn(msgspec.Struct):
    id: str = ""
    status: str = ""


class _Params(msgspec.Struct, rename="camel"):
    thread_id: str | UnsetType = UNSET
    turn_id: str | UnsetType = UNSET
    turn: _Turn | UnsetType = UNSET
    item: _Item | UnsetType = UNSET
    token_usage: _TokenUsage | UnsetType = UNSET
    started_at_ms: int | float | None = None
    completed_at_ms: int | float | None = None


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
    }
)
"""Notifications that `Turns.observe` wants to see whole."""


class EndedTurn(msgspec.Struct, frozen=True):
    """A turn that is over: how, and the spans that end with it."""

    turn: Turn
    status: str
    records: tuple[SpanRecord, ...]


class Turns:
    """All running turns."""

    __slots__ = ("_by_id", "_by_thread", "_early", "_ended", "_ids", "_models", "_starters")

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._by_id: dict[str, Turn] = {}
        self._by_thread: dict[str, Turn] = {}
        self._early: dict[int, str] = {}
        self._ended: dict[str, Turn] = {}
        self._starters: dict[str, RequestSpan] = {}
        self._models: dict[str, str] = {}

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

    def model_of(self, thread: str, model: str) -> None:
        """Remember the model that a thread uses."""
        self._models[thread] = model

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
        self._models.pop(thread, None)

    def begin(self, turn: Turn) -> bool:
        """A turn runs. False when it is known already: a second `turn/start` joined it."""
        if turn.turn_id in self._by_id:
            return False
        starter = self._starters.get(turn.thread)
        if starter is not None and starter.turn is turn.context:
            del self._starters[turn.thread]
        turn.model = self._models.get(turn.thread, "")
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
            self.begin(turn)
            return None
        self.not_started(turn.thread, span)
        return None if known.parent == span.context else known.context

    def delta(self, turn_id: str, text: str, now_ns: int) -> None:
        """Count a delta of the agent's text."""
        turn = self._by_id.get(turn_id)
        if turn is None:
            return
        if turn.deltas == 0:
            turn.first_delta_ns = now_ns
        turn.deltas += 1
        turn.output_bytes += len(text) if text.isascii() else len(text.encode())

    def observe(
        self, line: bytes, core: CoreSession, now_ns: int
    ) -> EndedTurn | SpanRecord | None:
        """Take one of the `OBSERVED` notifications.

        Returns:
            What ended with it: a turn, a tool, or nothing.
        """
        try:
            notification = _DECODER.decode(line)
        except msgspec.DecodeError:
            return self._observe_odd(line, core, now_ns)
        params = notification.params
        if params.thread_id is UNSET:
            return None
        match notification.method:
            case "turn/started" if params.turn is not UNSET:
                self._started(params.thread_id, params.turn.id, core, now_ns)
            case "turn/completed" if params.turn is not UNSET:
                return self._completed(params.thread_id, params.turn, core, now_ns)
            case "item/started" if params.item is not UNSET and params.turn_id is not UNSET:
                at_ms = params.item.started_at_ms or params.started_at_ms
                self._tool_started(params.turn_id, params.item, _nanoseconds(at_ms, now_ns))
            case "item/completed" if params.item is not UNSET and params.turn_id is not UNSET:
                at_ms = params.item.completed_at_ms or params.completed_at_ms
                return self._tool_ended(params.turn_id, params.item, _nanoseconds(at_ms, now_ns))
            case _ if params.token_usage is not UNSET and params.turn_id is not UNSET:
                self._used(params.turn_id, params.token_usage)
        return None

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
        self._started(thread, turn.id, core, now_ns)
        status = turn.status if turn.status in TURN_STATUS else "other"
        return self.end(turn.id, status, now_ns)

    def _started(self, thread: str, turn_id: str, core: CoreSession, now_ns: int) -> None:
        if not turn_id or turn_id in self._by_id or turn_id in self._ended:
            return
        starter = self._starters.pop(thread, None)
        if starter is not None and starter.turn is not None:
            start_ns = starter.start_ns
            self._early[starter.turn.span_id] = turn_id
            self.begin(Turn(thread, turn_id, core, starter.turn, starter.context, start_ns))
            return
        parent = None if starter is None else starter.context
        trace_id = self._ids.new_trace_id() if parent is None else parent.trace_id
        sampled = self._ids.sampled(parent, trace_id, "invoke_agent")
        context = SpanContext(
            trace_id, self._ids.new_span_id(), own_flags(parent, sampled=sampled)
        )
        self.begin(Turn(thread, turn_id, core, context, parent, now_ns))

    def _used(self, turn_id: str, usage: _TokenUsage) -> None:
        """Add what a response of the model used; the same total again is a replay."""
        turn = self._by_id.get(turn_id)
        if turn is None:
            return
        if usage.total is not None:
            total = (usage.total.input_tokens, usage.total.output_tokens)
            if total == turn.total_tokens:
                return
            turn.total_tokens = total
        turn.input_tokens += usage.last.input_tokens
        turn.output_tokens += usage.last.output_tokens

    def _tool_started(self, turn_id: str, item: _Item, start_ns: int) -> None:
        turn = self._by_id.get(turn_id)
        name = tool_name(item.type, item.tool)
        if turn is None or name is None or item.id in turn.tools:
            return
        if len(turn.tools) >= ITEMS_PER_TURN:
            return
        context = SpanContext(
            turn.context.trace_id,
            self._ids.new_span_id(),
            turn.context.flags,
            turn.context.state,
        )
        turn.tools[item.id] = Tool(name, context, start_ns)

    def _tool_ended(self, turn_id: str, item: _Item, end_ns: int) -> SpanRecord | None:
        turn = self._by_id.get(turn_id)
        tool = turn.tools.pop(item.id, None) if turn is not None else None
        if turn is None or tool is None or not turn.context.flags & 1:
            return None
        status = item.status if item.status in TOOL_STATUS else "other"
        return tool_record(turn, item.id, tool, end_ns, status, item.exit_code)

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
            return EndedTurn(turn, status, ())
        tools = (
            tool_record(turn, item_id, tool, now_ns, why or "interrupted", None)
            for item_id, tool in turn.tools.items()
        )
        return EndedTurn(turn, status, (*tools, turn_record(turn, status, now_ns, why)))


def _nanoseconds(milliseconds: float | None, otherwise_ns: int) -> int:
    """A time that a core tells, if it can be one."""
    if milliseconds is None or not 0 < milliseconds < _LATEST_MS:
        return otherwise_ns
    return int(milliseconds) * 1_000_000
