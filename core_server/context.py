"""What handlers work with. They decide nothing about order and write nothing themselves.

A handler takes the context and its params and returns a result, or a `Reply` when the
answer must wait for a write or something must follow right behind it. It is a plain
function where it can be, and a coroutine where it must wait.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
from msgspec import UNSET, Raw, UnsetType

from core_server.config import Config
from core_server.engines.base import Engine, HistoryEntry
from core_server.errors import thread_not_found
from core_server.logs import logger
from core_server.protocol.threads import SampleParams, SampleResult, StatusChanged
from core_server.protocol.turns import TurnError
from core_server.records import thread_row
from core_server.session.gate import Gate
from core_server.session.thread import ThreadMachine
from core_server.session.turn import TurnMachine
from core_server.storage.base import Operation, PutThread, Store, ThreadOwnedError
from core_server.tools.process.command import Process

Durable = asyncio.Future[None]
"""Done when a write is on disk."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A result with strings attached.

    Attributes:
        result: The result.
        written: It may leave when this is done; when that fails, an error leaves.
        then: Called as soon as the answer has its place in the order.
    """

    result: msgspec.Struct
    written: Durable | None = None
    then: Callable[[], None] | None = None


class Notifier(Protocol):
    """Tells the client something; see `outgoing.notifier`."""

    def say(self, method: str, params: msgspec.Struct, thread: ThreadMachine) -> None:
        """Tell whoever subscribes to the thread, in its order."""
        ...

    def tell(self, method: str, params: msgspec.Struct, lane: str = "") -> None:
        """Tell everybody, in the order of the thread that the lane names."""
        ...


class Turns(Protocol):
    """Runs turns; see `turns.tasks`."""

    @property
    def running(self) -> int:
        """Turns that run."""
        ...

    def run(self, thread: ThreadMachine, turn: TurnMachine, work: "Work") -> None:
        """Begin; the turn has its row already."""
        ...

    def wake(self, thread: ThreadMachine) -> None:
        """Look at the turn again: input joined it, or it shall stop."""
        ...

    async def ended(self, thread: ThreadMachine) -> None:
        """Wait until no turn runs in the thread."""
        ...

    async def aside(
        self, thread: ThreadMachine, params: SampleParams, trace: "Trace"
    ) -> SampleResult:
        """Ask the engine once more, without a trace in the thread.

        Raises:
            EngineError: it failed for good.
        """
        ...

    def inject(self, thread: ThreadMachine, entries: Sequence[HistoryEntry]) -> None:
        """Something was put into the history of a thread."""
        ...

    def forget(self, thread_id: str) -> None:
        """The thread is unloaded: drop what is kept for it."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """What a turn is to do.

    Attributes:
        kind: `sample` the engine, `compact` the history, run the user's own command
            (`shell`), or `review` changes.
        command: For `shell`.
        timeout_s: For `shell`; None for the usual one.
        traceparent: W3C trace context of the request that began it, or empty.
        tracestate: Its state, or empty.
        output_schema: JSON Schema text for the final message, or None.
        shown: For `review`: what is reviewed, in a few words.
        prompt: For `review`: what the engine is told.
    """

    kind: str = "sample"
    command: str = ""
    timeout_s: float | None = None
    traceparent: str = ""
    tracestate: str = ""
    output_schema: str | None = None
    shown: str = ""
    prompt: str = ""


@dataclass(slots=True)
class Context:
    """The core, as handlers see it.

    Attributes:
        store: What is on disk.
        fleeting: Where ephemeral threads are kept instead.
        threads: Loaded threads by id.
        new_id: UUIDv7, text form.
        room: Waits while too much is unread to produce more.
        executions: Commands of `command/exec` by the client's name; None while starting.
        accepted: Writes of turns and input that were accepted and not told of yet, by id.
        asides: What ends a `thread/sample`, by the id of its request.
    """

    config: Config
    engine: Engine
    store: Store
    fleeting: Store
    gate: Gate
    notify: Notifier
    turns: Turns
    new_id: Callable[[], str]
    room: Callable[[], Awaitable[None]]
    threads: dict[str, ThreadMachine] = field(default_factory=dict)
    executions: dict[str, Process | None] = field(default_factory=dict)
    accepted: dict[str, Durable] = field(default_factory=dict)
    asides: dict[bytes, asyncio.Timeout] = field(default_factory=dict)

    def loaded(self, thread_id: str) -> ThreadMachine:
        """A loaded thread.

        Raises:
            WireError: it is not loaded.
        """
        thread = self.threads.get(thread_id)
        if thread is None:
            raise thread_not_found(thread_id)
        return thread

    def store_of(self, thread: ThreadMachine) -> Store:
        """Where a thread is kept."""
        return self.fleeting if thread.facts.ephemeral else self.store

    def write(self, thread: ThreadMachine, *operations: Operation) -> Durable:
        """Queue operations, and the thread's row as it is now."""
        return self.keep(thread, PutThread(thread_row(thread)), *operations)

    def keep(self, thread: ThreadMachine, *operations: Operation) -> Durable:
        """Queue operations; when they fail, the thread is read-only and its turn ends."""
        if thread.broken:
            failed: Durable = asyncio.get_running_loop().create_future()
            failed.cancel()
            return failed
        written = self.store_of(thread).write(operations)
        assert isinstance(written, asyncio.Future), "stores give out futures"
        written.add_done_callback(lambda done: self._check(thread, done))
        return written

    def lost(self, thread_id: str) -> None:
        """Another core has the thread now, or may have it: whatever we do there ends."""
        thread = self.threads.get(thread_id)
        if thread is None or thread.broken:
            return
        logger().warning("core.thread_lost", thread=thread_id)
        elsewhere = self.store.spans_machines
        thread.break_off("another core took the thread over", elsewhere=elsewhere)
        if thread.turn is not None:
            thread.turn.stop()  # interrupted, as the new owner wrote it
            self.turns.wake(thread)
        elif elsewhere:
            told = StatusChanged(thread_id, thread.status)
            self.notify.say("thread/status/changed", told, thread)

    def _check(self, thread: ThreadMachine, written: Durable) -> None:
        if written.cancelled() or (error := written.exception()) is None or thread.broken:
            return
        if isinstance(error, ThreadOwnedError):
            self.lost(thread.id)
            return
        logger().error("core.write_failed", thread=thread.id, error=str(error))
        thread.break_off(str(error))
        if thread.turn is not None:
            thread.turn.stop(TurnError(str(thread.storage_error()), "other"))
            self.turns.wake(thread)

    def now_s(self) -> int:
        """Unix seconds."""
        return int(time.time())


_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")


class Trace(msgspec.Struct, frozen=True):
    """The context; empty where there is none or a bad one."""

    traceparent: str | None = None
    tracestate: str | None = None


NO_TRACE: Final = Trace("", "")
_TRACE: Final = msgspec.json.Decoder(Trace)


def trace_of(raw: Raw | UnsetType) -> Trace:
    """The request's trace context; one of the wrong type or form counts as none."""
    if raw is UNSET:
        return NO_TRACE
    try:
        trace = _TRACE.decode(raw)
    except msgspec.DecodeError:
        return NO_TRACE
    if not _TRACEPARENT.match(trace.traceparent or ""):
        return NO_TRACE
    state = trace.tracestate or ""
    return Trace(trace.traceparent, state if _TRACESTATE.fullmatch(state) else "")
