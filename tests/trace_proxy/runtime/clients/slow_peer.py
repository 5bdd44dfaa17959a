"""A client in memory, which reads when a test says so."""

import asyncio

from trace_proxy.queues.client_queue import ClientQueue
from trace_proxy.runtime.clients.client import Client

SLOW_CLOSE_S = 5.0


class Peer(Client):
    """A client whose transport holds `room` bytes until its peer reads them."""

    def __init__(self, queue: ClientQueue, room: int = 10) -> None:
        super().__init__(queue, SLOW_CLOSE_S)
        self._room = room
        self._waiting = b""
        self._resumed = asyncio.Event()
        self._resumed.set()
        self.got = b""
        self.closed_with: tuple[int, str] | None = None
        self.aborted_at_s: float | None = None

    def encode(self, message: bytes) -> bytes:
        return message

    def decode(self, frame: bytes) -> bytes:
        return frame

    @property
    def paused(self) -> bool:
        return len(self._waiting) >= self._room

    @property
    def buffered_bytes(self) -> int:
        return len(self._waiting)

    def write(self, data: bytes) -> None:
        assert self.closed_with is None, "nothing is written behind a Close"
        self._waiting += data
        if self.paused:
            self._resumed.clear()

    async def drained(self) -> None:
        await self._resumed.wait()

    async def send_close(self, code: int, reason: str) -> None:
        self.closed_with = (code, reason)

    def abort(self) -> None:
        self.aborted_at_s = asyncio.get_running_loop().time()

    def read(self) -> None:
        """The peer takes everything that its kernel holds."""
        self.got += self._waiting
        self._waiting = b""
        self._resumed.set()

    def send(self, message: bytes) -> None:
        self.queue.append(message)
        if not self.congested:
            self.flush()
