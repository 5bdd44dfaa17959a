"""What every store keeps, told once and run against each of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
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
from core_server.storage.memory import MemoryStore
from core_server.storage.sqlite import SqliteStore
from tests.core_server.storage.samples import all_ids, item_row, list_ids, thread_row, turn_row


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    makers: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "sqlite": lambda: SqliteStore(tmp_path / "threads.db"),
    }
    store = makers[request.param]()
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


# thread/list


async def _fill(store: Store, count: int) -> list[str]:
    """Threads of which always two share a second; newest first."""
    rows = [thread_row(f"t{number:03}", number // 2) for number in range(count)]
    await store.write([PutThread(row) for row in rows])
    return [row.thread_id for row in reversed(rows)]


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_pages_give_each_thread_once_in_order(
    store: Store, limit: int, *, descending: bool
) -> None:
    newest_first = await _fill(store, 7)

    found = await all_ids(store, ThreadQuery(limit=limit, descending=descending))

    assert found == (newest_first if descending else newest_first[::-1])


async def test_the_backwards_cursor_gives_the_page_before(store: Store) -> None:
    await _fill(store, 7)
    query = ThreadQuery(limit=2)
    first = await store.threads(query)
    second = await store.threads(msgspec.structs.replace(query, cursor=first.next_cursor))
    third = await store.threads(msgspec.structs.replace(query, cursor=second.next_cursor))

    back = msgspec.structs.replace(query, cursor=third.backwards_cursor)
    turned = msgspec.structs.replace(back, descending=False)

    assert await store.threads(back) == second
    assert (await store.threads(turned)).rows == second.rows[::-1]


async def test_going_back_from_the_first_page_finds_what_is_new(store: Store) -> None:
    await _fill(store, 4)
    query = ThreadQuery(limit=9)
    first = await store.threads(query)
    back = msgspec.structs.replace(query, cursor=first.backwards_cursor)
    assert await store.threads(back) == ThreadPage((), None, None)

    await store.write([PutThread(thread_row("t998", 99)), PutThread(thread_row("t999", 99))])

    page = await store.threads(back)
    assert [row.thread_id for row in page.rows] == ["t999", "t998"]
    onwards = msgspec.structs.replace(query, cursor=page.next_cursor)
    assert (await store.threads(onwards)).rows == first.rows


async def test_a_cursor_stays_true_while_rows_come_and_go(store: Store) -> None:
    newest_first = await _fill(store, 6)
    page = await store.threads(ThreadQuery(limit=2))

    await store.write([DeleteThread(newest_first[1]), DeleteThread(newest_first[2])])
    await store.write([PutThread(thread_row("t999", 99))])

    rest = await all_ids(store, ThreadQuery(limit=2, cursor=page.next_cursor))
    assert rest == newest_first[3:]


async def test_each_order_is_by_its_own_time(store: Store) -> None:
    await store.write(
        [
            PutThread(thread_row("a", 0, created_at_s=3, updated_at_s=1, recency_at_s=2)),
            PutThread(thread_row("b", 0, created_at_s=2, updated_at_s=3, recency_at_s=1)),
            PutThread(thread_row("c", 0, created_at_s=1, updated_at_s=2, recency_at_s=3)),
        ]
    )

    assert await all_ids(store, ThreadQuery(limit=1, sort_key="created_at")) == ["a", "b", "c"]
    assert await all_ids(store, ThreadQuery(limit=1, sort_key="updated_at")) == ["b", "c", "a"]
    assert await all_ids(store, ThreadQuery(limit=1, sort_key="recency_at")) == ["c", "a", "b"]


async def test_filters_choose_and_unlisted_threads_are_hidden(store: Store) -> None:
    await store.write(
        [
            PutThread(thread_row("a", cwd="/a", source="cli", model_provider="x")),
            PutThread(thread_row("b", cwd="/b", source="vscode", model_provider="x")),
            PutThread(thread_row("c", cwd="/b", source="cli", model_provider="y")),
            PutThread(thread_row("old", archived=True)),
            PutThread(thread_row("new", listed=False)),
        ]
    )

    assert await list_ids(store, ThreadQuery(limit=9)) == ["c", "b", "a"]
    assert await list_ids(store, ThreadQuery(limit=9, archived=True)) == ["old"]
    assert await list_ids(store, ThreadQuery(limit=9, cwds=("/b", "/c"))) == ["c", "b"]
    assert await list_ids(store, ThreadQuery(limit=9, sources=("cli",))) == ["c", "a"]
    assert await list_ids(store, ThreadQuery(limit=9, model_providers=("x",))) == ["b", "a"]
    assert await list_ids(store, ThreadQuery(limit=9, cwds=("/b",), sources=("cli",))) == ["c"]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("PLAN", ["a"]),
        ("größe", ["b"]),
        ("GRÖSSE", ["b"]),
        ("100%", ["c"]),
        ("_", ["d"]),
        ("\\", ["e"]),
        ("hidden", ["f"]),
        ("%", ["c"]),
        ("nowhere", []),
        ("", ["f", "e", "d", "c", "b", "a"]),
    ],
)
async def test_search_finds_any_part_of_name_or_preview(
    store: Store, search: str, found: list[str]
) -> None:
    await store.write(
        [
            PutThread(thread_row("a", name="The plan", preview="x")),
            PutThread(thread_row("b", preview="Größe")),
            PutThread(thread_row("c", preview="100% sure")),
            PutThread(thread_row("d", preview="snake_case")),
            PutThread(thread_row("e", preview="back\\slash")),
            PutThread(thread_row("f", preview="nul\0hidden")),
        ]
    )

    assert await list_ids(store, ThreadQuery(limit=9, search=search)) == found


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        (ThreadQuery(limit=0), "limit must be at least 1"),
        (ThreadQuery(limit=1, cursor=""), "the cursor is not one"),
        (ThreadQuery(limit=1, cursor="not base64 ☃"), "the cursor is not one"),
        (ThreadQuery(limit=1, cursor="eyJhIjoxfQ"), "the cursor is not one"),
        (ThreadQuery(limit=1, search="x" * 10_001), "search text is longer"),
        (ThreadQuery(limit=1, cwds=("/",) * 1_001), "a filter has more than"),
    ],
)
async def test_a_query_out_of_bounds_is_refused_in_one_line(
    store: Store, query: ThreadQuery, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        await store.threads(query)


async def test_a_cursor_of_another_order_is_refused(store: Store) -> None:
    await _fill(store, 2)
    cursor = (await store.threads(ThreadQuery(limit=1))).next_cursor

    with pytest.raises(ValueError, match="sorted by created_at, not updated_at"):
        await store.threads(ThreadQuery(limit=1, cursor=cursor, sort_key="updated_at"))


async def test_the_largest_limit_and_search_are_served(store: Store) -> None:
    await _fill(store, 2)

    assert len(await list_ids(store, ThreadQuery(limit=2**62))) == 2
    assert await list_ids(store, ThreadQuery(limit=1, search="\U0001f600" * 10_000)) == []
    assert len(await list_ids(store, ThreadQuery(limit=9, cwds=("/w",) * 1_000))) == 2
