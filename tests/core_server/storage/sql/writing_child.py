"""A core that writes as fast as it can and says what it was promised: `THREAD NUMBER` a line.

Run as `python -m tests.core_server.storage.sql.writing_child FILE NAME`; ends by a kill.
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path

from core_server.storage.base import PutItem, PutThread, PutTurn
from core_server.storage.sql.store import SqliteStore
from tests.core_server.storage.samples import item_row, thread_row, turn_row

THREADS = 3
"""So that a commit holds writes of several callers."""


async def _write_on(store: SqliteStore, thread_id: str) -> None:
    await store.acquire(thread_id)
    running = PutTurn(turn_row(thread_id, "u", 0, "inProgress"))
    await store.write([PutThread(thread_row(thread_id)), running])
    for number in itertools.count():
        item = item_row(thread_id, "u", f"i{number}", number, "x" * (number % 997))
        await store.write([PutItem(item)])
        os.write(1, f"{thread_id} {number}\n".encode())


async def _main(path: Path, name: str) -> None:
    store = SqliteStore(path)
    await store.open()
    async with asyncio.TaskGroup() as group:
        for number in range(THREADS):
            group.create_task(_write_on(store, f"{name}-{number}"))


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2]))
