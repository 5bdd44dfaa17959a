"""Whatever fails on a turn's way: that turn ends, once, and everybody else goes on."""

import asyncio
import inspect
import json
import resource
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from core_server.config import Config
from core_server.engines.base import MessageDone, MessageStarted, TextDelta, Usage
from core_server.outgoing.notifier import Voice
from core_server.session.thread import ThreadMachine
from core_server.session.turn import TurnMachine
from core_server.storage.base import Operation, StorageError
from core_server.storage.memory import MemoryStore
from core_server.turns.approvals import Approvals
from core_server.turns.commands import CommandRun
from core_server.turns.file_changes import PatchRun
from core_server.turns.report import Narrator
from core_server.turns.runner import TurnRunner
from core_server.turns.sample import Sample
from core_server.turns.tasks import TurnTasks
from core_server.turns.tool_context import Bench
from tests.core_process import core, run_turn, start_thread, text
from tests.core_server.in_process import served
from tests.core_server.scripted_engine import ScriptedEngine, call
from tests.stdio_client import Json, RpcError, StdioClient

FIRM = {"thread/status/changed", "turn/completed", "error", "serverRequest/resolved"}
PATCH = "*** Begin Patch\n*** Add File: made.txt\n+made\n*** End Patch\n"


@pytest.fixture(autouse=True)
def _no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in a login shell; whose profile this machine has is not our subject."""
    monkeypatch.setenv("HOME", str(tmp_path))


def engine() -> ScriptedEngine:
    """One that does a bit of everything in its first turn: speaks, runs, writes, speaks."""
    return ScriptedEngine(
        [
            MessageStarted("m"),
            TextDelta("m", "look"),
            MessageDone("m", "look"),
            call("shell", command="echo hi", escalated=True),
            call("apply_patch", patch=PATCH),
            call("update_plan", plan=[{"step": "a", "status": "completed"}]),
            Usage(1, 2),
        ],
        [MessageDone("last", "done"), Usage(1, 2)],
    )


class FailsOnce(MemoryStore):
    """A store whose n-th write fails, and whose later writes of the thread with it."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.counting = False
        self.count = 0
        self._place = place

    def write(self, operations: Sequence[Operation]) -> Awaitable[None]:
        if self.counting:
            self.count += 1
            if self.count == self._place:
                loop = asyncio.get_running_loop()
                failed: asyncio.Future[None] = loop.create_future()
                loop.call_soon(failed.set_exception, StorageError("disk full"))
                return failed
        return super().write(operations)


def told(client: StdioClient, since: int, thread_id: str) -> list[Json]:
    """What was told of a thread from a place on."""
    return [
        message
        for message in client.received[since:]
        if "method" in message and message["params"].get("threadId") == thread_id
    ]


async def told_to_the_end(client: StdioClient, thread_id: str, since: int) -> list[Json]:
    """The same, when the turn's end has been told, or can no longer come."""
    await client.wait(
        lambda message: (
            message.get("method") == "turn/completed"
            and message["params"]["threadId"] == thread_id
        )
    )
    await client.request("model/list", {})
    return told(client, since, thread_id)


def kinds(messages: list[Json]) -> list[str]:
    """What they are, with the type of the item, deltas of one kind joined."""
    found: list[str] = []
    for message in messages:
        item = message["params"].get("item", {}).get("type", "")
        kind = f"{message['method']} {item}".strip()
        if not found or found[-1] != kind or "elta" not in kind:
            found.append(kind)
    return found


def largest(folder: Path) -> int:
    """The size of the largest file of the store."""
    return max(each.stat().st_size for each in folder.glob("threads.db*"))


async def _begun(client: StdioClient, thread_id: str, words: str = "go") -> bool:
    """Start the turn; whether it was accepted."""
    try:
        await client.request("turn/start", {"threadId": thread_id, "input": text(words)})
    except RpcError as error:
        if error.data != {"reason": "storage"}:
            raise
        return False
    return True


async def _played(place: int, workspace: Path) -> tuple[list[str], bool, int]:
    """A turn whose n-th write fails: what was told, whether it was accepted, how many writes."""
    store = FailsOnce(place)
    config = Config(workspace=str(workspace), sandbox="danger-full-access")
    async with served(config, store=store, engine=engine()) as client:
        client.on_request = lambda _: {"result": {"decision": "accept"}}
        thread_id = await start_thread(client)
        other = await start_thread(client)
        since, store.counting = len(client.received), True
        accepted = await _begun(client, thread_id)
        if accepted:
            messages = await told_to_the_end(client, thread_id, since)
        else:
            await asyncio.sleep(0)
            await client.request("model/list", {})
            messages = told(client, since, thread_id)
        store.counting = False
        done = await run_turn(client, other, "hi")
        assert done["turn"]["status"] == "completed", "the neighbour goes on"
        assert told(client, since, thread_id) == messages, "nothing comes later"
        rows = {row.item_id for row in await store.items(thread_id)}
    complete = [m["params"]["item"]["id"] for m in messages if m["method"] == "item/completed"]
    assert set(complete) <= rows, "what was told is on disk"
    return kinds(messages), accepted, store.count


async def test_nothing_leaves_behind_a_failed_write_whichever_fails(tmp_path: Path) -> None:
    golden, accepted, writes = await _played(-1, tmp_path)
    assert accepted
    assert golden[-1] == "turn/completed"
    assert writes > 10
    for place in range(1, writes + 1):
        found, accepted, _ = await _played(place, tmp_path)
        (tmp_path / "made.txt").unlink(missing_ok=True)
        same = 0
        while same < len(found) and found[same] == golden[same]:
            same += 1
        assert {kind.split()[0] for kind in found[same:]} <= FIRM, (place, found)
        assert found.count("turn/completed") == accepted, (place, found)
        assert ("turn/started" in found) is accepted, (place, found)
        if not accepted:
            assert same == 0, (place, found)


@pytest.mark.parametrize("room", range(0, 30, 2))
async def test_a_disk_that_fills_up_in_mid_turn_costs_that_turn_and_no_promise(
    room: int, tmp_path: Path
) -> None:
    """`room` pages are left when the turn begins; afterwards there is room again."""
    store = tmp_path / "threads.db"
    async with core("--sandbox", "none", store=f"sqlite:///{store}", workspace=tmp_path) as client:
        client.on_request = lambda _: {"result": {"decision": "accept"}}
        thread_id = await start_thread(client)
        since, pid = len(client.received), client.process.pid
        size = largest(tmp_path)
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + room * 4096, hard))
        accepted = await _begun(client, thread_id, "/run echo hi")
        messages = await told_to_the_end(client, thread_id, since) if accepted else []
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        await client.request("thread/resume", {"threadId": thread_id})
        stored = await client.request("thread/items/list", {"threadId": thread_id})
        assert (await run_turn(client, thread_id, "hi"))["turn"]["status"] == "completed"
    kept = {entry["item"]["id"] for entry in stored["data"]}
    complete = [m["params"]["item"]["id"] for m in messages if m["method"] == "item/completed"]
    assert set(complete) <= kept, "what was told is on disk"
    started = [m["params"]["turn"]["id"] for m in messages if m["method"] == "turn/started"]
    ended = [m["params"]["turn"]["id"] for m in messages if m["method"] == "turn/completed"]
    assert sorted(started) == sorted(ended)


NO_STEPS = {"__init__", "__repr__", "serve", "interrupt_all"} | {
    "run",  # hands the turn to its task
    "_run",  # that task: it is the net that is tried here, with
    "_abandon",
    "_ended",
}

STEPS: list[tuple[type, str]] = [
    (kind, name)
    for kind in (
        Narrator,
        TurnRunner,
        Sample,
        Bench,
        CommandRun,
        PatchRun,
        Approvals,
        TurnMachine,
        ThreadMachine,
        Voice,
        TurnTasks,
    )
    for name, member in vars(kind).items()
    if callable(member) and (name not in NO_STEPS or (kind is TurnRunner and name == "run"))
]


def _raises_once(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[str]:
    """Make a step fail the first time it is taken; returns the steps that failed."""
    whole: Callable[..., Any] = getattr(kind, name)
    failed: list[str] = []

    def fail(args: tuple[Any, ...]) -> None:
        failed.append(name)
        for each in filter(inspect.iscoroutine, args):
            each.close()  # nobody will await it now
        raise RuntimeError(f"a fault in {kind.__name__}.{name}")

    def broken(*args: Any, **kwargs: Any) -> Any:
        if not failed:
            fail(args)
        return whole(*args, **kwargs)

    async def broken_coroutine(*args: Any, **kwargs: Any) -> Any:
        if not failed:
            fail(args)
        return await whole(*args, **kwargs)

    is_coroutine = inspect.iscoroutinefunction(whole)
    monkeypatch.setattr(kind, name, broken_coroutine if is_coroutine else broken)
    return failed


@pytest.mark.parametrize(
    ("kind", "name"), STEPS, ids=[f"{kind.__name__}.{name}" for kind, name in STEPS]
)
async def test_a_fault_in_any_step_of_a_turn_is_that_turns_alone(
    kind: type, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(workspace=str(tmp_path), sandbox="danger-full-access")
    async with served(config, engine=engine()) as client:
        client.on_request = lambda _: {"result": {"decision": "accept"}}
        thread_id = await start_thread(client)
        other = await start_thread(client)
        since = len(client.received)
        with monkeypatch.context() as patched:
            _raises_once(patched, kind, name)
            params = {"threadId": thread_id, "input": text("go")}
            try:
                await client.request("turn/start", params)
            except RpcError as error:
                assert error.code == -32603, error.message  # noqa: PT017 - whichever comes
            else:
                messages = await told_to_the_end(client, thread_id, since)
                assert kinds(messages).count("turn/completed") == 1, json.dumps(messages)
        assert (await run_turn(client, other, "hi"))["turn"]["status"] == "completed"
        await client.request("thread/resume", {"threadId": thread_id})
        assert (await run_turn(client, thread_id, "hi"))["turn"]["status"] == "completed"
