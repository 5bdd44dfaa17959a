"""The proxy's relation with one core process, over all its lives.

    DOWN --started--> STARTING --opened--> READY
     ^                   |                   |
     +------lost---------+-------lost--------+       DOWN --failed--> FAILED

`started`: its process runs. `opened`: it has answered `initialize` and its threads are
back. `lost`: its process is gone. `failed`: it will not be started again.
A life is an epoch: ids, answers and server requests of an older one mean nothing.
"""

from enum import Enum
from typing import Final, NamedTuple

from trace_proxy.queues.core_queue import CoreQueue
from trace_proxy.state.router import Router


class CoreState(Enum):
    """Where a core is in its life."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"
    FAILED = "failed"


_READY = CoreState.READY  # an attribute of an Enum class costs as much as a call


SLACK: Final = 8
"""Requests more than twice those of the other: as many as are handled in one piece."""


class Fault(NamedTuple):
    """A line that a core must not say.

    Attributes:
        why: In words that quote nothing of it.
        size: Its length in bytes.
    """

    why: str
    size: int


class CoreSession:
    """One core of the pool.

    Attributes:
        index: Its place in the pool, from 0; `trace_proxy.core.id`.
        epoch: Counts its processes, from 1.
        state: See the module.
        router: Requests in flight in this epoch.
        queue: Lines waiting for its stdin; it is written to while the core is READY only.
        greeting: Result of its `initialize`, None before it.
        threads: How many threads are placed here.
        turns: How many turns run here.
        asked: How many server requests of it are pending.
        url: Where it is reached, if it is another host's; empty for a child of ours.
    """

    __slots__ = (
        "asked",
        "epoch",
        "greeting",
        "index",
        "queue",
        "router",
        "state",
        "threads",
        "turns",
        "url",
    )

    def __init__(self, index: int, queue: CoreQueue, url: str = "") -> None:
        self.index = index
        self.url = url
        self.epoch = 0
        self.state = CoreState.DOWN
        self.router = Router()
        self.queue = queue
        self.queue.writable = False
        self.greeting: bytes | None = None
        self.threads = 0
        self.turns = 0
        self.asked = 0

    def __repr__(self) -> str:
        return (
            f"<Core {self.index} {self.state.name} epoch={self.epoch}"
            f" in_flight={len(self.router)} threads={self.threads} turns={self.turns}>"
        )

    def started(self) -> None:
        """A process of it runs: a new epoch begins."""
        assert self.state is CoreState.DOWN, f"started() in {self.state}"
        self.epoch += 1
        self.state = CoreState.STARTING

    def opened(self) -> None:
        """It is open to the requests of clients."""
        assert self.state is CoreState.STARTING, f"opened() in {self.state}"
        self.state = CoreState.READY
        self.queue.writable = True

    def lost(self) -> None:
        """Its process is gone, or was never there: nothing more goes to it or comes from it."""
        assert self.state is not CoreState.FAILED, "lost() after failed()"
        self.state = CoreState.DOWN
        self.greeting = None
        self.queue.clear()
        self.queue.writable = False

    def failed(self) -> None:
        """It will not be started again."""
        assert self.state is CoreState.DOWN, f"failed() in {self.state}"
        self.state = CoreState.FAILED

    def input(self, *, writable: bool) -> None:
        """Its stdin is full, or has room again."""
        self.queue.writable = writable and self.state is CoreState.READY

    def precedes(self, other: "CoreSession") -> bool:
        """Whether something new should rather go here: up before starting, then least loaded."""
        if self.state is not other.state and (self.state is _READY or other.state is _READY):
            return self.state is _READY
        if self.turns != other.turns:
            return self.turns < other.turns
        mine, others = len(self.router.pending), len(other.router.pending)
        return mine < others if mine != others else self.threads < other.threads

    def about_as(self, other: "CoreSession") -> bool:
        """Whether it has no more turns than the other, and about as many requests as that.

        Not exactly as many: what was answered in one piece has just left it.
        """
        return (
            self.state is _READY
            and self.turns <= other.turns
            and len(self.router.pending) <= 2 * len(other.router.pending) + SLACK
        )

    @property
    def load(self) -> tuple[int, int, int]:
        """For placement: running turns, then requests in flight, then threads."""
        return (self.turns, len(self.router), self.threads)
