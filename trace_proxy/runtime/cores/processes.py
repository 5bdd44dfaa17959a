"""The living core processes, shared or private: written to, counted, killed.

A core that takes no input and says nothing has hung and is ended, then goes the way of
one that crashed. When one is started is the business of `shared` and `per_connection`.
"""

import asyncio
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from functools import partial
from typing import Final, Protocol

import structlog

from core_server.jsonrpc.framing import Oversized
from trace_proxy.runtime.clients.clients import Clients
from trace_proxy.runtime.cores.process import CoreProcess
from trace_proxy.runtime.telemetry.metrics.metrics import Metrics
from trace_proxy.settings.config import CoreStderr
from trace_proxy.settings.limits import Limits
from trace_proxy.state.core_session import CoreSession, CoreState, Fault

HUNG_TERM_S: Final = 2.0
"""For a hung core to end after TERM; then KILL."""

_DOWN = CoreState.DOWN  # an attribute of an Enum class costs as much as a call

_log = structlog.get_logger("trace_proxy.core")


class Processes:
    """The living processes, by the place of their core in the pool.

    Args:
        limits: How long a core may take for what.
        metrics: Faults are counted there.
        core_stderr: What is shown of their stderr.

    Attributes:
        limits, metrics, core_stderr: As given; owners of single processes use them too.
    """

    def __init__(
        self, limits: Limits, metrics: Metrics, core_stderr: CoreStderr = CoreStderr.PASS
    ) -> None:
        self.limits = limits
        self.metrics = metrics
        self.core_stderr = core_stderr
        self._running: dict[int, CoreProcess] = {}

    def __repr__(self) -> str:
        return f"<Processes {list(self._running.values())!r}>"

    def started(self, process: CoreProcess) -> None:
        """A process runs: it can be written to and killed."""
        self._running[process.index] = process
        _log.info("core.started", core=process.index, pid=process.pid)

    def ended(self, process: CoreProcess) -> None:
        """It is gone."""
        del self._running[process.index]

    def write(self, core: CoreSession, line: bytes) -> None:
        """Give a core a line; one that is gone gets nothing."""
        process = self._running.get(core.index)
        if process is not None:
            process.write(line)

    def faulty(self, core: CoreSession, why: str) -> None:
        """Kill a core that broke the protocol beyond repair."""
        process = self._running.get(core.index)
        if process is not None:
            _log.error("core.faulty", core=core.index, reason=why)
            self.metrics.core_faults.add("fatal")
            process.kill_group(signal.SIGKILL)

    def tick(self, now_s: float, cores: Collection[CoreSession]) -> None:
        """Look for a core that has hung: it takes no input, or never says hello."""
        starting = {core.index for core in cores if core.state is CoreState.STARTING}
        for process in self._running.values():
            if process.ending:
                continue
            since_s = process.greeted_at_s
            late = (
                since_s is not None
                and now_s - since_s >= self.limits.core_start_timeout_s
                and process.index in starting
            )
            if late or process.stalled_s(now_s) >= self.limits.core_stall_s:
                why = "no answer to initialize" if late else "input not taken"
                unread = process.unread_bytes
                _log.error("core.hung", core=process.index, reason=why, unread_bytes=unread)
                self.metrics.core_faults.add("hung")
                process.end(HUNG_TERM_S)

    async def stop(self, *, eof_s: float, term_s: float) -> None:
        """End all of them, politely first, in parallel."""
        async with asyncio.TaskGroup() as tasks:
            for process in list(self._running.values()):
                tasks.create_task(process.stop(eof_s=eof_s, term_s=term_s))

    def kill_all(self) -> None:
        """Kill every core and all its descendants, at once; safe from any thread."""
        for process in list(self._running.values()):
            process.kill_all()


class Machine(Protocol):
    """Who takes what cores say, however they are shared."""

    def core_writable(self, core: CoreSession, *, writable: bool) -> None:
        """A core's stdin is full, or has room again."""
        ...


class CoreOwner(ABC):
    """Hears of one core process in one epoch; what an older one still says is dropped.

    Args:
        core: Whose process it is, not started yet.
        machine: Who takes what it says.
        processes: Where it lives, with limits and metrics.
        clients: Who hears what it says.
    """

    def __init__(
        self, core: CoreSession, machine: Machine, processes: Processes, clients: Clients
    ) -> None:
        self._core = core
        self._machine = machine
        self._processes = processes
        self._join = clients.join
        self._epoch = core.epoch + 1
        self._faults: list[float] = []
        self._faulty = False

    def core_lines(self, lines: list[bytes | Oversized]) -> None:
        """Lines of the core."""
        core, metrics = self._core, self._processes.metrics
        if core.epoch != self._epoch or core.state is _DOWN or self._faulty:
            return
        metrics.messages_from_cores += len(lines)
        metrics.bytes_from_cores += sum(map(len, lines))
        whole = [line for line in lines if type(line) is bytes]
        if len(whole) == len(lines):
            self._join(partial(self._take, whole, time.time_ns()))
            return
        oversized = next(i for i, line in enumerate(lines) if isinstance(line, Oversized))
        self._join(partial(self._take, whole[:oversized], time.time_ns()))
        self._give_up("line over --max-core-line-bytes")

    @abstractmethod
    def _take(self, lines: list[bytes], now_ns: int) -> None:
        """Give the machine lines; after one that is no good it gets the rest."""

    def _give_up(self, why: str) -> None:
        self._faulty = True
        self._processes.faulty(self._core, why)

    def _count(self, fault: Fault) -> None:
        """Log a faulty line; too many of them are the end of the core."""
        limits, now_s = self._processes.limits, time.monotonic()
        self._processes.metrics.core_faults.add("line")
        _log.warning("core.fault", core=self._core.index, reason=fault.why, bytes=fault.size)
        since_s = now_s - limits.core_fault_window_s
        self._faults = [at_s for at_s in self._faults if at_s > since_s]
        self._faults.append(now_s)
        if len(self._faults) > limits.max_core_faults:
            self._give_up("too many faulty lines")

    def core_skipped(self, sizes: list[int]) -> None:
        """Lines where a header should be."""
        for size in sizes:
            if not self._faulty:
                self._count(Fault("no header", size))

    def core_misframed(self) -> None:
        """It speaks messages behind headers, or lines where we expect these."""
        self._give_up("it speaks the other --framing")

    def core_written(self, lines: int, size: int) -> None:
        """Count what it was given."""
        metrics = self._processes.metrics
        metrics.messages_to_cores += lines
        metrics.bytes_to_cores += size

    def core_writable(self, *, writable: bool) -> None:
        """Its stdin is full, or has room again."""
        self._machine.core_writable(self._core, writable=writable)
