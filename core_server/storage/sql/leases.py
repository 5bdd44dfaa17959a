"""Who may write to a thread: leases with an epoch, renewed by a heartbeat.

A lease is its owner's until the owner is known to be dead or has not renewed in time.
Whoever takes it over raises the epoch, and every write asks inside its transaction whether
the epoch is still the one that was acquired: a core that stalled and lost a thread cannot
write to it. All methods with a connection run in a transaction of the caller.

Where transactions run side by side (READ COMMITTED), locks keep what is asked true until
the commit. A write shares the lease's row, so a take-over waits for it. A take-over holds
the lease's row alone and shares its owner's: the owner's next heartbeat waits for it, and
then sees that the thread is lost. So whoever has renewed and not heard of a loss holds its
threads until its lease ends, counted from before it asked. Locks are taken in one order,
leases by their thread, then cores. SQLite has one writer at a time and needs none of it.

What a core believes between two looks at the store is `holds`: it may be asked from
another thread, reads only a number and a dictionary, and is never wrong in the core's favour.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import structlog
from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    bindparam,
    delete,
    exists,
    insert,
    select,
    update,
)

from core_server.storage.base import HostRow, ThreadOwnedError
from core_server.storage.sql.medium import Medium
from core_server.storage.sql.owner import LEASE_S, Owner
from core_server.storage.sql.schema import cores, leases, threads, turns

_log = structlog.get_logger()

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, as the leases do."""

_HELD: Final = (
    select(leases.c.thread_id, leases.c.owner_id, leases.c.epoch)
    .where(leases.c.thread_id.in_(bindparam("held", expanding=True)))
    .order_by(leases.c.thread_id)
    .with_for_update(read=True)
)
"""Asked in every transaction that writes, so it is built once."""


def elapsed_s() -> float:
    """Seconds of a clock that no one sets."""
    return time.clock_gettime(_CLOCK)


@dataclass(frozen=True, slots=True)
class _Core:
    now_s: float
    expires_at_s: float
    owner: Owner
    named: bool

    def is_dead(self, *, seen_from: Owner) -> bool:
        if self.owner.owner_id == seen_from.owner_id:
            return False
        if self.now_s >= self.expires_at_s:
            return True
        return self.owner.is_dead(seen_from=seen_from, named=self.named)


@dataclass(frozen=True, slots=True)
class _Lease:
    owner_id: str | None
    epoch: int
    core: _Core | None  # None for an owner that has been buried

    def is_free(self, *, seen_from: Owner) -> bool:
        if self.owner_id is None or self.core is None:
            return True
        return self.core.is_dead(seen_from=seen_from)

    def refusal(self, thread_id: str, *, seen_from: Owner) -> ThreadOwnedError:
        if self.core is None:
            return ThreadOwnedError(thread_id, "it was taken over and then given up")
        owner = self.core.owner
        if owner.owner_id == seen_from.owner_id:
            return ThreadOwnedError(thread_id, "its lease was not renewed in time")
        return ThreadOwnedError(thread_id, str(owner), url=owner.url, epoch=self.epoch)


class Leases:
    """What this core holds, and what the store says of others.

    Args:
        me: This core.
        medium: The store's clock and INSERT.
        lease_s: How long a lease lasts without a heartbeat, in seconds.
    """

    def __init__(self, me: Owner, medium: Medium, *, lease_s: float = LEASE_S) -> None:
        self._me = me
        self._now: Callable[[], ColumnElement[float]] = medium.now
        self._insert: Callable[[Table], Any] = medium.insert
        self._lapses = medium.spans_machines
        self._lease_s = lease_s
        self._epochs: dict[str, int] = {}  # of the threads that it holds
        self._lost: set[str] = set()  # once held, until they are acquired again or let go
        self._renamed: dict[str, float] = {}  # of those that look dead: until when, as first seen
        self._until_s = 0.0
        self._taken_over = self._fenced = 0

    def __repr__(self) -> str:
        return f"<Leases held={len(self._epochs)} lost={len(self._lost)}>"

    @property
    def left_s(self) -> float:
        """How long the leases last without a further heartbeat, in seconds."""
        return max(0.0, self._until_s - elapsed_s())

    def holds(self, thread_id: str) -> bool:
        """Whether this core surely holds the thread now. May be called from any thread."""
        return thread_id in self._epochs and (not self._lapses or elapsed_s() < self._until_s)

    def lapse(self) -> frozenset[str]:
        """Give up for lost what may be another's, since no heartbeat came through."""
        if not self._lapses or self.left_s > 0:
            return frozenset()
        return self._lose(frozenset(self._epochs))

    def beat(self, connection: Connection, *, draining: bool = False) -> float:
        """Renew all leases of this core; `renewed` is for after the commit.

        Returns:
            Until when they then last, in seconds of `elapsed_s`.
        """
        until_s = elapsed_s() + self._lease_s  # before the store looks at its clock: no later
        changing = {
            "expires_at_s": self._now() + self._lease_s,
            "draining": draining,
            "load": len(self._epochs),
        }
        mine = cores.c.owner_id == self._me.owner_id
        if not connection.execute(update(cores).where(mine).values(changing)).rowcount:
            connection.execute(insert(cores).values({**asdict(self._me), **changing}))
        return until_s

    def find_lost(self, connection: Connection) -> frozenset[str]:
        """In the transaction of a heartbeat, behind it: the held threads that are another's."""
        if not self._epochs and not self._lost:
            return frozenset()
        query = select(leases.c.thread_id).where(leases.c.owner_id == self._me.owner_id)
        mine = frozenset(connection.execute(query).scalars())
        self.release(connection, mine & self._lost)  # it had lapsed, and nobody wanted it
        return frozenset(self._epochs) - mine

    def renewed(self, until_s: float, lost: frozenset[str] = frozenset()) -> frozenset[str]:
        """Note a heartbeat whose transaction is committed; the threads lost, back again."""
        self._until_s = until_s
        return self._lose(lost)

    def bury(self, connection: Connection) -> None:
        """Take dead owners out, and interrupt every turn that nobody runs."""
        for core in [self._core(row) for row in connection.execute(self._cores()).all()]:
            owner_id = core.owner.owner_id
            if not core.is_dead(seen_from=self._me):
                continue
            theirs = leases.c.owner_id == owner_id
            held = select(leases.c.thread_id).where(theirs).order_by(leases.c.thread_id)
            connection.execute(held.with_for_update()).all()
            # Alone, unlike a take-over: two that shared it would wait for each other to delete
            # it. Who finds it locked leaves it to the other, or to the next who opens.
            query = self._cores().where(cores.c.owner_id == owner_id)
            row = connection.execute(query.with_for_update(skip_locked=True)).first()
            if row is not None and self._core(row).is_dead(seen_from=self._me):
                _free(connection, theirs)
                connection.execute(delete(cores).where(cores.c.owner_id == owner_id))
        theirs = (leases.c.thread_id == turns.c.thread_id) & leases.c.owner_id.is_not(None)
        _interrupt(connection, ~exists().where(theirs))

    def acquire(self, connection: Connection, thread_id: str) -> tuple[int, bool]:
        """Take the lease of a thread that is free or whose owner is dead.

        Returns:
            The epoch, and whether it was taken from a dead owner; tell them to `acquired` once
            the transaction is committed.

        Raises:
            ThreadOwnedError: another living core holds it.
        """
        lease = self._lease(connection, thread_id, lock=True)
        mine = lease.owner_id == self._me.owner_id
        if mine and thread_id not in self._lost:
            return lease.epoch, False
        if not mine and not lease.is_free(seen_from=self._me):
            raise lease.refusal(thread_id, seen_from=self._me)
        epoch = lease.epoch + 1
        taken = update(leases).where(leases.c.thread_id == thread_id)
        connection.execute(taken.values(owner_id=self._me.owner_id, epoch=epoch))
        _interrupt(connection, turns.c.thread_id == thread_id)
        return epoch, lease.owner_id is not None and not mine

    def acquired(self, thread_id: str, epoch: int, *, taken_over: bool = False) -> None:
        """Note a lease whose transaction is committed."""
        self._taken_over += taken_over
        self._lost.discard(thread_id)
        self._epochs[thread_id] = epoch

    def release(self, connection: Connection, thread_ids: Iterable[str]) -> None:
        """Give up what this core still owns of these threads."""
        for thread_id in sorted(thread_ids):
            if self._lease(connection, thread_id, lock=True).owner_id == self._me.owner_id:
                self._give_up(connection, leases.c.thread_id == thread_id)

    def released(self, thread_id: str) -> None:
        """Forget a lease, whether it was given up or had been lost."""
        self._epochs.pop(thread_id, None)
        self._lost.discard(thread_id)

    def retire(self, connection: Connection) -> None:
        """Give up everything: the store is being closed."""
        mine = leases.c.owner_id == self._me.owner_id
        held = select(leases.c.thread_id).where(mine).order_by(leases.c.thread_id)
        connection.execute(held.with_for_update()).all()
        self._give_up(connection, mine)
        connection.execute(delete(cores).where(cores.c.owner_id == self._me.owner_id))

    def fence(self, connection: Connection, thread_ids: Iterable[str]) -> frozenset[str]:
        """Check that this core may write to the threads, until the end of the transaction.

        Returns:
            Those whose lease it holds, so that a turn may run in them.

        Raises:
            ThreadOwnedError: one was taken over, or another living core holds it.
        """
        wanted = frozenset(thread_ids)
        held = sorted(wanted & self._epochs.keys())
        if held:
            found = connection.execute(_HELD, {"held": held}).all()
            me = self._me.owner_id
            mine = {row[0] for row in found if tuple(row[1:]) == (me, self._epochs[row[0]])}
            for thread_id in held:
                if thread_id not in mine:
                    self._lose(frozenset([thread_id]))
                    self._fenced += 1
                    raise self._lease(connection, thread_id).refusal(thread_id, seen_from=self._me)
        for thread_id in sorted(wanted - self._epochs.keys()):
            lease = self._lease(connection, thread_id, lock=True)
            if thread_id in self._lost or not lease.is_free(seen_from=self._me):
                self._fenced += thread_id in self._lost
                raise lease.refusal(thread_id, seen_from=self._me)
        return frozenset(held)

    def is_orphan(self, connection: Connection, thread_id: str) -> bool:
        """Whether nobody runs a turn of the thread, whatever its rows say."""
        return self._lease(connection, thread_id).is_free(seen_from=self._me)

    def check_free(self, connection: Connection, thread_id: str) -> None:
        """Look whether this core may acquire the thread, without doing so.

        Raises:
            ThreadOwnedError: another living core holds it.
        """
        lease = self._lease(connection, thread_id)
        if lease.owner_id != self._me.owner_id and not lease.is_free(seen_from=self._me):
            raise lease.refusal(thread_id, seen_from=self._me)

    def hosts(self, connection: Connection) -> tuple[HostRow, ...]:
        """All cores that are not known to be dead."""
        query = self._cores().add_columns(cores.c.load, cores.c.draining)
        found = []
        for *row, load, draining in connection.execute(query.order_by(cores.c.url)):
            core = self._core(row)
            if core.is_dead(seen_from=self._me):
                self._look_twice(core)
                continue
            owner, lease_s = core.owner, core.expires_at_s - core.now_s
            me = owner.owner_id == self._me.owner_id
            counts = (self._taken_over, self._fenced) if me else ()
            owned = len(self._epochs) if me else load
            found.append(HostRow(owner.host_id, owner.url, owned, draining, me, lease_s, *counts))
        return tuple(found)

    def _look_twice(self, core: _Core) -> None:
        """Say once of another host that it has our name: one that is dead does not renew."""
        owner = core.owner
        before_s = self._renamed.setdefault(owner.owner_id, core.expires_at_s)
        if core.expires_at_s > before_s:
            self._renamed[owner.owner_id] = float("inf")
            _log.warning(
                "storage.host_id_twice",
                host_id=owner.host_id,
                other=f"{owner} at {owner.url or 'no URL'}",
                hint="each takes the other's threads: give every host a --host-id of its own",
            )

    def _lose(self, lost: frozenset[str]) -> frozenset[str]:
        for thread_id in lost:
            self._epochs.pop(thread_id, None)
        self._lost |= lost
        return lost

    def _lease(self, connection: Connection, thread_id: str, *, lock: bool = False) -> _Lease:
        """The lease as it is; when locked, as it stays, and its owner with it."""
        query = select(leases.c.owner_id, leases.c.epoch).where(leases.c.thread_id == thread_id)
        if lock:
            query = query.with_for_update()
        row = connection.execute(query).first()
        if row is None and lock:  # there must be something that others can wait for
            new = self._insert(leases).values(thread_id=thread_id, owner_id=None, epoch=0)
            connection.execute(new.on_conflict_do_nothing())
            row = connection.execute(query).first()
        if row is None:
            return _Lease(None, 0, None)
        owner_id, epoch = row
        lock = lock and owner_id != self._me.owner_id
        core = self._core_of(connection, owner_id, lock=lock) if owner_id else None
        return _Lease(owner_id, epoch, core)

    def _core_of(self, connection: Connection, owner_id: str, *, lock: bool) -> _Core | None:
        query = self._cores().where(cores.c.owner_id == owner_id)
        row = connection.execute(query.with_for_update(read=True) if lock else query).first()
        return None if row is None else self._core(row)

    def _cores(self) -> Any:
        about = (cores.c[field.name] for field in fields(Owner))
        return select(self._now(), cores.c.expires_at_s, *about)

    def _core(self, row: Any) -> _Core:
        now_s, expires_at_s, *owner = row
        return _Core(now_s, expires_at_s, Owner(*owner), named=self._lapses)

    def _give_up(self, connection: Connection, which: ColumnElement[bool]) -> None:
        known = exists().where(threads.c.thread_id == leases.c.thread_id)
        connection.execute(delete(leases).where(which, ~known))
        _free(connection, which)


def _free(connection: Connection, which: ColumnElement[bool]) -> None:
    """End leases: nobody owns these threads, no turn runs in them, the next epoch is new."""
    freed = select(leases.c.thread_id).where(which)
    _interrupt(connection, turns.c.thread_id.in_(freed))
    connection.execute(update(leases).where(which).values(owner_id=None))


def _interrupt(connection: Connection, which: ColumnElement[bool]) -> None:
    running = turns.c.status == "inProgress"
    connection.execute(update(turns).where(running, which).values(status="interrupted"))
