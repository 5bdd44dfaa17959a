"""The steps of a drain, carried out: announce, wait, close, stop, flush, exit.

What comes when is decided by `drain`; here each command is done, one finished before
the next begins. Short ones at once, in the callback that commanded them; the closing
sequence in a task.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, cast

import msgspec
import structlog

from trace_proxy.drain import (
    RESTART_CODE,
    AnnounceDraining,
    AtOnce,
    CloseConnections,
    CloseIdleConnections,
    Closing,
    Command,
    Drain,
    EndWithin,
    Exit,
    FlushSpans,
    Force,
    InterruptTurn,
    InterruptTurns,
    State,
    StopCores,
    waiting_for,
)
from trace_proxy.relay.per_connection.passthrough import PassThrough
from trace_proxy.relay.shared.hub import Hub
from trace_proxy.runtime.clients.clients import Clients
from trace_proxy.runtime.cores.processes import Processes
from trace_proxy.runtime.telemetry.setup import Telemetry
from trace_proxy.state.connection import Connection

_log = structlog.get_logger("trace_proxy.drain")

IDLE_BATCH: Final = 64
"""Idle connections closed in one tick: their clients do not come back all at once."""

ANNOUNCED_S: Final = 1.0
"""For a turn to begin after the request for it was answered; cores take milliseconds."""

_COME_BACK_MS: Final = (500, 3000)
"""A random time between these, so that clients do not come back as a herd."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What a drain does to the process as a whole.

    Attributes:
        drain_began: Called once: from now on no core is restarted.
        end_within: Ends the process with a code after some seconds, whatever hangs.
        force: Ends it with a code now.
        over: Called when all is done.
    """

    drain_began: Callable[[], None]
    end_within: Callable[[float, int], None]
    force: Callable[[int], None]
    over: Callable[[], None]


class DrainSteps:
    """Carries out the drain's commands.

    Args:
        drain: Who decides.
        machine: What works, and interrupts it.
        clients: Who is told and closed.
        processes: What is stopped.
        telemetry: What is flushed.
        ending: What it does to the process.

    Attributes:
        exit_code: Known once everything is over.
    """

    def __init__(
        self,
        drain: Drain,
        machine: Hub | PassThrough,
        clients: Clients,
        processes: Processes,
        telemetry: Telemetry,
        ending: Ending,
    ) -> None:
        self._drain = drain
        self._machine = machine
        self._board = machine.board
        self._clients = clients
        self._processes = processes
        self._telemetry = telemetry
        self._ending = ending
        self._loop = asyncio.get_running_loop()
        self._closing: deque[Closing] = deque()
        self._wake = asyncio.Event()
        self._interrupted: set[str] = set()
        self._announced_until_s: float | None = None
        self.exit_code: int | None = None

    def __repr__(self) -> str:
        return f"<DrainSteps {self._drain!r} exit_code={self.exit_code}>"

    def carry_out(self, todo: list[Command]) -> None:
        """Do the short ones now and hand the closing sequence to `run`."""
        for command in todo:
            if isinstance(command, Closing):
                self._closing.append(command)
                self._wake.set()
            else:
                self._at_once(command)

    def _at_once(self, command: AtOnce) -> None:
        turns = self._board.turns
        match command:
            case AnnounceDraining():
                self._announce(command)
            case CloseIdleConnections():
                self._close_idle(command.code)
            case InterruptTurn():
                turn = turns.get(command.turn_id)
                if turn is not None:
                    self._machine.interrupt(turn)
            case InterruptTurns():
                requests = self._board.in_flight
                _log.warning("drain.deadline", turns=len(turns), requests=requests)
                self._machine.deadline()
            case Exit():
                self.exit_code = command.code
                self._ending.over()
            case Force():
                self._ending.force(command.code)
            case EndWithin():
                self._ending.end_within(command.within_s, command.code)

    def _announce(self, command: AnnounceDraining) -> None:
        board = self._board
        self._ending.drain_began()
        left_s = self._drain.details(self._loop.time())["deadline"]
        turns, requests = len(board.turns), board.admission.requests
        _log.info(
            "drain.started",
            reason=command.reason,
            turns=turns,
            hint=waiting_for(turns, requests, cast("float | None", left_s)),
        )
        for connection in list(board.initialized.values()):
            session = connection.session
            if session is None or not connection.peer.websocket:  # who cannot come back
                continue
            if session.experimental:
                params = {
                    "reason": command.reason,
                    "deadlineAt": self.deadline_at(),
                    "reconnectAfterMs": random.randint(*_COME_BACK_MS),  # noqa: S311 - no secret
                }
                line = msgspec.json.encode({"method": "server/draining", "params": params})
                board.deliver((connection,), "server/draining", line)

    def deadline_at(self) -> int | None:
        """When the rest will be interrupted, in Unix seconds like every `...At` on the wire."""
        left_s = self._drain.details(self._loop.time())["deadline"]
        return None if left_s is None else round(time.time() + cast("float", left_s))

    def _close_idle(self, code: int) -> None:
        """Close some connections that have nothing to wait for; the next tick closes more."""
        left = IDLE_BATCH
        for client in list(self._clients.by_key.values()):
            connection = self._board.connections[client.key]
            if client.closing is None and not self._busy(connection):
                client.close(code, "restart")
                left -= 1
                if left == 0:
                    return

    def _busy(self, connection: Connection) -> bool:
        if connection.in_flight:
            return True
        if self._board.releasing and connection.threads:
            return True  # whoever comes back elsewhere shall find the threads free
        running, announced = self._board.turns.of_thread, self._announced()
        return any(
            running(thread) is not None or thread in announced for thread in connection.threads
        )

    def work_changed(self) -> None:
        """Ask whether the last piece of work is done."""
        if self._drain.state not in (State.DRAINING, State.INTERRUPTING):
            return
        board = self._board
        turns = board.work + len(self._announced())
        todo = self._drain.work(
            turns, board.admission.requests + board.releasing, self._clients.unflushed_bytes
        )
        self.carry_out(todo)

    def _announced(self) -> Collection[str]:
        """Threads whose turn is waited for though it has not begun; none of them for ever.

        A compaction is answered before its turn begins: between the two nothing seems to be
        left to do. But a core may also have found that there is nothing to compact.
        """
        threads = self._board.turns.announced
        now_s = self._loop.time()
        if not threads or self._announced_until_s is None:
            self._announced_until_s = now_s + ANNOUNCED_S
        return threads if now_s < self._announced_until_s else ()

    def tick(self, now_s: float) -> None:
        """Notice deadlines, idle connections and approvals that nobody can give."""
        self.carry_out(self._drain.tick(now_s))
        if self._drain.state is State.DRAINING:
            self._close_idle(RESTART_CODE)
            self._interrupt_orphans()
        self.work_changed()

    def _interrupt_orphans(self) -> None:
        board = self._board
        for asked in board.server_requests.pending():
            turn = None if asked.thread is None else board.turns.of_thread(asked.thread)
            if turn is None or turn.turn_id in self._interrupted:
                continue
            if not self._has_a_voice(turn.thread):
                self._interrupted.add(turn.turn_id)
                self.carry_out(self._drain.approval_orphaned(turn.thread, turn.turn_id))

    def _has_a_voice(self, thread: str) -> bool:
        """Whether somebody who is asked, or will be as soon as it has resumed, could answer."""
        clients, board = self._clients.by_key, self._board
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
                case CloseConnections():
                    await self._close_connections(command)
                case StopCores():
                    await self._processes.stop(eof_s=command.eof_s, term_s=command.term_s)
                case FlushSpans():
                    await self._telemetry.shutdown(command.within_s)
        self.carry_out(self._drain.closed())

    async def _close_connections(self, command: CloseConnections) -> None:
        self._machine.end_turns()  # of cores that did not say so, though they were asked to
        for client in list(self._clients.by_key.values()):
            client.close(command.code, "restart")
        try:
            async with asyncio.timeout(command.peer_s):
                await self._clients.nobody.wait()
        except TimeoutError:
            for client in list(self._clients.by_key.values()):
                client.abort()
