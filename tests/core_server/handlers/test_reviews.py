"""`review/start`, and what else the newest clients ask of threads."""

from pathlib import Path

import pytest

from core_server.config import Config
from core_server.engines.base import (
    AgentMessage,
    EngineError,
    MessageDone,
    MessageStarted,
    TextDelta,
    UserMessage,
)
from core_server.turns import runner
from tests.core_process import completed, core, run_turn, start_thread, text
from tests.core_server.in_process import served
from tests.core_server.scripted_engine import ScriptedEngine, call
from tests.stdio_client import Json, RpcError, StdioClient

FINDINGS = (
    '{"findings":[{"title":"[P1] Bad","body":"why","code_location":{"absolute_file_path":'
    '"/ws/a","line_range":{"start":1,"end":2}}}],"overall_explanation":"expl"}'
)


def _items(client: StdioClient, turn_id: str) -> list[tuple[str, str]]:
    """The complete items of a turn: type, and text or what is reviewed."""
    return [
        (item["type"], item.get("review") or item.get("text") or item["content"][0]["text"])
        for message in client.received
        if message.get("method") == "item/completed" and message["params"]["turnId"] == turn_id
        for item in [message["params"]["item"]]
    ]


async def _review(client: StdioClient, thread_id: str, **target: object) -> Json:
    params = {"threadId": thread_id, "target": target or {"type": "uncommittedChanges"}}
    return await client.request("review/start", params)


async def test_a_review_has_one_turn_and_none_of_what_was_said_before() -> None:
    engine = ScriptedEngine(
        [MessageDone("m0", "before")],
        [MessageStarted("m1"), TextDelta("m1", "well"), MessageDone("m1", FINDINGS)],
    )
    async with served(engine=engine) as client:
        thread_id = await start_thread(client)
        await run_turn(client, thread_id, "hello")
        answer = await _review(client, thread_id)
        turn = answer["turn"]
        assert answer["reviewThreadId"] == thread_id
        assert turn["items"][0]["content"][0]["text"] == "current changes"
        done = await completed(client, turn["id"])
        await run_turn(client, thread_id, "and now?")
    rendered = "expl\n\nReview comment:\n\n- [P1] Bad — /ws/a:1-2\n  why"
    prompt = (
        "Review the current code changes (staged, unstaged, and untracked files) and provide"
        " prioritized findings."
    )
    assert _items(client, turn["id"]) == [
        ("enteredReviewMode", "current changes"),
        ("userMessage", prompt),
        ("exitedReviewMode", rendered),
        ("agentMessage", rendered),
    ]
    assert done["turn"]["status"] == "completed"
    assert done["turn"]["items"][0]["text"] == rendered
    asked = engine.prompts[1].history
    assert [type(entry) for entry in asked] == [UserMessage]
    assert runner.REVIEW_INSTRUCTIONS in engine.prompts[1].instructions
    assert AgentMessage(rendered) in engine.prompts[2].history
    assert AgentMessage("before") in engine.prompts[2].history


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ({"type": "baseBranch", "branch": "main"}, "changes against 'main'"),
        ({"type": "commit", "sha": "abc", "title": "first"}, "commit abc: first"),
        ({"type": "commit", "sha": "abc"}, "commit abc"),
        ({"type": "custom", "instructions": " look at a "}, "look at a"),
    ],
)
async def test_what_is_reviewed_is_said_in_the_references_words(target: Json, shown: str) -> None:
    async with served(engine=ScriptedEngine()) as client:
        answer = await _review(client, await start_thread(client), **target)
        await completed(client, answer["turn"]["id"])
    assert _items(client, answer["turn"]["id"])[0] == ("enteredReviewMode", shown)


@pytest.mark.parametrize(
    ("params", "code", "message"),
    [
        ({"target": {"type": "baseBranch", "branch": " "}}, -32600, "branch must not be empty"),
        ({"target": {"type": "custom", "instructions": ""}}, -32600, "instructions must not be"),
        ({"target": {"type": "nope"}}, -32602, "nope"),
        (
            {"target": {"type": "uncommittedChanges"}, "delivery": "detached"},
            -32600,
            "unknown variant `detached`, expected `inline`",
        ),
    ],
)
async def test_a_bad_review_is_refused(params: Json, code: int, message: str) -> None:
    async with served() as client:
        thread_id = await start_thread(client)
        with pytest.raises(RpcError, match=message) as refused:
            await client.request("review/start", {"threadId": thread_id, **params})
        assert refused.value.code == code


async def test_a_review_takes_no_input_and_is_interrupted_like_a_turn() -> None:
    async with core(experimental=True) as client:
        thread_id = await start_thread(client)
        target = {"type": "custom", "instructions": "/slow 60"}
        first = (await _review(client, thread_id, **target))["turn"]["id"]
        await client.wait_for("turn/started")
        named = {"threadId": thread_id, "input": text("more")}
        with pytest.raises(RpcError, match="cannot steer a review turn") as refused:
            await client.request("turn/steer", {**named, "expectedTurnId": first})
        assert refused.value.data["codexErrorInfo"] == {
            "activeTurnNotSteerable": {"turnKind": "review"}
        }
        with pytest.raises(RpcError, match="ActiveTurnNotSteerable"):
            await client.request("turn/start", named)
        second = (await _review(client, thread_id, **target))["turn"]["id"]
        assert (await completed(client, first))["turn"]["status"] == "interrupted"
        await client.request("turn/interrupt", {"threadId": thread_id, "turnId": second})
        assert (await completed(client, second))["turn"]["status"] == "interrupted"
    assert _items(client, second)[-2:] == [
        ("exitedReviewMode", runner.NO_OUTPUT),
        ("agentMessage", runner.INTERRUPTED),
    ]


async def test_an_endpoints_error_has_the_references_shape_and_ends_a_review() -> None:
    failure = EngineError("no", "httpConnectionFailed", 401)
    async with served(engine=ScriptedEngine([failure])) as client:
        answer = await _review(client, await start_thread(client))
        done = await completed(client, answer["turn"]["id"])
    assert done["turn"]["status"] == "failed"
    assert done["turn"]["error"]["codexErrorInfo"] == {
        "httpConnectionFailed": {"httpStatusCode": 401}
    }
    assert _items(client, answer["turn"]["id"])[-1] == ("agentMessage", runner.INTERRUPTED)


async def test_injected_items_reach_the_engine_in_their_place_and_no_client() -> None:
    items: list[object] = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "d"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a"}],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "o"},
        {"type": "nope"},
    ]
    engine = ScriptedEngine()
    async with served(engine=engine, experimental=True) as client:
        thread_id = await start_thread(client)
        await run_turn(client, thread_id, "first")
        since = len(client.received)
        await client.request("thread/inject_items", {"threadId": thread_id, "items": items})
        assert len(client.received) == since + 1, "no notification"
        forked = await client.request("thread/fork", {"threadId": thread_id})
        await run_turn(client, thread_id, "second")
        await client.request("thread/archive", {"threadId": thread_id})
        await client.request("thread/unarchive", {"threadId": thread_id})
        await client.request("thread/resume", {"threadId": thread_id})
        await run_turn(client, thread_id, "third")
        for bad, why in (
            ([], "must not be empty"),
            (["x"], "expected struct WrappedItem"),
            ([{"role": "user"}], "missing field `item`"),
            ([{"type": "message"}], "missing field `content`"),
        ):
            with pytest.raises(RpcError, match=why):
                await client.request("thread/inject_items", {"threadId": thread_id, "items": bad})
    kinds = [type(entry).__name__ for entry in engine.prompts[-1].history]
    one = ["UserMessage", "AgentMessage"]
    injected = [*one, "ToolCall", "ToolOutput"]
    assert kinds == [*one, *injected, *one, "UserMessage"]
    assert [type(entry).__name__ for entry in engine.prompts[1].history] == kinds[:7]
    assert forked["thread"]["id"] != thread_id


async def test_a_mode_stays_until_the_next_one_and_is_told() -> None:
    engine = ScriptedEngine()
    async with served(engine=engine, experimental=True) as client:
        thread_id = await start_thread(client)
        mode: Json = {"mode": "plan", "settings": {"model": "m2", "reasoning_effort": "high"}}
        update = {"threadId": thread_id, "collaborationMode": mode}
        await client.request("thread/settings/update", update)
        told = await client.wait_for("thread/settings/updated")
        assert told["params"]["threadSettings"]["collaborationMode"]["mode"] == "plan"
        await run_turn(client, thread_id, "hi")
        mode = {"mode": "default", "settings": {"model": "m1"}}
        params = {"threadId": thread_id, "input": text("do"), "collaborationMode": mode}
        turn = (await client.request("turn/start", params))["turn"]
        await completed(client, turn["id"])
    first, second = engine.prompts
    assert (first.model, first.effort) == ("m2", "high")
    assert "<proposed_plan>" in first.instructions
    assert second.model == "m1"
    assert "<proposed_plan>" not in second.instructions


async def test_a_search_finds_threads_and_tells_hits_under_the_requests_id() -> None:
    async with served(experimental=True) as client:
        thread_id = await start_thread(client)
        await run_turn(client, thread_id, "words about apples and pears")
        params = {"searchTerm": "APPLES"}
        found = await client.request("thread/search", params)
        assert [hit["thread"]["id"] for hit in found["data"]] == [thread_id]
        assert found["data"][0]["snippet"] == "words about apples and pears"
        streamed = await client.request("thread/search/stream", params)
        assert streamed["data"] == found["data"]
        partial = await client.wait_for("thread/search/partial")
        assert partial["params"]["requestId"] == client.sent[-1]["id"]
        assert (await client.request("thread/search", {"searchTerm": "plums"}))["data"] == []
        with pytest.raises(RpcError, match="requires a non-empty searchTerm"):
            await client.request("thread/search", {"searchTerm": " "})
        assert await client.request("thread/search/cancel", {"requestId": "x"}) == {}
        with pytest.raises(RpcError, match="requestId"):
            await client.request("thread/search/cancel", {"requestId": 1.5})


async def test_a_change_of_files_tells_all_that_the_turn_changed(tmp_path: Path) -> None:
    add = "*** Begin Patch\n*** Add File: a.txt\n+one\n*** End Patch\n"
    gone = "*** Begin Patch\n*** Delete File: a.txt\n*** End Patch\n"
    engine = ScriptedEngine([call("apply_patch", patch=add)], [call("apply_patch", patch=gone)])
    config = Config(workspace=str(tmp_path), sandbox="danger-full-access")
    async with served(config, engine=engine) as client:
        await run_turn(client, await start_thread(client), "change")
    diffs = [
        message["params"]["diff"]
        for message in client.received
        if message.get("method") == "turn/diff/updated"
    ]
    created = (
        "diff --git a/a.txt b/a.txt\nnew file mode 100644\n--- /dev/null\n+++ b/a.txt\n"
        "@@ -0,0 +1,1 @@\n+one\n"
    )
    assert diffs[0] == created
    assert diffs[1].startswith(created)
    assert "deleted file mode 100644" in diffs[1]


@pytest.mark.parametrize("limit", [-1, 2**32, 10**20, "5", True, 1.5])
@pytest.mark.parametrize("method", ["thread/list", "thread/loaded/list", "model/list"])
async def test_a_limit_that_is_no_count_is_refused_by_name(method: str, limit: object) -> None:
    async with served() as client:
        with pytest.raises(RpcError, match="`limit`") as refused:
            await client.request(method, {"limit": limit})
        assert refused.value.code == -32602


async def test_a_page_of_permission_profiles_has_a_cursor() -> None:
    async with served() as client:
        first = await client.request("permissionProfile/list", {"limit": 2})
        rest = await client.request("permissionProfile/list", {"cursor": first["nextCursor"]})
        names = [each["id"] for page in (first, rest) for each in page["data"]]
        assert names == [":read-only", ":workspace", ":danger-full-access"]
        with pytest.raises(RpcError, match="invalid cursor: x"):
            await client.request("permissionProfile/list", {"cursor": "x"})
        with pytest.raises(RpcError, match="chatgpt authentication required"):
            await client.request("plugin/list", {"marketplaceKinds": ["shared-with-me"]})
