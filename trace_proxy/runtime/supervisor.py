"""Carries out what the hub and the drain decide; the one owner of tasks and processes.

Events come in (lines, messages, signals, exits), decisions are plain calls, effects
go out through the queues of `client` and `core_process`. All output of one turn of
the event loop is flushed once, at its end.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import structlog

from core_server.jsonrpc.framing import HEAD_BYTES, Oversized
from trace_proxy.config import Config, Delivery
from trace_proxy.connection import Connection, Peer
from trace_proxy.content import Content
from trace_proxy.core_session import CoreSession, CoreState
from trace_proxy.drain import Drain, SignalName, State
from trace_proxy.errors import StartError
from trace_proxy.flow import Admission
from trace_proxy.hub import Hub
from trace_proxy.lanes import Lanes
from trace_proxy.outbox import Outbox, TotalOutbound, Verdict
from trace_proxy.pool import Restarts
from trace_proxy.runtime.bounds import admission_bounds, lane_bounds, outbox_bounds
from trace_proxy.runtime.client import Client
from trace_proxy.runtime.core_process import CoreProcess
from trace_proxy.runtime.drain_steps import DrainSteps
from trace_proxy.runtime.meters import Meters
from trace_proxy.runtime.telemetry import Telemetry
from trace_proxy.trace_context import Inherited

TICK_S: Final = 0.25
"""How often slow clients and hung cores are looked for; their bounds are seconds."""

ClientT = TypeVar("ClientT", bound=Client)

_log = structlog.get_logger("trace_proxy")


class Supervisor(Meters):
    """The shell around the hub.

    Args:
        config: All settings.
        telemetry: Where spans go.
        version: Ours.
    """

    def __init__(self, config: Config, telemetry: Telemetry, version: str) -> None:
        super().__init__(telemetry)
        limits, pool = config.limits, config.pool
        self.config = config
        cores = [CoreSession(i, Lanes(lane_bounds(limits))) for i in range(pool.cores)]
        restarts = [
            Restarts(
                min_s=pool.restart_backoff_min_s,
                max_s=pool.restart_backoff_max_s,
                most=pool.max_restarts,
                window_s=pool.restart_window_s,
            )
            for _ in cores
        ]
        self.drain = Drain(timeout_s=config.drain_timeout_s)
        self.hub = Hub(
            self,
            telemetry,
            cores,
            restarts,
            admission=Admission(admission_bounds(limits)),
            drain=self.drain,
            broadcast=pool.delivery is Delivery.BROADCAST,
            version=version,
            content=Content(telemetry.max_value_chars) if config.tracing.record_content else None,
        )
        self.total = TotalOutbound(limits.max_client_queues_bytes)
        self.clients: dict[int, Client] = {}
        self.processes: dict[int, CoreProcess] = {}
        self.steps = DrainSteps(self)
        self.ready = asyncio.Event()
        self.stopped = asyncio.Event()
        self.nobody = asyncio.Event()
        self.nobody.set()
        self._bounds = outbox_bounds(limits)
        self._dirty: list[Client] = []
        self._loop = asyncio.get_running_loop()
        self.watch(self.hub, self.total)

    # ---- clients

    def open(
        self, make: Callable[[Outbox], ClientT], peer: Peer, context: Inherited
    ) -> tuple[Connection, ClientT]:
        """A client is connected; `make` builds its transport around its queue."""
        connection = self.hub.opened(peer, context)
        client = make(self.total.open(connection.key, self._bounds))
        client.key = connection.key
        self.clients[connection.key] = client
        self.nobody.clear()
        self.metrics.connections = len(self.clients)
        _log.info("connection.opened", connection=connection.key, peer=peer.address)
        return connection, client

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self.clients.pop(connection.key, None)
        self.total.close(connection.key)
        self.hub.closed(connection, time.time_ns())
        self.metrics.connections = len(self.clients)
        if not self.clients:
            self.nobody.set()
        _log.info("connection.closed", connection=connection.key)
        self.steps.work_changed()

    def message(self, client: Client, data: bytes) -> None:
        """A client said something."""
        connection = self.hub.board.connections.get(client.key)
        if connection is None:
            return
        metrics = self.metrics
        metrics.messages_from_clients += 1
        metrics.bytes_from_clients += len(data)
        if len(data) > self.config.limits.max_message_bytes:
            limit = self.config.limits.max_message_bytes
            self.hub.too_large(connection, data[:HEAD_BYTES], limit)
            return
        self.hub.client_message(connection, data, time.time_ns())

    def oversized(self, client: Client, line: Oversized) -> None:
        """A line of the stdio client is over the limit."""
        connection = self.hub.board.connections[client.key]
        self.hub.too_large(connection, line.head, self.config.limits.max_message_bytes)

    def send(self, connection: Connection, message: bytes) -> None:
        """Queue a message for a client."""
        client = self.clients.get(connection.key)
        if client is not None:
            self._queue(client, client.encode(message))

    def fan_out(self, connections: Iterable[Connection], message: bytes) -> None:
        """Queue the same message for several, encoded once."""
        frame = None
        for connection in connections:
            client = self.clients.get(connection.key)
            if client is not None:
                frame = frame or client.encode(message)
                self._queue(client, frame)

    def _queue(self, client: Client, frame: bytes) -> None:
        self.metrics.messages_to_clients += 1
        self.metrics.bytes_to_clients += len(frame)
        client.outbox.append(frame)
        if client.congested:
            if client.outbox.over_hard:
                self.cut(client)
        elif not client.dirty:
            client.dirty = True
            self._dirty.append(client)
            if len(self._dirty) == 1:
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for client in dirty:
            client.flush()
        if self.drain.state is not State.SERVING:
            self.steps.work_changed()

    def cut(self, client: Client) -> None:
        """Close a client that does not keep up; nobody else notices."""
        if client.closing is None:
            self.metrics.cut.add("slow_consumer")
            _log.warning("connection.cut", connection=client.key, reason="slow_consumer")
            client.close(1013, "too slow: reconnect and resume", drop=True)

    def close(self, connection: Connection, code: int, reason: str) -> None:
        """End a connection."""
        client = self.clients.get(connection.key)
        if client is not None:
            client.close(code, reason)

    # ---- cores

    def write(self, core: CoreSession, line: bytes) -> None:
        """Give a core a line."""
        process = self.processes.get(core.index)
        if process is not None:
            self.metrics.messages_to_cores += 1
            self.metrics.bytes_to_cores += len(line)
            process.write(line)

    def core_ready(self, core: CoreSession) -> None:
        """A core is up, with its threads."""
        _log.info("core.ready", core=core.index, epoch=core.epoch)
        if self.drain.state is State.STARTING:
            self.drain.serving()
            self.metrics.drain_state = self.drain.state.value
            self.ready.set()

    async def run_core(self, core: CoreSession) -> None:
        """The lives of one core, until it has failed or the proxy stops."""
        while True:
            process = CoreProcess(core.index, CoreOwner(self, core), self.config.limits)
            await process.start(self.config.pool.command)
            self.processes[core.index] = process
            _log.info("core.started", core=core.index, pid=process.pid)
            self.hub.board.now_ns = time.time_ns()
            self.hub.pool.started(core)
            code = await process.wait()
            del self.processes[core.index]
            self.hub.board.now_ns = time.time_ns()
            delay_s = self.hub.pool.lost(core, self._loop.time())
            self.steps.work_changed()
            if self.drain.state in (State.CLOSING, State.STOPPED):
                return
            _log.warning(
                "core.exited",
                core=core.index,
                exit_code=code,
                restart_in_s=delay_s,
                bytes_of_stderr=len(process.last_words),
            )
            if delay_s is None:
                self._failed(code)
                return
            self.metrics.core_restarts += 1
            await asyncio.sleep(delay_s)

    def _failed(self, code: int) -> None:
        if not self.hub.pool.failed:
            return
        _log.error(
            "cores.failed",
            exit_code=code,
            hint="run the command after -- by hand: it does not stay up",
        )
        if self.drain.state is State.STARTING:
            raise StartError(
                f"no core starts: it exited with code {code}; run the command by hand to see why"
            )
        self.steps.carry_out(self.drain.failed())

    def core_faulty(self, core: CoreSession, why: str) -> None:
        """A core broke the protocol beyond repair."""
        process = self.processes.get(core.index)
        if process is not None:
            _log.error("core.faulty", core=core.index, reason=why)
            process.kill_group(signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill every core and all its descendants, at once; safe from any thread."""
        for process in list(self.processes.values()):
            process.kill_group(signal.SIGKILL)

    def on_signal(self, name: SignalName) -> None:
        """A signal came."""
        now_s = self._loop.time()
        _log.info("signal", name=name, state=self.drain.state.value)
        self.hub.board.clock_s = now_s
        self.steps.carry_out(self.drain.signal(name, now_s))
        self.metrics.drain_state = self.drain.state.value
        self.steps.work_changed()

    async def tick(self) -> None:
        """Look after what is slow, forever."""
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self._loop.time()
            self.hub.board.clock_s = now_s
            for client in list(self.clients.values()):
                if client.congested and client.judge(now_s) is Verdict.CUT:
                    self.cut(client)
            while self.total.over and (largest := self.total.largest()) is not None:
                self.cut(self.clients[largest])
            self.steps.tick(now_s)

    def details(self) -> dict[str, object]:
        """For `/readyz`."""
        return {
            **self.drain.details(self._loop.time()),
            "connections": len(self.clients),
            "cores": [
                {"id": core.index, "state": core.state.value, "epoch": core.epoch}
                for core in self.hub.board.cores
            ],
            "traces": self.telemetry.details(),
        }

    @property
    def is_ready(self) -> bool:
        """Whether `/readyz` says 200."""
        return self.drain.ready and self.hub.pool.ready

    def force(self, code: int) -> None:
        """End everything now."""
        self.kill_all()
        os._exit(code)

    def reconnect_after_ms(self) -> int:
        """A random time, so that clients do not come back as a herd."""
        return random.randint(500, 3000)  # noqa: S311 - no secret


class CoreOwner:
    """Hears of one core process in one epoch; what an older one still says is dropped."""

    def __init__(self, supervisor: Supervisor, core: CoreSession) -> None:
        self._supervisor = supervisor
        self._core = core
        self._epoch = core.epoch + 1
        self._faults: list[float] = []

    def core_lines(self, lines: list[bytes | Oversized]) -> None:
        """Lines of the core."""
        core, supervisor = self._core, self._supervisor
        if core.epoch != self._epoch or core.state is CoreState.DOWN:
            return
        hub, metrics = supervisor.hub, supervisor.metrics
        for line in lines:
            metrics.messages_from_cores += 1
            if isinstance(line, Oversized):
                supervisor.core_faulty(core, "line over --max-core-line-bytes")
                return
            metrics.bytes_from_cores += len(line)
            if not line:
                continue
            why = hub.core_line(core, line, time.time_ns())
            if why and self._too_many_faults(why, len(line)):
                supervisor.core_faulty(core, "too many faulty lines")
                return

    def _too_many_faults(self, why: str, size: int) -> bool:
        limits = self._supervisor.config.limits
        now_s = time.monotonic()
        self._supervisor.metrics.core_faults.add("line")
        _log.warning("core.fault", core=self._core.index, reason=why, bytes=size)
        since_s = now_s - limits.core_fault_window_s
        self._faults = [at_s for at_s in self._faults if at_s > since_s]
        self._faults.append(now_s)
        return len(self._faults) > limits.max_core_faults

    def core_writable(self, *, writable: bool) -> None:
        """Its stdin is full, or has room again."""
        self._supervisor.hub.core_writable(self._core, writable=writable)
