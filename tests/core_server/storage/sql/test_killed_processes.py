"""Real processes on one store, really killed: what was promised is there."""

import asyncio
import random
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from core_server.storage.base import ItemRow, PutTurn, ThreadOwnedError
from core_server.storage.sql.store import SqliteStore
from tests.core_server.storage.samples import item_row, turn_row
from tests.core_server.storage.sql.writing_child import THREADS

ROOT = Path(__file__).parents[4]
TOGETHER = 4
"""Processes that write to one store at a time."""


@asynccontextmanager
async def _writing(path: Path, name: str) -> AsyncIterator[tuple[Process, str]]:
    """A child that writes, and its first promise; killed at the end."""
    module = "tests.core_server.storage.sql.writing_child"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, str(path), name, cwd=ROOT, stdout=PIPE
    )
    assert child.stdout is not None
    try:
        yield child, (await child.stdout.readline()).decode()
    finally:
        if child.returncode is None and not child.stdout.at_eof():
            child.kill()
        await child.wait()


async def _promises_until_killed(path: Path, name: str) -> dict[str, int]:
    """How many items of each thread were promised by a child that was killed at some moment."""
    async with _writing(path, name) as (child, first):
        assert child.stdout is not None
        await asyncio.sleep(random.uniform(0, 0.2))  # noqa: S311 - any moment will do
        child.kill()
        lines = [first, *(await child.stdout.read()).decode().splitlines()]
    promised = {f"{name}-{number}": 0 for number in range(THREADS)}
    for thread_id, number in map(str.split, lines):
        assert int(number) == promised[thread_id], "promises come in order"
        promised[thread_id] += 1
    return promised


def _expected(thread_id: str, items: Iterable[ItemRow]) -> tuple[ItemRow, ...]:
    """As many items as there are, each once, in order, each as it was written."""
    return tuple(
        item_row(thread_id, "u", f"i{number}", number, "x" * (number % 997))
        for number, _ in enumerate(items)
    )


@pytest.mark.parametrize("kills", [20, pytest.param(300, marks=pytest.mark.slow)])
async def test_nothing_promised_is_lost_by_a_kill(tmp_path: Path, kills: int) -> None:
    path = tmp_path / "threads.db"
    for round_number in range(kills // TOGETHER):
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_promises_until_killed(path, f"r{round_number}c{number}"))
                for number in range(TOGETHER)
            ]

        store = SqliteStore(path)
        await store.open()
        for thread_id, count in [pair for task in tasks for pair in task.result().items()]:
            items = await store.items(thread_id)
            assert items == _expected(thread_id, items)
            assert len(items) >= count
            assert await store.turns(thread_id) in (
                (),
                (turn_row(thread_id, "u", 0, "interrupted"),),
            )
        await store.close()


async def test_a_living_process_is_refused_and_a_killed_one_taken_over_at_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "threads.db"
    store = SqliteStore(path)
    await store.open()
    async with asyncio.timeout(30), _writing(path, "c") as (child, _):
        with pytest.raises(ThreadOwnedError, match=f"process {child.pid} on"):
            await store.acquire("c-0")
        assert (await store.turns("c-0"))[0].status == "inProgress"

        child.kill()
        killed_at_s = time.monotonic()
        await child.wait()
        assert (await store.turns("c-0"))[0].status == "interrupted"
        await store.acquire("c-0")

        assert time.monotonic() - killed_at_s < 2
        await store.write([PutTurn(turn_row("c-0", "v", 1, "inProgress"))])
    await store.close()
