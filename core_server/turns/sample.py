"""One sample of an engine: its events as items, deltas and history."""

import asyncio
from contextlib import aclosing
from typing import Final

from core_server.engines.base import (
    AgentMessage,
    Engine,
    Event,
    HistoryEntry,
    MessageDone,
    MessageStarted,
    Prompt,
    ReasoningDelta,
    ReasoningDone,
    ReasoningStarted,
    Retrying,
    TextDelta,
    ToolCall,
    Usage,
    codex_error_info,
)
from core_server.outgoing.notifier import now_ms
from core_server.outgoing.outbox import Outbox
from core_server.protocol.items import AgentMessageItem, ReasoningItem
from core_server.protocol.turns import (
    Delta,
    ReasoningPartAdded,
    ReasoningTextDelta,
    TokenCounts,
    TurnError,
)
from core_server.records import plan_as_said
from core_server.turns.plan import PlanMessage
from core_server.turns.report import Narrator

EVENTS_PER_BREATH: Final = 32
"""An engine at full speed lets others run after so many events, about 0.3 ms."""


class Sample:
    """What one sample produced.

    Args:
        narrator: Tells of it; None for a sample that nobody hears (a compaction).
        outbox: Makes a fast engine wait for a slow client.
        history: Complete messages are added to it.
        hidden: Messages and thoughts are not told of; `text` has the last message.
    """

    def __init__(
        self,
        narrator: Narrator | None,
        outbox: Outbox,
        history: list[HistoryEntry],
        *,
        hidden: bool = False,
    ) -> None:
        self.calls: list[ToolCall] = []
        self.usage: TokenCounts | None = None
        self.text = ""
        self._narrator = narrator
        self._hidden = hidden
        self._outbox = outbox
        self._history = history
        self._started: dict[str, int] = {}
        self._parts: dict[str, int] = {}
        self._plans: dict[str, PlanMessage] | None = None
        if narrator is not None and narrator.thread.settings.mode == "plan":
            self._plans = {}
        self.response_id = ""
        self._asked_ms: int | None = None

    async def take(self, engine: Engine, prompt: Prompt) -> None:
        """Sample to the end.

        Raises:
            EngineError: it failed for good.
        """
        count = 0
        self._asked_ms = now_ms()
        async with aclosing(engine.sample(prompt)) as events:
            async for event in events:
                self._on(event)
                count += 1
                if count % EVENTS_PER_BREATH == 0:
                    await asyncio.sleep(0)
                    await self._outbox.room()
        if self._narrator is not None:
            usage = self.usage or TokenCounts()
            self._narrator.model_called(self.response_id, usage, self._asked_ms)

    def _on(self, event: Event) -> None:
        match event:
            case ToolCall():
                self.calls.append(event)
            case Usage():
                self.usage = _counts(event)
                self.response_id = event.response_id
            case MessageDone(_, text) if self._narrator is None or self._hidden:
                self.text = text
                self._history.append(AgentMessage(text))
            case Retrying() if self._narrator is not None:
                self._tell(event, self._narrator)
            case _ if self._hidden:
                pass
            case _ if self._narrator is not None:
                self._tell(event, self._narrator)
            case _:
                pass

    def _tell(self, event: Event, narrator: Narrator) -> None:
        match event:
            case TextDelta():
                self._tell_text(event, narrator)
            case MessageStarted(item_id):
                self._start_message(item_id, "", narrator)
            case MessageDone():
                self._end_message(event, narrator)
            case ReasoningStarted(item_id):
                self._started[item_id] = now_ms()
                narrator.started(ReasoningItem(item_id, self._started[item_id]), keep=False)
            case ReasoningDelta():
                self._tell_reasoning(event, narrator)
            case ReasoningDone(item_id, summary):
                started = self._started.get(item_id, now_ms())
                narrator.completed(ReasoningItem(item_id, started, now_ms(), summary))
            case Retrying():
                self._asked_ms = None  # the engine tells not when it asks again
                narrator.retrying(_reconnecting(event))
            case _:
                pass

    def _start_message(self, item_id: str, text: str, narrator: Narrator) -> None:
        self._started[item_id] = now_ms()
        narrator.started(AgentMessageItem(item_id, text, self._started[item_id]), keep=False)

    def _tell_text(self, event: TextDelta, narrator: Narrator) -> None:
        if self._plans is not None:
            self._message(event.item_id, narrator, self._plans).delta(event.text)
            return
        told = Delta(narrator.thread.id, narrator.turn.id, event.item_id, event.text)
        narrator.say("item/agentMessage/delta", told)

    def _end_message(self, event: MessageDone, narrator: Narrator) -> None:
        item_id, text = event.item_id, event.text
        if item_id not in self._started:
            self._start_message(item_id, "" if self._plans is not None else text, narrator)
        if self._plans is not None:
            message = self._message(item_id, narrator, self._plans)
            text = message.done(text)
            self._history += [AgentMessage(plan_as_said(each)) for each in message.plans]
        narrator.completed(AgentMessageItem(item_id, text, self._started[item_id], now_ms()))
        if text:
            self._history.append(AgentMessage(text))

    @staticmethod
    def _message(item_id: str, narrator: Narrator, known: dict[str, PlanMessage]) -> PlanMessage:
        if item_id not in known:
            known[item_id] = PlanMessage(narrator, item_id)
        return known[item_id]

    def _tell_reasoning(self, event: ReasoningDelta, narrator: Narrator) -> None:
        ids = (narrator.thread.id, narrator.turn.id, event.item_id)
        if event.index >= self._parts.get(event.item_id, 0):
            self._parts[event.item_id] = event.index + 1
            told = ReasoningPartAdded(*ids, event.index)
            narrator.say("item/reasoning/summaryPartAdded", told)
        delta = ReasoningTextDelta(*ids, event.text, event.index)
        narrator.say("item/reasoning/summaryTextDelta", delta)


def _reconnecting(event: Retrying) -> TurnError:
    # In the words and with the one info of the reference server, which clients look for.
    info = codex_error_info("responseStreamDisconnected", event.http_status)
    message = f"Reconnecting... {event.attempt}/{event.attempts}"
    return TurnError(message, info, event.message)


def _counts(usage: Usage) -> TokenCounts:
    return TokenCounts(
        total_tokens=usage.input_tokens + usage.output_tokens,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_output_tokens=usage.reasoning_output_tokens,
    )
