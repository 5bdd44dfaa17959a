"""What every store keeps, told once and run against each of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core_server.storage.base import (
    DeleteThread,
    PutItem,
    PutThread,
    PutTurn,
    StorageError,
    Store,
    ThreadPage,
    ThreadQuery,
)
from tests.core_server.storage.samples import MAKERS, all_ids, item_row, thread_row, turn_row


@pytest.fixture(params=MAKERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MAKERS[request.param](tmp_path)
    await store.open()
    yield store
    await store.close()


async def test_what_was_written_is_read_back_whole(store: Store) -> None:
    row = thread_row("t", 5, name="Ünïcode ☃", archived=True, body='{"a":"\\u0000"}')
    turns = (turn_row("t", "u1", 0), turn_row("t", "u2", 1, "failed"))
    items = (item_row("t", "u1", "i1", 0), item_row("t", "u2", "i1", 1, body='{"b":1}'))

    await store.write([PutThread(row), *map(PutTurn, turns), *map(PutItem, items)])

    assert await store.thread("t") == row
    assert await store.turns("t") == turns
    assert await store.items("t") == items
    assert await store.items("t", "u2") == items[1:]


async def test_what_is_not_there_is_nothing(store: Store) -> None:
    assert await store.thread("t") is None
    assert await store.turns("t") == ()
    assert await store.items("t") == ()
    assert await store.threads(ThreadQuery(limit=1)) == ThreadPage((), None, None)


async def test_a_second_put_replaces_the_row_and_leaves_what_is_below(store: Store) -> None:
    await store.write([PutThread(thread_row("t")), PutTurn(turn_row("t", "u"))])

    await store.write([PutThread(thread_row("t", 9)), PutTurn(turn_row("t", "u", 3, "failed"))])

    assert await store.thread("t") == thread_row("t", 9)
    assert await store.turns("t") == (turn_row("t", "u", 3, "failed"),)


async def test_an_item_keeps_its_first_ordinal(store: Store) -> None:
    await store.write([PutThread(thread_row("t")), PutTurn(turn_row("t", "u"))])
    await store.write([PutItem(item_row("t", "u", "i", 4))])

    await store.write([PutItem(item_row("t", "u", "i", 7, body='{"new":1}'))])

    assert await store.items("t") == (item_row("t", "u", "i", 4, body='{"new":1}'),)


async def test_turns_and_items_come_oldest_first(store: Store) -> None:
    await store.write([PutThread(thread_row("t"))])
    await store.write([PutTurn(turn_row("t", "a", 1)), PutTurn(turn_row("t", "z", 0))])
    await store.write([PutItem(item_row("t", "a", "x", 1)), PutItem(item_row("t", "z", "y", 0))])

    assert [turn.turn_id for turn in await store.turns("t")] == ["z", "a"]
    assert [item.item_id for item in await store.items("t")] == ["y", "x"]


async def test_a_deleted_thread_takes_all_below_with_it(store: Store) -> None:
    await store.write(
        [
            PutThread(thread_row("t")),
            PutTurn(turn_row("t", "u")),
            PutItem(item_row("t", "u", "i")),
            PutThread(thread_row("other")),
        ]
    )

    await store.write([DeleteThread("t"), DeleteThread("never was")])

    assert await store.thread("t") is None
    assert await store.turns("t") == ()
    assert await store.items("t") == ()
    assert await store.thread("other") == thread_row("other")


async def test_two_threads_may_have_a_turn_of_the_same_id(store: Store) -> None:
    for thread_id in ("t", "fork"):
        await store.write(
            [PutThread(thread_row(thread_id)), PutTurn(turn_row(thread_id, "u"))],
        )

    assert await store.turns("fork") == (turn_row("fork", "u"),)
    assert await store.turns("t") == (turn_row("t", "u"),)


async def test_a_read_sees_the_writes_queued_before_it(store: Store) -> None:
    written = store.write([PutThread(thread_row("t"))])

    assert await store.thread("t") == thread_row("t")
    await written


async def test_a_write_that_fails_leaves_nothing_of_itself(store: Store) -> None:
    await store.write([PutThread(thread_row("t")), PutThread(thread_row("gone"))])
    await store.write([PutTurn(turn_row("t", "u")), PutItem(item_row("t", "u", "i"))])

    with pytest.raises(StorageError):
        await store.write(
            [
                PutThread(thread_row("t", 9)),
                PutThread(thread_row("new")),
                PutTurn(turn_row("t", "u", 5)),
                PutTurn(turn_row("t", "new")),
                PutItem(item_row("t", "u", "i", body="[]")),
                DeleteThread("gone"),
                PutItem(item_row("t", "no such turn", "i")),
            ]
        )

    assert await store.thread("t") == thread_row("t")
    assert await store.thread("new") is None
    assert await store.thread("gone") == thread_row("gone")
    assert await store.turns("t") == (turn_row("t", "u"),)
    assert await store.items("t") == (item_row("t", "u", "i"),)


async def test_a_turn_needs_its_thread(store: Store) -> None:
    with pytest.raises(StorageError):
        await store.write([PutTurn(turn_row("no such thread", "u"))])


async def test_a_write_at_fault_does_not_fail_its_neighbours(store: Store) -> None:
    before = store.write([PutThread(thread_row("a"))])
    at_fault = store.write([PutTurn(turn_row("no such thread", "u"))])
    after = store.write([PutThread(thread_row("b"))])

    await before
    await after
    with pytest.raises(StorageError):
        await at_fault

    assert await all_ids(store, ThreadQuery(limit=9)) == ["b", "a"]


async def test_a_write_succeeds_again_after_one_that_failed(store: Store) -> None:
    with pytest.raises(StorageError):
        await store.write([PutTurn(turn_row("t", "u"))])

    await store.write([PutThread(thread_row("t")), PutTurn(turn_row("t", "u"))])

    assert await store.turns("t") == (turn_row("t", "u"),)


async def test_a_turn_runs_only_in_an_acquired_thread(store: Store) -> None:
    await store.write([PutThread(thread_row("t"))])
    running = PutTurn(turn_row("t", "u", 0, "inProgress"))

    with pytest.raises(StorageError, match="not acquired"):
        await store.write([running])

    await store.acquire("t")
    await store.acquire("t")
    await store.write([running])
    assert await store.turns("t") == (running.row,)


async def test_a_thread_may_be_acquired_before_it_is_written(store: Store) -> None:
    await store.acquire("t")

    await store.write([PutThread(thread_row("t")), PutTurn(turn_row("t", "u", 0, "inProgress"))])

    assert (await store.turns("t"))[0].status == "inProgress"


async def test_a_released_thread_has_no_running_turn(store: Store) -> None:
    await store.acquire("t")
    await store.write([PutThread(thread_row("t"))])
    await store.write(
        [PutTurn(turn_row("t", "u", 0)), PutTurn(turn_row("t", "v", 1, "inProgress"))]
    )

    await store.release("t")
    await store.release("t")

    assert [turn.status for turn in await store.turns("t")] == ["completed", "interrupted"]


async def test_a_closed_store_refuses_everything(store: Store) -> None:
    await store.acquire("t")
    await store.close()
    await store.close()

    with pytest.raises(StorageError):
        await store.write([PutThread(thread_row("t"))])
    for call in (
        lambda: store.thread("t"),
        lambda: store.threads(ThreadQuery(limit=1)),
        lambda: store.turns("t"),
        lambda: store.items("t"),
        lambda: store.acquire("t"),
        lambda: store.release("t"),
    ):
        with pytest.raises(StorageError):
            await call()


async def test_closing_interrupts_and_opening_again_finds_all(store: Store) -> None:
    await store.acquire("t")
    await store.write([PutThread(thread_row("t")), PutTurn(turn_row("t", "u", 0, "inProgress"))])
    queued = store.write([PutTurn(turn_row("t", "v", 1))])

    await store.close()
    await queued
    await store.open()

    assert await store.thread("t") == thread_row("t")
    assert [turn.status for turn in await store.turns("t")] == ["interrupted", "completed"]


async def test_writes_are_durable_in_the_order_of_their_calls(store: Store) -> None:
    await store.write([PutThread(thread_row("t")), PutTurn(turn_row("t", "u"))])
    done: list[int] = []

    async def write(number: int) -> None:
        await store.write([PutItem(item_row("t", "u", f"i{number:03}", number))])
        done.append(number)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(write(number))

    assert done == list(range(200))
    assert [item.ordinal for item in await store.items("t")] == done


async def test_an_abandoned_wait_does_not_take_the_write_back(store: Store) -> None:
    async def wait() -> None:
        await store.write([PutThread(thread_row("t"))])

    async with asyncio.TaskGroup() as group:
        task = group.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()

    assert await store.thread("t") == thread_row("t")
