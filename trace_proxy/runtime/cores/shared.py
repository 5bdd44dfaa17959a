"""The cores that clients share, over all their lives: started, restarted, given up.

When a core may start again and what becomes of what it held is decided by
`relay.shared.pool`; one process is `process`, the living ones are `processes`.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from trace_proxy.drain import Drain, State
from trace_proxy.protocol.envelope import decoded
from trace_proxy.relay.shared.hub import Hub
from trace_proxy.runtime.clients.clients import Clients
from trace_proxy.runtime.cores.process import CoreProcess
from trace_proxy.runtime.cores.processes import CoreOwner, Processes
from trace_proxy.state.core_session import CoreSession

STARVED_S: Final = 1.0
"""Between two tries to start a core where the machine has no room for a process."""

_log = structlog.get_logger("trace_proxy.core")


class SharedCores:
    """Runs the pool's processes.

    Args:
        hub: Who decides.
        processes: Where the living ones are.
        clients: Who hears what they say.
        drain: Nothing is restarted while we drain.
        command: What to start.
        work_changed: Called when a core's end may have ended work.
        no_core_left: Called when no core is up and none will be, with the reason.
    """

    def __init__(  # noqa: PLR0913 - the parts it is made of
        self,
        hub: Hub,
        processes: Processes,
        clients: Clients,
        drain: Drain,
        command: tuple[str, ...],
        *,
        work_changed: Callable[[], None],
        no_core_left: Callable[[str], None],
    ) -> None:
        self._hub = hub
        self._pool = hub.pool
        self._processes = processes
        self._clients = clients
        self._drain = drain
        self._command = command
        self._work_changed = work_changed
        self._no_core_left = no_core_left
        self._loop = asyncio.get_running_loop()
        self._draining = asyncio.Event()

    def __repr__(self) -> str:
        return f"<SharedCores {self._pool!r}>"

    async def run(self, core: CoreSession) -> None:
        """The lives of one core, until it has failed or the proxy stops."""
        while True:
            born_s = self._loop.time()
            code, why = await self._live(core)
            now_s = self._loop.time()
            delay_s = self._hub.core_lost(core, time.time_ns(), now_s, code, now_s - born_s)
            self._work_changed()
            if self._drain.state in (State.CLOSING, State.STOPPED):
                return
            _log.warning("core.exited", core=core.index, reason=why, restart_in_s=delay_s)
            if delay_s is None or await self._drain_begins(delay_s):
                self._given_up(core, why)
                return
            self._processes.metrics.core_restarts += 1

    async def _live(self, core: CoreSession) -> tuple[int | None, str]:
        """One life; returns its exit code and why it ended."""
        while True:
            owner = _SharedOwner(core, self._hub, self._processes, self._clients)
            process = CoreProcess(
                core.index, owner, self._processes.limits, self._processes.core_stderr
            )
            try:
                await process.start(self._command)
                break
            except OSError as error:  # no memory, no process, no descriptor left
                why = f"not started: {error.strerror}"
            # Not the core's fault, so no crash of it: clients that leave make room again.
            _log.warning("core.not_started", core=core.index, reason=why, again_in_s=STARVED_S)
            if await self._drain_begins(STARVED_S):
                return None, why
        self._processes.started(process)
        self._hub.core_started(core, time.time_ns())
        code = await process.wait()
        self._processes.ended(process)
        return code, process.epitaph()

    async def _drain_begins(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._draining.wait()
        except TimeoutError:
            return False
        return True

    def _given_up(self, core: CoreSession, why: str) -> None:
        """It will not start again; while draining that is as it should be."""
        if self._drain.state in (State.DRAINING, State.INTERRUPTING):
            # what waited for its return
            self._hub.core_lost(core, time.time_ns(), self._loop.time())
            self._work_changed()
        elif self._pool.failed:
            starting = self._drain.state is State.STARTING
            _log.error("cores.failed", reason=why)
            first = "cannot start the core" if starting else "a core does not stay up"
            self._no_core_left(f"{first}: {why}")

    def drain_began(self) -> None:
        """From now on nothing is restarted."""
        self._draining.set()


class _SharedOwner(CoreOwner):
    """Hears of a core of the pool: its lines are decoded together.

    Args:
        core: Whose process it is, not started yet.
        hub: Who takes what it says.
        processes: Where it lives.
        clients: Who hears what it says.
    """

    def __init__(
        self, core: CoreSession, hub: Hub, processes: Processes, clients: Clients
    ) -> None:
        super().__init__(core, hub, processes, clients)
        self._hub = hub

    def _take(self, lines: list[bytes], now_ns: int) -> None:
        rest = decoded(list(filter(bytes.strip, lines)))
        while not self._faulty:
            try:
                fault = self._hub.core_lines(self._core, rest, now_ns)
            except Exception:  # noqa: BLE001 - our bug with one line must not cost the next ones
                _log.exception("core.line_failed", core=self._core.index)
                continue
            if fault is None:
                return
            self._count(fault)
