"""The hosts of a fleet: what our cores say of them, and our sessions with them.

Every few seconds each core of ours is asked `host/list`: who shares its store, how many
threads each owns, and what it has itself taken over and been refused. So the proxy knows
all hosts without knowing a database. Nothing here decides where a thread is: `peers` does.

With `least_loaded`, a new thread goes to the host with the fewest threads: its load as last
told, and what was placed there since. A host that was just lost is passed over until its
leases have ended: it is listed for as long.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import msgspec
from msgspec import UNSET

from trace_proxy.protocol.authority import parse_ws_url
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.queues.core_queue import CoreQueue
from trace_proxy.relay.board import Board
from trace_proxy.state.core_session import CoreSession, CoreState

FIRST_INDEX: Final = 1000
"""Of peers; cores count from 0, to 255 at most."""

ASK_S: Final = 2.0
"""Between two questions: a host tells its load every three seconds."""

LOST_S: Final = 15.0
"""How long nothing new goes to a host that was lost: its leases last for ten seconds."""


class Host(msgspec.Struct, rename="camel"):
    """A core that shares the store, as `host/list` tells it."""

    host_id: str = ""
    url: str = ""
    load: int = 0
    draining: bool = False
    me: bool = False
    lease_s: float = 0
    taken_over: int = 0
    fenced: int = 0


class _Hosts(msgspec.Struct):
    data: list[Host]


_HOSTS: Final = msgspec.json.Decoder(_Hosts)


class Hosts:
    """The hosts, and sessions with the others.

    Args:
        board: The hub's.
        me: Our own URL, as others see it.
        make_queue: Makes what stands in front of another host.
        least_loaded: Whether new threads go to the host with the fewest.
    """

    def __init__(
        self, board: Board, me: str, make_queue: Callable[[], CoreQueue], *, least_loaded: bool
    ) -> None:
        self._board = board
        self._me = me
        self._make_queue = make_queue
        self._least_loaded = least_loaded
        self._by_url: dict[str, CoreSession] = {}
        self._next_index = FIRST_INDEX
        self._all: list[Host] = []
        self._mine: dict[int, tuple[int, Host]] = {}  # core → epoch, what it last said of itself
        self._placed: dict[str, int] = {}  # since they were last told of
        self._lost_until_s: dict[str, float] = {}
        self._now_s = self._ask_at_s = 0.0

    def __repr__(self) -> str:
        return f"<Hosts {len(self._all)} peers={list(self._by_url)}>"

    @property
    def sessions(self) -> Iterable[CoreSession]:
        """With other hosts."""
        return list(self._by_url.values())

    @property
    def living(self) -> int | None:
        """How many hosts serve together; None where no core has told."""
        return len({host.url for host in self._all if host.lease_s > 0}) or None

    def details(self) -> list[dict[str, object]]:
        """All hosts, for people."""
        return [
            {
                "id": host.host_id,
                "url": host.url,
                "threads": host.load,
                "draining": host.draining,
                "me": host.me or host.url == self._me,
            }
            for host in self._all
        ]

    def session(self, url: str) -> CoreSession:
        """The session with the host at this URL, begun now if need be."""
        core = self._by_url.get(url)
        if core is None:
            core = CoreSession(self._next_index, self._make_queue(), url)
            self._next_index += 1
            self._by_url[url] = self._board.peers[core.index] = core
            self._board.effects.open_peer(core)
        return core

    def lost(self, core: CoreSession) -> None:
        """A session is over, and its host perhaps too."""
        self._board.peers.pop(core.index, None)
        if self._by_url.get(core.url) is core:
            del self._by_url[core.url]
        self._lost_until_s[core.url] = self._now_s + LOST_S

    def for_new(self) -> CoreSession | None:
        """The other host that a new thread shall go to; None when it stays here."""
        if not self._least_loaded:
            return None
        loads = {self._me: 0}
        full = set()
        for host in self._all:
            url = self._me if host.me else host.url
            loads[url] = loads.get(url, self._placed.get(url, 0)) + host.load
            if host.draining or parse_ws_url(url) is None or url in self._lost_until_s:
                full.add(url)
        loads[self._me] += self._placed.get(self._me, 0)
        open_to_us = [url for url in loads if url == self._me or url not in full]
        best = min(open_to_us, key=lambda url: (loads[url], url != self._me))
        self._placed[best] = self._placed.get(best, 0) + 1
        return None if best == self._me else self.session(best)

    def tick(self, now_s: float) -> None:
        """Ask our cores from time to time."""
        self._now_s = now_s
        self._lost_until_s = {
            url: until_s for url, until_s in self._lost_until_s.items() if until_s > now_s
        }
        if now_s < self._ask_at_s:
            return
        self._ask_at_s = now_s + ASK_S
        for core in self._board.cores:
            if core.state is CoreState.READY:
                self._board.ask(core, "host/list", b"{}", partial(self._told, core, core.epoch))

    def _told(self, core: CoreSession, epoch: int, answer: CoreMessage | None) -> None:
        if answer is None or answer.result is UNSET:
            return
        try:
            hosts = _HOSTS.decode(answer.result).data
        except msgspec.DecodeError:
            self._board.effects.log(
                "core.answer_not_understood", core=core.index, method="host/list"
            )
            return
        self._all = hosts
        self._placed.clear()
        for host in hosts:
            if host.me:
                self._count(core, epoch, host)

    def _count(self, core: CoreSession, epoch: int, host: Host) -> None:
        """Its counters begin anew with each of its processes; ours do not."""
        before_epoch, before = self._mine.get(core.index, (epoch, Host()))
        if before_epoch != epoch:
            before = Host()
        self._mine[core.index] = epoch, host
        owned = sum(each.load for _, each in self._mine.values())
        taken_over = max(0, host.taken_over - before.taken_over)
        self._board.effects.owned(owned, taken_over, max(0, host.fenced - before.fenced))
