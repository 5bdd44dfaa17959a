import json
from pathlib import Path

import pytest

from tests.core_process import completed, core, run_turn, start_thread, text
from tests.stdio_client import Json, RpcError, StdioClient

UNKNOWN = "01a2025f-778c-71c3-83de-000000000000"


def _story(client: StdioClient) -> list[str]:
    """What happened, as short words, in order; runs of deltas count once."""
    words: list[str] = []
    for message in client.received:
        word = _word(message)
        if not (words and word.lower().endswith("delta") and words[-1] == word):
            words.append(word)
    return words


def _word(message: Json) -> str:
    method = message.get("method")
    if method is None:
        return "error" if "error" in message else "answer"
    params = message["params"]
    if "item" in params:
        item = params["item"]
        status = f" {item['status']}" if "status" in item else ""
        return f"{method} {item['type']}{status}"
    if method == "thread/status/changed":
        return f"status {params['status']['type']} {','.join(params['status'].get('activeFlags', ()))}".strip()
    if method == "turn/completed":
        return f"turn/completed {params['turn']['status']}"
    short: str = method
    return short.replace("item/agentMessage/", "").replace("item/commandExecution/", "")


HEAD = ["answer", "remoteControl/status/changed", "answer", "thread/started", "answer"]
HEARD = [
    "status active",
    "turn/started",
    "item/started userMessage",
    "item/completed userMessage",
]
SAID = ["item/started agentMessage", "delta", "item/completed agentMessage"]
COUNTED = ["thread/tokenUsage/updated", "account/rateLimits/updated"]
DONE = ["thread/readState/changed", "status idle", "turn/completed completed"]


async def test_a_plain_turn_is_told_in_the_order_of_the_reference() -> None:
    async with core() as client:
        thread_id = await start_thread(client)
        done = await run_turn(client, thread_id, "hello there")
    assert _story(client) == [*HEAD, *HEARD, *SAID, *COUNTED, *DONE]
    deltas = [
        m["params"]["delta"]
        for m in client.received
        if m.get("method") == "item/agentMessage/delta"
    ]
    assert deltas == ["hello ", "there"]
    assert [item["text"] for item in done["turn"]["items"]] == ["hello there"]
    assert done["turn"]["itemsView"] == "summary"
    assert client.process.returncode == 0
    assert [json.loads(line)["event"] for line in client.stderr.splitlines()] == ["core.sandbox"]


async def test_reasoning_comes_in_parts_before_the_answer() -> None:
    async with core() as client:
        await run_turn(client, await start_thread(client), "/think of a name")
    assert _story(client)[len(HEAD) + len(HEARD) :] == [
        "item/started reasoning",
        "item/reasoning/summaryPartAdded",
        "item/reasoning/summaryTextDelta",
        "item/completed reasoning",
        *SAID,
        *COUNTED,
        *DONE,
    ]


async def test_a_failed_turn_says_why_and_the_next_one_works() -> None:
    async with core() as client:
        thread_id = await start_thread(client)
        failed = await run_turn(client, thread_id, "/fail no luck")
        assert _story(client)[len(HEAD) + len(HEARD) :] == [
            "status systemError",
            "error",
            "thread/readState/changed",
            "turn/completed failed",
        ]
        assert failed["turn"]["error"]["message"] == "no luck"
        assert (await run_turn(client, thread_id, "again"))["turn"]["status"] == "completed"


async def test_tokens_at_full_speed_all_arrive() -> None:
    async with core() as client:
        done = await run_turn(client, await start_thread(client), "/tokens 5000")
    deltas = [m for m in client.received if m.get("method") == "item/agentMessage/delta"]
    assert len(deltas) == 5000
    assert done["turn"]["items"][0]["text"] == "tok " * 5000


ASKED = [
    "status active waitingOnApproval",
    "item/started commandExecution inProgress",
    "requestApproval",
    "serverRequest/resolved",
]


async def test_an_accepted_command_runs_and_its_deltas_are_its_output(tmp_path: Path) -> None:
    async with core("--sandbox", "none", workspace=tmp_path) as client:
        client.on_request = lambda _: {"result": {"decision": "accept"}}
        await run_turn(client, await start_thread(client), "/run echo one; echo two >&2; exit 3")
    story = _story(client)[len(HEAD) + len(HEARD) :]
    assert story == [
        *ASKED,
        "status active",
        "outputDelta",
        "item/completed commandExecution failed",
        *COUNTED,
        *SAID,
        *COUNTED,
        *DONE,
    ]
    item = _item(client, "item/completed", "commandExecution")
    told = [
        m["params"]["delta"]
        for m in client.received
        if m.get("method", "").endswith("outputDelta")
    ]
    assert "".join(told) == item["aggregatedOutput"]
    assert {"one", "two"} <= set(item["aggregatedOutput"].split())
    assert item["exitCode"] == 3


def _item(client: StdioClient, method: str, kind: str) -> Json:
    found: Json = next(
        m["params"]["item"]
        for m in client.received
        if m.get("method") == method and m["params"]["item"]["type"] == kind
    )
    return found


@pytest.mark.parametrize(
    ("answer", "after"),
    [
        (
            {"result": {"decision": "decline"}},
            [
                "status active",
                "item/completed commandExecution declined",
                *COUNTED,
                *SAID,
                *COUNTED,
                *DONE,
            ],
        ),
        (
            {"result": {"decision": "cancel"}},
            [
                "item/completed commandExecution declined",
                "status active",
                "status idle",
                "turn/completed interrupted",
            ],
        ),
        (
            {"result": {"zzz": 1}},
            [
                "status active",
                "item/completed commandExecution failed",
                *COUNTED,
                *SAID,
                *COUNTED,
                *DONE,
            ],
        ),
        (
            {"error": {"code": -1, "message": "no"}},
            [
                "status active",
                "item/completed commandExecution failed",
                *COUNTED,
                *SAID,
                *COUNTED,
                *DONE,
            ],
        ),
    ],
)
async def test_a_command_that_was_not_accepted_does_not_run(
    tmp_path: Path, answer: Json, after: list[str]
) -> None:
    async with core("--sandbox", "none", workspace=tmp_path) as client:
        client.on_request = lambda _: answer
        await run_turn(client, await start_thread(client), "/run touch it-ran")
    assert _story(client)[len(HEAD) + len(HEARD) :] == [*ASKED, *after]
    assert not (tmp_path / "it-ran").exists()


async def test_accept_for_session_is_asked_once(tmp_path: Path) -> None:
    async with core("--sandbox", "none", workspace=tmp_path) as client:
        client.on_request = lambda _: {"result": {"decision": "acceptForSession"}}
        thread_id = await start_thread(client)
        await run_turn(client, thread_id, "/run true")
        await run_turn(client, thread_id, "/run true")
        await run_turn(client, thread_id, "/run echo other")
    assert _story(client).count("requestApproval") == 2


async def test_a_file_change_is_shown_asked_for_and_made(tmp_path: Path) -> None:
    async with core(workspace=tmp_path) as client:
        client.on_request = lambda _: {"result": {"decision": "accept"}}
        await run_turn(client, await start_thread(client), "/write notes.txt some text")
    assert _story(client)[len(HEAD) + len(HEARD) :] == [
        "item/started fileChange inProgress",
        "status active waitingOnApproval",
        "item/fileChange/requestApproval",
        "serverRequest/resolved",
        "status active",
        "item/completed fileChange completed",
        "turn/diff/updated",
        *COUNTED,
        *SAID,
        *COUNTED,
        *DONE,
    ]
    assert (tmp_path / "notes.txt").read_text() == "some text\n"


async def test_a_declined_file_change_leaves_the_file_alone(tmp_path: Path) -> None:
    async with core(workspace=tmp_path) as client:
        client.on_request = lambda _: {"result": {"decision": "decline"}}
        await run_turn(client, await start_thread(client), "/write notes.txt some text")
    assert _item(client, "item/completed", "fileChange")["status"] == "declined"
    assert not (tmp_path / "notes.txt").exists()


async def test_under_policy_never_nobody_is_asked(tmp_path: Path) -> None:
    async with core(
        "--sandbox", "none", "--approval-policy", "never", workspace=tmp_path
    ) as client:
        await run_turn(client, await start_thread(client), "/run echo hi")
    item = _item(client, "item/started", "commandExecution")
    assert (item["source"], item["processId"] is not None) == ("unifiedExecStartup", True)
    assert "requestApproval" not in _story(client)


async def test_an_interrupt_while_an_approval_is_pending_is_told_in_the_references_order(
    tmp_path: Path,
) -> None:
    async with core(workspace=tmp_path) as client:
        thread_id = await start_thread(client)
        turn = (
            await client.request("turn/start", {"threadId": thread_id, "input": text("/run true")})
        )["turn"]
        await client.wait_for("item/commandExecution/requestApproval")
        await client.request("turn/interrupt", {"threadId": thread_id, "turnId": turn["id"]})
        await client.wait_for("serverRequest/resolved")
    after = _story(client)[len(HEAD) + len(HEARD) + 3 :]
    assert after == [
        "answer",
        "status idle",
        "turn/completed interrupted",
        "serverRequest/resolved",
    ]


async def test_an_interrupted_turn_leaves_its_message_incomplete() -> None:
    async with core() as client:
        thread_id = await start_thread(client)
        turn = (
            await client.request("turn/start", {"threadId": thread_id, "input": text("/slow 30")})
        )["turn"]
        await client.wait_for("item/agentMessage/delta")
        await client.request("turn/interrupt", {"threadId": thread_id, "turnId": turn["id"]})
        done = await completed(client, turn["id"])
    assert _story(client)[-3:] == ["answer", "status idle", "turn/completed interrupted"]
    assert (done["turn"]["items"], done["turn"]["itemsView"]) == ([], "notLoaded")


async def test_a_steer_and_a_second_start_join_the_running_turn() -> None:
    async with core() as client:
        thread_id = await start_thread(client)
        turn = (
            await client.request("turn/start", {"threadId": thread_id, "input": text("/slow 30")})
        )["turn"]
        await client.wait_for("item/agentMessage/delta")
        steer = {
            "threadId": thread_id,
            "expectedTurnId": turn["id"],
            "input": text("steered text"),
        }
        first = client.begin("turn/steer", steer)
        second = client.begin("turn/start", {"threadId": thread_id, "input": text("second text")})
        assert await client.answer(first) == {"turnId": turn["id"]}
        assert (await client.answer(second))["turn"]["id"] == turn["id"]
        done = await completed(client, turn["id"])
    heard = [
        m["params"]["item"]["content"][0]["text"]
        for m in client.received
        if m.get("method") == "item/completed" and m["params"]["item"]["type"] == "userMessage"
    ]
    assert heard == ["/slow 30", "steered text", "second text"]
    assert [item["text"] for item in done["turn"]["items"]] == ["second text"]
    assert sum(word.startswith("turn/completed") for word in _story(client)) == 1


async def test_refusals_have_the_texts_that_clients_read() -> None:
    async with core() as client:
        thread_id = await start_thread(client)
        running = await client.request(
            "turn/start", {"threadId": thread_id, "input": text("/slow 30")}
        )
        turn_id = running["turn"]["id"]
        refused = {
            ("turn/interrupt", "nope"): f"expected active turn id nope but found {turn_id}",
            ("turn/steer", "nope"): f"expected active turn id `nope` but found `{turn_id}`",
        }
        for (method, wrong), message in refused.items():
            params = {"threadId": thread_id, "turnId": wrong, "expectedTurnId": wrong, "input": []}
            with pytest.raises(RpcError) as error:
                await client.request(method, params)
            assert (error.value.code, error.value.message) == (-32600, message)
        await client.request("turn/interrupt", {"threadId": thread_id, "turnId": turn_id})
        await completed(client, turn_id)
        for method, params, message in [
            ("turn/interrupt", {"turnId": turn_id}, "no active turn to interrupt"),
            ("turn/steer", {"expectedTurnId": "x", "input": []}, "no active turn to steer"),
        ]:
            with pytest.raises(RpcError) as error:
                await client.request(method, {"threadId": thread_id, **params})
            assert (error.value.code, error.value.message) == (-32600, message)


async def test_empty_input_runs_a_turn() -> None:
    async with core() as client:
        thread_id = await start_thread(client)
        answer = await client.request("turn/start", {"threadId": thread_id, "input": []})
        done = await completed(client, answer["turn"]["id"])
    assert done["turn"]["status"] == "completed"


async def test_the_trace_context_of_a_turn_reaches_its_commands(tmp_path: Path) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with core(
        "--sandbox", "none", "--approval-policy", "never", workspace=tmp_path
    ) as client:
        thread_id = await start_thread(client)
        params = {"threadId": thread_id, "input": text("/run echo $TRACEPARENT $TRACESTATE")}
        trace = {"traceparent": parent, "tracestate": "a=b"}
        answer = await client.request("turn/start", params, trace=trace)
        await completed(client, answer["turn"]["id"])
    output = _item(client, "item/completed", "commandExecution")["aggregatedOutput"]
    assert f"{parent} a=b" in output


async def test_a_strict_client_gets_the_version_in_every_message() -> None:
    async with core(initialize=False) as client:
        params = {"clientInfo": {"name": "strict", "version": "1"}}
        await client.request("initialize", params, jsonrpc="2.0")
        await run_turn(client, await start_thread(client), "hi")
    assert {message.get("jsonrpc") for message in client.received} == {"2.0"}


async def test_compaction_is_a_turn_without_a_message() -> None:
    async with core() as client:
        thread_id = await start_thread(client)
        await run_turn(client, thread_id, "remember this")
        before = len(client.received)
        await client.request("thread/compact/start", {"threadId": thread_id})
        await client.wait_for("item/completed")
        await client.wait(
            lambda m: m.get("method") == "turn/completed" and client.received.index(m) > before
        )
        words = _story(client)
        assert [
            w for w in words[words.index("item/started contextCompaction") :] if w not in COUNTED
        ] == [
            "item/started contextCompaction",
            "item/completed contextCompaction",
            *DONE,
        ]
        assert (await run_turn(client, thread_id, "go on"))["turn"]["status"] == "completed"


async def test_a_command_of_the_users_own_is_a_turn(tmp_path: Path) -> None:
    async with core("--sandbox", "none", workspace=tmp_path) as client:
        thread_id = await start_thread(client)
        await client.request(
            "thread/shellCommand", {"threadId": thread_id, "command": "echo bang"}
        )
        await client.wait_for("turn/completed")
    item = _item(client, "item/completed", "commandExecution")
    assert (item["source"], item["exitCode"], item["processId"]) == ("userShell", 0, None)
    assert item["aggregatedOutput"].endswith("bang\n")
