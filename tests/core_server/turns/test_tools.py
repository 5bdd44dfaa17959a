"""What engines propose, with a scripted engine on a served core."""

from pathlib import Path
from typing import Any

import pytest

from core_server.config import Config
from core_server.engines.base import (
    EngineError,
    MessageDone,
    Prompt,
    Retrying,
    ToolOutput,
    Usage,
)
from core_server.turns.commands import MODEL_OUTPUT_CHARACTERS
from tests.core_process import completed, run_turn, start_thread, text
from tests.core_server.in_process import served
from tests.core_server.scripted_engine import ScriptedEngine, call
from tests.stdio_client import Json, StdioClient

PATCH = """\
*** Begin Patch
*** Update File: old.txt
*** Move to: new.txt
@@
-before
+after
*** Delete File: gone.txt
*** Add File: fresh.txt
+fresh
*** End Patch
"""


def _config(workspace: Path, **more: Any) -> Config:
    return Config(**{"workspace": str(workspace), "sandbox": "danger-full-access", **more})


def _completed(client: StdioClient, kind: str) -> Json:
    found: Json = next(
        m["params"]["item"]
        for m in client.received
        if m.get("method") == "item/completed" and m["params"]["item"]["type"] == kind
    )
    return found


def _told(prompt: Prompt) -> str:
    last = prompt.history[-1]
    assert isinstance(last, ToolOutput)
    return last.output


def _files(workspace: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in workspace.iterdir()}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "old.txt").write_text("before\n")
    (tmp_path / "gone.txt").write_text("going\n")
    return tmp_path


async def test_a_patch_in_the_workspace_is_applied_without_a_question(workspace: Path) -> None:
    engine = ScriptedEngine([call("apply_patch", patch=PATCH)])
    async with served(_config(workspace, sandbox="workspace-write"), engine=engine) as client:
        await run_turn(client, await start_thread(client), "change it")
    assert _files(workspace) == {"new.txt": "after\n", "fresh.txt": "fresh\n"}
    changes = [
        (change["kind"], Path(change["path"]).name)
        for change in _completed(client, "fileChange")["changes"]
    ]
    assert changes == [
        ({"type": "update", "move_path": str(workspace / "new.txt")}, "old.txt"),
        ({"type": "delete"}, "gone.txt"),
        ({"type": "add"}, "fresh.txt"),
    ]
    assert _told(engine.prompts[1]).startswith("Done. Changed: ")
    assert engine.closed


@pytest.mark.parametrize(
    ("policy", "answer", "status", "turn"),
    [
        ("on-request", {"decision": "accept"}, "completed", "completed"),
        ("on-request", {"decision": "decline"}, "declined", "completed"),
        ("on-request", {"decision": "cancel"}, "declined", "interrupted"),
        ("on-request", {"zzz": 1}, "failed", "completed"),
        ("never", None, "declined", "completed"),
    ],
)
async def test_a_read_only_sandbox_asks_or_refuses(
    workspace: Path, policy: str, answer: Json | None, status: str, turn: str
) -> None:
    engine = ScriptedEngine([call("apply_patch", patch=PATCH)])
    config = _config(workspace, sandbox="read-only", approval_policy=policy)
    async with served(config, engine=engine) as client:
        client.on_request = lambda _: None if answer is None else {"result": answer}
        done = await run_turn(client, await start_thread(client), "change it")
    assert (done["turn"]["status"], _completed(client, "fileChange")["status"]) == (turn, status)
    assert ("fresh.txt" in _files(workspace)) is (status == "completed")
    assert ("item/fileChange/requestApproval" in client.methods()) is (answer is not None)


async def test_a_file_that_changed_after_it_was_shown_is_left_alone(workspace: Path) -> None:
    engine = ScriptedEngine([call("apply_patch", patch=PATCH)])

    def meddle(_: Json) -> Json:
        (workspace / "old.txt").write_text("somebody else\n")
        return {"result": {"decision": "acceptForSession"}}

    async with served(_config(workspace, sandbox="read-only"), engine=engine) as client:
        client.on_request = meddle
        await run_turn(client, await start_thread(client), "change it")
    assert _completed(client, "fileChange")["status"] == "failed"
    assert "The patch was not applied" in _told(engine.prompts[1])
    assert "fresh.txt" not in _files(workspace)


@pytest.mark.parametrize(
    ("proposed", "told"),
    [
        (call("apply_patch", patch="no patch"), "The patch does not apply: "),
        (call("apply_patch", text=1), "invalid arguments: "),
        (call("shell", command=5), "invalid arguments: "),
        (call("shell", command=[]), "invalid arguments: the command is empty"),
        (call("launch_rocket"), "there is no tool named launch_rocket"),
    ],
)
async def test_a_proposal_that_makes_no_sense_is_told_to_the_engine(
    workspace: Path, proposed: Any, told: str
) -> None:
    engine = ScriptedEngine([proposed])
    async with served(_config(workspace), engine=engine) as client:
        done = await run_turn(client, await start_thread(client), "do it")
    assert done["turn"]["status"] == "completed"
    assert _told(engine.prompts[1]).startswith(told)


async def test_a_program_that_is_missing_fails_its_item_and_the_turn_goes_on(
    workspace: Path,
) -> None:
    engine = ScriptedEngine([call("shell", command=["/nonexistent"])])
    async with served(_config(workspace), engine=engine) as client:
        done = await run_turn(client, await start_thread(client), "do it")
    item = _completed(client, "commandExecution")
    assert (done["turn"]["status"], item["status"], item["exitCode"]) == (
        "completed",
        "failed",
        None,
    )
    assert "No such file" in item["aggregatedOutput"]


async def test_a_long_output_is_shortened_for_the_engine_alone(workspace: Path) -> None:
    count = MODEL_OUTPUT_CHARACTERS * 2
    engine = ScriptedEngine([call("shell", command=["head", "-c", str(count), "/dev/zero"])])
    async with served(_config(workspace), engine=engine) as client:
        await run_turn(client, await start_thread(client), "do it")
    assert len(_completed(client, "commandExecution")["aggregatedOutput"]) == count
    assert f"[{count // 2} characters left out]" in _told(engine.prompts[1])


async def test_a_timeout_and_a_cap_are_told_to_the_engine(workspace: Path) -> None:
    slow = call("shell", command=["sleep", "9"], timeout_ms=200)
    much = call("shell", command=["head", "-c", "2000000", "/dev/zero"])
    engine = ScriptedEngine([slow], [much])
    async with served(_config(workspace), engine=engine) as client:
        await run_turn(client, await start_thread(client), "do it")
    assert _told(engine.prompts[1]).startswith(
        "exit code 124, it was killed because its time was over"
    )
    assert "more output was not kept" in _told(engine.prompts[2])


async def test_an_interrupt_kills_the_command_and_tells_what_became_of_it(workspace: Path) -> None:
    engine = ScriptedEngine([call("shell", command=["sh", "-c", "echo begun; sleep 60"])])
    async with served(_config(workspace), engine=engine) as client:
        thread_id = await start_thread(client)
        named = {"threadId": thread_id}
        turn = (await client.request("turn/start", {**named, "input": text("do it")}))["turn"]
        await client.wait_for("item/commandExecution/outputDelta")
        await client.request("turn/interrupt", {**named, "turnId": turn["id"]})
        done = await completed(client, turn["id"])
    item = _completed(client, "commandExecution")
    assert (done["turn"]["status"], item["status"], item["aggregatedOutput"]) == (
        "interrupted",
        "failed",
        "begun\n",
    )


async def test_a_steer_while_a_command_runs_waits_for_its_end(workspace: Path) -> None:
    engine = ScriptedEngine(
        [call("shell", command=["sh", "-c", "echo begun; sleep 0.3; echo end"])]
    )
    async with served(_config(workspace), engine=engine) as client:
        named = {"threadId": await start_thread(client)}
        turn = (await client.request("turn/start", {**named, "input": text("do it")}))["turn"]
        await client.wait_for("item/commandExecution/outputDelta")
        await client.request(
            "turn/steer", {**named, "expectedTurnId": turn["id"], "input": text("and that")}
        )
        await completed(client, turn["id"])
    assert _completed(client, "commandExecution")["aggregatedOutput"] == "begun\nend\n"
    kinds = [type(entry).__name__ for entry in engine.prompts[1].history]
    assert kinds == ["UserMessage", "ToolCall", "ToolOutput", "UserMessage"]


async def test_a_message_without_deltas_begins_with_its_whole_text(workspace: Path) -> None:
    engine = ScriptedEngine(
        [Retrying("busy", "serverOverloaded"), MessageDone("m", "at once"), Usage(1, 2, 0, 0)]
    )
    async with served(_config(workspace), engine=engine) as client:
        await run_turn(client, await start_thread(client), "hi")
    started = await client.wait(
        lambda m: (
            m.get("method") == "item/started" and m["params"]["item"]["type"] == "agentMessage"
        )
    )
    assert started["params"]["item"]["text"] == "at once"
    told = await client.wait(lambda m: m.get("method") == "thread/tokenUsage/updated")
    assert told["params"]["tokenUsage"]["modelContextWindow"] == 1000
    assert "error" in client.methods()


async def test_a_fault_of_an_engine_fails_the_turn_and_not_the_core(workspace: Path) -> None:
    engine = ScriptedEngine(
        [ValueError("secret inside")], [EngineError("too long", "contextWindowExceeded")]
    )
    async with served(_config(workspace), engine=engine) as client:
        thread_id = await start_thread(client)
        first = await run_turn(client, thread_id, "hi")
        second = await run_turn(client, thread_id, "hi")
        third = await run_turn(client, thread_id, "hi")
    errors = [done["turn"]["error"] for done in (first, second)]
    assert [(e["message"], e["codexErrorInfo"]) for e in errors] == [
        ("Internal error; see the server's log", "internalServerError"),
        ("too long", "contextWindowExceeded"),
    ]
    assert third["turn"]["status"] == "completed"


async def test_an_engine_that_never_stops_proposing_is_stopped(workspace: Path) -> None:
    engine = ScriptedEngine(*([call("nothing")] for _ in range(300)))
    async with served(_config(workspace), engine=engine) as client:
        done = await run_turn(client, await start_thread(client), "hi")
    assert done["turn"]["error"]["message"] == "the turn was ended after 200 samples"


async def test_models_are_listed_in_pages_and_the_config_is_what_was_said(workspace: Path) -> None:
    async with served(_config(workspace, model="m2"), engine=ScriptedEngine()) as client:
        first = await client.request("model/list", {"limit": 1})
        second = await client.request("model/list", {"cursor": first["nextCursor"]})
        config = (await client.request("config/read", {}))["config"]
        assert [(m["id"], m["isDefault"]) for m in first["data"] + second["data"]] == [
            ("m1", True),
            ("m2", False),
        ]
        assert second["nextCursor"] is None
        assert config == {
            "model": "m2",
            "model_provider": "scripted",
            "approval_policy": "on-request",
            "sandbox_mode": "danger-full-access",
        }
        thread = await client.request("thread/start", {"sandbox": "read-only"})
        assert (thread["model"], thread["sandbox"]) == (
            "m2",
            {"type": "readOnly", "networkAccess": False},
        )


async def test_instructions_and_a_schema_reach_the_engine(workspace: Path) -> None:
    engine = ScriptedEngine()
    async with served(_config(workspace), engine=engine) as client:
        thread_id = await start_thread(
            client, baseInstructions="be kind", developerInstructions="be short"
        )
        params = {"threadId": thread_id, "input": text("hi"), "outputSchema": {"type": "object"}}
        turn = (await client.request("turn/start", params))["turn"]
        await completed(client, turn["id"])
    (prompt,) = engine.prompts
    assert (prompt.instructions, prompt.output_schema) == (
        "be kind\n\nbe short",
        '{"type":"object"}',
    )


async def test_under_policy_untrusted_only_known_readers_run_unasked(workspace: Path) -> None:
    look = call("shell", command=["ls"])
    touch = call("shell", command=["touch", "made"])
    engine = ScriptedEngine([look], [touch])
    async with served(_config(workspace, approval_policy="untrusted"), engine=engine) as client:
        client.on_request = lambda _: {"result": {"decision": "accept"}}
        await run_turn(client, await start_thread(client), "do it")
    asked = [
        m["params"]["command"] for m in client.received if "requestApproval" in m.get("method", "")
    ]
    assert asked == ["touch made"]
    assert "made" in _files(workspace)


async def test_an_approved_escalation_leaves_the_sandbox_of_a_model(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    escalated = call("shell", command=["touch", str(outside)], escalated=True)
    engine = ScriptedEngine([escalated])
    async with served(_config(inside, sandbox="workspace-write"), engine=engine) as client:
        client.on_request = lambda _: {"result": {"decision": "accept"}}
        await run_turn(client, await start_thread(client), "do it")
    assert outside.exists()
