"""Carries out what the hub and the drain decide; the one owner of tasks and processes.

Events come in (lines, messages, signals, exits), decisions are plain calls, effects
go out through the queues of `client` and `core_process`. All output of one turn of
the event loop is flushed once, at its end.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import structlog

from core_server.jsonrpc.framing import HEAD_BYTES, Oversized
from trace_proxy.context.trace_context import Inherited
from trace_proxy.drain import Drain, SignalName, State
from trace_proxy.queues.client_queue import ClientQueue, TotalOutbound, Verdict
from trace_proxy.queues.pace import Pace
from trace_proxy.relay.per_connection.passthrough import PassThrough
from trace_proxy.runtime.bounds import client_queue_bounds
from trace_proxy.runtime.clients.client import Client
from trace_proxy.runtime.cores.per_connection import PrivateCores
from trace_proxy.runtime.cores.shared import Cores
from trace_proxy.runtime.drain_steps import DrainSteps
from trace_proxy.runtime.machines import machine
from trace_proxy.runtime.telemetry.metrics.meters import Meters
from trace_proxy.runtime.telemetry.setup import Telemetry
from trace_proxy.settings.config import Config
from trace_proxy.state.connection import Connection, Peer
from trace_proxy.state.core_session import CoreSession

TICK_S: Final = 0.25
"""How often slow clients and hung cores are looked for; their bounds are seconds."""

DRAINING_TICK_S: Final = 0.05
"""The same while draining: a tenth of what an idle drain may take."""

LATELY_S: Final = 1.0
"""After so long without a word of anybody else a client counts as alone."""

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
        limits = config.limits
        self.config = config
        self.drain = Drain(timeout_s=config.drain_timeout_s)
        self.hub = machine(config, self, telemetry, self.drain, version)
        self.total = TotalOutbound(limits.max_client_queues_bytes)
        self.clients: dict[int, Client] = {}
        self.cores = Cores(self)
        self.private = PrivateCores(self, self.hub) if isinstance(self.hub, PassThrough) else None
        self.steps = DrainSteps(self)
        self.failure = ""
        self.ready = asyncio.Event()
        self.stopped = asyncio.Event()
        self.nobody = asyncio.Event()
        self.nobody.set()
        self._bounds = client_queue_bounds(limits)
        self._full = limits.max_in_flight_per_connection
        self._pace = Pace(limits.large_message_bytes_per_second)
        self._speaker = -1
        self._speaker_since_s = 0.0
        self._dirty: list[Client] = []
        self._loop = asyncio.get_running_loop()
        self.watch(self.hub.board, self.total)

    def open(
        self, make: Callable[[ClientQueue], ClientT], peer: Peer, context: Inherited
    ) -> tuple[Connection, ClientT]:
        """A client is connected; `make` builds its transport around its queue."""
        connection = self.hub.opened(peer, context)
        client = make(self.total.open(connection.key, self._bounds))
        client.key = connection.key
        client.written = self.written
        self.clients[connection.key] = client
        self.nobody.clear()
        self.metrics.connections = len(self.clients)
        _log.info("connection.opened", connection=connection.key, peer=peer.address)
        return connection, client

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        client = self.clients.pop(connection.key, None)
        code = None if client is None or client.closing is None else client.closing[0]
        self.total.close(connection.key)
        self._pace.leave(connection.key)
        self.hub.closed(connection, time.time_ns())
        self.metrics.connections = len(self.clients)
        if not self.clients:
            self.nobody.set()
        _log.info("connection.closed", connection=connection.key, code=code)
        self.steps.work_changed()

    def messages(self, client: Client, texts: list[bytes]) -> bool:
        """A client said something; what came together was parsed at the same time.

        Returns:
            Whether it has as many requests under way as it may.
        """
        connection = self.hub.board.connections.get(client.key)
        if connection is None:
            return False
        metrics, hub = self.metrics, self.hub
        limit = self.config.limits.max_message_bytes
        metrics.messages_from_clients += len(texts)
        metrics.bytes_from_clients += sum(map(len, texts))
        if client.key != self._speaker:
            self._speaker, self._speaker_since_s = client.key, self._loop.time()
        now_ns = time.time_ns()
        for data in texts:
            if client.closing is not None:
                return False
            if len(data) > limit:
                hub.too_large(connection, data[:HEAD_BYTES], limit)
                continue
            try:
                hub.client_message(connection, data, now_ns)
            except Exception:  # noqa: BLE001 - our bug with one message must end nobody else
                _log.exception("connection.message_failed", connection=client.key, bytes=len(data))
                client.close(1011, "a fault of this server: reconnect and resume")
        return connection.load.requests >= self._full

    def alone(self, client: Client) -> bool:
        """Whether no other client has said anything lately."""
        if len(self.clients) == 1:
            return True
        since_s = self._loop.time() - self._speaker_since_s
        return client.key == self._speaker and since_s > LATELY_S

    def large(self, client: Client, size: int, *, begins: bool) -> float:
        """A client sends a large message; returns for how long it is to be read no further."""
        if len(self.clients) == 1:
            return 0.0
        return self._pace.read(client.key, size, self._loop.time(), begins=begins)

    def oversized(self, client: Client, line: Oversized) -> None:
        """A line of the stdio client is over the limit."""
        connection = self.hub.board.connections[client.key]
        self.hub.too_large(connection, line.head, self.config.limits.max_message_bytes)

    def send(self, connection: Connection, message: bytes) -> None:
        """Queue a message for a client."""
        client = self.clients.get(connection.key)
        if client is not None and client.closing is None:
            client.queue.append(client.encode(message))
            if not client.dirty:
                self._soon(client)

    def fan_out(self, connections: Iterable[Connection], messages: Sequence[bytes]) -> None:
        """Queue the same messages for several, encoded once for each kind of transport."""
        encoded: dict[type[Client], list[bytes]] = {}
        for connection in connections:
            client = self.clients.get(connection.key)
            if client is not None and client.closing is None:
                frames = encoded.get(type(client))
                if frames is None:
                    frames = encoded[type(client)] = client.encode_all(messages)
                client.queue.extend(frames)
                if not client.dirty:
                    self._soon(client)

    def _soon(self, client: Client) -> None:
        """Write what waits at the end of this turn of the loop; cut who does not take it."""
        if client.congested:
            if client.queue.over_hard:
                self.cut(client)
            return
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

    def write(self, core: CoreSession, line: bytes) -> None:
        """Give a core a line."""
        process = self.cores.processes.get(core.index)
        if process is not None:
            process.write(line)

    def core_waits(self, core: CoreSession) -> None:  # noqa: ARG002 - there is one
        """A core's process runs, and its one client may speak."""
        self.serving()

    def core_ready(self, core: CoreSession) -> None:
        """A core is up, with its threads."""
        _log.info("core.ready", core=core.index, epoch=core.epoch)
        self.serving()

    def serving(self) -> None:
        """The first core is up, or clients bring their own."""
        if self.drain.state is State.STARTING:
            self.drain.serving()
            self.metrics.drain_state = self.drain.state.value
            self.ready.set()

    def core_faulty(self, core: CoreSession, why: str) -> None:
        """A core broke the protocol beyond repair."""
        self.cores.faulty(core, why)

    def no_core_left(self, why: str) -> None:
        """No core is up and none will be: everybody is told, and it is over."""
        self.failure = why
        self.steps.carry_out(self.drain.failed())

    def on_signal(self, name: SignalName) -> None:
        """A signal came."""
        now_s = self._loop.time()
        _log.info("signal", name=name, state=self.drain.state.value)
        self.hub.board.clock_s = now_s
        self.steps.carry_out(self.drain.signal(name, now_s))
        self.metrics.drain_state = self.drain.state.value
        self.steps.work_changed()

    async def tick(self) -> None:
        """Look after what is slow, forever; more often while somebody waits for the end."""
        while True:
            serving = self.drain.state is State.SERVING
            await asyncio.sleep(TICK_S if serving else DRAINING_TICK_S)
            now_s = self._loop.time()
            self.hub.board.clock_s = now_s
            self.cut_the_slow(now_s)
            self.cores.tick(now_s)
            self.steps.tick(now_s)

    def cut_the_slow(self, now_s: float) -> None:
        """Cut who does not keep up, and the largest queues while all together are too large."""
        self._flush()  # what nobody has offered to its client yet makes nobody slow
        for client in list(self.clients.values()):
            if client.congested and client.judge(now_s) is Verdict.CUT:
                self.cut(client)
        while self.total.over and (largest := self.total.largest()) is not None:
            self.cut(self.clients[largest])

    def details(self) -> dict[str, object]:
        """For `/readyz`."""
        return {
            **self.drain.details(self._loop.time()),
            "deadline": self.steps.deadline_at(),
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
        hub = self.hub
        return self.drain.ready and (isinstance(hub, PassThrough) or hub.pool.ready)

    def force(self, code: int) -> None:
        """End everything now: no task, no exporter and no peer is waited for."""
        self.cores.kill_all()
        os._exit(code)

    def reconnect_after_ms(self) -> int:
        """A random time, so that clients do not come back as a herd."""
        return random.randint(500, 3000)  # noqa: S311 - no secret
