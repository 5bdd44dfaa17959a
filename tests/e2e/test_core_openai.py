"""Our core with the `openai` engine, against a small local Responses API."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core_process import completed, core, run_turn, start_thread, text
from tests.responses_api import Call, Raw, Reasoning, Reply, ResponsesApi, Text

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


async def test_a_chat_endpoint_serves_a_turn_with_a_command(tmp_path: Path) -> None:
    arguments = json.dumps({"command": ["bash", "-c", "echo found $((40 + 2))"]})
    async with ResponsesApi() as api:
        api.script(
            Reply((Reasoning(("hm",)), Call("shell", arguments))), Reply((Text("all done"),))
        )
        env = {"OPENAI_BASE_URL": f"{api.url}?api-version=1", "CORE_SERVER_WIRE": "chat"}
        options = ("--engine", "openai", "--sandbox", "none")
        async with core(*options, workspace=tmp_path, env=env) as client:
            done = await run_turn(client, await start_thread(client), "please look")
    ended = [m["params"] for m in client.received if m.get("method") == "item/completed"]
    items = [one["item"]["type"] for one in ended]
    assert done["turn"]["status"] == "completed"
    assert items == ["userMessage", "reasoning", "commandExecution", "agentMessage"]
    assert [seen.target for seen in api.seen] == ["/v1/chat/completions?api-version=1"] * 2
    messages = api.seen[1].body["messages"]
    assert isinstance(messages, list)
    assert [message["role"] for message in messages[-3:]] == ["user", "assistant", "tool"]
    assert "found 42" in messages[-1]["content"]


async def test_a_rate_limit_is_told_as_the_reference_server_tells_it(tmp_path: Path) -> None:
    limit = Reply(status=429, error=("x", "slower"), headers={"retry-after": "0"})
    async with ResponsesApi() as api:
        api.script(limit, limit, Reply((Text("at last"),)))
        env = {"OPENAI_BASE_URL": api.url}
        async with core("--engine", "openai", workspace=tmp_path, env=env) as client:
            done = await run_turn(client, await start_thread(client), "please")
    errors = [m["params"] for m in client.received if m.get("method") == "error"]
    assert [error["willRetry"] for error in errors] == [True, True]
    assert errors[1]["error"] == {
        "message": "Reconnecting... 2/5",
        "codexErrorInfo": {"responseStreamDisconnected": {"httpStatusCode": 429}},
        "additionalDetails": "rate limit reached: slower",
        "misalignment": None,
    }
    assert done["turn"]["status"] == "completed"


@pytest.mark.parametrize(
    ("raw", "info", "words"),
    [
        (
            Raw(b"<title>Sign in</title>", "text/html", 403),
            {"httpConnectionFailed": {"httpStatusCode": 403}},
            "unexpected status 403 Forbidden: Sign in, url: ",
        ),
        (Raw(b'{"error": "not here"}', "application/json"), "other", "not here"),
        (Raw(b"<title>Hub</title>", "text/html"), "other", "a web page: Hub"),
        (Raw(b"", "", 400), {"httpConnectionFailed": {"httpStatusCode": 400}}, "400 Bad Request"),
        (
            Raw(
                b'data: {"error": {"message": "too long", "code": "context_length_exceeded"}}\n\n'
            ),
            "contextWindowExceeded",
            "too long",
        ),
    ],
)
async def test_what_an_endpoint_refuses_ends_the_turn_once_in_its_words(
    tmp_path: Path, raw: Raw, info: object, words: str
) -> None:
    async with ResponsesApi() as api:
        api.script(raw, Reply((Text("never asked"),)))
        env = {"OPENAI_BASE_URL": api.url, "OPENAI_API_KEY": "canary-of-a-key"}
        async with core("--engine", "openai", workspace=tmp_path, env=env) as client:
            thread_id = await start_thread(client)
            done = await run_turn(client, thread_id, "please")
            read = await client.request(
                "thread/read", {"threadId": thread_id, "includeTurns": True}
            )
    errors = [m["params"] for m in client.received if m.get("method") == "error"]
    error = done["turn"]["error"]
    assert done["turn"]["status"] == "failed"
    assert [one["willRetry"] for one in errors] == [False]
    assert errors[0]["error"] == error
    assert error["codexErrorInfo"] == info
    assert words in error["message"]
    assert read["thread"]["turns"][0]["error"] == error
    assert "canary" not in json.dumps(client.received)
    assert len(api.seen) == 1


async def test_a_thread_goes_on_after_a_turn_that_failed(tmp_path: Path) -> None:
    cut = b'data: {"choices":[{"delta":{"content":"half \\ud83d"}}]}\n\ndata: {"choices":[{"delta":5}]}\n\n'
    async with ResponsesApi() as api:
        api.script(Raw(cut + b"data: [DONE]\n\n"), Reply((Text("whole"),)))
        env = {"OPENAI_BASE_URL": api.url}
        options = ("--engine", "openai", "--wire", "chat")
        async with core(*options, workspace=tmp_path, env=env) as client:
            thread_id = await start_thread(client)
            failed = await run_turn(client, thread_id, "please")
            done = await run_turn(client, thread_id, "again")
    assert "cannot be read" in failed["turn"]["error"]["message"]
    assert [item["text"] for item in done["turn"]["items"]] == ["whole"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SSL_CERT_FILE", "/gone/ca.pem"),
        ("HTTPS_PROXY", "socks4://127.0.0.1:1"),
        ("OPENAI_BASE_URL", "localhost:8000"),
    ],
)
def test_a_variable_that_is_needed_and_broken_is_one_line(variable: str, value: str) -> None:
    environ = {**os.environ, "OPENAI_BASE_URL": "https://models.invalid/v1", variable: value}
    command = [sys.executable, "-m", "core_server", "--engine", "openai", "--store", "memory"]

    ended = subprocess.run(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith(b"core-server: " + variable.encode())
    assert ended.stderr.count(b"\n") == 1
