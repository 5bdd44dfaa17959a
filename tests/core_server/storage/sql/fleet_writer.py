"""One core of several on a PostgreSQL store: takes threads, writes turns, gives them up.

Run as `python -m tests.core_server.storage.sql.fleet_writer URL NAME LEASE_S SKEW_S`; writes
its journal (`tests.history`) to stdout and ends at the end of stdin, or by a kill.
"""

import asyncio
import contextlib
import itertools
import os
import random
import sys
import time

import structlog

from core_server.storage.base import PutItem, PutThread, PutTurn, StorageError
from core_server.storage.sql.owner import Place
from core_server.storage.sql.store import PostgresStore
from tests.core_server.storage.samples import item_row, thread_row, turn_row
from tests.history import Event

THREADS = ("t0", "t1", "t2", "t3")
ITEMS = 8
"""In a turn; it takes some 30 ms, so a fault finds most turns running."""

_numbers = itertools.count()


class Writer:
    """Works on one thread after the other."""

    def __init__(self, store: PostgresStore, name: str) -> None:
        self._store = store
        self._name = name
        self.over = asyncio.Event()

    async def work(self, thread_id: str) -> None:
        """Until it is over: own the thread for a few turns, then leave it to others."""
        while not self.over.is_set():
            with contextlib.suppress(StorageError):
                await self._own(thread_id)
            await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311 - others want it, too

    async def _own(self, thread_id: str) -> None:
        store = self._store
        await store.acquire(thread_id)
        tenure = f"{self._name}.{next(_numbers)}"
        _tell(Event("own", time.monotonic(), tenure, thread_id))
        if await store.thread(thread_id) is None:
            await store.write([PutThread(thread_row(thread_id))])
        for _ in range(random.randrange(1, 4)):  # noqa: S311
            await self._turn(thread_id, tenure)
        await store.release(thread_id)

    async def _turn(self, thread_id: str, tenure: str) -> None:
        store = self._store
        ordinal = len(await store.turns(thread_id))
        place = max((item.ordinal for item in await store.items(thread_id)), default=-1) + 1
        turn_id = f"{tenure}.u{ordinal}"
        await store.write([PutTurn(turn_row(thread_id, turn_id, ordinal, "inProgress"))])
        _tell(Event("turn", time.monotonic(), tenure, thread_id, turn_id))
        for number in range(ITEMS):
            now_s = time.monotonic()
            if store.holds(thread_id):
                _tell(Event("delta", now_s, tenure, thread_id))
            item = item_row(thread_id, turn_id, f"{turn_id}.{number}", place + number, tenure)
            await store.write([PutItem(item)])
            _tell(Event("item", time.monotonic(), tenure, thread_id, item.item_id))
        await store.write([PutTurn(turn_row(thread_id, turn_id, ordinal, "completed"))])
        _tell(Event("end", time.monotonic(), tenure, thread_id, turn_id))


def _tell(event: Event) -> None:
    os.write(1, event.line())


async def _main(url: str, name: str, lease_s: float) -> None:
    store = PostgresStore(url, name=name, place=Place(lease_s=lease_s))
    await store.open()
    writer = Writer(store, name)
    async with asyncio.TaskGroup() as group:
        for thread_id in THREADS:
            group.create_task(writer.work(thread_id))
        await asyncio.to_thread(sys.stdin.read)
        writer.over.set()
    with contextlib.suppress(StorageError):
        await store.close()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    _real, _skew_s = time.time, float(sys.argv[4])
    time.time = lambda: _real() + _skew_s
    asyncio.run(_main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
