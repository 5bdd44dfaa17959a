"""The steps of a drain, carried out: announce, wait, close, stop, flush, exit.

What comes when is decided by `drain`; here each command is done, one finished before
the next begins. Short ones at once, in the callback that commanded them; the closing
sequence in a task.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, cast

import msgspec
import structlog

from trace_proxy import drain_commands
from trace_proxy.drain import State
from trace_proxy.state.connection import Connection

if TYPE_CHECKING:
    from trace_proxy.runtime.supervisor import Supervisor

_log = structlog.get_logger("trace_proxy.drain")

_SLOW = (
    drain_commands.CloseConnections,
    drain_commands.StopCores,
    drain_commands.FlushSpans,
    drain_commands.CloseListeners,
)


IDLE_BATCH: Final = 64
"""Idle connections closed in one tick: their clients do not come back all at once."""


ANNOUNCED_S: Final = 1.0
"""For a turn to begin after the request for it was answered; cores take milliseconds."""


class DrainSteps:
    """Carries out the drain's commands.

    Attributes:
        exit_code: Known once everything is over.
        end_within: Ends the process with a code after some seconds, whatever hangs.
    """

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._closing: deque[drain_commands.Command] = deque()
        self._wake = asyncio.Event()
        self._interrupted: set[str] = set()
        self._announced_until_s: float | None = None
        self.exit_code: int | None = None
        self.end_within: Callable[[float, int], None] = lambda _within_s, _code: None

    def carry_out(self, todo: list[drain_commands.Command]) -> None:
        """Do the short ones now and hand the closing sequence to `run`."""
        for command in todo:
            if isinstance(command, _SLOW):
                self._closing.append(command)
                self._wake.set()
            else:
                self._at_once(command)

    def _at_once(self, command: drain_commands.Command) -> None:
        supervisor = self._supervisor
        match command:
            case drain_commands.AnnounceDraining():
                self._announce(command)
            case drain_commands.CloseIdleConnections():
                self._close_idle(command.code)
            case drain_commands.InterruptTurn():
                turn = supervisor.hub.board.turns.get(command.turn_id)
                if turn is not None:
                    supervisor.hub.board.interrupt(turn)
            case drain_commands.InterruptTurns():
                _log.warning("drain.deadline", turns=len(supervisor.hub.board.turns))
                for turn in supervisor.hub.board.turns:
                    supervisor.hub.board.interrupt(turn)
            case drain_commands.Exit():
                self.exit_code = command.code
                supervisor.stopped.set()
            case drain_commands.Force():
                supervisor.force(command.code)
            case drain_commands.EndWithin():
                self.end_within(command.within_s, command.code)
            case _:  # WakeAt: the tick is frequent enough
                pass

    def _announce(self, command: drain_commands.AnnounceDraining) -> None:
        supervisor = self._supervisor
        board = supervisor.hub.board
        supervisor.cores.drain_began()
        _log.info("drain.started", reason=command.reason, turns=len(board.turns))
        for connection in list(board.initialized.values()):
            if connection.session is not None and connection.session.experimental:
                params = {
                    "reason": command.reason,
                    "deadlineAt": self.deadline_at(),
                    "reconnectAfterMs": supervisor.reconnect_after_ms(),
                }
                line = msgspec.json.encode({"method": "server/draining", "params": params})
                board.deliver((connection,), "server/draining", line)

    def deadline_at(self) -> int | None:
        """When the rest will be interrupted, in Unix seconds like every `...At` on the wire."""
        left_s = self._supervisor.drain.details(self._loop.time())["deadline"]
        return None if left_s is None else round(time.time() + cast("float", left_s))

    def _close_idle(self, code: int) -> None:
        """Close some connections that have nothing to wait for; the next tick closes more."""
        supervisor = self._supervisor
        left = IDLE_BATCH
        for client in list(supervisor.clients.values()):
            connection = supervisor.hub.board.connections[client.key]
            if client.closing is None and not self._busy(connection):
                client.close(code, "restart")
                left -= 1
                if left == 0:
                    return

    def _busy(self, connection: Connection) -> bool:
        if connection.in_flight:
            return True
        running, announced = self._supervisor.hub.board.turns.of_thread, self._announced()
        return any(
            running(thread) is not None or thread in announced for thread in connection.threads
        )

    def work_changed(self) -> None:
        """Ask whether the last piece of work is done."""
        supervisor = self._supervisor
        if supervisor.drain.state not in (State.DRAINING, State.INTERRUPTING):
            return
        board = supervisor.hub.board
        turns = len(board.turns) + len(self._announced())
        unflushed = sum(client.unflushed_bytes for client in supervisor.clients.values())
        self.carry_out(supervisor.drain.work(turns, board.admission.requests, unflushed))

    def _announced(self) -> Collection[str]:
        """Threads whose turn is waited for though it has not begun; none of them for ever.

        A compaction is answered before its turn begins: between the two nothing seems to be
        left to do. But a core may also have found that there is nothing to compact.
        """
        threads = self._supervisor.hub.board.turns.announced
        now_s = self._loop.time()
        if not threads or self._announced_until_s is None:
            self._announced_until_s = now_s + ANNOUNCED_S
        return threads if now_s < self._announced_until_s else ()

    def tick(self, now_s: float) -> None:
        """Notice deadlines, idle connections and approvals that nobody can give."""
        supervisor = self._supervisor
        self.carry_out(supervisor.drain.tick(now_s))
        if supervisor.drain.state is State.DRAINING:
            self._close_idle(drain_commands.RESTART_CODE)
            self._interrupt_orphans()
        supervisor.metrics.drain_state = supervisor.drain.state.value
        self.work_changed()

    def _interrupt_orphans(self) -> None:
        board = self._supervisor.hub.board
        for asked in board.server_requests.pending():
            turn = None if asked.thread is None else board.turns.of_thread(asked.thread)
            if turn is None or turn.turn_id in self._interrupted:
                continue
            if not self._has_a_voice(turn.thread):
                self._interrupted.add(turn.turn_id)
                self.carry_out(self._supervisor.drain.approval_orphaned(turn.thread, turn.turn_id))

    def _has_a_voice(self, thread: str) -> bool:
        """Whether somebody who is asked, or will be as soon as it has resumed, could answer."""
        clients, board = self._supervisor.clients, self._supervisor.hub.board
        resuming = [
            pending.connection
            for core in board.cores
            for pending in core.router.requests()
            if pending.method == "thread/resume" and pending.thread == thread
        ]
        return any(
            each is not None and each.key in clients and not clients[each.key].input_ended
            for each in (*board.subscribers.of(thread), *resuming)
        )

    async def run(self) -> None:
        """The closing sequence, once it is commanded; ends with the process's exit code."""
        await self._wake.wait()
        while self._closing:
            command = self._closing.popleft()
            match command:
                case drain_commands.CloseConnections():
                    await self._close_connections(command)
                case drain_commands.StopCores():
                    await self._stop_cores(command)
                case drain_commands.FlushSpans():
                    await self._supervisor.telemetry.shutdown(command.within_s)
                case _:  # listeners: closed last, by who opened them
                    pass
        self.carry_out(self._supervisor.drain.closed())

    async def _close_connections(self, command: drain_commands.CloseConnections) -> None:
        supervisor = self._supervisor
        for client in list(supervisor.clients.values()):
            client.close(command.code, "restart")
        try:
            async with asyncio.timeout(command.peer_s):
                await supervisor.nobody.wait()
        except TimeoutError:
            for client in list(supervisor.clients.values()):
                client.abort()

    async def _stop_cores(self, command: drain_commands.StopCores) -> None:
        await self._supervisor.cores.stop(eof_s=command.eof_s, term_s=command.term_s)
