"""The official client `openai-codex` drives our core, unchanged, through all it offers."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai_codex
import pytest
from openai_codex import ApprovalMode, AsyncCodex, Codex, CodexConfig, Sandbox
from openai_codex.client import CodexClient
from openai_codex.errors import CodexRpcError, InvalidRequestError, MethodNotFoundError
from openai_codex.models import UnknownNotification

# The client leaves the pipes of its process to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

ROOT = Path(__file__).parent.parent.parent


def _config(store: str = "memory", **more: Any) -> CodexConfig:
    argv = (sys.executable, "-m", "core_server", "app-server", "--listen", "stdio://")
    options = ("--store", store, "--sandbox", "none")
    # Commands run in a login shell; whose profile this machine has is not our subject.
    more.setdefault("env", {"HOME": "/nonexistent"})
    return CodexConfig(launch_args_override=(*argv, *options), cwd=str(ROOT), **more)


def _raw(codex: Codex) -> CodexClient:
    return codex._client  # noqa: SLF001 - goals have no public method


@pytest.fixture
def codex() -> Iterator[Codex]:
    with Codex(_config()) as client:
        yield client


@pytest.fixture(autouse=True)
def _none_unknown(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every notification must parse in the client's own models."""
    unknown: list[str] = []
    coerce = CodexClient._coerce_notification  # noqa: SLF001 - its one door for notifications

    def watched(self: CodexClient, method: str, params: object) -> Any:
        found = coerce(self, method, params)
        if isinstance(found.payload, UnknownNotification):
            unknown.append(method)
        return found

    monkeypatch.setattr(CodexClient, "_coerce_notification", watched)
    yield
    assert unknown == []


def test_it_runs_a_turn(codex: Codex) -> None:
    result = codex.thread_start().run("hello there")
    assert (result.final_response, result.status.value) == ("hello there", "completed")
    assert result.usage is not None
    assert result.usage.last.total_tokens == 4


def test_it_knows_the_server(codex: Codex) -> None:
    assert codex.metadata.serverInfo is not None
    assert codex.metadata.serverInfo.name == "core-server"
    assert (codex.metadata.userAgent or "").startswith("codex_python_sdk/")


def test_it_streams(codex: Codex) -> None:
    turn = codex.thread_start().turn("one two three")
    events = [event.method for event in turn.stream()]
    assert events.count("item/agentMessage/delta") == 3
    assert events[-1] == "turn/completed"


def test_it_steers_a_running_turn(codex: Codex) -> None:
    turn = codex.thread_start().turn("/slow 30")
    steered = threading.Timer(0.3, lambda: turn.steer("never mind"))
    steered.start()
    result = turn.run()
    steered.join()
    assert result.final_response == "never mind"


def test_it_interrupts_a_running_turn(codex: Codex) -> None:
    turn = codex.thread_start().turn("/slow 30")
    stopped = threading.Timer(0.3, turn.interrupt)
    stopped.start()
    result = turn.run()
    stopped.join()
    assert result.status.value == "interrupted"


def test_a_second_turn_joins_the_running_one(codex: Codex) -> None:
    thread = codex.thread_start()
    first = thread.turn("/slow 30")
    time.sleep(0.2)
    second = thread.turn("join in")
    assert first.id == second.id
    assert second.run().final_response == "join in"


def test_its_approval_handler_decides(tmp_path: Path) -> None:
    asked: list[str] = []

    def decline(method: str, _: Any) -> Any:
        asked.append(method)
        return {"decision": "decline"}

    with CodexClient(_config(), approval_handler=decline) as client:
        client.initialize()
        thread = client.thread_start({"cwd": str(tmp_path)})
        turn = client.turn_start(thread.thread.id, "/run touch ran")
        client.wait_for_turn_completed(turn.turn.id)
    assert asked == ["item/commandExecution/requestApproval"]
    assert not (tmp_path / "ran").exists()


def test_its_default_is_to_accept(codex: Codex, tmp_path: Path) -> None:
    thread = codex.thread_start(cwd=str(tmp_path), sandbox=Sandbox.full_access)
    thread.run("/run touch ran")
    thread.run("/write notes.txt text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "ran"]


def test_it_can_forbid_questions(codex: Codex, tmp_path: Path) -> None:
    thread = codex.thread_start(approval_mode=ApprovalMode.deny_all, cwd=str(tmp_path))
    assert thread.run("/run echo hi").status.value == "completed"


def test_it_forks_lists_names_archives(codex: Codex) -> None:
    thread = codex.thread_start()
    thread.run("the first words")
    fork = codex.thread_fork(thread.id)
    thread.set_name("my thread")
    listed = {each.id: each for each in codex.thread_list().data}
    assert set(listed) == {thread.id, fork.id}
    assert listed[thread.id].name == "my thread"
    assert listed[fork.id].forked_from_id == thread.id
    codex.thread_archive(fork.id)
    assert [each.id for each in codex.thread_list().data] == [thread.id]
    assert [each.id for each in codex.thread_list(archived=True).data] == [fork.id]
    codex.thread_unarchive(fork.id)
    assert len(codex.thread_list(search_term="first words").data) == 2
    turns = fork.read(include_turns=True).thread.turns
    assert [turn.status.value for turn in turns] == ["completed"]


def test_it_resumes_in_a_new_process(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/threads.db"
    with Codex(_config(store)) as codex:
        thread = codex.thread_start()
        thread.run("before")
    with Codex(_config(store)) as codex:
        again = codex.thread_resume(thread.id)
        assert again.run("after").final_response == "after"
        assert len(again.read(include_turns=True).thread.turns) == 2


def test_it_compacts(codex: Codex) -> None:
    thread = codex.thread_start()
    thread.run("some words")
    thread.compact()
    deadline = time.monotonic() + 10
    while len(thread.read(include_turns=True).thread.turns) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert thread.run("more").final_response == "more"


def test_it_lists_models_and_needs_no_login(codex: Codex) -> None:
    assert [model.id for model in codex.models().data] == ["offline"]
    assert codex.account().requires_openai_auth is False
    codex.logout()
    with pytest.raises(InvalidRequestError, match="needs none"):
        codex.login_api_key("sk-nothing")


def test_it_delivers_messages_of_other_tools(codex: Codex) -> None:
    message = openai_codex.ExternalMessage(tool_name="mailer", content="you have mail")
    result = codex.thread_start().run(message)
    assert result.final_response is not None
    assert "you have mail" in result.final_response


def test_errors_are_typed(codex: Codex) -> None:
    with pytest.raises(InvalidRequestError, match="no rollout found"):
        codex.thread_resume("01a2025f-778c-71c3-83de-000000000000")
    with pytest.raises(MethodNotFoundError):
        _raw(codex)._request_raw("nope/nope", {})  # noqa: SLF001 - no public way
    with pytest.raises(RuntimeError, match="as asked"):
        codex.thread_start().run("/fail as asked")
    assert issubclass(MethodNotFoundError, CodexRpcError)


def test_goals_are_kept(codex: Codex) -> None:
    thread = codex.thread_start()
    goal = _raw(codex).thread_goal_set(thread.id, objective="be done").goal
    assert goal.objective == "be done"
    assert _raw(codex).thread_goal_clear(thread.id).cleared is True


async def test_many_turns_in_many_threads_at_once() -> None:
    async with AsyncCodex(_config()) as codex:
        threads = [await codex.thread_start() for _ in range(8)]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(thread.run(f"words of {number}"))
                for number, thread in enumerate(threads)
            ]
    assert [task.result().final_response for task in tasks] == [
        f"words of {number}" for number in range(8)
    ]


async def test_it_streams_asynchronously() -> None:
    async with AsyncCodex(_config()) as codex:
        thread = await codex.thread_start()
        turn = await thread.turn("/think hard")
        methods = [event.method async for event in turn.stream()]
    assert "item/reasoning/summaryTextDelta" in methods
    assert methods[-1] == "turn/completed"
