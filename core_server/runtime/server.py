"""One core at work: the one TaskGroup, what is composed of what, and the order of the end.

    claim stdio, answer `initialize` while the store opens (after it, where it is a server), serve
    SIGTERM, INT, HUP: no new work; when idle, the end
    EOF, closed stdout: the end at once

The end: reading stops, turns are interrupted (1 s), requests in flight get 0.3 s and are
cancelled, which kills their commands, the store commits and closes (1 s), what was said
is flushed (0.3 s). Each bound is for a fault; without one it takes some 50 ms. With all of
them it is 2.6 s, and the contract says 3.
"""

import asyncio
import contextlib
import os
import signal
import threading
import time
from typing import Final

from core_server.config import Config
from core_server.context import Context
from core_server.engines.base import Engine
from core_server.errors import StartError
from core_server.jsonrpc import codec
from core_server.jsonrpc.framing import Oversized
from core_server.logs import logger
from core_server.outgoing.notifier import Voice
from core_server.outgoing.outbox import Outbox
from core_server.runtime import stdio
from core_server.runtime.dispatcher import Dispatcher
from core_server.runtime.identifiers import Uuid7
from core_server.session.gate import Gate
from core_server.session.lifecycle import Lifecycle, Signal, waiting_for
from core_server.session.thread import ThreadMachine
from core_server.storage.base import StorageError, Store
from core_server.storage.memory import MemoryStore
from core_server.tools.sandbox import sandbox
from core_server.turns.approvals import Approvals
from core_server.turns.tasks import TurnTasks

REQUESTS_S: Final = 0.3
"""What is in flight at the end of input is answered if that takes no longer."""

COMMIT_S: Final = 1.0
"""A disk that takes longer for the last commit is not going to."""

FLUSH_S: Final = 0.3
"""For a client that closed its stdin and still reads; one that reads needs no time."""

HEAD_START_S: Final = 0.02
"""A client that starts us speaks at once; two threads that import slow each other down."""

SAID_S: Final = 0.3
"""A thread that still looks for a sandbox then finds one in milliseconds, or hangs."""

SIGNALS: Final[dict[int, Signal]] = {
    signal.SIGTERM: "TERM",
    signal.SIGINT: "INT",
    signal.SIGHUP: "HUP",
}
FORCED: Final = {"TERM": 143, "INT": 130}


class Server:
    """A core on a pair of descriptors.

    Args:
        config: What it is told.
        engine: Closed here.
        store: Opened and closed here.
        ends: Descriptors to read from and to write to, claimed for the protocol.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        store: Store,
        ends: tuple[int, int],
    ) -> None:
        self._config = config
        self._engine = engine
        self._store = store
        self._ends = ends
        self._lifecycle = Lifecycle()
        self._gate = Gate()
        self._over = asyncio.Event()
        self._draining = asyncio.Event()
        self._heard = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Server {self._lifecycle!r} {self._gate!r}>"

    async def serve(self) -> None:
        """Serve until the end.

        Raises:
            StartError: the store cannot be opened.
        """
        self._take_signals()
        try:
            async with asyncio.TaskGroup() as group:
                self._connect(group)
                await self._open()
                self._dispatcher.store_is_open()
                self._reader.resume()
                said = threading.Thread(target=_say_sandbox, args=(self._config,), daemon=True)
                said.start()
                drained = group.create_task(self._watch_drain())
                await self._over.wait()
                drained.cancel()
                await self._end()
        except BaseExceptionGroup as group:
            # Not `except*`: what is raised in one comes out wrapped in a group on 3.11.2.
            if failed := [each for each in group.exceptions if isinstance(each, StartError)]:
                raise failed[0] from None
            raise
        await self._writer.close(FLUSH_S, self._carriers[1])
        said.join(SAID_S)

    def _connect(self, group: asyncio.TaskGroup) -> None:
        """Compose; from here on `initialize` is answered, the rest is held for the store."""
        in_fd, in_carrier = stdio.pollable(self._ends[0], os.O_RDONLY)
        out_fd, out_carrier = stdio.pollable(self._ends[1], os.O_WRONLY)
        self._carriers: tuple[threading.Thread | None, ...] = (in_carrier, out_carrier)
        outbox = Outbox(self._send, lambda: self._writer.buffered_bytes, self._less)
        self._writer = stdio.Writer(out_fd, self._input_ended, outbox.less)
        self._outbox = outbox
        voice = Voice(outbox, self._gate, self._may_speak)
        approvals = Approvals(voice, self._config.approval_timeout_s)
        self._turns = TurnTasks(outbox, voice, approvals, group)
        self._context = Context(
            self._config,
            self._engine,
            self._store,
            MemoryStore(),
            self._gate,
            voice,
            self._turns,
            Uuid7(),
            outbox.room,
        )
        self._turns.serve(self._context)
        self._store.watch(self._context.lost)
        self._dispatcher = Dispatcher(
            self._context,
            outbox,
            self._lifecycle,
            group,
            approvals.answered,
            self._config.max_message_bytes,
        )
        self._reader = stdio.Reader(
            in_fd, self._config.max_message_bytes, self._lines, self._input_ended
        )
        if not self._store.spans_machines:  # a server is known to be usable before we are greeted
            self._reader.resume()

    def _may_speak(self, thread: ThreadMachine) -> bool:
        """Whether the thread is surely ours; if it is not, what we do there ends."""
        store = self._context.store
        if not store.spans_machines or thread.facts.ephemeral or store.holds(thread.id):
            return True
        self._context.lost(thread.id)
        return False

    async def _open(self) -> None:
        """Open the store; what a client said at once is answered before that loads its library.

        Raises:
            StartError: the store cannot be opened.
        """
        if not self._store.spans_machines:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEAD_START_S):
                    await self._heard.wait()
        try:
            await self._store.open()
            await self._context.fleeting.open()
        except StorageError as error:
            raise StartError(str(error)) from error

    def _lines(self, lines: list[bytes | Oversized]) -> None:
        for line in lines:
            self._dispatcher.line(line)
        self._writer.flush()
        self._heard.set()
        if self._dispatcher.full:
            self._reader.pause()

    def _send(self, line: bytes) -> None:
        self._writer.write(codec.with_version(line) if self._gate.strict else line)

    def _less(self) -> None:
        """Less is unread or in flight than before: go on reading."""
        if not self._dispatcher.full and not self._over.is_set():
            self._reader.resume()

    def _input_ended(self) -> None:
        self._lifecycle.input_ended()
        self._heard.set()
        self._over.set()

    def _take_signals(self) -> None:
        """Hear of the signals, but for those that our parent ignores (`nohup`, `&`)."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._signalled, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _signalled(self, number: int) -> None:
        which = SIGNALS[number]
        match self._lifecycle.signal(which, now_s=time.monotonic()):
            case "drain":
                hint = waiting_for(self._turns.running, self._dispatcher.running)
                logger().info("core.draining", signal=which, hint=hint)
                self._draining.set()
            case "force":
                logger().warning("core.forced", signal=which, exit_code=FORCED[which])
                os._exit(FORCED[which])
            case None:
                pass

    async def _watch_drain(self) -> None:
        """After a signal: the end comes when nothing runs and all is answered."""
        await self._draining.wait()
        while self._turns.running or self._dispatcher.running:
            await self._turns.idle()
            await self._dispatcher.idle()
        await self._outbox.settled()
        self._lifecycle.idle()
        self._over.set()

    async def _end(self) -> None:
        self._reader.close()
        await self._turns.interrupt_all()
        try:
            async with asyncio.timeout(REQUESTS_S):
                await self._dispatcher.idle()
        except TimeoutError:
            self._dispatcher.cancel()
        try:
            async with asyncio.timeout(COMMIT_S):
                await self._outbox.settled()
                await self._store.close()
        except StorageError as error:
            logger().error("core.store_close_failed", error=str(error))
        except TimeoutError:  # what was not committed was not acknowledged either
            logger().error("core.store_hangs", waited_s=COMMIT_S)
            os._exit(1)
        await self._engine.close()


def _say_sandbox(config: Config) -> None:
    """Log how commands are confined here, and why so; it takes up to seconds to find out."""
    if config.sandbox == "danger-full-access":
        logger().warning("core.sandbox", way="none", why="--sandbox none was given")
        return
    way = sandbox.describe(config.workspace)
    say = logger().warning if way.name == "unavailable" else logger().info
    say("core.sandbox", way=way.name, why=way.why)
