"""Large messages come in at a pace that neighbours do not notice.

Every step of a large message (unmasking, checking, copying, sending on, the core's work,
its answer back) holds the event loop or the core for milliseconds, and none of them can be
cut into pieces. One such message is no harm; one after the other, they are what everybody
waits for. So all clients together may send so many bytes of large messages a second:

    a message grows large -> begin() -> 0: read on, charge() what comes | else ask again then

Small messages are never slowed down, and a large one only until it is its turn: first
come, first served. A client that is alone is not slowed down at all.
"""

from typing import Final

BURST_S: Final = 1.0
"""So many seconds' worth is let through at once after a quiet time: an image or two."""

ASK_AGAIN_S: Final = 0.25
"""At the latest: whoever was before may have left, or everybody else."""


class Pace:
    """A token bucket for the bytes of large messages; its level may fall below zero.

    Args:
        bytes_per_s: How many of them are read on average.
    """

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._level = self._full = BURST_S * bytes_per_s
        self._at_s = 0.0
        self._waiting: dict[int, None] = {}

    def __repr__(self) -> str:
        return f"<Pace level={self._level:.0f} bytes, {len(self._waiting)} waiting>"

    def begin(self, key: int, now_s: float, *, alone: bool = False) -> float:
        """Whether this connection's large message may be read on.

        Args:
            key: Which connection.
            now_s: Monotonic seconds.
            alone: There is no other; it must not be in line either, when one comes.

        Returns:
            0 when it may, else the seconds after which to ask again.
        """
        self._level = min(self._full, self._level + (now_s - self._at_s) * self._bytes_per_s)
        self._at_s = now_s
        first = next(iter(self._waiting), key)
        if alone or (self._level > 0 and first == key):
            self._waiting.pop(key, None)
            return 0.0
        self._waiting[key] = None
        return min(ASK_AGAIN_S, max(0.01, -self._level / self._bytes_per_s))

    def charge(self, size_bytes: int) -> None:
        """So much of a large message was read."""
        self._level -= size_bytes

    def leave(self, key: int) -> None:
        """A connection is gone; others need not wait for its turn."""
        self._waiting.pop(key, None)
