"""One client as the supervisor sees it: a bounded queue, whatever carries it away.

`websocket.WebsocketClient` and `stdio.StdioClient` share the rules here: messages
are queued without waiting, written together once a turn of the event loop, and a
client that takes nothing is cut while its neighbours do not notice. Only the writer
task ever waits for the peer.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from core_server.jsonrpc.framing import Oversized
from trace_proxy.queues.client_queue import ClientQueue, Verdict

WRITE_BYTES: Final = 256 * 1024
"""Given to the transport at once: what a socket's buffer holds, four times over."""


def _uncounted(_messages: int, _size: int) -> None:
    """Until somebody wants to be told of each write."""


class Reader(Protocol):
    """Who takes what clients say; see `intake`."""

    def messages(self, client: "Client", texts: list[bytes]) -> bool:
        """Messages, in order; returns whether it has as many requests under way as it may."""
        ...

    def oversized(self, client: "Client", line: Oversized) -> None:
        """A message over the limit."""
        ...

    def alone(self, client: "Client") -> bool:
        """Whether no other client has said anything lately."""
        ...

    def weighs(self, client: "Client", cost_bytes: int) -> float:
        """A message that is not small is to be handled; returns for how long it has to wait."""
        ...

    def holds(self, client: "Client", size: int) -> None:
        """So many bytes of its input are held, unfinished or not handled."""
        ...


class Client(ABC):
    """A connected client.

    Args:
        queue: Its queue.
        slow_close_s: How long it gets to take what is queued, and its Close.

    Attributes:
        paced: Whether a message of it waits for others' sake.
    """

    def __init__(self, queue: ClientQueue, slow_close_s: float) -> None:
        self.queue = queue
        self.key = -1
        self.dirty = False
        self.congested = False
        self.paced = False
        self.closing: tuple[int, str] | None = None
        self.written_bytes = 0
        self.written: Callable[[int, int], None] = _uncounted
        self.input_ended = False
        self.pinged_at_s: float | None = None
        self._slow_close_s = slow_close_s
        self._tasks: asyncio.TaskGroup | None = None
        self._writer: asyncio.Task[None] | None = None
        self._draining: asyncio.Timeout | None = None

    def __repr__(self) -> str:
        state = "closing" if self.closing else "congested" if self.congested else "open"
        return f"<{type(self).__name__} {self.key} {state} {self.queue!r}>"

    @abstractmethod
    def encode(self, message: bytes) -> bytes:
        """A message as this transport writes it."""

    def encode_all(self, messages: Sequence[bytes]) -> list[bytes]:
        """Several messages, a frame each."""
        return list(map(self.encode, messages))

    @abstractmethod
    def decode(self, frame: bytes) -> bytes:
        """The message of an encoded frame."""

    @property
    @abstractmethod
    def paused(self) -> bool:
        """Whether the transport has enough to write for now."""

    @property
    @abstractmethod
    def buffered_bytes(self) -> int:
        """What the transport has not written yet."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Give bytes to the transport; never waits."""

    @abstractmethod
    async def drained(self) -> None:
        """Wait until the transport takes more."""

    @abstractmethod
    async def send_close(self, code: int, reason: str) -> None:
        """End the connection in the transport's own way; nothing is written afterwards."""

    @abstractmethod
    def abort(self) -> None:
        """End it at once."""

    @property
    def heard_at_s(self) -> float | None:
        """When it said something last, loop time; None where that tells nothing."""
        return None

    @property
    def unfinished_since_s(self) -> float | None:
        """Since when a message of it has been unfinished, None while none is."""
        return None

    def ping(self) -> None:  # noqa: B027 - a pipe has no way to ask
        """Ask whether it is there, where the transport has a way to."""

    @property
    def unflushed_bytes(self) -> int:
        """What the peer's kernel has not got yet."""
        return self.queue.size_bytes + self.buffered_bytes

    def flush(self) -> None:
        """Write what waits, as far as the transport takes it."""
        self.dirty = False
        left, paused = len(self.queue), self.paused
        while left and not paused:
            frames = self.queue.take(WRITE_BYTES)
            data = b"".join(frames)
            size = len(data)
            self.written_bytes += size
            self.written(len(frames), size)
            self.write(data)
            left, paused = len(self.queue), self.paused
        if (paused or left) and not self.congested:
            self.congested = True
            self._start_writer()

    def close(self, code: int, reason: str, *, drop: bool = False) -> None:
        """End it with a Close, behind what is queued unless that is dropped.

        The first reason counts, but for one that drops what still waits: who reads that we
        restart believes to have been told everything.
        """
        first, loses = self.closing is None, drop and self.queue.messages
        if drop:
            self.queue.clear()
        if first or loses:
            self.closing = (code, reason)
        if not first:
            return
        self._start_writer()
        if self._draining is not None:
            self._draining.reschedule(0)  # long past: the writer stops waiting for room

    def judge(self, now_s: float) -> Verdict:
        """Whether a congested client is too slow; joins its deltas when that helps."""
        progress = self.written_bytes - self.buffered_bytes
        verdict = self.queue.check(now_s, progress)
        if verdict is Verdict.JOIN:
            self.queue.join_deltas(self.decode, self.encode)
        return verdict

    def writes_in(self, tasks: asyncio.TaskGroup) -> None:
        """Give it the parent of its writer task, before anything is written."""
        self._tasks = tasks
        if self.congested or self.closing is not None:
            self._start_writer()

    def _start_writer(self) -> None:
        """Start the writer task, unless it runs: an idle client does without one."""
        if self._writer is None and self._tasks is not None:
            self._writer = self._tasks.create_task(self._run_writer())

    async def _run_writer(self) -> None:
        """The writer task: waits for the peer, so that nobody else has to."""
        try:
            while self.congested and self.closing is None:
                await self._wait_for_room()
            if self.closing is None:
                self._writer = None  # no await since it was asked: nobody is congested now
                return
            async with asyncio.timeout(self._slow_close_s):
                while len(self.queue):
                    await self.drained()
                    self.flush()
                await self.send_close(*self.closing)
        except (TimeoutError, ConnectionError):
            self.abort()

    async def _wait_for_room(self) -> None:
        """Until the transport takes more, but not longer than until this client is closed."""
        try:
            async with asyncio.timeout(None) as self._draining:
                await self.drained()
        except TimeoutError:
            return
        finally:
            self._draining = None
        self.congested = False
        self.flush()
