"""What every store keeps of `thread/list`: pages, cursors, filters and search."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from core_server.storage.base import DeleteThread, PutThread, Store, ThreadPage, ThreadQuery
from tests.core_server.storage.samples import MAKERS, all_ids, list_ids, thread_row


@pytest.fixture(params=MAKERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MAKERS[request.param](tmp_path)
    await store.open()
    yield store
    await store.close()


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
