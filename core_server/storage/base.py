"""What a store is: what clients were told, on disk first.

A store knows threads, turns and items as rows with a JSON body that it does not
read; `runtime` and `handlers` give the bodies their meaning. Writes are grouped
and ordered: `write` returns an awaitable that is done when the rows are durable,
and rows of an earlier call are never durable after those of a later one. A thread
comes before its turns, a turn before its items. It is the contract alone: one suite,
`tests/contracts/test_store.py`, holds every implementation to it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

import msgspec


class ThreadRow(msgspec.Struct, frozen=True):
    """A thread.

    Attributes:
        thread_id: UUIDv7, text form.
        created_at_s: Unix seconds.
        updated_at_s: Unix seconds; changes with every write below the thread.
        recency_at_s: Unix seconds of the last turn's start.
        preview: First user text, cut.
        name: Given by the user, or None.
        archived: Hidden from the ordinary list.
        listed: It had a turn; others are not listed.
        model_provider: For the list's filter.
        cwd: Absolute path, for the list's filter.
        source: Session source, for the list's filter.
        body: JSON text: everything else (settings, goal, usage, git info, forked from …).
    """

    thread_id: str
    created_at_s: int
    updated_at_s: int
    recency_at_s: int
    preview: str
    name: str | None
    archived: bool
    listed: bool
    model_provider: str
    cwd: str
    source: str
    body: str


class TurnRow(msgspec.Struct, frozen=True):
    """A turn; `ordinal` counts from 0 in its thread. `body` is JSON: times, error."""

    turn_id: str
    thread_id: str
    ordinal: int
    status: Literal["inProgress", "completed", "interrupted", "failed"]
    body: str


class ItemRow(msgspec.Struct, frozen=True):
    """An item; `ordinal` counts from 0 in its thread. `body` is JSON.

    `kind` is `item` (a thread item that clients see) or `history` (what only the
    engine sees: tool calls and outputs, compactions).
    """

    item_id: str
    turn_id: str
    thread_id: str
    ordinal: int
    kind: Literal["item", "history"]
    body: str


class PutThread(msgspec.Struct, frozen=True):
    """Insert or replace a thread row."""

    row: ThreadRow


class PutTurn(msgspec.Struct, frozen=True):
    """Insert or replace a turn row."""

    row: TurnRow


class PutItem(msgspec.Struct, frozen=True):
    """Insert or replace an item row (by thread, turn and item id); keeps its first ordinal."""

    row: ItemRow


class DeleteThread(msgspec.Struct, frozen=True):
    """Remove a thread and all below it."""

    thread_id: str


Operation = PutThread | PutTurn | PutItem | DeleteThread


def thread_of(operation: Operation) -> str:
    """The thread that the operation writes to."""
    return operation.thread_id if isinstance(operation, DeleteThread) else operation.row.thread_id


class ThreadQuery(msgspec.Struct, frozen=True):
    """A page of `thread/list`.

    `cursor` is what another page of the same `sort_key` gave out; it stays valid while
    rows come and go. `search` finds a part of the name or the preview, whatever the case.
    """

    limit: int
    cursor: str | None = None
    sort_key: Literal["created_at", "updated_at", "recency_at"] = "created_at"
    descending: bool = True
    archived: bool = False
    model_providers: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    cwds: tuple[str, ...] = ()
    search: str = ""


class ThreadPage(msgspec.Struct, frozen=True):
    """Rows, and the cursors of the neighbouring pages.

    Attributes:
        rows: In the order that was asked for.
        next_cursor: Goes on after the last row; None when nothing follows.
        backwards_cursor: Goes back from the first row; None when there are no rows. The
            first page has one too, since new rows may come before it. With `descending`
            turned round it gives the rows before, nearest first (as the reference does);
            with `descending` as it was, the same rows in the page's own order.
    """

    rows: tuple[ThreadRow, ...]
    next_cursor: str | None
    backwards_cursor: str | None


class HostRow(msgspec.Struct, frozen=True):
    """A core that shares the store.

    Attributes:
        host_id: As configured, or empty.
        url: Where its host is reached, or empty.
        load: Threads that it owned at its last heartbeat.
        draining: It said that it will end.
        me: It is this store's own.
        lease_s: How long its leases last without a further heartbeat, in seconds.
        taken_over: Threads that it took from an owner that was dead, since it was opened.
        fenced: Its writes that were refused since it had lost the thread. Both are known of
            this store's own alone.
    """

    host_id: str
    url: str
    load: int
    draining: bool
    me: bool
    lease_s: float
    taken_over: int = 0
    fenced: int = 0


class StorageError(Exception):
    """The store cannot do it (disk full, unwritable, closed). Nothing was acknowledged."""


class DiskError(StorageError):
    """The medium failed, not what was asked of it; later writes may go well again."""


class NewerSchemaError(StorageError):
    """The file was written by a newer version; it is left untouched."""


class ThreadOwnedError(StorageError):
    """Another core owns the thread now.

    Attributes:
        owner: Which one, for people (process id and host).
        url: Where its host is reached from other machines, or empty.
        epoch: Of its lease: a higher one is news, a lower one is stale.
    """

    def __init__(self, thread_id: str, owner: str, *, url: str = "", epoch: int = 0) -> None:
        super().__init__(f"thread {thread_id} is owned by another core ({owner})")
        self.owner = owner
        self.url = url
        self.epoch = epoch


class Store(Protocol):
    """A store. All methods but `check` are called on the event loop and never block it.

    Attributes:
        spans_machines: Whether cores of other machines may use it.
    """

    spans_machines: bool

    def check(self) -> None:
        """Look whether it can be opened, before anybody is answered; may block for a moment.

        Raises:
            StorageError: with one line that says what and what to do.
        """
        ...

    async def open(self) -> None:
        """Open or create; migrate; mark turns of dead owners as interrupted.

        The other methods may be called as soon as this one has begun: they wait for it.

        Raises:
            StorageError: with one line that says what and what to do.
        """
        ...

    def write(self, operations: Sequence[Operation]) -> Awaitable[None]:
        """Queue the operations (at the call, so order is the caller's); await durability.

        All of them or none. When a write fails, later writes to its threads that were
        queued before the failure could be heard fail too: a thread gets no hole.
        Cancelling the awaitable does not take the operations back.

        Raises:
            StorageError: from the awaitable; none of these operations is durable then.
                Also when the queue is full, and for a turn `inProgress` in a thread
                that this store has not acquired: nobody would interrupt it.
            ThreadOwnedError: from the awaitable; a thread is another living core's,
                or was this store's and has been taken over.
        """
        ...

    async def thread(self, thread_id: str) -> ThreadRow | None:
        """One thread, as of all writes queued before."""
        ...

    async def threads(self, query: ThreadQuery) -> ThreadPage:
        """A page of listed threads.

        Raises:
            ValueError: the cursor is not one of ours, or the query is out of bounds;
                one line for the client.
        """
        ...

    async def turns(self, thread_id: str) -> tuple[TurnRow, ...]:
        """All turns of a thread, oldest first; none `inProgress` whose owner is dead."""
        ...

    async def items(self, thread_id: str, turn_id: str | None = None) -> tuple[ItemRow, ...]:
        """All items of a thread, or of one turn, oldest first."""
        ...

    async def acquire(self, thread_id: str) -> None:
        """Become the thread's owner (lease with epoch); a no-op for its owner.

        On taking over from a dead owner its running turn becomes `interrupted`.

        Raises:
            ThreadOwnedError: another live core owns it.
        """
        ...

    async def check_free(self, thread_id: str) -> None:
        """Look whether `acquire` would go well now, and change nothing.

        Raises:
            ThreadOwnedError: another live core owns it.
        """
        ...

    def holds(self, thread_id: str) -> bool:
        """Whether this core surely owns the thread at this moment; no I/O.

        False as soon as another core might: a stalled owner that asks before it speaks
        says nothing that a new owner could contradict.
        """
        ...

    def watch(self, on_lost: Callable[[str], None]) -> None:
        """Have `on_lost` called, on the loop, with each acquired thread that is found lost."""
        ...

    async def hosts(self) -> tuple[HostRow, ...]:
        """All cores that share the store and are not known to be dead."""
        ...

    async def drain(self) -> None:
        """Say to other cores of the store that this one will end."""
        ...

    async def release(self, thread_id: str) -> None:
        """Give the thread up, after all queued writes; a turn still running is interrupted."""
        ...

    async def close(self) -> None:
        """Commit what is queued, give up all leases, close."""
        ...
