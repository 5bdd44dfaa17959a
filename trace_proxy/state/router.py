"""Client ids and core ids: who asked what, and whose the answer is.

A request goes to a core under an id of ours, one counter a core and epoch, so that
equal ids of two connections never meet. An entry is settled once: by its answer, by
its core's death, or it is orphaned when its connection leaves, and then its answer
is dropped. Late, doubled and unknown answers find no entry and reach nobody.
"""

from collections.abc import Callable

from trace_proxy.state.connection import Connection, Pending


class Router:
    """The requests in flight at one core, in one epoch.

    Attributes:
        pending: They, by the id that the core sees; only to be looked at.
    """

    __slots__ = ("_next_id", "_waiting", "pending")

    def __init__(self) -> None:
        self.pending: dict[int, Pending] = {}
        self._waiting: set[int] = set()
        self._next_id = 1

    def __len__(self) -> int:
        return len(self.pending)

    def __repr__(self) -> str:
        return f"<Router in_flight={len(self.pending)}>"

    def admit(self, pending: Pending) -> int:
        """Enter a request; returns the id that the core sees."""
        core_id = self._next_id
        self._next_id = core_id + 1
        self.pending[core_id] = pending
        pending.core_id = core_id
        if pending.connection is not None:
            pending.connection.in_flight[id(pending)] = pending
        return core_id

    def wait(self, core_id: int) -> None:
        """The request's line waits in a lane: whatever the core says, it is no answer."""
        self._waiting.add(core_id)

    def sent(self, core_id: int) -> None:
        """Its line was given to the core at last."""
        self._waiting.discard(core_id)

    def withdraw(self, core_id: int) -> Pending | None:
        """Take a request whose line will never be sent."""
        self._waiting.discard(core_id)
        return self.settle(core_id)

    def get(self, core_id: int | str) -> Pending | None:
        """A request that is not answered yet."""
        return self.pending.get(core_id) if isinstance(core_id, int) else None

    def settle(self, core_id: int | str) -> Pending | None:
        """Take the request that an answer belongs to; None if there is no such request."""
        if isinstance(core_id, str):
            return None  # ours are integers
        if self._waiting and core_id in self._waiting:
            return None
        pending = self.pending.pop(core_id, None)
        if pending is not None and pending.connection is not None:
            del pending.connection.in_flight[id(pending)]
        return pending

    def take_waiting(self, which: Callable[[Pending], bool]) -> list[Pending]:
        """Take those of some clients' requests that the core has never been given."""
        waiting = [(each, self.pending[each]) for each in sorted(self._waiting)]
        mine = [(core_id, each) for core_id, each in waiting if each.connection and which(each)]
        for core_id, _ in mine:
            self.withdraw(core_id)
        return [each for _, each in mine]

    def lose_all(self) -> list[Pending]:
        """Take all of them: the core is gone. In the order they were sent."""
        lost = list(self.pending.values())
        self.pending.clear()
        self._waiting.clear()
        for pending in lost:
            if pending.connection is not None:
                del pending.connection.in_flight[id(pending)]
        return lost

    def requests(self) -> list[Pending]:
        """All of them, in the order they were sent."""
        return list(self.pending.values())


def orphan(connection: Connection) -> list[Pending]:
    """Detach a connection's requests: their answers will reach nobody."""
    orphans = list(connection.in_flight.values())
    connection.in_flight.clear()
    for pending in orphans:
        pending.connection = None
    return orphans
