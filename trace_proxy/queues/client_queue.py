"""The queue in front of one client, and all of them together: who is cut.

Frames are what the transport writes: encoded once, the same object in every queue
of a fan-out, opaque here. A slow client first gets its text deltas joined, which
loses nothing (`deltas`), then it is cut; its neighbours never notice, because each
has its own queue and nobody waits. Nothing queued for a living client is dropped.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import msgspec

from trace_proxy.queues.deltas import join_deltas

_JOIN_FRAMES: Final = 4096
"""Frames looked at in one go: 5 to 10 ms, a pause that neighbours bear."""


class ClientQueueBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of an `ClientQueue`, each at least 1; the defaults are argued in `limits`.

    Attributes:
        soft_max_bytes: Above it for `soft_s`, deltas are joined.
        soft_max_messages: Or above this.
        soft_s: How long, in seconds.
        hard_max_bytes: Above it the client is cut.
        hard_max_messages: Or above this.
        stall_s: Or after so many seconds without progress.
        control_max_frames: Pongs and closes that may wait.
    """

    soft_max_bytes: int = 1024 * 1024
    soft_max_messages: int = 2048
    soft_s: float = 10.0
    hard_max_bytes: int = 8 * 1024 * 1024
    hard_max_messages: int = 32_768
    stall_s: float = 10.0
    control_max_frames: int = 128


class Verdict(Enum):
    """What to do about a congested client."""

    OK = auto()
    JOIN = auto()
    CUT = auto()


class TotalOutbound:
    """What waits for all clients together; counts a shared frame once for each.

    Args:
        max_bytes: Above it the largest queue goes first.
    """

    __slots__ = ("_max_bytes", "_queues", "size_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._queues: dict[int, ClientQueue] = {}
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<TotalOutbound {self.size_bytes}/{self._max_bytes} bytes>"

    @property
    def over(self) -> bool:
        """Whether somebody must be cut (1013): `largest`, until the rest fits."""
        return self.size_bytes > self._max_bytes

    def open(self, key: int, bounds: ClientQueueBounds) -> "ClientQueue":
        """Make the queue of a new connection."""
        queue = self._queues[key] = ClientQueue(bounds, self)
        return queue

    def close(self, key: int) -> None:
        """Forget the queue of a connection that is gone, with what is in it."""
        queue = self._queues.pop(key, None)
        if queue is not None:
            queue.clear()

    def largest(self) -> int | None:
        """The connection with the most bytes waiting; a scan, for when it is `over`.

        None when a single frame is all that waits anywhere: no bound may stop that one.
        """
        key = max(self._queues, key=lambda k: self._queues[k].size_bytes, default=None)
        if key is None:
            return None
        queue = self._queues[key]
        alone = queue.size_bytes == self.size_bytes and queue.messages <= 1
        return None if alone else key


class ClientQueue:
    """What waits for one client, in order; control frames go first.

    Attributes:
        size_bytes: Bytes of the data frames that wait.
    """

    __slots__ = (
        "_bounds",
        "_control",
        "_frames",
        "_giant_bytes",
        "_joined",
        "_progress_at_s",
        "_progress_total",
        "_soft_bytes",
        "_soft_since_s",
        "_total",
        "size_bytes",
    )

    def __init__(self, bounds: ClientQueueBounds, total: TotalOutbound) -> None:
        self._bounds = bounds
        self._total = total
        self._soft_bytes = bounds.soft_max_bytes
        self._control: list[bytes] = []
        self._joined: list[bytes] = []  # an empty deque is ten times as large, for every client
        self._frames: list[bytes] = []
        self.size_bytes = 0
        self._giant_bytes = 0
        self._soft_since_s: float | None = None
        self._progress_at_s: float | None = None
        self._progress_total = 0

    def __repr__(self) -> str:
        return f"<ClientQueue {self.messages} messages, {self.size_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._frames) + len(self._joined) + len(self._control)

    @property
    def messages(self) -> int:
        """Data frames that wait."""
        return len(self._frames) + len(self._joined)

    def append(self, frame: bytes) -> None:
        """Queue a data frame; ask `over_hard` afterwards."""
        size = len(frame)
        self._frames.append(frame)
        self.size_bytes += size
        self._total.size_bytes += size
        if size > self._soft_bytes and not self._giant_bytes:
            self._giant_bytes = size

    def extend(self, frames: list[bytes]) -> None:
        """Queue data frames, in order; ask `over_hard` afterwards."""
        size = sum(map(len, frames))
        if size > self._soft_bytes:  # one of them may be a giant
            for frame in frames:
                self.append(frame)
            return
        self._frames += frames
        self.size_bytes += size
        self._total.size_bytes += size

    def append_control(self, frame: bytes) -> bool:
        """Queue a pong or close ahead of all data; False when the lane is full: abort."""
        if len(self._control) >= self._bounds.control_max_frames:
            return False
        self._control.append(frame)
        return True

    @property
    def over_hard(self) -> bool:
        """Whether the client must be cut (1013). Meaningful while it takes nothing.

        One frame that alone is larger than the soft bound is not counted: its reader
        did nothing wrong, and after a cut would only ask for it again.
        """
        return (
            self.size_bytes - self._giant_bytes > self._bounds.hard_max_bytes
            or self.messages > self._bounds.hard_max_messages
        )

    @property
    def over_soft(self) -> bool:
        """Whether the client reads slower than it is written to."""
        return (
            self.size_bytes > self._bounds.soft_max_bytes
            or self.messages > self._bounds.soft_max_messages
        )

    def take(self, max_bytes: int) -> list[bytes]:
        """Whole frames to write, in order: at least one, together at most `max_bytes`."""
        taken, self._control = self._control, []
        if self.size_bytes <= max_bytes:
            if taken or self._joined:
                taken += self._joined
                taken += self._frames
            else:  # nearly always: they as they are
                taken, self._frames = self._frames, taken
            self.clear()
            return taken
        left = max_bytes
        for lane in (self._joined, self._frames):
            count = 0
            for frame in lane:
                if taken and len(frame) > left:
                    break
                taken.append(frame)
                left -= len(frame)
                self._gone(len(frame))
                count += 1
            del lane[:count]
            if lane:
                break
        if self._soft_since_s is not None and not self.over_soft:
            self._soft_since_s = None
        return taken

    def _gone(self, size: int) -> None:
        self.size_bytes -= size
        self._total.size_bytes -= size
        if size > self._soft_bytes:
            self._giant_bytes = 0  # the first giant in is the first out

    def clear(self) -> None:
        """Drop all data: the client is cut, or is gone. Control frames stay."""
        self._total.size_bytes -= self.size_bytes
        self.size_bytes = self._giant_bytes = 0
        self._joined.clear()
        self._frames.clear()
        self._soft_since_s = None

    def check(self, now_s: float, progress_total: int) -> Verdict:
        """Judge a congested client, about once a second.

        Only while bytes wait, here or in the transport: a client to whom nothing is
        sent makes no progress either.

        Args:
            now_s: Monotonic seconds.
            progress_total: Bytes that its socket has taken so far, ever.
        """
        if self._progress_at_s is None or progress_total != self._progress_total:
            self._progress_at_s, self._progress_total = now_s, progress_total
        if self.over_hard or now_s - self._progress_at_s >= self._bounds.stall_s:
            return Verdict.CUT
        if not self.over_soft:
            self._soft_since_s = None
            return Verdict.OK
        if self._soft_since_s is None:
            self._soft_since_s = now_s
        long = now_s - self._soft_since_s >= self._bounds.soft_s
        return Verdict.JOIN if long and self._frames else Verdict.OK

    def join_deltas(
        self, unwrap: Callable[[bytes], bytes], wrap: Callable[[bytes], bytes]
    ) -> bool:
        """Join the text deltas of each item among the oldest frames not looked at yet.

        Args:
            unwrap: The transport's frame → message.
            wrap: Message → frame.

        Returns:
            Whether there are more to look at; each frame is looked at once.
        """
        frames = self._frames[:_JOIN_FRAMES]
        del self._frames[:_JOIN_FRAMES]
        joined = join_deltas(frames, unwrap, wrap)
        saved = sum(map(len, frames)) - sum(map(len, joined))
        self._joined += joined
        self.size_bytes -= saved
        self._total.size_bytes -= saved
        return bool(self._frames)
