"""Who holds how many places of a window, and who may take one more.

A request that is never answered keeps its place, and a core works off what it was given
in its own order. So nobody may hold so many that none is left for others, or that others
wait long behind them:

    who holds none       takes any place that is free
    who holds some       takes one more while  held < most
                         and                   held < 2 x (free - a quarter of the window)

The second is the dynamic threshold of switch buffers (Choudhury and Hahne, 1998) in front
of a reserve for newcomers. Of 64 places one connection gets 32, two get 20 each, three 14,
and it takes 20 that are never answered to fill them all. Who waits for a place is kept
by what it holds, so that the next one is found without asking all of them.
It knows no lines and no window: callers say how many places are free.
"""


class Shares:
    """The places of one window, by connection.

    Args:
        window: How many there are.
        most: One connection's, however many are free.

    Attributes:
        parked: Connections that wait, by how many places they hold.
    """

    __slots__ = ("_held", "_most", "_reserve", "parked")

    def __init__(self, window: int, most: int) -> None:
        self._most = most
        self._reserve = (window + 3) // 4
        self._held: dict[int, int] = {}
        self.parked: dict[int, dict[int, None]] = {}

    def __repr__(self) -> str:
        parked = sum(map(len, self.parked.values()))
        return f"<Shares held={sum(self._held.values())} by={len(self._held)} parked={parked}>"

    def allows(self, key: int, free: int) -> bool:
        """Whether a connection may take one of the `free` places; there is at least one."""
        held = self._held.get(key)
        return held is None or self._one_more(held, free)

    def _one_more(self, held: int, free: int) -> bool:
        """Whether who holds some may take another."""
        return held < self._most and held < 2 * (free - self._reserve)

    def take(self, key: int, free: int) -> bool:
        """Give a connection one of the `free` places, if it is allowed one."""
        held = self._held.get(key, 0)
        if held and not self._one_more(held, free):
            return False
        self._held[key] = held + 1
        return True

    def give_back(self, key: int) -> None:
        """A connection has one place less; it must not be parked.

        Raises:
            KeyError: It has none.
        """
        left = self._held[key] - 1
        if left:
            self._held[key] = left
        else:
            del self._held[key]

    def park(self, key: int) -> None:
        """A connection that is not allowed a place waits until it is."""
        self.parked.setdefault(self._held[key], {})[key] = None

    def unpark(self, key: int) -> bool:
        """It waits no longer. False when it did not."""
        held = self._held.get(key, 0)
        parked = self.parked.get(held)
        if parked is None or key not in parked:
            return False
        del parked[key]
        if not parked:
            del self.parked[held]
        return True

    def unpark_next(self, free: int) -> int | None:
        """Of the parked that are allowed a place the first of those that hold least, if any."""
        held = min(self.parked, default=None)
        if held is None or not self._one_more(held, free):
            return None
        key = next(iter(self.parked[held]))
        self.unpark(key)
        return key
