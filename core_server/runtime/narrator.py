"""Tells a turn's story: to the client as notifications, to the store as rows.

An item is told of when it is durable; deltas have no row. When a write fails, the thread
is broken: nothing more is written, the turn is stopped, and it ends as failed with that
reason, which is the one thing a client hears without a row behind it (else it would wait
for ever; a later `thread/resume` shows the turn as interrupted).
"""

import asyncio
from collections.abc import Callable

import msgspec

from core_server.engines.base import CompactedHistory, ToolCall, ToolOutput
from core_server.handlers.context import Context
from core_server.handlers.rows import hidden_row, item_row, turn_row
from core_server.logs import logger
from core_server.protocol.items import AgentMessageItem, InputItem, ThreadItem
from core_server.protocol.threads import StatusChanged
from core_server.protocol.turns import (
    ErrorNotification,
    ItemCompleted,
    ItemStarted,
    TurnError,
    TurnNotification,
)
from core_server.runtime.outbox import Durable
from core_server.runtime.voice import Voice, now_ms
from core_server.session.thread import ThreadMachine
from core_server.session.turn import TurnMachine
from core_server.storage.base import Operation, PutItem, PutTurn


class Narrator:
    """The voice of one turn.

    Args:
        context: The core.
        voice: To the client.
        thread: The turn's thread.
        turn: The turn.
        on_broken: Called when a write failed.
    """

    def __init__(
        self,
        context: Context,
        voice: Voice,
        thread: ThreadMachine,
        turn: TurnMachine,
        on_broken: Callable[[], None],
    ) -> None:
        self._context = context
        self._voice = voice
        self.thread = thread
        self.turn = turn
        self._on_broken = on_broken
        self._at_last: list[tuple[str, msgspec.Struct]] = []

    def say(self, method: str, params: msgspec.Struct, after: Durable | None = None) -> None:
        """Tell subscribers."""
        self._voice.say(method, params, self.thread, after)

    def say_at_last(self, method: str, params: msgspec.Struct) -> None:
        """Tell subscribers behind `turn/completed`."""
        self._at_last.append((method, params))

    def begin(self) -> None:
        """The turn runs; its row is written already."""
        self.status()
        self.say("turn/started", TurnNotification(self.thread.id, self.turn.running()))

    def status(self, after: Durable | None = None) -> None:
        """Tell the thread's status."""
        self.say("thread/status/changed", StatusChanged(self.thread.id, self.thread.status), after)

    def heard(self, entry: InputItem) -> None:
        """Input is taken; its row was written when it was accepted."""
        self.started(msgspec.structs.replace(entry, completed_at_ms=None), keep=False)
        self._tell_completed(entry, None)

    def started(self, item: ThreadItem, *, keep: bool) -> None:
        """An item begins; `keep` it when it may have effects before it is complete."""
        after = self._put(item) if keep else None
        told = ItemStarted(item, self.thread.id, self.turn.id, item.started_at_ms)
        self.say("item/started", told, after)

    def completed(self, item: ThreadItem, *hidden: ToolCall | ToolOutput) -> None:
        """An item is complete; entries that only engines see are written with it."""
        if isinstance(item, AgentMessageItem):
            self.turn.said(item)
        self._tell_completed(item, self._put(item, *hidden))

    def remember(self, entry: ToolCall | ToolOutput | CompactedHistory) -> None:
        """Write an entry that only engines see."""
        self._write(self._hidden(entry))

    def retrying(self, error: TurnError) -> None:
        """A sample failed and is tried again."""
        told = ErrorNotification(error, True, self.thread.id, self.turn.id)  # noqa: FBT003
        self.say("error", told)

    def end(self) -> None:
        """The turn is over."""
        finished = self.turn.finish(now_ms())
        self.thread.end(finished)
        after = None
        otherwise = None
        if not self.thread.broken:
            row = turn_row(self.thread.id, self.turn.ordinal, finished)
            after = self._watched(self._context.write(self.thread, PutTurn(row)))
            reason = TurnError("storage failed: the end of the turn was not written", "other")
            lost = msgspec.structs.replace(
                finished, items=(), items_view="notLoaded", status="failed", error=reason
            )
            otherwise = TurnNotification(self.thread.id, lost)
        self.status(after)
        if finished.error is not None:
            told = ErrorNotification(finished.error, False, self.thread.id, self.turn.id)  # noqa: FBT003
            self.say("error", told, after)
        self._voice.say(
            "turn/completed",
            TurnNotification(self.thread.id, finished),
            self.thread,
            after,
            otherwise,
        )
        for method, params in self._at_last:
            self.say(method, params)

    def _tell_completed(self, item: ThreadItem, after: Durable | None) -> None:
        at_ms = item.completed_at_ms or now_ms()
        self.say("item/completed", ItemCompleted(item, self.thread.id, self.turn.id, at_ms), after)

    def _put(self, item: ThreadItem, *hidden: ToolCall | ToolOutput) -> Durable | None:
        row = item_row(self.thread.id, self.turn.id, self.thread.next_item(), item)
        return self._write(PutItem(row), *(self._hidden(entry) for entry in hidden))

    def _hidden(self, entry: ToolCall | ToolOutput | CompactedHistory) -> PutItem:
        return PutItem(hidden_row(self.thread.id, self.turn.id, self.thread.next_item(), entry))

    def _write(self, *operations: Operation) -> Durable | None:
        if self.thread.broken:
            return _never()
        return self._watched(self._context.store_of(self.thread).write(operations))

    def _watched(self, written: object) -> Durable:
        assert isinstance(written, asyncio.Future)
        written.add_done_callback(self._check)
        return written

    def _check(self, written: Durable) -> None:
        if written.cancelled() or (error := written.exception()) is None:
            return
        if not self.thread.broken:
            logger().error("core.write_failed", thread=self.thread.id, error=str(error))
            self.thread.break_off(str(error))
            self.turn.stop(TurnError(str(self.thread.storage_error()), "other"))
            self._on_broken()


def _never() -> Durable:
    """A write that failed already: what waits for it is not told."""
    failed: Durable = asyncio.get_running_loop().create_future()
    failed.cancel()
    return failed
