"""Who may write to a thread: leases with an epoch, renewed by a heartbeat.

A lease is its owner's until the owner is known to be dead or has not renewed for
`LEASE_S`. Whoever takes it over raises the epoch, and every write asks inside its
transaction whether the epoch is still the one that was acquired: a core that stalled
and lost a thread cannot write to it. All functions run in a transaction of the caller.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from sqlalchemy import ColumnElement, Connection, delete, select, update

from core_server.storage.base import ThreadOwnedError
from core_server.storage.sql.owner import LEASE_S, Owner
from core_server.storage.sql.schema import cores, leases, threads, turns
from core_server.storage.sql.sqlite_file import insert

_cores = select(cores.c.expires_at_s, *(cores.c[field.name] for field in fields(Owner)))
_leases = _cores.add_columns(leases.c.owner_id, leases.c.epoch).join_from(
    leases, cores, leases.c.owner_id == cores.c.owner_id, isouter=True
)


@dataclass(frozen=True, slots=True)
class _Core:
    expires_at_s: int
    owner: Owner

    def is_dead(self, *, seen_from: Owner, now_s: int) -> bool:
        if self.owner.owner_id == seen_from.owner_id:
            return False
        return now_s >= self.expires_at_s or self.owner.is_dead(seen_from=seen_from)


@dataclass(frozen=True, slots=True)
class _Lease:
    owner_id: str | None
    epoch: int
    core: _Core | None  # None for an owner that has been buried

    def is_free(self, *, seen_from: Owner, now_s: int) -> bool:
        if self.owner_id is None or self.core is None:
            return True
        return self.core.is_dead(seen_from=seen_from, now_s=now_s)

    def __str__(self) -> str:
        return str(self.core.owner) if self.core else "it was taken over and then given up"


class Leases:
    """What this core holds, and what the store says of others.

    Args:
        me: This core.
        lease_s: How long a lease lasts without a heartbeat, in seconds.
    """

    def __init__(self, me: Owner, *, lease_s: int = LEASE_S) -> None:
        self._me = me
        self._lease_s = lease_s
        self._epochs: dict[str, int] = {}  # thread id → epoch; kept when lost, until acquired

    def beat(self, connection: Connection, *, now_s: int) -> None:
        """Renew all leases of this core."""
        row = {**asdict(self._me), "expires_at_s": now_s + self._lease_s}
        connection.execute(
            insert(cores).values(row).on_conflict_do_update(index_elements=["owner_id"], set_=row)
        )

    def bury(self, connection: Connection, *, now_s: int) -> None:
        """Take dead owners out, and interrupt every turn that nobody runs."""
        for expires_at_s, *owner in connection.execute(_cores).all():
            core = _Core(expires_at_s, Owner(*owner))
            if core.is_dead(seen_from=self._me, now_s=now_s):
                _free(connection, leases.c.owner_id == core.owner.owner_id)
                connection.execute(delete(cores).where(cores.c.owner_id == core.owner.owner_id))
        owned = select(leases.c.thread_id).where(leases.c.owner_id.is_not(None))
        _interrupt(connection, turns.c.thread_id.not_in(owned))

    def acquire(self, connection: Connection, thread_id: str, *, now_s: int) -> int:
        """Take the lease of a thread that is free or whose owner is dead.

        Returns:
            The epoch, to be given to `acquired` once the transaction is committed.

        Raises:
            ThreadOwnedError: another living core holds it.
        """
        lease = _lease(connection, thread_id)
        if lease.owner_id == self._me.owner_id:
            return lease.epoch
        if not lease.is_free(seen_from=self._me, now_s=now_s):
            raise ThreadOwnedError(thread_id, str(lease))
        epoch = lease.epoch + 1
        values = {"thread_id": thread_id, "owner_id": self._me.owner_id, "epoch": epoch}
        connection.execute(
            insert(leases)
            .values(values)
            .on_conflict_do_update(index_elements=["thread_id"], set_=values)
        )
        _interrupt(connection, turns.c.thread_id == thread_id)
        return epoch

    def acquired(self, thread_id: str, epoch: int) -> None:
        """Note a lease whose transaction is committed."""
        self._epochs[thread_id] = epoch

    def release(self, connection: Connection, thread_ids: Iterable[str]) -> None:
        """Give up what this core still holds of these threads."""
        for thread_id in thread_ids:
            if self._holds(_lease(connection, thread_id), thread_id):
                _free(connection, leases.c.thread_id == thread_id)
                known = select(threads.c.thread_id)
                connection.execute(
                    delete(leases).where(
                        leases.c.thread_id == thread_id, leases.c.thread_id.not_in(known)
                    )
                )

    def released(self, thread_id: str) -> None:
        """Forget a lease, whether it was given up or had been lost."""
        self._epochs.pop(thread_id, None)

    def retire(self, connection: Connection) -> None:
        """Give up everything: the store is being closed."""
        mine = leases.c.owner_id == self._me.owner_id
        gone = leases.c.thread_id.not_in(select(threads.c.thread_id))
        connection.execute(delete(leases).where(mine, gone))
        _free(connection, mine)
        connection.execute(delete(cores).where(cores.c.owner_id == self._me.owner_id))

    def fence(self, connection: Connection, thread_id: str, *, now_s: int) -> bool:
        """Check that this core may write to the thread.

        Returns:
            Whether it holds the lease, so that a turn may run in it.

        Raises:
            ThreadOwnedError: it was taken over, or another living core holds it.
        """
        lease = _lease(connection, thread_id)
        if self._holds(lease, thread_id):
            return True
        lost = thread_id in self._epochs
        if lost or not lease.is_free(seen_from=self._me, now_s=now_s):
            raise ThreadOwnedError(thread_id, str(lease))
        return False

    def is_orphan(self, connection: Connection, thread_id: str, *, now_s: int) -> bool:
        """Whether nobody runs a turn of the thread, whatever its rows say."""
        return _lease(connection, thread_id).is_free(seen_from=self._me, now_s=now_s)

    def _holds(self, lease: _Lease, thread_id: str) -> bool:
        mine = lease.owner_id == self._me.owner_id
        return mine and lease.epoch == self._epochs.get(thread_id)


def _lease(connection: Connection, thread_id: str) -> _Lease:
    row = connection.execute(_leases.where(leases.c.thread_id == thread_id)).first()
    if row is None:
        return _Lease(None, 0, None)
    expires_at_s, *owner, owner_id, epoch = row
    return _Lease(owner_id, epoch, _Core(expires_at_s, Owner(*owner)) if owner[0] else None)


def _free(connection: Connection, which: ColumnElement[bool]) -> None:
    """End leases: nobody owns these threads, no turn runs in them, the next epoch is new."""
    freed = select(leases.c.thread_id).where(which)
    _interrupt(connection, turns.c.thread_id.in_(freed))
    connection.execute(update(leases).where(which).values(owner_id=None))


def _interrupt(connection: Connection, which: ColumnElement[bool]) -> None:
    running = turns.c.status == "inProgress"
    connection.execute(update(turns).where(running, which).values(status="interrupted"))
