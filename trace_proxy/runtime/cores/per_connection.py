"""A core process for each client: it comes with the client and goes with it.

Started before the client's first message is read, ended when the client has left: end
of input, then TERM, then KILL. If it exits first, its client's connection is closed.
While its client is slow it is not read, so nothing is cut short that it says.
Nothing is restarted, and the task of each is a child of the task that serves its client.
`cores` looks after cores that are shared, and holds the living processes of both.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog

from core_server.jsonrpc.framing import Oversized
from trace_proxy.drain_commands import StopCores
from trace_proxy.relay.per_connection.passthrough import PassThrough
from trace_proxy.runtime.cores.process import CoreProcess
from trace_proxy.runtime.cores.shared import CoreOwner
from trace_proxy.state.connection import Connection
from trace_proxy.state.core_session import CoreSession

if TYPE_CHECKING:
    from trace_proxy.runtime.supervisor import Supervisor

_PATIENCE = StopCores()
"""A core gets as long when its client leaves as when the proxy stops."""

LOOK_S: Final = 0.01
"""How often a client that has enough is looked at: until then it has 0.5 MiB to take, so that
it never waits below 50 MB/s."""

_log = structlog.get_logger("trace_proxy.core")


class _PrivateOwner(CoreOwner):
    """Hears of a core whose only client may be slow: then the core has to wait.

    Args:
        supervisor: Whose clients they are.
        machine: Who hears of its lines.
        core: The core.
    """

    def __init__(self, supervisor: "Supervisor", machine: PassThrough, core: CoreSession) -> None:
        super().__init__(supervisor, core)
        self._machine = machine
        limits = supervisor.config.limits
        self._clients = supervisor.clients
        self._key = core.index
        self._loop = asyncio.get_running_loop()
        self._most_bytes = limits.soft_client_queue_bytes // 2
        self._most_messages = limits.soft_client_queue_messages // 2
        self.process = CoreProcess(core.index, self, limits)

    def core_lines(self, lines: list[bytes | Oversized]) -> None:
        """Hand lines on; stop reading while the client has enough to take."""
        super().core_lines(lines)
        if self._client_is_full:
            self.process.pause_output(paused=True)
            self._loop.call_later(LOOK_S, self._look)

    def _take(self, lines: list[bytes], now_ns: int) -> None:
        """Give the machine lines, one by one: it passes on whatever they are."""
        for line in filter(None, lines):
            try:
                fault = self._machine.core_line(self._core, line, now_ns)
            except Exception:  # noqa: BLE001 - our bug with one line must not cost the next ones
                _log.exception("core.line_failed", core=self._core.index, bytes=len(line))
                continue
            if fault is not None:
                self._count(fault)
                if self._faulty:
                    return

    @property
    def _client_is_full(self) -> bool:
        client = self._clients.get(self._key)
        return client is not None and (
            client.unflushed_bytes > self._most_bytes
            or client.queue.messages > self._most_messages
        )

    def _look(self) -> None:
        if self._client_is_full:
            self._loop.call_later(LOOK_S, self._look)
        else:
            self.process.pause_output(paused=False)


class PrivateCores:
    """Starts and ends the cores of `--sessions per-connection`."""

    def __init__(self, supervisor: "Supervisor", machine: PassThrough) -> None:
        self._supervisor = supervisor
        self._machine = machine

    async def serve(
        self,
        connection: Connection,
        converse: Callable[[], Awaitable[None]],
        *,
        alone: bool = False,
    ) -> None:
        """Serve a client with its core beside it; returns when both are gone.

        Args:
            connection: The client, not served yet.
            converse: Serves it until it has left.
            alone: Nobody else will ever come: a core that fails is the proxy's failure.
        """
        supervisor, core = self._supervisor, self._machine.core_of(connection)
        process = _PrivateOwner(supervisor, self._machine, core).process
        try:
            await process.start(supervisor.config.pool.command)
        except OSError as error:  # no memory, no process, no descriptor left
            _log.error("core.not_started", core=core.index, reason=error.strerror)
            supervisor.close(connection, 1011, "the core cannot be started")
            await converse()
            return
        supervisor.cores.started(process)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._live(core, process, alone=alone))
            try:
                self._machine.core_started(core)
                await converse()
            finally:
                await process.stop(eof_s=_PATIENCE.eof_s, term_s=_PATIENCE.term_s)

    async def _live(self, core: CoreSession, process: CoreProcess, *, alone: bool) -> None:
        """Wait for the end of a core, whoever ends it."""
        supervisor = self._supervisor
        code = await process.wait()
        supervisor.cores.ended(process)
        log = _log.info if process.ending or code == 0 else _log.warning
        log("core.exited", core=core.index, exit_code=code, stopped=process.ending)
        self._machine.core_lost(core, code, time.time_ns())
        if alone and code and not process.ending:
            supervisor.no_core_left(
                f"the core ended with code {code}; run the command after -- by hand to see why"
            )
        supervisor.steps.work_changed()
