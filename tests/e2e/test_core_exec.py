"""`command/exec`: run, stream, type, resize, terminate; and approvals that nobody answers."""

import asyncio
import base64
from pathlib import Path

import pytest

from tests.core_process import core, run_turn, start_thread
from tests.stdio_client import Json, RpcError

OPTIONS = ("--sandbox", "none")


async def test_a_command_is_run_and_its_output_returned() -> None:
    async with core(*OPTIONS) as client:
        command = ["bash", "-c", "echo out; echo err >&2; exit 3"]
        result = await client.request("command/exec", {"command": command})
    assert result == {"exitCode": 3, "stdout": "out\n", "stderr": "err\n"}


async def test_output_is_streamed_when_asked_for() -> None:
    async with core(*OPTIONS) as client:
        params = {
            "command": ["bash", "-c", "echo a; sleep 0.1; echo b"],
            "streamStdoutStderr": True,
        }
        result = await client.request("command/exec", {**params, "processId": "p1"})
    deltas = [
        m["params"] for m in client.received if m.get("method") == "command/exec/outputDelta"
    ]
    assert result == {"exitCode": 0, "stdout": "", "stderr": ""}
    assert b"".join(base64.b64decode(d["deltaBase64"]) for d in deltas) == b"a\nb\n"
    assert {(d["processId"], d["stream"], d["capReached"]) for d in deltas} == {
        ("p1", "stdout", False)
    }


async def test_a_timeout_ends_it_with_124() -> None:
    async with core(*OPTIONS) as client:
        result = await client.request(
            "command/exec", {"command": ["sleep", "9"], "timeoutMs": 200}
        )
    assert result == {"exitCode": 124, "stdout": "", "stderr": ""}


async def test_a_missing_program_is_an_error() -> None:
    async with core(*OPTIONS) as client:
        with pytest.raises(RpcError) as error:
            await client.request("command/exec", {"command": ["/nonexistent"]})
    assert (error.value.code, error.value.message) == (
        -32600,
        "failed to spawn command: No such file or directory (os error 2)",
    )


async def test_input_is_typed_and_ended() -> None:
    async with core(*OPTIONS) as client:
        params = {
            "command": ["cat"],
            "processId": "p2",
            "streamStdin": True,
            "streamStdoutStderr": True,
        }
        running = client.begin("command/exec", params)
        typed = {
            "processId": "p2",
            "deltaBase64": base64.b64encode(b"hello\n").decode(),
            "closeStdin": True,
        }
        await _until_running(client.request, "command/exec/write", typed)
        assert (await client.answer(running))["exitCode"] == 0
    told = await client.wait(lambda m: m.get("method") == "command/exec/outputDelta")
    assert base64.b64decode(told["params"]["deltaBase64"]) == b"hello\n"


async def _until_running(request: object, method: str, params: Json) -> None:
    """A command takes some milliseconds to start; until then there is nobody to type to."""
    assert callable(request)
    async with asyncio.timeout(5):
        while True:
            try:
                await request(method, params)
            except RpcError:
                continue
            return


async def test_a_terminal_has_a_size_that_changes() -> None:
    async with core(*OPTIONS) as client:
        params = {"command": ["sh", "-c", "read x; stty size"], "processId": "t", "tty": True}
        size = {"rows": 10, "cols": 20}
        running = client.begin("command/exec", {**params, "streamStdin": True, "size": size})
        resized = {"processId": "t", "size": {"rows": 33, "cols": 44}}
        await _until_running(client.request, "command/exec/resize", resized)
        await client.request("command/exec/write", {"processId": "t", "deltaBase64": "Cg=="})
        assert "33 44" in (await client.answer(running))["stdout"]


async def test_it_can_be_terminated() -> None:
    async with core(*OPTIONS) as client:
        running = client.begin("command/exec", {"command": ["sleep", "60"], "processId": "s"})
        await _until_running(client.request, "command/exec/terminate", {"processId": "s"})
        assert (await client.answer(running))["exitCode"] == 143


async def test_commands_run_beside_each_other_up_to_a_bound() -> None:
    async with core(*OPTIONS) as client:
        sleep = {"command": ["sleep", "60"]}
        for number in range(64):
            client.begin("command/exec", {**sleep, "processId": f"n{number}"})
        with pytest.raises(RpcError) as error:
            await client.request("command/exec", sleep)
        assert error.value.data == {"reason": "overloaded", "retryable": True}


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"command": ["true"], "tty": True}, -32600),
        ({"command": ["true"], "timeoutMs": -1}, -32602),
        ({"command": ["true"], "outputBytesCap": -1}, -32602),
    ],
)
async def test_senseless_params_are_refused(params: Json, code: int) -> None:
    async with core(*OPTIONS) as client:
        with pytest.raises(RpcError) as error:
            await client.request("command/exec", params)
    assert error.value.code == code


async def test_an_approval_that_nobody_answers_means_no(tmp_path: Path) -> None:
    async with core("--approval-timeout", "0.3", workspace=tmp_path) as client:
        done = await run_turn(client, await start_thread(client), "/run touch ran")
    item = next(
        m["params"]["item"]
        for m in client.received
        if m.get("method") == "item/completed"
        and m["params"]["item"]["type"] == "commandExecution"
    )
    assert item["status"] == "declined"
    assert done["turn"]["status"] == "completed"
    assert "serverRequest/resolved" in client.methods()
    assert not (tmp_path / "ran").exists()


async def test_an_answer_with_the_wrong_type_of_id_does_not_count(tmp_path: Path) -> None:
    async with core("--approval-timeout", "0.5", workspace=tmp_path) as client:
        thread_id = await start_thread(client)
        running = client.begin(
            "turn/start",
            {"threadId": thread_id, "input": [{"type": "text", "text": "/run touch ran"}]},
        )
        question = await client.wait_for("item/commandExecution/requestApproval")
        client.send({"id": str(question["id"]), "result": {"decision": "accept"}})
        client.send({"id": 999, "result": {"decision": "accept"}})
        await client.answer(running)
        await client.wait_for("turn/completed")
    assert not (tmp_path / "ran").exists()


async def test_by_default_a_command_writes_in_the_workspace_and_nowhere_else(
    tmp_path: Path,
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    async with core(workspace=inside) as client:
        client.on_request = lambda _: {"result": {"decision": "accept"}}
        thread_id = await start_thread(client)
        await run_turn(client, thread_id, f"/run touch here; touch {outside}")
        read_only = await client.request(
            "command/exec", {"command": ["touch", "there"], "sandboxPolicy": {"type": "readOnly"}}
        )
    assert [path.name for path in inside.iterdir()] == ["here"]
    assert not outside.exists()
    assert read_only["exitCode"] != 0
