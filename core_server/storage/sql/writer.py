"""The one thread that touches the disk: group commit, in order.

It takes whatever is queued, makes one transaction of the writes, then answers the reads,
and reports all of it at once. So the more callers wait, the more of them one sync serves,
and a read sees every write that was queued before it. It knows no SQL and no event loop.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from core_server.storage.base import DiskError, Operation, StorageError, thread_of

if TYPE_CHECKING:  # SQLAlchemy takes a quarter of a second: the thread imports it, not the loop
    from asyncio import Future

    from core_server.storage.sql.database import Database

_log = structlog.get_logger()


LOOK_S = 0.5
"""How often to see whether the file is still there: it shall be said within a second."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Something to do with the database; `alone` keeps its place between other jobs."""

    future: "Future[Any]"
    work: "Callable[[Database], object]"
    alone: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """Operations to make durable; `cost_bytes` is what they hold in the queue."""

    future: "Future[Any]"
    operations: Sequence[Operation]
    cost_bytes: int

    @property
    def threads(self) -> frozenset[str]:
        """The threads that it writes to."""
        return frozenset(map(thread_of, self.operations))


@dataclass(frozen=True, slots=True)
class Heal:
    """The failure of these threads has been heard: later writes count again."""

    threads: frozenset[str]


@dataclass(frozen=True, slots=True)
class Close:
    """The last job."""

    future: "Future[Any]"


@dataclass(frozen=True, slots=True)
class Lost:
    """News, not a job: these threads are not this core's any more."""

    threads: frozenset[str]


Item = Job | Write | Heal | Close


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an item (None: of the opening): its value, or what to raise; or news."""

    item: Job | Write | Close | Lost | None
    value: object = None
    error: StorageError | None = None


Report = Callable[[Sequence[Outcome]], bool]
"""Called in the thread with what came of a batch; False when nobody listens any more."""


class Writer:
    """The thread and its queue. The caller bounds what it puts in.

    Args:
        open_database: Called in the thread, first thing; may import and may block.
        heartbeat_s: How often the leases are renewed, in seconds.
    """

    def __init__(
        self,
        open_database: "Callable[[], Database]",
        *,
        heartbeat_s: float,
    ) -> None:
        self._open_database = open_database
        self._heartbeat_s = heartbeat_s
        self._beat_at_s = 0.0
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._broken: set[str] = set()  # threads with a failed write that is not heard yet
        self._thread: threading.Thread | None = None

    def start(self, report: Report) -> None:
        """Begin with the opening, which is reported as an outcome of no item."""
        self._thread = threading.Thread(
            target=self._run, args=(report,), name="storage", daemon=True
        )
        self._thread.start()

    def put(self, job: Item) -> None:
        """Queue a job; never blocks."""
        self._queue.put(job)

    def left(self) -> Iterator[Item]:
        """What is still queued; for a thread that has ended without taking it."""
        while True:
            try:
                yield self._queue.get_nowait()
            except queue.Empty:
                return

    def join(self) -> None:
        """Wait for the thread, which has reported its last outcome."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, report: Report) -> None:
        try:
            database = self._open_database()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller must hear of it
            report([Outcome(None, error=_as_storage_error(error))])
            return
        if report([Outcome(None)]) and self._serve(database, report):
            return
        _close(database)  # the loop is gone, and nobody will ask for it

    def _serve(self, database: "Database", report: Report) -> bool:
        """Work until the database is closed (True) or nobody listens any more (False)."""
        self._beat_at_s = time.monotonic() + self._heartbeat_s
        lost = ""
        while True:
            items = self._take(min(LOOK_S, self._beat_at_s - time.monotonic()))
            lost = _look(database, lost)
            for batch in _batches(items):
                if not report(self._outcomes(database, batch)):
                    return False
                if isinstance(batch[-1], Close):
                    return True
            due = time.monotonic() >= self._beat_at_s
            if due and not report(self._beat_if_due(database)):
                return False

    def _take(self, patience_s: float) -> list[Item]:
        """Wait for one job, then take all that are there."""
        try:
            first = self._queue.get(timeout=max(0.0, patience_s))
        except queue.Empty:
            return []
        return [first, *self.left()]

    def _beat_if_due(self, database: "Database") -> list[Outcome]:
        """A heartbeat at its time; what it finds to be lost."""
        if time.monotonic() < self._beat_at_s:
            return []
        taken = _beat(database)
        self._beat_at_s = time.monotonic() + self._heartbeat_s
        return [Outcome(Lost(taken))] if taken else []

    def _outcomes(self, database: "Database", batch: Sequence[Item]) -> list[Outcome]:
        writes = [item for item in batch if isinstance(item, Write)]
        outcomes = self._write(database, writes) if writes else []
        for item in batch:
            match item:
                case Job():  # each may take its time, and the leases do not wait
                    outcomes += [_do(database, item), *self._beat_if_due(database)]
                case Heal(threads):
                    self._broken -= threads
                case Close():
                    outcomes.append(Outcome(item, error=_close(database)))
                case Write():
                    pass  # done above, all together
        return outcomes

    def _write(self, database: "Database", writes: Sequence[Write]) -> list[Outcome]:
        """All in one transaction; when one is at fault, each in its own: only it fails."""
        if not any(write.threads & self._broken for write in writes):
            try:
                database.write([step for write in writes for step in write.operations])
            except DiskError as error:
                return [self._failed(write, DiskError(str(error))) for write in writes]
            except Exception as error:  # noqa: BLE001 - as in _do
                if len(writes) == 1:
                    return [self._failed(writes[0], error)]
            else:
                return [Outcome(write) for write in writes]
        return [self._write_alone(database, write) for write in writes]

    def _write_alone(self, database: "Database", write: Write) -> Outcome:
        if broken := write.threads & self._broken:
            thread_id = min(broken)
            return self._failed(write, StorageError(f"a write before it failed in {thread_id}"))
        try:
            database.write(write.operations)
        except Exception as error:  # noqa: BLE001 - as in _do
            return self._failed(write, error)
        return Outcome(write)

    def _failed(self, write: Write, error: Exception) -> Outcome:
        self._broken |= write.threads
        return Outcome(write, error=_as_storage_error(error))


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Cut where order matters between things that are not writes."""
    batch: list[Item] = []
    for item in items:
        if isinstance(item, Heal | Close) or (isinstance(item, Job) and item.alone):
            if batch:
                yield batch
            yield [item]
            batch = []
        else:
            batch.append(item)
    if batch:
        yield batch


def _do(database: "Database", job: Job) -> Outcome:
    try:
        return Outcome(job, job.work(database))
    except Exception as error:  # noqa: BLE001 - the thread must outlive what it was asked for
        return Outcome(job, error=_as_storage_error(error))


def _look(database: "Database", lost: str) -> str:
    """Say once when the file is gone, also while nobody asks; returns what is wrong."""
    try:
        database.check()
    except DiskError as error:
        if str(error) != lost:
            _warn("storage.lost", error)
        return str(error)
    return ""


def _beat(database: "Database") -> frozenset[str]:
    try:
        return database.beat()
    except Exception as error:  # noqa: BLE001 - the lease may lapse; the fence then tells each write
        _warn("storage.heartbeat_failed", error)
        return database.lapse()


def _close(database: "Database") -> StorageError | None:
    try:
        database.close()
    except Exception as error:  # noqa: BLE001 - the leases end with this process, or by expiry
        _warn("storage.close_failed", error)
        return _as_storage_error(error)
    return None


def _as_storage_error(error: Exception) -> StorageError:
    if isinstance(error, StorageError):
        return error
    _warn("storage.unexpected", error)
    return StorageError(f"the thread store failed: {error!r}")


def _warn(event: str, error: Exception) -> None:
    with contextlib.suppress(OSError, ValueError):  # the log may lie on the same full disk
        _log.warning(event, error=repr(error))
