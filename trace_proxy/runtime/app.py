"""The whole program, from a configuration to an exit code."""

import asyncio
import gc
import os
import resource
import sys
from collections.abc import Coroutine
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from trace_proxy.access.arrivals import Arrivals
from trace_proxy.access.policy import ConnectionCount
from trace_proxy.context.trace_context import Handshake, Trust, inherit
from trace_proxy.drain import SignalName
from trace_proxy.errors import StartError
from trace_proxy.queues.client_queue import ClientQueue
from trace_proxy.runtime.allocator import return_large_buffers
from trace_proxy.runtime.clients.entrance import Entrance
from trace_proxy.runtime.clients.listener import Listener
from trace_proxy.runtime.clients.stdio import StdioClient, claim_stdout
from trace_proxy.runtime.clients.visitor import Visitors
from trace_proxy.runtime.cores.process import find_command
from trace_proxy.runtime.cores.processes import Processes
from trace_proxy.runtime.log import setup as log_setup
from trace_proxy.runtime.log.fields import shown_command
from trace_proxy.runtime.log.stderr_sink import StderrSink
from trace_proxy.runtime.signals import SignalThread
from trace_proxy.runtime.supervisor import Exits, Supervisor
from trace_proxy.runtime.telemetry.metrics.metrics import Metrics
from trace_proxy.runtime.telemetry.propagation import Propagation
from trace_proxy.runtime.telemetry.setup import Telemetry
from trace_proxy.settings.config import Config, ListenStdio
from trace_proxy.settings.grammar import unknown_variables
from trace_proxy.state.connection import Peer

SWITCH_INTERVAL_S: Final = 0.001
"""How long the exporter thread may hold the interpreter: the default of 5 ms shows in p99."""

LAST_METRICS_S: Final = 1.0
"""For the last numbers, when the collector is slow."""

LAST_LINES_S: Final = 0.5
"""For the last log lines, when whoever reads them is slow."""

_CONTENT: Final = (
    "--record-content: prompts, answers, commands, their output and file contents go into traces,"
    " with every secret in them; leave it out unless all who see the traces may see those"
)

if TYPE_CHECKING:
    from trace_proxy.runtime.telemetry.metrics.push import MetricsPush

_log = structlog.get_logger("trace_proxy")


def run(config: Config) -> int:
    """Run the proxy until it is told to stop; returns the exit code.

    Raises:
        StartError: it could not start.
        ConfigurationError: telemetry cannot be set up as the environment asks, or a file of
            tokens or certificates cannot be used.
    """
    sink = log_setup.configure(config.logging, record_content=config.tracing.record_content)
    try:
        for name in unknown_variables(os.environ):
            _log.warning("config.unknown_variable", name=name[:200])
        entrance = Entrance(config)
        find_command(config.pool.command)
        if config.fleet.advertise_url is not None:  # our own core tells it to the other hosts
            os.environ.setdefault("CORE_SERVER_ADVERTISE_URL", config.fleet.advertise_url)
            if config.fleet.host_id is not None:
                os.environ.setdefault("CORE_SERVER_HOST_ID", config.fleet.host_id)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        return_large_buffers()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_main(config, entrance, sink))
    finally:
        sink.close(timeout_s=LAST_LINES_S)


def _loop_factory() -> Any:
    import uvloop  # noqa: PLC0415 - after the command line is known to be good

    return uvloop.new_event_loop


async def _main(config: Config, entrance: Entrance, sink: StderrSink) -> int:
    our_version = version("trace-proxy")
    tracing = config.tracing
    telemetry = Telemetry(
        os.environ,
        trace_file=None if tracing.trace_file is None else Path(tracing.trace_file),
        core_service_name=tracing.core_service_name,
        trace_reads=tracing.trace_reads,
        version=our_version,
    )
    metrics = Metrics()
    processes = Processes(config.limits, metrics, config.pool.core_stderr)
    loop = asyncio.get_running_loop()

    def deliver(name: SignalName) -> None:
        def take() -> None:
            signals.taken()
            supervisor.on_signal(name)

        loop.call_soon_threadsafe(take)

    signals = SignalThread(deliver, processes.kill_all)
    supervisor = Supervisor(
        config,
        telemetry,
        metrics,
        processes,
        exits=Exits(signals.limit, lambda: sink.close(timeout_s=LAST_LINES_S)),
        version=our_version,
    )
    signals.start()
    push = _metrics_push(metrics, telemetry)
    try:
        program = Program(config, supervisor, processes, telemetry.destination, entrance)
        return await program.run()
    finally:
        if push is not None:
            await push.shutdown(LAST_METRICS_S)
        signals.ended()


def _metrics_push(metrics: Metrics, telemetry: Telemetry) -> "MetricsPush | None":
    """The metrics by OTLP as well, when the environment asks for it."""
    if not os.environ.get("OTEL_METRICS_EXPORTER"):
        return None
    from trace_proxy.runtime.telemetry.metrics.push import metrics_push  # noqa: PLC0415 - 5 MB, seldom used

    return metrics_push(os.environ, metrics.instruments(), telemetry.resource)


PLAIN_SOCKETS: Final = 256
"""Beside the clients: handshakes that are not finished, probes, scrapes, a page's requests."""

DESCRIPTORS_KEPT: Final = 96 + PLAIN_SOCKETS
"""For these, and for cores, probes, the exporter and the log, however many clients there are."""


def _room_for_clients(max_connections: int) -> int:
    """How many clients the allowed number of open files has room for, if not for all."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = max_connections if soft == resource.RLIM_INFINITY else soft - DESCRIPTORS_KEPT
    if room < max_connections:
        room = max(1, room)
        _log.warning("limits.lowered", max_connections=room, open_files=soft)
        return room
    return max_connections


class Program:
    """The one TaskGroup: listeners, cores, clients, the drain.

    Args:
        config: All settings.
        supervisor: The parts, put together.
        processes: The living cores.
        traces: Where traces go, for people.
        entrance: What clients have to show.
    """

    def __init__(
        self,
        config: Config,
        supervisor: Supervisor,
        processes: Processes,
        traces: str,
        entrance: Entrance,
    ) -> None:
        self._entrance = entrance
        self._config = config
        self._supervisor = supervisor
        self._processes = processes
        self._traces = traces
        self._propagation = Propagation(os.environ)
        supervisor.meters.environment_rejected(self._propagation.environment.rejections)
        limits = config.limits
        count = ConnectionCount(
            max_connections=_room_for_clients(limits.max_connections),
            max_connections_per_ip=limits.max_connections_per_ip,
        )
        sockets = ConnectionCount(
            max_connections=limits.max_connections + PLAIN_SOCKETS,
            max_connections_per_ip=limits.max_connections_per_ip + PLAIN_SOCKETS,
        )
        arrivals = Arrivals(limits.max_connections_per_ip)
        visitors = Visitors(sockets, count, arrivals, limits.handshake_timeout_s)
        self._sockets = [where for where in config.listen if not isinstance(where, ListenStdio)]
        console = supervisor.console() if config.console else None
        self._listeners = [
            Listener(supervisor, config, self._propagation, visitors, entrance, console)
            for _ in self._sockets
        ]

    async def run(self) -> int:
        """Serve until the drain is over; returns the exit code.

        Raises:
            StartError: it could not start, or no core is left to go on with.
        """
        supervisor = self._supervisor
        try:
            await self._open()
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(each) for each in self._coroutines()]
                await supervisor.stopped.wait()
                for task in running:
                    task.cancel()
        finally:
            self._processes.kill_all()  # none is left, unless something here went wrong
            await self._close()
        code = supervisor.steps.exit_code or 0
        _log.info("proxy.stopped", exit_code=code)
        if supervisor.failure:
            raise StartError(supervisor.failure)
        return code

    async def _open(self) -> None:
        self._entrance.warn()
        for listener, where in zip(self._listeners, self._sockets, strict=True):
            await listener.open(where)
        if self._supervisor.private is not None:
            self._supervisor.serving()

    def _coroutines(self) -> list[Coroutine[Any, Any, None]]:
        supervisor = self._supervisor
        work = [supervisor.tick(), supervisor.steps.run(), self._announce()]
        work += [supervisor.run_cores(), self._entrance.watch()]
        if len(self._sockets) < len(self._config.listen):
            work.append(self._serve_stdio(claim_stdout()))
        return work

    async def _announce(self) -> None:
        """Say that it serves, once; scripts wait for this line."""
        await self._supervisor.ready.wait()
        gc.collect()
        gc.freeze()  # what lives now lives for ever: later collections skip it
        listen = [listener.url for listener in self._listeners]
        if len(self._sockets) < len(self._config.listen):
            listen.append("stdio://")
        if self._config.tracing.record_content:
            _log.warning("content.recorded", traces=self._traces, hint=_CONTENT)
        _log.info(
            "proxy.ready",
            listen=listen,
            core=" ".join(shown_command(self._config.pool.command)),
            cores=self._config.pool.cores,
            traces=self._traces,
        )

    async def _serve_stdio(self, wire: int) -> None:
        limits = self._config.limits
        context = inherit(Handshake(), self._propagation.environment, Trust.PARENT)

        def make(queue: ClientQueue) -> StdioClient:
            return StdioClient(queue, wire, limits.slow_close_timeout_s)

        peer = Peer("pipe", websocket=False)
        connection, client = self._supervisor.open(make, peer, context)
        converse = partial(self._converse, client)
        await self._supervisor.serve(connection, client, converse, alone=not self._sockets)

    async def _converse(self, client: StdioClient) -> None:
        supervisor, loop = self._supervisor, asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            client.writes_in(tasks)
            await client.run(supervisor.intake, self._config.limits.max_message_bytes)
            await supervisor.ready.wait()  # its last words may have come before the core
            supervisor.steps.carry_out(supervisor.drain.input_ended(loop.time()))
            supervisor.steps.work_changed()
            await client.finish()
        if not self._sockets:
            supervisor.steps.carry_out(supervisor.drain.output_ended(loop.time()))

    async def _close(self) -> None:
        """Stop listening: the last thing, so that late clients hear 503 until then."""
        async with asyncio.TaskGroup() as tasks:
            for listener in self._listeners:
                tasks.create_task(listener.close())
