"""A core process for each client: it comes with the client and goes with it.

Started before the client's first message is read, ended when the client has left: end
of input, then TERM, then KILL. If it exits first, its client's connection is closed.
While its client is slow it is not read, so nothing is cut short that it says.
Nothing is restarted, and the task of each is a child of the task that serves its client.
`shared` looks after cores that are shared; `processes` holds the living ones of both.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from core_server.jsonrpc.framing import Oversized
from trace_proxy.drain_commands import StopCores
from trace_proxy.relay.per_connection.passthrough import PassThrough
from trace_proxy.runtime.clients.clients import Clients
from trace_proxy.runtime.cores.process import CoreProcess
from trace_proxy.runtime.cores.processes import CoreOwner, Processes
from trace_proxy.state.connection import Connection
from trace_proxy.state.core_session import CoreSession

_PATIENCE = StopCores()
"""A core gets as long when its client leaves as when the proxy stops."""

LOOK_S: Final = 0.01
"""How often a client that has enough is looked at: until then it has 0.5 MiB to take, so that
it never waits below 50 MB/s."""

_log = structlog.get_logger("trace_proxy.core")


class _PrivateOwner(CoreOwner):
    """Hears of a core whose only client may be slow: then the core has to wait.

    Args:
        core: The core, not started yet.
        machine: Who takes what it says.
        processes: Where it lives.
        clients: Where its client is.
    """

    def __init__(
        self, core: CoreSession, machine: PassThrough, processes: Processes, clients: Clients
    ) -> None:
        super().__init__(core, machine, processes)
        self._pass_through = machine
        self._clients = clients.by_key
        self._key = core.index
        self._loop = asyncio.get_running_loop()
        limits = processes.limits
        self._most_bytes = limits.soft_client_queue_bytes // 2
        self._most_messages = limits.soft_client_queue_messages // 2
        self.process = CoreProcess(core.index, self, limits, processes.core_stderr)

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
                fault = self._pass_through.core_line(self._core, line, now_ns)
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
    """Starts and ends the cores of `--sessions per-connection`.

    Args:
        machine: Who decides.
        processes: Where the living ones are.
        clients: Whose cores they are.
        command: What to start.
        work_changed: Called when a core's end may have ended work.
        no_core_left: Called with the reason when the core of the only client fails.
    """

    def __init__(
        self,
        machine: PassThrough,
        processes: Processes,
        clients: Clients,
        command: tuple[str, ...],
        *,
        work_changed: Callable[[], None],
        no_core_left: Callable[[str], None],
    ) -> None:
        self._machine = machine
        self._processes = processes
        self._clients = clients
        self._command = command
        self._work_changed = work_changed
        self._no_core_left = no_core_left

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
        core = self._machine.core_of(connection)
        process = _PrivateOwner(core, self._machine, self._processes, self._clients).process
        try:
            await process.start(self._command)
        except OSError as error:  # no memory, no process, no descriptor left
            _log.error("core.not_started", core=core.index, reason=error.strerror)
            self._clients.close(connection, 1011, "the core cannot be started")
            await converse()
            return
        self._processes.started(process)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._live(core, process, alone=alone))
            try:
                self._machine.core_started(core)
                await converse()
            finally:
                await process.stop(eof_s=_PATIENCE.eof_s, term_s=_PATIENCE.term_s)

    async def _live(self, core: CoreSession, process: CoreProcess, *, alone: bool) -> None:
        """Wait for the end of a core, whoever ends it."""
        code = await process.wait()
        self._processes.ended(process)
        log = _log.info if process.ending or code == 0 else _log.warning
        log("core.exited", core=core.index, exit_code=code, stopped=process.ending)
        self._machine.core_lost(core, code, time.time_ns())
        if alone and code and not process.ending:
            self._no_core_left(f"the core ended: {process.epitaph()}")
        self._work_changed()
