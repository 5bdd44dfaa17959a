"""A crowd at the door: an address may come in as often a second as it may be there at once.

To let somebody in and out costs a few milliseconds; who comes and goes without end takes
them from everybody. So whoever comes too soon waits for a moment, in order, and is not refused:

    comes(ip) -> 0: come in | seconds to wait first

It is the virtual scheduling of a leaky bucket (ITU-T I.371): of each address only the time is
kept at which its next one would come if all came evenly.
"""

from collections import OrderedDict
from typing import Final

from trace_proxy.access.attempts import MAX_ADDRESSES
from trace_proxy.access.policy import key_of

BURST_S: Final = 1.0
"""So many seconds' worth may come at once: all that may be there, after a restart."""


class Arrivals:
    """When each address comes.

    Args:
        per_s: How many of one address a second; a unix socket has none and never waits.
    """

    def __init__(self, per_s: float) -> None:
        self._every_s = 1 / per_s
        self._next_s: OrderedDict[str, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Arrivals addresses={len(self._next_s)}>"

    def comes(self, ip: str | None, now_s: float) -> float:
        """Somebody comes; returns after how many seconds he may come in. `now_s` is monotonic."""
        key = key_of(ip)
        if key is None:
            return 0.0
        next_s = max(self._next_s.get(key, 0.0), now_s - BURST_S) + self._every_s
        self._next_s[key] = next_s
        self._next_s.move_to_end(key)
        while len(self._next_s) > MAX_ADDRESSES:
            self._next_s.popitem(last=False)
        return max(0.0, next_s - now_s)
