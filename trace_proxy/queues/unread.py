"""How much of what a core was given it may not have read yet, and whose that is.

A core reads its requests in the order in which it was given them, and long ones take it
milliseconds each. Whoever asks it then waits until all of those are read. So of its long
requests one connection may have one or a few unread, and less the more others have:

    has none unread      may give any
    has some             gives one more while  its own + the next <= most - all that is unread

A request is read when it is answered, but many are open for long: also when one is answered
that was given after it, or when it has been there for two ticks and the core was idle or
slow, so that one that is never answered keeps nobody back. Short requests are not counted.
"""

from typing import Final

_ALONE: Final = 4
"""Times as much for who is alone: between two answers the core is to have enough to read."""


class Unread:
    """Long requests of one core that are not answered, by connection.

    Args:
        most: Of all together, where more than one connection has some: bytes, or whatever
            the cost of a request is counted in.

    Attributes:
        alone: Whether there is one connection only: nobody waits behind what it has unread.
        parked: Connections whose next request may not be given yet.
    """

    __slots__ = ("_generation", "_given", "_most", "_own", "_total", "alone", "parked")

    def __init__(self, most: int) -> None:
        self._most = most
        self._given: dict[int, tuple[int, int, int, int]] = {}
        self._own: dict[int, int] = {}
        self._total = 0
        self._generation = 0
        self.alone = False
        self.parked: set[int] = set()

    def __repr__(self) -> str:
        return f"<Unread cost={self._total} of={len(self._own)} parked={len(self.parked)}>"

    def __len__(self) -> int:
        return len(self._given)

    def allows(self, key: int, cost: int) -> bool:
        """Whether a connection may give a request that costs so much."""
        own = self._own.get(key)
        most = self._most * _ALONE if self.alone else self._most
        return own is None or own + cost <= most - self._total

    def give(self, key: int, cost: int, core_id: int, latest_id: int) -> None:
        """It was given.

        Args:
            key: Whose it is.
            cost: Of reading it, at least 1.
            core_id: What the core knows it by.
            latest_id: No request was given before it that is known by a higher number.
        """
        self._given[core_id] = key, cost, latest_id, self._generation
        self._own[key] = self._own.get(key, 0) + cost
        self._total += cost

    def answered(self, core_id: int) -> list[int]:
        """Any request of the core was answered; returns who may go on."""
        free = self._read(core_id) if core_id in self._given else []
        while self._given:
            first, (_, _, latest_id, _) = next(iter(self._given.items()))
            if latest_id >= core_id:
                break
            free += self._read(first)
        return free

    def tick(self) -> list[int]:
        """Some time has passed; returns who may go on."""
        free: list[int] = []
        while self._given:
            first, (_, _, _, generation) = next(iter(self._given.items()))
            if generation == self._generation:
                break
            free += self._read(first)
        self._generation += 1
        return free

    def _read(self, core_id: int) -> list[int]:
        """The core has read it; returns whose it was, where that one waits."""
        key, cost, _, _ = self._given.pop(core_id)
        self._total -= cost
        left = self._own[key] - cost
        if left:
            self._own[key] = left
        else:
            del self._own[key]
        if key not in self.parked:
            return []
        self.parked.discard(key)
        return [key]
