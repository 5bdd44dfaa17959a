"""What leaves, and when: nothing before the write that it tells of is durable.

Messages of one thread are a lane: they leave in the order in which they were posted.
A message with a write waits for it, and all behind it in its lane wait too; deltas have
no write but keep their place. Lanes do not wait for each other, and messages of no
thread wait for nothing. Writes become durable in order, so a lane never stands long.

When a write failed, its message is not sent, and what stands behind it in its lane is
dropped: it tells of what is not on disk. Firm messages are kept: answers, which are
replaced by the error where they waited for a write that failed, and the ends of what
was told before.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from core_server.context import Durable

HIGH_WATER_BYTES: Final = 1024 * 1024
"""From here on turns wait before they produce more: an unread client costs this much,
and deltas reach a reading one without a pause."""


class _Posted(msgspec.Struct, frozen=True):
    line: bytes
    after: Durable | None
    otherwise: bytes | Callable[[Durable], bytes] | None
    firm: bool

    def instead(self, failed: Durable) -> bytes | None:
        """What to send for a line whose write failed."""
        return self.otherwise(failed) if callable(self.otherwise) else self.otherwise


class Outbox:
    """Lanes of messages in front of the one writer.

    Args:
        write: Takes a line for the wire.
        buffered_bytes: How much of it the client has not taken.
        on_less: Called when less waits than before, so that reading may go on.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        buffered_bytes: Callable[[], int],
        on_less: Callable[[], None],
    ) -> None:
        self._write = write
        self._buffered_bytes = buffered_bytes
        self._on_less = on_less
        self._lanes: dict[str, deque[_Posted]] = {}
        self._held_bytes = 0
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Outbox lanes={len(self._lanes)} held={self._held_bytes}>"

    @property
    def waiting_bytes(self) -> int:
        """What is posted and not taken by the client."""
        return self._held_bytes + self._buffered_bytes()

    def post(
        self,
        line: bytes,
        lane: str = "",
        after: Durable | None = None,
        otherwise: bytes | Callable[[Durable], bytes] | None = None,
        *,
        firm: bool = False,
    ) -> None:
        """Send a line.

        Args:
            line: The message, without newline.
            lane: The thread it belongs to; empty for none.
            after: The write that must be durable before.
            otherwise: What to send instead when that write failed, or how to say why it did.
            firm: Kept when a write before it in its lane failed.
        """
        queue = self._lanes.get(lane) if lane else None
        if queue is None:
            if after is None:
                self._write(line)
                return
            queue = self._lanes[lane] = deque()
        queue.append(_Posted(line, after, otherwise, firm))
        self._held_bytes += len(line)
        if len(queue) == 1:
            self._advance(lane)

    def less(self) -> None:
        """Less waits than before; whoever waits for room looks again."""
        self._changed.set()
        self._on_less()

    async def room(self) -> None:
        """Wait until little enough is unread to produce more."""
        while self.waiting_bytes > HIGH_WATER_BYTES:
            self._changed.clear()
            await self._changed.wait()

    async def settled(self) -> None:
        """Wait until no lane waits for a write."""
        while self._lanes:
            self._changed.clear()
            await self._changed.wait()

    def _advance(self, lane: str) -> None:
        queue = self._lanes[lane]
        while queue:
            first = queue[0]
            after = first.after
            if after is not None and not after.done():
                after.add_done_callback(lambda _: self._advance(lane))
                return
            queue.popleft()
            self._held_bytes -= len(first.line)
            if after is None or not (after.cancelled() or after.exception() is not None):
                self._write(first.line)
                continue
            if (instead := first.instead(after)) is not None:
                self._write(instead)
            self._held_bytes -= sum(len(each.line) for each in queue if not each.firm)
            queue = self._lanes[lane] = deque(each for each in queue if each.firm)
        del self._lanes[lane]
        self.less()
