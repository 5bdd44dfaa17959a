"""Tells a turn's story: to the client as notifications, to the store as rows.

An item is told of when it is durable; deltas have no row. When a write fails, the thread
is broken: nothing more is written, the turn is stopped, and it ends as failed with that
reason, which is the one thing a client hears without a row behind it (else it would wait
for ever; a later `thread/resume` shows the turn as interrupted).
"""

import asyncio

import msgspec

from core_server.context import Context, Durable
from core_server.engines.base import CompactedHistory, ToolCall, ToolOutput
from core_server.outgoing.notifier import Voice, now_ms
from core_server.protocol.items import AgentMessageItem, InputItem, ThreadItem
from core_server.protocol.threads import (
    ReadStateChanged,
    StatusChanged,
    SystemError_,
    Warning_,
)
from core_server.protocol.turns import (
    DiffUpdated,
    ErrorNotification,
    ItemCompleted,
    ItemStarted,
    PlanStep,
    PlanUpdated,
    RawResponseCompleted,
    TokenCounts,
    Turn,
    TurnError,
    TurnNotification,
)
from core_server.records import hidden_row, item_row, turn_row
from core_server.session.thread import ThreadMachine
from core_server.session.turn import TurnMachine
from core_server.storage.base import PutItem, PutTurn


class Narrator:
    """The voice of one turn.

    Args:
        context: The core.
        voice: To the client.
        thread: The turn's thread.
        turn: The turn.
    """

    def __init__(
        self,
        context: Context,
        voice: Voice,
        thread: ThreadMachine,
        turn: TurnMachine,
    ) -> None:
        self._context = context
        self._voice = voice
        self.thread = thread
        self.turn = turn
        self._at_last: list[tuple[str, msgspec.Struct]] = []
        self._born: Durable | None = None
        self._last: Durable | None = None
        self._diffs: list[str] = []

    def say(self, method: str, params: msgspec.Struct, after: Durable | None = None) -> None:
        """Tell subscribers."""
        self._voice.say(method, params, self.thread, after)

    def say_at_last(self, method: str, params: msgspec.Struct) -> None:
        """Tell subscribers behind `turn/completed`."""
        self._at_last.append((method, params))

    def begin(self) -> None:
        """The turn runs; `settled` waits until its beginning is on disk, or is not."""
        self._born = self._last = self._context.accepted.pop(self.turn.id, None)
        self.status(self._born)
        told = TurnNotification(self.thread.id, self.turn.running())
        self.say("turn/started", told, self._born)

    def status(self, after: Durable | None = None) -> None:
        """Tell the thread's status."""
        told = StatusChanged(self.thread.id, self.thread.status)
        self.say("thread/status/changed", told, after)

    def heard(self, entry: InputItem) -> None:
        """Input is taken; its row was written when it was accepted."""
        written = self._context.accepted.pop(entry.id, None)
        self._tell_started(msgspec.structs.replace(entry, completed_at_ms=None), written)
        self._tell_completed(entry, written)

    def started(self, item: ThreadItem, *, keep: bool) -> None:
        """An item begins; `keep` it when it may have effects before it is complete."""
        self._tell_started(item, self._put(item) if keep else None)

    def completed(self, item: ThreadItem) -> None:
        """An item is complete."""
        if isinstance(item, AgentMessageItem):
            self.turn.said(item)
        self._tell_completed(item, self._put(item))

    def changed(self, diff: str) -> None:
        """Files were changed: tell all that the turn changed so far."""
        self._diffs.append(diff)
        told = DiffUpdated(self.thread.id, self.turn.id, "".join(self._diffs))
        self.say("turn/diff/updated", told)

    def planned(self, explanation: str | None, steps: tuple[PlanStep, ...]) -> None:
        """The engine changed its list of what is to be done."""
        told = PlanUpdated(self.thread.id, self.turn.id, explanation, steps)
        self.say("turn/plan/updated", told)

    def warn(self, message: str) -> None:
        """Say something that the user should know of, and that does not end the turn."""
        self.say("warning", Warning_(message, self.thread.id))

    def new_id(self) -> str:
        """An id for an item that is not the engine's."""
        return self._context.new_id()

    def remember(self, entry: ToolCall | ToolOutput | CompactedHistory) -> None:
        """Write an entry that only engines see."""
        row = hidden_row(self.thread.id, self.turn.id, self.thread.next_item(), entry)
        self._last = self._context.keep(self.thread, PutItem(row))

    async def settled(self) -> None:
        """Wait until all is on disk or failed: one turn has few writes queued at any time."""
        if self._last is not None and not self._last.done():
            # Not the write itself is awaited: to cancel a turn takes no write back.
            over: Durable = asyncio.get_running_loop().create_future()

            def wake(_: Durable) -> None:
                if not over.done():
                    over.set_result(None)

            self._last.add_done_callback(wake)
            await over

    def retrying(self, error: TurnError) -> None:
        """A sample failed and is tried again."""
        told = ErrorNotification(error, True, self.thread.id, self.turn.id)  # noqa: FBT003
        self.say("error", told)

    def model_called(
        self, response_id: str, usage: TokenCounts, started_at_ms: int | None
    ) -> None:
        """A request to the model is over; told of where the thread, or who watches, asks."""
        asked = self.thread.raw_events
        if asked or self._context.gate.model_calls:
            told = RawResponseCompleted(
                self.thread.id,
                self.turn.id,
                response_id or f"resp_{self._context.new_id()}",
                self.thread.settings.model,
                usage,
                now_ms(),
                started_at_ms,
                unasked=not asked,
            )
            self.say("rawResponse/completed", told)

    def end(self) -> None:
        """The turn is over. One whose beginning was refused is not told of."""
        for entry in self.turn.take_input():
            self._context.accepted.pop(entry.id, None)
        finished = self.turn.finish(now_ms())
        self.thread.end(finished)
        if self.thread.broken:
            if not _failed(self._born):
                self.status()
                self._tell_end(finished, None, None)
        else:
            row = turn_row(self.thread.id, self.turn.ordinal, finished)
            mark = self._marked(finished)
            after = self._context.write(self.thread, PutTurn(row))
            if mark is not None and finished.error is None:
                self.say("thread/readState/changed", mark, after)
            told = StatusChanged(self.thread.id, self.thread.status)
            failed = StatusChanged(self.thread.id, SystemError_())
            self._voice.say("thread/status/changed", told, self.thread, after, failed)
            self._tell_end(finished, after, _lost(finished), mark)
        for method, params in self._at_last:
            self.say(method, params)

    def _marked(self, finished: Turn) -> ReadStateChanged | None:
        """There is something to read, unless the user was there and stopped it."""
        if finished.status == "interrupted" or self.thread.facts.ephemeral:
            return None
        state = self.thread.unread(self.turn.id, self._context.new_id())
        return ReadStateChanged(self.thread.id, state)

    def _tell_end(
        self,
        finished: Turn,
        after: Durable | None,
        lost: Turn | None,
        mark: ReadStateChanged | None = None,
    ) -> None:
        thread = self.thread
        if finished.error is not None:
            told = ErrorNotification(finished.error, False, thread.id, self.turn.id)  # noqa: FBT003
            self.say("error", told, after)
            if mark is not None:
                self.say("thread/readState/changed", mark, after)
        done = TurnNotification(thread.id, finished)
        otherwise = None if lost is None else TurnNotification(thread.id, lost)
        self._voice.say("turn/completed", done, thread, after, otherwise)

    def _tell_started(self, item: ThreadItem, after: Durable | None) -> None:
        told = ItemStarted(item, self.thread.id, self.turn.id, item.started_at_ms)
        self.say("item/started", told, after)

    def _tell_completed(self, item: ThreadItem, after: Durable | None) -> None:
        at_ms = item.completed_at_ms or now_ms()
        self.say("item/completed", ItemCompleted(item, self.thread.id, self.turn.id, at_ms), after)

    def _put(self, item: ThreadItem) -> Durable:
        row = item_row(self.thread.id, self.turn.id, self.thread.next_item(), item)
        self._last = self._context.keep(self.thread, PutItem(row))
        return self._last


def _failed(written: Durable | None) -> bool:
    if written is None or not written.done():
        return False
    return written.cancelled() or written.exception() is not None


def _lost(finished: Turn) -> Turn:
    """What is told when the end itself could not be written."""
    reason = TurnError("storage failed: the end of the turn was not written", "other")
    return msgspec.structs.replace(
        finished, items=(), items_view="notLoaded", status="failed", error=reason
    )
