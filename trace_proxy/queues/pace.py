"""Large messages of one client are handled at a pace that its neighbours do not notice.

Every step of a large message (checking, copying, sending on, the core's work, its answer
back) holds the event loop or the core for milliseconds, and none of them can be
cut into pieces. One such message is no harm; one after the other, they are what everybody
waits for. So a client may send so many bytes of large messages a second:

    a message costs so much -> large -> handle() -> 0: handle it | else ask again then

What is large is told by what it costs, and 31 KiB of brackets cost as much as a megabyte or
two of text. Middling ones, from a kilobyte on, have a pace of their own, `MIDDLING` times as
fast. Small messages are never slowed down, and another only by what its own client has sent
before. It does not know whether there are neighbours: who is alone need not ask.
"""

from typing import Final

from core_server.jsonrpc.depth import openings, values

WEIGHED_BYTES: Final = 1024
"""Shorter messages cost what any message does, whatever they say: nobody looks at them."""

ORDINARY_BYTES: Final = 12
"""Ordinary data has one value in so many bytes at most; those cost nothing extra."""

VALUE_BYTES: Final = 192
"""Of text are read by a core in Python while it reads one value and answers with it."""

OPENING_BYTES: Final = 32
"""And where a message is so long that its bytes count anyway, an array or object is as many."""

COUNTED_BYTES: Final = 64 * 1024
"""In longer ones only brackets are counted, which is quick, those within texts too."""

BURST_S: Final = 1.0
"""So many seconds' worth is let through at once after a quiet time; and a message of any
size as long as anything of it is left: an image or two."""

MIDDLING: Final = 2
"""Times as fast as large ones: who sends a file in pieces need not notice. But 31 KiB of numbers
are read by a core in Python for a millisecond, and without a bound it does nothing else."""

MIDDLING_BURST_S: Final = 1 / 32
"""So many seconds' worth of those at once: two of the largest, or forty that just count. Who is
cut and comes back begins anew, so it must not be much."""

ASK_AGAIN_S: Final = 0.25
"""At the latest: all neighbours may have left."""


MOST_BYTES: Final = 16 * 1024 * 1024
"""No message costs more than this much text does, but for its own bytes; `codec` does not
even read what has many more brackets."""


def cost_of(message: bytes) -> int:
    """What a message costs those who read it, in bytes of text that cost as much."""
    size = len(message)
    if size < WEIGHED_BYTES:
        return size
    ordinary = size // ORDINARY_BYTES
    if size > COUNTED_BYTES:
        extra = OPENING_BYTES * max(0, openings(message) - ordinary)
        return max(size, min(size + extra, MOST_BYTES))
    if openings(message) + message.count(b",") <= ordinary:  # those within strings too
        return size
    return size + VALUE_BYTES * max(0, values(message) - ordinary)


class Pace:
    """A token bucket for each client that sends such messages; its level may fall below zero.

    Args:
        bytes_per_s: How many bytes of them are handled of each client on average.
        burst_s: And so many seconds' worth at once.
    """

    def __init__(self, bytes_per_s: int, burst_s: float = BURST_S) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_bytes = burst_s * bytes_per_s
        self._levels: dict[int, tuple[float, float]] = {}  # bytes, and when that was

    def __repr__(self) -> str:
        levels = {key: round(level) for key, (level, _) in self._levels.items()}
        return f"<Pace bytes left={levels}>"

    def handle(self, key: int, cost_bytes: int, now_s: float) -> float:
        """A message of this client is there.

        Args:
            key: Which client.
            cost_bytes: The message's, see `cost_of`.
            now_s: Monotonic seconds.

        Returns:
            0 when it may be handled now, else the seconds after which to ask again; then
            nothing was counted.
        """
        full = self._burst_bytes
        level, at_s = self._levels.get(key, (full, now_s))
        level = min(full, level + (now_s - at_s) * self._bytes_per_s)
        if level <= 0:
            self._levels[key] = level, now_s
            return min(ASK_AGAIN_S, max(0.01, -level / self._bytes_per_s))
        self._levels[key] = level - cost_bytes, now_s
        return 0.0

    def leave(self, key: int) -> None:
        """A client is gone."""
        self._levels.pop(key, None)
