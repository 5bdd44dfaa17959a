"""Guessing has to be slow: an address that was refused too often has to wait.

After `MOST` answers of 401 within a minute an address hears 429 until the oldest of them
is a minute old; its tokens are not even looked at meanwhile, so a right guess shows
nothing. An IPv6 address counts with its /64, which is what one customer gets.

It counts refusals only: who is let in is nobody who guesses.
"""

import math
from collections import OrderedDict, deque
from ipaddress import IPv6Address
from typing import Final

from trace_proxy.access.policy import Denial
from trace_proxy.protocol.authority import address_of

MOST: Final = 20
"""A person tries three times, a program with an old token until somebody looks."""

WINDOW_S: Final = 60.0

MAX_ADDRESSES: Final = 10_000
"""Remembered at once; a larger crowd makes room by the oldest. A megabyte or two."""


class Attempts:
    """Refusals by address, of the last minute."""

    def __init__(self) -> None:
        self._refused: OrderedDict[str, deque[float]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Attempts addresses={len(self._refused)}>"

    def check(self, ip: str, now_s: float) -> Denial | None:
        """None: it may try. `now_s` is monotonic."""
        times = self._refused.get(_network(ip))
        if times is None:
            return None
        while times and now_s - times[0] >= WINDOW_S:
            times.popleft()
        if len(times) < MOST:
            return None
        wait_s = max(1, math.ceil(times[0] + WINDOW_S - now_s))
        return Denial(429, "too_many_refusals", "Too many wrong tokens; try again later.", wait_s)

    def refused(self, ip: str, now_s: float) -> None:
        """It was answered with 401."""
        network = _network(ip)
        times = self._refused.setdefault(network, deque(maxlen=MOST))
        times.append(now_s)
        self._refused.move_to_end(network)
        while len(self._refused) > MAX_ADDRESSES:
            self._refused.popitem(last=False)


def _network(ip: str) -> str:
    """What counts as one address."""
    address = address_of(ip)
    if isinstance(address, IPv6Address):
        return str(IPv6Address(int(address) >> 64 << 64))
    return str(address or ip)
