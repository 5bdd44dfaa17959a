"""All running turns: a task each, below the server's one TaskGroup."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from core_server.context import Context, Trace, Work
from core_server.engines.base import HistoryEntry, TextPart, UserMessage
from core_server.logs import logger
from core_server.outgoing.notifier import Voice, now_ms
from core_server.outgoing.outbox import Outbox
from core_server.protocol.threads import SampleParams, SampleResult, StatusChanged
from core_server.protocol.turns import TurnError, TurnNotification
from core_server.records import history_of
from core_server.session.thread import ThreadMachine
from core_server.session.turn import TurnMachine
from core_server.turns.approvals import Approvals
from core_server.turns.report import Narrator
from core_server.turns.runner import INTERNAL, TurnRunner, prompt_of
from core_server.turns.sample import Sample
from core_server.turns.tool_context import Bench

MAX_HISTORIES: Final = 64
"""Kept in memory between turns; others are read from the store when their turn comes."""

INTERRUPT_S: Final = 1.0
"""How long turns get to end when the client is gone; below the 1.5 s that the whole
end may take, because the official client kills 2 s after its SIGTERM."""


class TurnTasks:
    """Starts turns, wakes them, ends them; see `context.Turns`."""

    def __init__(
        self, outbox: Outbox, voice: Voice, approvals: Approvals, group: asyncio.TaskGroup
    ) -> None:
        self._outbox = outbox
        self._voice = voice
        self._approvals = approvals
        self._group = group
        self._context: Context | None = None
        self._runners: dict[str, TurnRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._histories: OrderedDict[str, list[HistoryEntry]] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<TurnTasks running={len(self._tasks)}>"

    @property
    def running(self) -> int:
        """Turns that run."""
        return len(self._tasks)

    def serve(self, context: Context) -> None:
        """Say which core it is for, once."""
        self._context = context

    def run(self, thread: ThreadMachine, turn: TurnMachine, work: Work) -> None:
        """Begin a turn that was accepted."""
        self._idle.clear()
        task = self._group.create_task(self._run(thread, turn, work))
        self._tasks[turn.id] = task
        task.add_done_callback(lambda _: self._ended(turn.id))

    def wake(self, thread: ThreadMachine) -> None:
        """Input joined, or the turn shall stop."""
        if thread.turn is not None and (runner := self._runners.get(thread.turn.id)):
            runner.wake()

    async def ended(self, thread: ThreadMachine) -> None:
        """Wait until no turn runs in the thread."""
        if thread.turn is not None and (task := self._tasks.get(thread.turn.id)):
            await asyncio.wait([task])

    async def aside(
        self, thread: ThreadMachine, params: SampleParams, trace: Trace
    ) -> SampleResult:
        """Ask the engine with what was said in the thread and one message more.

        Nothing of it is told, written or done: it leaves no trace in the thread.

        Raises:
            EngineError: it failed for good.
        """
        context = self._context
        assert context is not None, "serve() comes first"
        history = [
            *await self._history(context, thread, None),
            UserMessage((TextPart(params.prompt),)),
        ]
        work = Work(traceparent=trace.traceparent or "", tracestate=trace.tracestate or "")
        prompt = prompt_of(thread.settings, history, work)
        if params.effort is not None:
            prompt = msgspec.structs.replace(prompt, effort=params.effort)
        sample = Sample(None, self._outbox, [])
        await sample.take(context.engine, prompt)
        used = sample.usage
        return SampleResult(
            params.expected_turn_id,
            sample.response_id or f"resp_{context.new_id()}",
            sample.text or None,
            None if used is None else used.input_tokens,
            None if used is None else used.cached_input_tokens,
            None if used is None else used.output_tokens,
        )

    def inject(self, thread: ThreadMachine, entries: Sequence[HistoryEntry]) -> None:
        """Something was put into the history of a thread: the kept one has it too."""
        if (known := self._histories.get(thread.id)) is not None:
            known.extend(entries)

    def forget(self, thread_id: str) -> None:
        """Drop the history of a thread that is unloaded."""
        self._histories.pop(thread_id, None)

    async def idle(self) -> None:
        """Wait until no turn runs."""
        await self._idle.wait()

    async def interrupt_all(self) -> None:
        """End all turns as interrupted, the slow ones by force."""
        assert self._context is not None, "serve() comes first"
        for thread in self._context.threads.values():
            if thread.turn is not None:
                thread.turn.stop()
                self.wake(thread)
        try:
            async with asyncio.timeout(INTERRUPT_S):
                await self.idle()
        except TimeoutError:
            for task in self._tasks.values():
                task.cancel()

    async def _run(self, thread: ThreadMachine, turn: TurnMachine, work: Work) -> None:
        try:
            assert self._context is not None, "serve() comes first"
            narrator = Narrator(self._context, self._voice, thread, turn)
            bench = Bench(self._context, narrator, self._outbox, self._approvals, work)
            runner = TurnRunner(bench, partial(self._history, self._context, thread, turn))
            self._runners[turn.id] = runner
            await runner.run()
        except Exception as error:  # noqa: BLE001 - one turn's fault is one turn's
            logger().error("core.turn_failed", turn=turn.id, exc_info=error)
            self._abandon(thread, turn)
        finally:
            self._runners.pop(turn.id, None)

    def _abandon(self, thread: ThreadMachine, turn: TurnMachine) -> None:
        """End a turn whose end could not be told as it should be: with nothing but the fact.

        It is not written, so the thread is read-only until it is resumed, and what is on
        disk is then the truth.
        """
        reason = TurnError(INTERNAL, "internalServerError")
        turn.stop(reason)
        finished = turn.finish(now_ms())
        told = msgspec.structs.replace(
            finished, status="failed", error=reason, items=(), items_view="notLoaded"
        )
        if thread.turn is turn:
            thread.end(told)
        thread.break_off("a turn ended by a fault of this server")
        try:
            status = StatusChanged(thread.id, thread.status)
            self._voice.say("thread/status/changed", status, thread)
            self._voice.say("turn/completed", TurnNotification(thread.id, told), thread)
        except Exception as error:  # noqa: BLE001 - nothing is left to tell it by
            logger().error("core.turn_lost", turn=turn.id, exc_info=error)

    async def _history(
        self, context: Context, thread: ThreadMachine, turn: TurnMachine | None
    ) -> list[HistoryEntry]:
        """What was said before this turn: read once, then kept while the thread is loaded."""
        if (known := self._histories.get(thread.id)) is None:
            rows = await context.store_of(thread).items(thread.id)
            known = history_of(
                tuple(row for row in rows if turn is None or row.turn_id != turn.id),
                thread.injected,
            )
            if turn is None:
                return known
            self._histories[thread.id] = known
        self._histories.move_to_end(thread.id)
        if len(self._histories) > max(MAX_HISTORIES, len(self._tasks)):
            self._histories.popitem(last=False)
        return known

    def _ended(self, turn_id: str) -> None:
        del self._tasks[turn_id]
        if not self._tasks:
            self._idle.set()
