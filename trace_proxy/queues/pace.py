"""Large messages of one client are handled at a pace that its neighbours do not notice.

Every step of a large message (checking, copying, sending on, the core's work, its answer
back) holds the event loop or the core for milliseconds, and none of them can be
cut into pieces. One such message is no harm; one after the other, they are what everybody
waits for. So a client may send so many bytes of large messages a second:

    a large message is there -> handle() -> 0: handle it | else ask again then

Small messages are never slowed down, and a large one only by what its own client has sent
before. It does not know whether there are neighbours: who is alone need not ask.
"""

from typing import Final

BURST_S: Final = 1.0
"""So many seconds' worth is let through at once after a quiet time; and a message of any
size as long as anything of it is left: an image or two."""

ASK_AGAIN_S: Final = 0.25
"""At the latest: all neighbours may have left."""


class Pace:
    """A token bucket for each client that sends large messages; its level may fall below zero.

    Args:
        bytes_per_s: How many bytes of them are handled of each client on average.
    """

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._levels: dict[int, tuple[float, float]] = {}  # bytes, and when that was

    def __repr__(self) -> str:
        levels = {key: round(level) for key, (level, _) in self._levels.items()}
        return f"<Pace bytes left={levels}>"

    def handle(self, key: int, size_bytes: int, now_s: float) -> float:
        """A large message of this client is there.

        Args:
            key: Which client.
            size_bytes: The message's.
            now_s: Monotonic seconds.

        Returns:
            0 when it may be handled now, else the seconds after which to ask again; then
            nothing was counted.
        """
        full = BURST_S * self._bytes_per_s
        level, at_s = self._levels.get(key, (full, now_s))
        level = min(full, level + (now_s - at_s) * self._bytes_per_s)
        if level <= 0:
            self._levels[key] = level, now_s
            return min(ASK_AGAIN_S, max(0.01, -level / self._bytes_per_s))
        self._levels[key] = level - size_bytes, now_s
        return 0.0

    def leave(self, key: int) -> None:
        """A client is gone."""
        self._levels.pop(key, None)
