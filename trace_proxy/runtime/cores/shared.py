"""The processes of the pool: started, watched, restarted, given up, killed.

When a core may start again and what becomes of what it held is decided by `pool`; one
process is `core_process`. A core that takes no input and says nothing has hung and is
ended, then goes the way of one that crashed.
"""

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Final

import structlog

from core_server.jsonrpc.framing import Oversized
from trace_proxy.drain import State
from trace_proxy.protocol.envelope import decoded
from trace_proxy.relay.shared.hub import Hub
from trace_proxy.relay.shared.pool import Pool
from trace_proxy.runtime.cores.orphans import Keeping
from trace_proxy.runtime.cores.process import CoreProcess
from trace_proxy.state.core_session import CoreSession, CoreState, Fault

if TYPE_CHECKING:
    from trace_proxy.runtime.supervisor import Supervisor

HUNG_TERM_S: Final = 2.0
"""For a hung core to end after TERM; then KILL."""

_log = structlog.get_logger("trace_proxy.core")


class Cores:
    """The living processes, by the place of their core in the pool."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._draining = asyncio.Event()
        self._keeping = Keeping()
        self.processes: dict[int, CoreProcess] = {}

    def __repr__(self) -> str:
        return f"<Cores {list(self.processes.values())!r}>"

    @property
    def _pool(self) -> Pool:
        hub = self._supervisor.hub
        assert isinstance(hub, Hub), "a core of one client only is in no pool"
        return hub.pool

    async def run(self, core: CoreSession) -> None:
        """The lives of one core, until it has failed or the proxy stops."""
        supervisor = self._supervisor
        while True:
            why = await self._live(core)
            supervisor.hub.board.now_ns = time.time_ns()
            delay_s = self._pool.lost(core, self._loop.time())
            supervisor.steps.work_changed()
            if supervisor.drain.state in (State.CLOSING, State.STOPPED):
                return
            _log.warning("core.exited", core=core.index, reason=why, restart_in_s=delay_s)
            if delay_s is None or await self._drain_begins(delay_s):
                self._given_up(core, why)
                return
            supervisor.metrics.core_restarts += 1

    async def _live(self, core: CoreSession) -> str:
        """One life; returns why it ended."""
        supervisor = self._supervisor
        process = CoreProcess(core.index, CoreOwner(supervisor, core), supervisor.config.limits)
        try:
            await process.start(supervisor.config.pool.command)
        except OSError as error:  # no memory, no process, no descriptor left
            return f"not started: {error.strerror}"
        self.started(process)
        supervisor.hub.board.now_ns = time.time_ns()
        self._pool.started(core)
        code = await process.wait()
        self.ended(process)
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def started(self, process: CoreProcess) -> None:
        """A process runs: it can be written to and killed."""
        self.processes[process.index] = process
        self._keeping.started(process.pid)
        _log.info("core.started", core=process.index, pid=process.pid)

    def ended(self, process: CoreProcess) -> None:
        """It is gone."""
        del self.processes[process.index]
        self._keeping.ended(process.pid)

    async def _drain_begins(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._draining.wait()
        except TimeoutError:
            return False
        return True

    def _given_up(self, core: CoreSession, why: str) -> None:
        """It will not start again; while draining that is as it should be."""
        supervisor = self._supervisor
        if supervisor.drain.state in (State.DRAINING, State.INTERRUPTING):
            self._pool.lost(core, self._loop.time())  # what waited for its return
            supervisor.steps.work_changed()
        elif self._pool.failed:
            first = (
                "no core starts"
                if supervisor.drain.state is State.STARTING
                else "no core stays up"
            )
            _log.error("cores.failed", reason=why)
            supervisor.no_core_left(f"{first}: {why}; run the command after -- by hand to see why")

    def drain_began(self) -> None:
        """From now on nothing is restarted."""
        self._draining.set()

    def faulty(self, core: CoreSession, why: str) -> None:
        """Kill a core that broke the protocol beyond repair."""
        process = self.processes.get(core.index)
        if process is not None:
            _log.error("core.faulty", core=core.index, reason=why)
            self._supervisor.metrics.core_faults.add("fatal")
            process.kill_group(signal.SIGKILL)

    def tick(self, now_s: float) -> None:
        """Look for a core that has hung: it takes no input, or never says hello."""
        limits, cores = self._supervisor.config.limits, self._supervisor.hub.board.cores
        for process in self.processes.values():
            if process.ending:
                continue
            since_s = process.greeted_at_s
            late = (
                since_s is not None
                and now_s - since_s >= limits.core_start_timeout_s
                and any(each.index == process.index and _starting(each) for each in cores)
            )
            if late or process.stalled_s(now_s) >= limits.core_stall_s:
                why = "no answer to initialize" if late else "input not taken"
                unread = process.unread_bytes
                _log.error("core.hung", core=process.index, reason=why, unread_bytes=unread)
                self._supervisor.metrics.core_faults.add("hung")
                process.end(HUNG_TERM_S)

    async def stop(self, *, eof_s: float, term_s: float) -> None:
        """End all of them, politely first, in parallel."""
        async with asyncio.TaskGroup() as tasks:
            for process in list(self.processes.values()):
                tasks.create_task(process.stop(eof_s=eof_s, term_s=term_s))

    def kill_all(self) -> None:
        """Kill every core and all its descendants, at once; safe from any thread."""
        for process in list(self.processes.values()):
            process.kill_group(signal.SIGKILL)
        self._keeping.kill_all()


def _starting(core: CoreSession) -> bool:
    return core.state is CoreState.STARTING


class CoreOwner:
    """Hears of one core process in one epoch; what an older one still says is dropped."""

    def __init__(self, supervisor: "Supervisor", core: CoreSession) -> None:
        self._supervisor = supervisor
        self._core = core
        self._epoch = core.epoch + 1
        self._faults: list[float] = []
        self._faulty = False

    def core_lines(self, lines: list[bytes | Oversized]) -> None:
        """Lines of the core."""
        core, supervisor = self._core, self._supervisor
        metrics = supervisor.metrics
        if core.epoch != self._epoch or core.state is CoreState.DOWN or self._faulty:
            return
        metrics.messages_from_cores += len(lines)
        metrics.bytes_from_cores += sum(map(len, lines))
        whole = [line for line in lines if type(line) is bytes]
        if len(whole) == len(lines):
            self._take(whole, time.time_ns())
            return
        oversized = next(i for i, line in enumerate(lines) if isinstance(line, Oversized))
        self._take(whole[:oversized], time.time_ns())
        self._give_up("line over --max-core-line-bytes")

    def _take(self, lines: list[bytes], now_ns: int) -> None:
        """Give the hub lines; after one that is no good it gets the rest."""
        hub = self._supervisor.hub
        assert isinstance(hub, Hub)
        rest = decoded(list(filter(None, lines)))
        while not self._faulty:
            try:
                fault = hub.core_lines(self._core, rest, now_ns)
            except Exception:  # noqa: BLE001 - our bug with one line must not cost the next ones
                _log.exception("core.line_failed", core=self._core.index)
                continue
            if fault is None:
                return
            self._count(fault)

    def _give_up(self, why: str) -> None:
        self._faulty = True
        self._supervisor.core_faulty(self._core, why)

    def _count(self, fault: Fault) -> None:
        """Log a faulty line; too many of them are the end of the core."""
        limits = self._supervisor.config.limits
        now_s = time.monotonic()
        self._supervisor.metrics.core_faults.add("line")
        _log.warning("core.fault", core=self._core.index, reason=fault.why, bytes=fault.size)
        since_s = now_s - limits.core_fault_window_s
        self._faults = [at_s for at_s in self._faults if at_s > since_s]
        self._faults.append(now_s)
        if len(self._faults) > limits.max_core_faults:
            self._give_up("too many faulty lines")

    def core_written(self, lines: int, size: int) -> None:
        """Count what it was given."""
        metrics = self._supervisor.metrics
        metrics.messages_to_cores += lines
        metrics.bytes_to_cores += size

    def core_writable(self, *, writable: bool) -> None:
        """Its stdin is full, or has room again."""
        self._supervisor.hub.core_writable(self._core, writable=writable)
