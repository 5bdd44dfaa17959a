"""Our core with the `openai` engine, against a small local Responses API."""

import json
from pathlib import Path

from tests.core_process import completed, core, run_turn, start_thread, text
from tests.responses_api import Call, Reply, ResponsesApi, Text

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_turn_with_a_command_and_a_trace(tmp_path: Path) -> None:
    arguments = json.dumps({"command": "echo found $TRACEPARENT"})
    async with ResponsesApi() as api:
        api.script(Reply((Call("shell", arguments),)), Reply((Text("all done"),)))
        env = {"OPENAI_BASE_URL": api.url, "OPENAI_API_KEY": "k"}
        options = ("--engine", "openai", "--model", "m", "--sandbox", "none")
        async with core(*options, workspace=tmp_path, env=env) as client:
            thread_id = await start_thread(client)
            answer = await client.request(
                "turn/start",
                {"threadId": thread_id, "input": text("please look")},
                trace={"traceparent": PARENT, "tracestate": "a=b"},
            )
            done = await completed(client, answer["turn"]["id"])
        first, second = api.seen
    assert [item["text"] for item in done["turn"]["items"]] == ["all done"]
    assert (first.headers["traceparent"], first.headers["tracestate"]) == (PARENT, "a=b")
    output = json.dumps(second.body["input"])
    assert f"found {PARENT}" in output
    assert "item/commandExecution/requestApproval" not in client.methods()


async def test_an_escalated_command_asks_and_a_no_is_told_to_the_model(tmp_path: Path) -> None:
    arguments = json.dumps({"command": "touch ran", "escalated": True, "justification": "May I?"})
    async with ResponsesApi() as api:
        api.script(Reply((Call("shell", arguments),)), Reply((Text("a pity"),)))
        env = {"OPENAI_BASE_URL": api.url}
        async with core("--engine", "openai", workspace=tmp_path, env=env) as client:
            client.on_request = lambda _: {"result": {"decision": "decline"}}
            done = await run_turn(client, await start_thread(client), "please")
        asked = await client.wait(lambda m: "requestApproval" in m.get("method", ""))
        output = json.dumps(api.seen[1].body["input"])
    assert asked["params"]["reason"] == "May I?"
    assert "declined" in output
    assert done["turn"]["items"][0]["text"] == "a pity"
    assert not (tmp_path / "ran").exists()


async def test_a_rate_limit_is_told_as_an_error_that_is_retried(tmp_path: Path) -> None:
    async with ResponsesApi() as api:
        api.script(Reply(status=429, headers={"retry-after": "0"}), Reply((Text("at last"),)))
        env = {"OPENAI_BASE_URL": api.url}
        async with core("--engine", "openai", workspace=tmp_path, env=env) as client:
            done = await run_turn(client, await start_thread(client), "please")
    errors = [m["params"] for m in client.received if m.get("method") == "error"]
    assert [error["willRetry"] for error in errors] == [True]
    assert done["turn"]["status"] == "completed"
