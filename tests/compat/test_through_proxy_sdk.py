"""The official Python client starts trace-proxy where it would start `codex`; it cannot tell.

Around our core and around the real one, with the same steps. The client dies of any line on
stdout that is no JSON object, and kills what does not end within 2 s of its SIGTERM.
"""

import asyncio
import contextlib
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai_codex
import pytest
from openai_codex import AsyncCodex, CodexConfig
from openai_codex.client import CodexClient
from openai_codex.generated.v2_all import TurnCompletedNotification

from tests.compat.cores import Core, CoreName, both_cores, running_core
from tests.e2e.processes import MARK, marked, nobody_left
from tests.e2e.proxy import ROOT
from tests.stdio_client import StdioClient

# The client leaves the pipes of its process to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

Json = dict[str, Any]

WRAPPER = (sys.executable, "-m", "trace_proxy", "--listen", "stdio://")

KILL_S = 2.0
"""What the client leaves between SIGTERM and SIGKILL."""


@pytest.fixture
def mark() -> Iterator[str]:
    """What all that a test starts carries; nothing of it may be left."""
    mark = f"sdk-{uuid.uuid4().hex}"
    yield mark
    assert marked(mark) == {}


def _env(core: Core, mark: str) -> dict[str, str]:
    return {**core.env, "PYTHONPATH": str(ROOT), MARK: mark}


def _config(core: Core, mark: str) -> CodexConfig:
    argv = (*WRAPPER, *(("--", *core.command) if core.command else ()))
    return CodexConfig(launch_args_override=argv, cwd=str(core.workspace), env=_env(core, mark))


@contextlib.asynccontextmanager
async def _client(core: Core, mark: str) -> AsyncIterator[AsyncCodex]:
    """The client around a core; it must not have to kill."""
    client = AsyncCodex(_config(core, mark))
    async with client:
        process = client._client._sync._proc  # noqa: SLF001 - to see how it ends
        assert process is not None
        yield client
        began_s = time.monotonic()
    assert process.wait(0) in (0, 3), "ended by itself; 3 with a turn cut short"
    assert time.monotonic() - began_s < KILL_S
    assert await nobody_left(mark, 1) == {}


@both_cores
async def test_it_starts_runs_streams_steers_and_interrupts(
    name: CoreName, tmp_path: Path, mark: str
) -> None:
    async with running_core(name, tmp_path) as core, _client(core, mark) as codex:
        thread = await codex.thread_start(cwd=str(core.workspace))
        result = await thread.run(core.say("hello there"))
        assert (result.final_response, result.status.value) == ("hello there", "completed")
        assert result.usage is not None

        turn = await thread.turn(core.slow(30))
        events = turn.stream()
        async for event in events:
            if event.method == "item/agentMessage/delta":
                break
        assert (await turn.steer(core.slow(30))).turn_id == turn.id
        await turn.interrupt()
        last = [event async for event in events][-1].payload
        assert isinstance(last, TurnCompletedNotification)
        assert last.turn.status.value == "interrupted"


@both_cores
async def test_it_forks_lists_archives_and_resumes(
    name: CoreName, tmp_path: Path, mark: str
) -> None:
    async with running_core(name, tmp_path) as core:
        async with _client(core, mark) as codex:
            thread = await codex.thread_start(cwd=str(core.workspace))
            await thread.run(core.say("in the trunk"))
            fork = await codex.thread_fork(thread.id)
            assert (await fork.run(core.say("in the fork"))).final_response == "in the fork"
            assert {each.id for each in (await codex.thread_list()).data} == {thread.id, fork.id}

            await codex.thread_archive(fork.id)
            assert [each.id for each in (await codex.thread_list()).data] == [thread.id]
            await codex.thread_unarchive(fork.id)

        async with _client(core, mark) as codex:
            resumed = await codex.thread_resume(fork.id)
            turns = (await resumed.read(include_turns=True)).thread.turns
            assert [turn.status.value for turn in turns] == ["completed", "completed"]
            assert (await resumed.run(core.say("again"))).final_response == "again"


@both_cores
async def test_its_approval_handler_decides(name: CoreName, tmp_path: Path, mark: str) -> None:
    async with running_core(name, tmp_path) as core:
        asked: list[str] = []

        def decide(method: str, params: Json | None) -> Json:
            asked.append(method)
            assert params is not None
            return {"decision": "accept"}

        def use() -> str:
            with CodexClient(_config(core, mark), decide) as client:
                client.initialize()
                started = client.thread_start(
                    {"cwd": str(core.workspace), "approvalPolicy": "on-request"}
                )
                turn = client.turn_start(started.thread.id, core.run("echo it ran > proof"))
                done = client.wait_for_turn_completed(turn.turn.id)
                return str(done.turn.status.value)

        assert await asyncio.to_thread(use) == "completed"
        assert asked == ["item/commandExecution/requestApproval"]
        assert (core.workspace / "proof").read_text() == "it ran\n"
    assert await nobody_left(mark, 3) == {}


@both_cores
async def test_it_may_leave_in_the_middle_of_a_turn(
    name: CoreName, tmp_path: Path, mark: str
) -> None:
    async with running_core(name, tmp_path) as core, _client(core, mark) as codex:
        thread = await codex.thread_start(cwd=str(core.workspace))
        await thread.turn(core.slow(60))


@both_cores
async def test_its_version_gate_is_content(name: CoreName, tmp_path: Path, mark: str) -> None:
    """`excludeTurns` needs a server of at least 0.151; the user agent says which it is."""
    async with running_core(name, tmp_path) as core, _client(core, mark) as codex:
        thread = await codex.thread_start(cwd=str(core.workspace))
        await thread.run(core.say("hello"))
        fork = await codex._client.thread_fork(  # noqa: SLF001 - the public one has no such option
            thread.id, {"threadId": thread.id, "excludeTurns": True}
        )
        assert fork.thread.turns == []
        agent, info = codex.metadata.userAgent, codex.metadata.serverInfo
        assert agent is not None
        assert agent.startswith("codex_python_sdk/"), "the core knows it by its own name"
        assert agent.endswith(f"(codex_python_sdk; {openai_codex.__version__})")
        assert info is not None
        assert info.name == ("core-server" if name == "ours" else "codex_python_sdk")


@both_cores
async def test_the_end_of_input_alone_lets_the_turn_finish(
    name: CoreName, tmp_path: Path, mark: str
) -> None:
    """As in a shell: what was asked for is answered before the pipe is closed."""
    async with running_core(name, tmp_path) as core:
        argv = [*WRAPPER, *(("--", *core.command) if core.command else ())]
        async with StdioClient.spawned(argv, env=_env(core, mark)) as client:
            await client.initialize()
            thread = await client.request("thread/start", {"cwd": str(core.workspace)})
            where = {"threadId": thread["thread"]["id"]}
            text = {"type": "text", "text": core.slow(1)}
            await client.request("turn/start", {**where, "input": [text]})
            assert await client.close() == 0
            done = await client.wait_for("turn/completed")
            assert done["params"]["turn"]["status"] == "completed"
    assert await nobody_left(mark, 1) == {}
