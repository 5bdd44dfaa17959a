"""Lists in pages, asked through a served core."""

from pathlib import Path
from typing import Any

import pytest

from tests.core_process import run_turn, start_thread
from tests.core_server.in_process import served
from tests.stdio_client import Json, RpcError, StdioClient


async def _all(client: StdioClient, method: str, params: Json) -> list[list[Any]]:
    """All pages, forward; and the way back from the last one ends at its first."""
    pages: list[list[Any]] = []
    cursor = None
    while True:
        page = await client.request(method, {**params, "cursor": cursor})
        pages.append(page["data"])
        cursor = page["nextCursor"]
        if cursor is None:
            return pages


async def test_turns_and_items_come_in_pages_in_both_directions() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        for number in range(5):
            await run_turn(client, thread_id, f"words {number}")
        named = {"threadId": thread_id, "limit": 2}
        newest = await _all(client, "thread/turns/list", named)
        oldest = await _all(client, "thread/turns/list", {**named, "sortDirection": "asc"})
        assert [len(page) for page in newest] == [2, 2, 1]
        ids = [turn["id"] for page in newest for turn in page]
        assert ids == list(reversed([turn["id"] for page in oldest for turn in page]))
        items = await _all(client, "thread/items/list", named)
        assert [entry["item"]["type"] for page in items for entry in page] == [
            "userMessage",
            "agentMessage",
        ] * 5
        one = await client.request("thread/items/list", {"threadId": thread_id, "turnId": ids[0]})
        assert [entry["turnId"] for entry in one["data"]] == [ids[0]] * 2
        bare = await client.request("thread/turns/list", {**named, "itemsView": "notLoaded"})
        assert bare["data"][0]["items"] == []


async def test_a_page_can_be_gone_back_from() -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        for number in range(3):
            await run_turn(client, thread_id, f"words {number}")
        named = {"threadId": thread_id, "limit": 1}
        first = await client.request("thread/turns/list", named)
        second = await client.request(
            "thread/turns/list", {**named, "cursor": first["nextCursor"]}
        )
        back = await client.request(
            "thread/turns/list", {**named, "cursor": second["backwardsCursor"]}
        )
        assert back["data"] == first["data"]
        nothing = await client.request("thread/turns/list", {**named, "cursor": "desc:0"})
        assert nothing == {"data": [], "nextCursor": None, "backwardsCursor": None}


async def test_threads_are_searched_filtered_and_sorted(tmp_path: Path) -> None:
    async with served() as client:
        ids = [await start_thread(client, cwd=str(tmp_path) if n else "/") for n in range(3)]
        for number, thread_id in enumerate(ids):
            await run_turn(client, thread_id, f"about {'cats' if number else 'dogs'}")
        unused = await start_thread(client)

        async def listed(**params: object) -> list[str]:
            result = await client.request("thread/list", params)
            return [thread["id"] for thread in result["data"]]

        assert sorted(await listed()) == sorted(ids)
        assert unused not in await listed()
        assert await listed(searchTerm="dogs") == [ids[0]]
        assert await listed(cwd="/") == [ids[0]]
        assert sorted(await listed(cwd=["/", str(tmp_path)])) == sorted(ids)
        assert await listed(excludedThreadIds=ids[1:]) == [ids[0]]
        assert await listed(originators=["somebody else"]) == []
        assert await listed(modelProviders=["openai"]) == []
        assert await listed(sectionId="s") == []
        assert await listed(sortDirection="asc", sortKey="section_position") == sorted(ids)
        assert [
            page for page in await _all(client, "thread/list", {"limit": 1}) if len(page) != 1
        ] == []


async def test_loaded_threads_are_listed_in_pages_too() -> None:
    async with served() as client:
        ids = sorted([await start_thread(client) for _ in range(3)])
        first = await client.request("thread/loaded/list", {"limit": 2})
        assert first == {"data": ids[:2], "nextCursor": ids[1]}
        second = await client.request("thread/loaded/list", {"cursor": ids[1]})
        assert second == {"data": ids[2:], "nextCursor": None}


@pytest.mark.parametrize("cursor", ["x", "desc:", "up:1", "desc:" + "9" * 30])
async def test_a_cursor_that_no_page_gave_out_is_refused(cursor: str) -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        await run_turn(client, thread_id, "hi")
        for method in ("thread/turns/list", "thread/items/list", "thread/list", "model/list"):
            with pytest.raises(RpcError, match="invalid cursor"):
                await client.request(method, {"threadId": thread_id, "cursor": cursor})
