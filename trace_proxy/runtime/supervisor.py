"""The parts of a running proxy, put together, and what concerns all of them.

Events come in (messages, lines, signals, exits), machines decide in plain calls,
effects go out. Every part is handed what it needs here; no part reaches through
another one.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from trace_proxy.context.trace_context import Inherited, Rejection
from trace_proxy.drain import Drain, SignalName, State
from trace_proxy.queues.client_queue import ClientQueue
from trace_proxy.relay.per_connection.passthrough import PassThrough
from trace_proxy.relay.shared.hub import Hub
from trace_proxy.runtime.clients.client import Client
from trace_proxy.runtime.clients.clients import Clients
from trace_proxy.runtime.clients.console import BarFacts, Console, bar_facts
from trace_proxy.runtime.clients.intake import Intake
from trace_proxy.runtime.cores.per_connection import PrivateCores
from trace_proxy.runtime.cores.processes import Processes
from trace_proxy.runtime.cores.shared import SharedCores
from trace_proxy.runtime.drain_steps import DrainSteps, Ending
from trace_proxy.runtime.effects import RuntimeEffects
from trace_proxy.runtime.machines import machine
from trace_proxy.runtime.telemetry.metrics.meters import Meters
from trace_proxy.runtime.telemetry.metrics.metrics import Metrics
from trace_proxy.runtime.telemetry.setup import Telemetry
from trace_proxy.settings.config import Config
from trace_proxy.state.connection import Connection, Peer

TICK_S: Final = 0.25
"""How often slow clients and hung cores are looked for; their bounds are seconds."""

SETTLED_S: Final = 0.1
"""A core that cannot go on is gone by then; longer would keep who waits for us waiting."""

DRAINING_TICK_S: Final = 0.05
"""The same while draining: a tenth of what an idle drain may take."""

if TYPE_CHECKING:
    from trace_proxy.runtime.cores.peer import PeerLinks

ClientT = TypeVar("ClientT", bound=Client)

_log = structlog.get_logger("trace_proxy")


@dataclass(frozen=True, slots=True)
class Exits:
    """What the supervisor does to the process, and leaves to who started it.

    Attributes:
        end_within: Ends the process with a code after some seconds, whatever hangs.
        last_words: Writes what is still to be logged; waits a moment for it.
    """

    end_within: Callable[[float, int], None]
    last_words: Callable[[], None]


class Supervisor:
    """One running proxy.

    Args:
        config: All settings.
        telemetry: Where spans go.
        metrics: What is counted.
        processes: The living cores, none yet.
        exits: What becomes of the process at its end.
        version: Ours.

    Attributes:
        meters: What the machines tell, measured.
        intake: Where transports bring what clients say.
        private: Starts the core of each client; None where cores are shared.
        shared: Runs the cores that clients share; None where each has its own.
        steps: Carries out the drain.
        failure: Why it could not go on, empty while it can.
        ready: Set as soon as it serves.
        stopped: Set when the drain is over.
    """

    def __init__(
        self,
        config: Config,
        telemetry: Telemetry,
        metrics: Metrics,
        processes: Processes,
        *,
        exits: Exits,
        version: str,
    ) -> None:
        self._config = config
        self._telemetry = telemetry
        self._metrics = metrics
        self._processes = processes
        self._loop = asyncio.get_running_loop()
        self._last_words = exits.last_words
        self.failure = ""
        self.ready = asyncio.Event()
        self.stopped = asyncio.Event()
        self.drain = Drain(timeout_s=config.drain_timeout_s)
        self.meters = Meters(telemetry, metrics)
        self._clients = Clients(config.limits, metrics, self._flushed)
        effects = RuntimeEffects(
            self._clients, processes, self.meters, serving=self.serving, core_up=self.core_up
        )
        self.peers: PeerLinks | None = None
        self._machine = machine(config, effects, telemetry, self.drain, version)
        self._board = self._machine.board
        self.intake = Intake(self._machine, self._clients, metrics, config.limits)
        if config.fleet.advertise_url is not None and isinstance(self._machine, Hub):
            self.peers = self._reach_peers(self._machine, effects)
        self.meters.watch(self._board, self._clients.total)
        self.private, self.shared = self._cores()
        self.steps = DrainSteps(
            self.drain,
            self._machine,
            self._clients,
            processes,
            telemetry,
            Ending(
                drain_began=self._drain_began,
                end_within=exits.end_within,
                force=self.force,
                over=self.stopped.set,
            ),
        )

    def __repr__(self) -> str:
        return f"<Supervisor {self.drain!r} {self._machine!r}>"

    def _reach_peers(self, hub: Hub, effects: RuntimeEffects) -> "PeerLinks":
        from trace_proxy.runtime.cores.peer import PeerLinks  # noqa: PLC0415 - of a fleet only

        config = self._config
        peers = PeerLinks(hub, config.fleet, config.tls, config.limits, self._work_changed)
        effects.reach_peers(peers, self._processes)
        return peers

    def _cores(self) -> tuple[PrivateCores | None, SharedCores | None]:
        command, processes = self._config.pool.command, self._processes
        if isinstance(self._machine, PassThrough):
            private = PrivateCores(
                self._machine,
                processes,
                self._clients,
                self._config.pool,
                work_changed=self._work_changed,
                no_core_left=self.no_core_left,
            )
            return private, None
        shared = SharedCores(
            self._machine,
            processes,
            self._clients,
            self.drain,
            command,
            work_changed=self._work_changed,
            no_core_left=self.no_core_left,
        )
        return None, shared

    def open(
        self, make: Callable[[ClientQueue], ClientT], peer: Peer, context: Inherited
    ) -> tuple[Connection, ClientT]:
        """A client is connected; `make` builds its transport around its queue."""
        connection = self._machine.opened(peer, context)
        client = self._clients.add(connection.key, make)
        user = {"user": peer.user} if peer.user else {}
        _log.info("connection.opened", connection=connection.key, peer=peer.address, **user)
        if peer.user:
            self.meters.authenticated(peer.user)
        return connection, client

    def refused(self, status: int, reason: str) -> None:
        """Somebody was not let in."""
        self.meters.connection_refused(status, reason)

    async def serve(
        self,
        connection: Connection,
        client: Client,
        converse: Callable[[], Awaitable[None]],
        *,
        alone: bool = False,
    ) -> None:
        """Serve a client that `open` let in, until it is gone.

        Args:
            connection: It.
            client: Its transport.
            converse: Reads what it says until it has left.
            alone: Nobody else will ever come: its own core's failure is the proxy's.
        """

        async def to_the_end() -> None:
            try:
                await converse()
            finally:
                self._closed(connection)

        if self.private is not None:
            await self.private.serve(connection, to_the_end, alone=alone)
            return
        timer = None
        if connection.peer.websocket:
            wait_s = self._config.limits.initialize_timeout_s
            timer = self._loop.call_later(wait_s, _must_be_initialized, connection, client)
        try:
            await to_the_end()
        finally:
            if timer is not None:
                timer.cancel()

    def _closed(self, connection: Connection) -> None:
        code = self._clients.remove(connection.key)
        who = connection.session.client_name if connection.session else None
        self.intake.left(connection.key)
        self._machine.closed(connection, time.time_ns())
        _log.info("connection.closed", connection=connection.key, code=code, client=who)
        self.steps.work_changed()

    def context_rejected(self, connection: Connection, rejection: Rejection) -> None:
        """A client's handshake had a trace context that is none."""
        self.meters.context_rejected(connection, rejection)

    def core_up(self) -> None:
        """A core answers: ready is said when it still does a moment later."""
        self._loop.call_later(SETTLED_S, self._settled)

    def _settled(self) -> None:
        if self._machine.ready:
            self.serving()

    def serving(self) -> None:
        """The first core is up, or clients bring their own."""
        if self.drain.state is State.STARTING:
            self.drain.serving()
            self._metrics.drain_state = self.drain.state.value
            self.ready.set()

    def no_core_left(self, why: str) -> None:
        """No core is up and none will be: everybody is told, and it is over."""
        self.failure = why
        self.steps.carry_out(self.drain.failed())

    def on_signal(self, name: SignalName) -> None:
        """A signal came."""
        now_s = self._loop.time()
        _log.info("signal", name=name, state=self.drain.state.value)
        self._board.clock_s = now_s
        if self._machine.ready:  # clients may have work already, said to serve or not
            self.serving()
        self.steps.carry_out(self.drain.signal(name, now_s))
        self._metrics.drain_state = self.drain.state.value
        self.steps.work_changed()

    async def run_cores(self) -> None:
        """The lives of all shared cores."""
        if self.shared is None:
            return
        async with asyncio.TaskGroup() as tasks:
            for core in self._board.cores:
                tasks.create_task(self.shared.run(core))
            if self.peers is not None:
                tasks.create_task(self.peers.run())

    async def tick(self) -> None:
        """Look after what is slow, forever; more often while somebody waits for the end."""
        while True:
            serving = self.drain.state is State.SERVING
            await asyncio.sleep(TICK_S if serving else DRAINING_TICK_S)
            now_s = self._loop.time()
            self._board.clock_s = now_s
            self._clients.look_after(now_s)
            self._processes.tick(now_s, self._board.cores)
            self._board.end_idle_turns(time.time_ns())
            self.steps.tick(now_s)
            if isinstance(self._machine, Hub):
                self._machine.tick(now_s, time.time_ns())
            self._metrics.drain_state = self.drain.state.value

    async def scraped(self) -> bytes:
        """What `/metrics` answers."""
        return await self.meters.scraped()

    def details(self) -> dict[str, object]:
        """For `/readyz`."""
        return {
            **self.drain.details(self._loop.time()),
            "turns": len(self._machine.board.turns),
            "deadline": self.steps.deadline_at(),
            "connections": len(self._clients.by_key),
            "cores": [
                {"id": core.index, "state": core.state.value, "epoch": core.epoch}
                for core in self._board.cores
            ],
            **self._fleet(),
            "traces": self._telemetry.details(),
        }

    def console(self) -> Console:
        """The page that shows all this."""
        board, clients = self._board, self._clients.by_key

        def bar() -> BarFacts:
            traces, deadline_s = self._telemetry.details(), self.steps.deadline_at()
            machine = self._machine
            hosts = machine.hosts.living if isinstance(machine, Hub) else None
            return bar_facts(board, self._config.tracing, len(clients), deadline_s, traces, hosts)

        return Console(board, clients.values, bar)

    def _fleet(self) -> dict[str, object]:
        if not self._board.fleet or not isinstance(self._machine, Hub):
            return {}
        peers = [
            {"url": each.url, "state": each.state.value, "threads": each.threads}
            for each in self._board.peers.values()
        ]
        return {
            "url": self._config.fleet.advertise_url,
            "hosts": self._machine.hosts.details(),
            "peers": peers,
        }

    @property
    def is_ready(self) -> bool:
        """Whether `/readyz` says 200."""
        return self.drain.ready and self._machine.ready

    @property
    def admits(self) -> bool:
        """Whether new clients may come in; before the first core is up they wait inside."""
        return self.drain.state in (State.SERVING, State.STARTING)

    def force(self, code: int) -> None:
        """End everything now: no task, no exporter and no peer is waited for."""
        _log.warning("proxy.forced", exit_code=code, hint="what was running was not waited for")
        self._processes.kill_all()
        self._last_words()
        os._exit(code)

    def _drain_began(self) -> None:
        if self.shared is not None:
            self.shared.drain_began()
        if isinstance(self._machine, Hub):
            self._machine.drain_began(time.time_ns())

    def _work_changed(self) -> None:
        self.steps.work_changed()

    def _flushed(self) -> None:
        if self.drain.state is not State.SERVING:
            self.steps.work_changed()


def _must_be_initialized(connection: Connection, client: Client) -> None:
    if connection.session is None:
        client.close(1008, "send initialize first")
