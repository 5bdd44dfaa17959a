"""A core process for each client: it comes with the client and goes with it.

Started before the client's first message is read, ended when the client has left: end
of input, then TERM, then KILL. If it exits first, its client's connection is closed.
While its client is slow it is not read, so nothing is cut short that it says.
Nothing is restarted, and the task of each is a child of the task that serves its client.
`shared` looks after cores that are shared; `processes` holds the living ones of both.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from core_server.jsonrpc.framing import Oversized
from trace_proxy.drain import StopCores
from trace_proxy.relay.per_connection.lsp import answers_farewell
from trace_proxy.relay.per_connection.passthrough import PassThrough
from trace_proxy.runtime.clients.clients import Clients
from trace_proxy.runtime.cores.process import CoreProcess
from trace_proxy.runtime.cores.processes import CoreOwner, Processes
from trace_proxy.settings.config import Framing, Pool
from trace_proxy.state.connection import Connection
from trace_proxy.state.core_session import CoreSession

_PATIENCE = StopCores()
"""A core gets as long when its client leaves as when the proxy stops."""

LOOK_S: Final = 0.01
"""How often a client that has enough is looked at: until then it has 0.5 MiB to take, so that
it never waits below 50 MB/s."""

FIRST_WORD_S: Final = 10.0
"""For the first word of a core whose client speaks what is usual with the other framing."""

GOODBYE_S: Final = 1.0
"""For the answer to a farewell; servers save what they have meanwhile."""

_log = structlog.get_logger("trace_proxy.core")


class _PrivateOwner(CoreOwner):
    """Hears of a core whose only client may be slow: then the core has to wait.

    Args:
        core: The core, not started yet.
        machine: Who takes what it says.
        processes: Where it lives.
        clients: Where its client is.
        framing: How it speaks.
    """

    def __init__(
        self,
        core: CoreSession,
        machine: PassThrough,
        processes: Processes,
        clients: Clients,
        framing: Framing,
    ) -> None:
        super().__init__(core, machine, processes, clients)
        self._pass_through = machine
        self._clients = clients.by_key
        self._key = core.index
        self._loop = asyncio.get_running_loop()
        limits = processes.limits
        self._most_bytes = limits.soft_client_queue_bytes // 2
        self._most_messages = limits.soft_client_queue_messages // 2
        self._heard = asyncio.Event()
        self._leaving = False
        self._parted = asyncio.Event()
        self._first_word: asyncio.TimerHandle | None = None
        self._headers = framing is Framing.CONTENT_LENGTH
        self.process = CoreProcess(
            core.index,
            self,
            limits,
            processes.core_stderr,
            headers=self._headers,
            goodbye=self._say_goodbye,
        )

    def core_lines(self, lines: list[bytes | Oversized]) -> None:
        """Hand lines on; stop reading while the client has enough to take."""
        if self._leaving and any(answers_farewell(line) for line in lines):
            self._heard.set()
        super().core_lines(lines)
        if self._client_is_full:
            self.process.pause_output(paused=True)
            self._loop.call_later(LOOK_S, self._look)

    def _take(self, lines: list[bytes], now_ns: int) -> None:
        """Give the machine lines, one by one: it passes on whatever they are."""
        for line in filter(bytes.strip, lines):
            try:
                fault = self._pass_through.core_line(self._core, line, now_ns)
            except Exception:  # noqa: BLE001 - our bug with one line must not cost the next ones
                _log.exception("core.line_failed", core=self._core.index, bytes=len(line))
                continue
            if fault is not None:
                self._count(fault)
                if self._faulty:
                    return

    def core_written(self, lines: int, size: int) -> None:
        """Count; a core that may have been misunderstood has to say something soon."""
        super().core_written(lines, size)
        if self._first_word is None:
            self._first_word = self._loop.call_later(FIRST_WORD_S, self._must_have_spoken)

    def _must_have_spoken(self) -> None:
        """A server that waits for headers reads lines for ever, and the other way round."""
        watch = self._pass_through.watch_of(self._core)
        usual = None if watch is None else watch.HEADERS
        if usual is not None and usual is not self._headers and not self.process.spoken:
            self.core_misframed()

    def core_misframed(self) -> None:
        """Tell who has to know: the client, and whoever chose the option."""
        wanted = Framing.LINES if self._headers else Framing.CONTENT_LENGTH
        why = f"the core speaks another framing: start the proxy with --framing {wanted.value}"
        client = self._clients.get(self._key)
        if client is not None:
            client.close(1011, why)
        self._give_up(why)

    async def _say_goodbye(self) -> None:
        """What the protocol wants to be said before the input ends; bounded, and said once.

        A drain and a client that leaves may both end a core at the same time.
        """
        if self._leaving:
            await self._parted.wait()
            return
        self._leaving = True
        try:
            words = self._pass_through.farewell(self._core)
            for number, line in enumerate(words, 1):
                self.process.write(line)
                if number < len(words):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(GOODBYE_S):
                            await self._heard.wait()
        finally:
            self._parted.set()

    def gone(self) -> None:
        """Its process has ended: nobody is waited for any more."""
        self._heard.set()
        if self._first_word is not None:
            self._first_word.cancel()

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
        pool: What to start, and how it speaks.
        work_changed: Called when a core's end may have ended work.
        no_core_left: Called with the reason when the core of the only client fails.
    """

    def __init__(
        self,
        machine: PassThrough,
        processes: Processes,
        clients: Clients,
        pool: Pool,
        *,
        work_changed: Callable[[], None],
        no_core_left: Callable[[str], None],
    ) -> None:
        self._machine = machine
        self._processes = processes
        self._clients = clients
        self._pool = pool
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
        owner = _PrivateOwner(
            core, self._machine, self._processes, self._clients, self._pool.framing
        )
        process = owner.process
        try:
            await process.start(self._pool.command)
        except OSError as error:  # no memory, no process, no descriptor left
            _log.error("core.not_started", core=core.index, reason=error.strerror)
            self._clients.close(connection, 1011, "the core cannot be started")
            await converse()
            return
        self._processes.started(process)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._live(core, owner, alone=alone))
            try:
                self._machine.core_started(core)
                await converse()
            finally:
                await process.stop(eof_s=_PATIENCE.eof_s, term_s=_PATIENCE.term_s)

    async def _live(self, core: CoreSession, owner: _PrivateOwner, *, alone: bool) -> None:
        """Wait for the end of a core, whoever ends it."""
        process = owner.process
        code = await process.wait()
        owner.gone()
        self._processes.ended(process)
        log = _log.info if process.ending or code == 0 else _log.warning
        log("core.exited", core=core.index, exit_code=code, stopped=process.ending)
        self._machine.core_lost(core, code, time.time_ns())
        if alone and code and not process.ending:
            self._no_core_left(f"the core ended: {process.epitaph()}")
        self._work_changed()
