"""Read marks, samples aside, and where in a thread something was said."""

import asyncio

import pytest

from core_server.engines.base import (
    AgentMessage,
    EngineError,
    MessageDone,
    MessageStarted,
    TextPart,
    Usage,
    UserMessage,
)
from tests.core_process import run_turn, start_thread
from tests.core_server.in_process import served
from tests.core_server.scripted_engine import ScriptedEngine, call
from tests.stdio_client import Json, RpcError, StdioClient

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _marks(client: StdioClient) -> list[Json]:
    return [
        m["params"]["readState"]["firstUnread"]
        for m in client.received
        if m.get("method") == "thread/readState/changed"
    ]


async def _update(client: StdioClient, thread_id: str, kind: str, revision: str) -> Json:
    operation = {"type": kind}
    params = {"threadId": thread_id, "operation": operation, "expectedRevision": revision}
    answer = await client.request("thread/readState/update", params)
    state: Json = answer["readState"]
    return state


async def test_a_turn_that_ends_by_itself_is_unread_until_somebody_read_it() -> None:
    engine = ScriptedEngine([MessageDone("a", "x")], [EngineError("no")])
    async with served(engine=engine, experimental=True) as client:
        thread_id = await start_thread(client)
        first = (await run_turn(client, thread_id, "one"))["turn"]
        await run_turn(client, thread_id, "two")
        listed = (await client.request("thread/list", {}))["readStates"]
        state = listed[thread_id]
        assert state["firstUnread"] == {"type": "turn", "turnId": first["id"]}
        known = (await client.request("thread/read", {"threadId": thread_id}))["readState"]
        assert known == state
        read = await _update(client, thread_id, "read", state["revision"])
        assert read["firstUnread"] is None
        with pytest.raises(RpcError, match="read state changed") as refused:
            await _update(client, thread_id, "unread", state["revision"])
        assert refused.value.data == {"reason": "readStateConflict", "readState": read}
        await client.request("thread/unsubscribe", {"threadId": thread_id})
        again = await _update(client, thread_id, "unread", read["revision"])
    unread = {"type": "turn", "turnId": first["id"]}
    assert again["firstUnread"] == {"type": "threadStart"}
    assert _marks(client) == [unread, unread, None, {"type": "threadStart"}]


async def test_a_turn_that_was_stopped_leaves_the_mark_as_it_was() -> None:
    async with served(experimental=True) as client:
        thread_id = await start_thread(client)
        asked = {"threadId": thread_id, "input": [{"type": "text", "text": "/slow 30"}]}
        turn = (await client.request("turn/start", asked))["turn"]
        await client.wait_for("item/agentMessage/delta")
        await client.request("turn/interrupt", {"threadId": thread_id, "turnId": turn["id"]})
        await client.wait_for("turn/completed")
        listed = (await client.request("thread/list", {}))["readStates"]
    assert (_marks(client), listed) == ([], {})


async def test_a_sample_is_answered_with_what_was_said_and_leaves_no_trace() -> None:
    engine = ScriptedEngine(
        [MessageDone("a", "first")],
        [MessageDone("b", "aside"), Usage(10, 3, 4, 0, "resp_7")],
    )
    async with served(engine=engine, experimental=True) as client:
        thread_id = await start_thread(client)
        turn = (await run_turn(client, thread_id, "one"))["turn"]
        before = len(client.methods())
        params = {"threadId": thread_id, "expectedTurnId": turn["id"], "prompt": "say"}
        answer = await client.request("thread/sample", params, trace={"traceparent": TRACE})
        assert client.methods()[before:] == []
        await run_turn(client, thread_id, "two")
    assert answer == {
        "sourceTurnId": turn["id"],
        "responseId": "resp_7",
        "text": "aside",
        "inputTokens": 10,
        "cachedInputTokens": 4,
        "outputTokens": 3,
    }
    said = [prompt.history for prompt in engine.prompts[1:]]
    one, two, say = (UserMessage((TextPart(word),)) for word in ("one", "two", "say"))
    first = AgentMessage("first")
    assert said == [(one, first, say), (one, first, two)]
    assert [prompt.traceparent for prompt in engine.prompts[1:]] == [TRACE, ""]


async def test_a_sample_can_be_cancelled_and_holds_nobody_up_meanwhile() -> None:
    async with served(experimental=True) as client:
        thread_id = await start_thread(client)
        turn = (await run_turn(client, thread_id, "one"))["turn"]
        params = {"threadId": thread_id, "expectedTurnId": turn["id"], "prompt": "/slow 30"}
        sample = client.begin("thread/sample", params)
        await client.request("thread/name/set", {"threadId": thread_id, "name": "n"})
        assert await client.request("thread/sample/cancel", {"requestId": sample}) == {}
        with pytest.raises(RpcError, match=r"^sample canceled$"):
            await client.answer(sample)
        assert await client.request("thread/sample/cancel", {"requestId": sample}) == {}


async def test_a_sample_runs_no_tools() -> None:
    engine = ScriptedEngine([MessageDone("a", "x")], [call("shell", command="echo no")])
    async with served(engine=engine, experimental=True) as client:
        thread_id = await start_thread(client)
        turn = (await run_turn(client, thread_id, "one"))["turn"]
        params = {"threadId": thread_id, "expectedTurnId": turn["id"], "prompt": "say"}
        answer = await client.request("thread/sample", params)
    assert (answer["text"], len(engine.prompts)) == (None, 2)


LONG = "x" * 4001
REQUIRES = "thread/sample requires expectedTurnId and a prompt of at most 4000 bytes"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompt": ""}, REQUIRES),
        ({"prompt": LONG}, REQUIRES),
        ({"expectedTurnId": ""}, REQUIRES),
        ({"expectedTurnId": "other"}, "sample source turn must be the latest finished turn"),
        ({"threadId": "x"}, "thread/sample requires a loaded source"),
        ({"prompt": "/fail it broke"}, "it broke"),
    ],
)
async def test_a_sample_that_cannot_be_is_refused_in_words(changed: Json, said: str) -> None:
    async with served(experimental=True) as client:
        thread_id = await start_thread(client)
        turn = (await run_turn(client, thread_id, "one"))["turn"]
        params = {"threadId": thread_id, "expectedTurnId": turn["id"], "prompt": "say", **changed}
        with pytest.raises(RpcError) as refused:
            await client.request("thread/sample", params)
    assert (refused.value.code, refused.value.message) == (-32600, said)


async def test_while_a_turn_runs_only_that_turn_can_be_sampled() -> None:
    async with served(experimental=True) as client:
        thread_id = await start_thread(client)
        asked = {"threadId": thread_id, "input": [{"type": "text", "text": "/slow 30"}]}
        turn = (await client.request("turn/start", asked))["turn"]
        await client.wait_for("item/agentMessage/delta")
        params = {"threadId": thread_id, "expectedTurnId": turn["id"], "prompt": "say"}
        with pytest.raises(RpcError, match=r"^sample source must be idle$"):
            await client.request("thread/sample", params)
        async with asyncio.timeout(20):
            answer = await client.request("thread/sample", {**params, "allowInProgressTurn": True})
    assert answer["text"] == "say"


async def _search(client: StdioClient, **params: object) -> Json:
    return await client.request("thread/searchOccurrences", params)


async def test_every_place_is_found_a_page_at_a_time_and_leads_to_its_turn() -> None:
    engine = ScriptedEngine([MessageStarted("a"), MessageDone("a", "Apple pie")])
    async with served(engine=engine, experimental=True) as client:
        thread_id = await start_thread(client)
        first = (await run_turn(client, thread_id, "schön \U0001f389 apple, apple"))["turn"]
        await run_turn(client, thread_id, "pears")
        found: list[Json] = []
        cursor = None
        while True:
            page = await _search(
                client, threadId=thread_id, searchTerm="APPLE", limit=1, cursor=cursor
            )
            found += page["data"]
            if (cursor := page["nextCursor"]) is None:
                break
        turns = await client.request(
            "thread/turns/list", {"threadId": thread_id, "cursor": found[0]["turnCursor"]}
        )
        nothing = await _search(client, threadId=thread_id, searchTerm="plum")
    ranges = [
        (each["snippet"], each["snippetMatchRange"]["start"], each["snippetMatchRange"]["end"])
        for each in found
    ]
    assert ranges == [
        ("schön \U0001f389 apple, apple", 9, 14),  # in UTF-16 units
        ("schön \U0001f389 apple, apple", 16, 21),
        ("Apple pie", 0, 5),
    ]
    assert {each["turnId"] for each in found} == {first["id"]}
    assert [turn["id"] for turn in turns["data"]] == [first["id"]]
    assert nothing == {"data": [], "nextCursor": None}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"searchTerm": " "}, "thread/searchOccurrences requires a non-empty searchTerm"),
        ({"cursor": "x"}, "invalid cursor: x"),
    ],
)
async def test_a_search_that_asks_for_nothing_is_refused(changed: Json, said: str) -> None:
    async with served(experimental=True) as client:
        thread_id = await start_thread(client)
        with pytest.raises(RpcError, match=f"^{said}$"):
            await _search(client, **{"threadId": thread_id, "searchTerm": "a", **changed})
