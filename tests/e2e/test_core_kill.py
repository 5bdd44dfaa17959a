"""kill -9 at random moments: what was told is on disk, once, and in order."""

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.core_process import CORE, ROOT, text
from tests.stdio_client import Json, RpcError, StdioClient

# Commands run in a login shell; whose profile this machine has is not our subject.
HOME = {"HOME": "/nonexistent"}
TEXTS = (
    "one two three",
    "/tokens 200",
    "/think of it",
    "/slow 1",
    "/fail on purpose",
    "/run echo hi",
)


@dataclass
class Told:
    """What clients were told of a thread, in order."""

    turns: list[str] = field(default_factory=list)
    items: list[tuple[str, str]] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)

    def hear(self, message: Json) -> None:
        """Note what a message acknowledges."""
        params = message.get("params", {})
        match message.get("method"):
            case "turn/started":
                self.turns.append(params["turn"]["id"])
            case "turn/completed":
                self.ended[params["turn"]["id"]] = params["turn"]["status"]
            case "item/completed":
                self.items.append((params["turnId"], params["item"]["id"]))
            case _:
                pass


async def _round(argv: tuple[str, ...], known: dict[str, Told], chance: random.Random) -> None:
    """Take up a thread and a new one, run turns in both, be killed, compare."""
    async with StdioClient.spawned(argv, cwd=str(ROOT), env=HOME) as client:
        client.on_request = lambda _: {"result": {"decision": "accept"}}
        await client.initialize()
        threads = chance.sample(sorted(known), min(2, len(known)))
        for thread_id in threads:
            await client.request("thread/resume", {"threadId": thread_id})
        threads.append((await client.request("thread/start", {}))["thread"]["id"])
        known[threads[-1]] = Told()
        for thread_id in threads:
            for _ in range(3):
                words = chance.choice(TEXTS)
                client.begin("turn/start", {"threadId": thread_id, "input": text(words)})
        await asyncio.sleep(chance.random() * 0.4)  # the moment is what is tested
        client.process.kill()
        async with asyncio.timeout(5):
            await client.eof.wait()
    for message in client.received:
        thread_id = message.get("params", {}).get("threadId")
        if thread_id is not None:
            known[thread_id].hear(message)
    async with StdioClient.spawned(argv, cwd=str(ROOT), env=HOME) as client:
        await client.initialize()
        for thread_id in threads:
            await _compare(client, thread_id, known[thread_id])


async def _compare(client: StdioClient, thread_id: str, told: Told) -> None:
    resumed = await client.request("thread/resume", {"threadId": thread_id})
    turns = resumed["thread"]["turns"]
    stored = [(turn["id"], item["id"]) for turn in turns for item in turn["items"]]
    ids = [turn["id"] for turn in turns]
    assert len(set(ids)) == len(ids)
    assert len(set(stored)) == len(stored)
    assert [turn_id for turn_id in ids if turn_id in told.turns] == told.turns
    assert [each for each in stored if each in told.items] == told.items
    for turn in turns:
        assert turn["status"] != "inProgress"
        assert turn["status"] == told.ended.get(turn["id"], turn["status"])
        # What was running when the process died cannot have ended well unless that was written.
        told.ended.setdefault(turn["id"], turn["status"])
    # What was written but not told is known from now on.
    told.turns, told.items = ids, stored


async def _kill_often(tmp_path: Path, count: int) -> None:
    chance = random.Random(count)  # noqa: S311 - a test's seed
    options = ("--store", f"sqlite:///{tmp_path}/threads.db", "--workspace", str(tmp_path))
    argv = (*CORE, *options, "--sandbox", "none")
    known: dict[str, Told] = {}
    for _ in range(count):
        await _round(argv, known, chance)
    async with StdioClient.spawned(argv, cwd=str(ROOT), env=HOME) as client:
        await client.initialize()
        for thread_id, told in known.items():
            await _compare(client, thread_id, told)
            await _goes_on(client, thread_id)


async def _goes_on(client: StdioClient, thread_id: str) -> None:
    try:
        params = {"threadId": thread_id, "input": text("still here")}
        turn = (await client.request("turn/start", params))["turn"]
    except RpcError as error:
        raise AssertionError(error.message) from None
    done = await client.wait(
        lambda m: m.get("method") == "turn/completed" and m["params"]["turn"]["id"] == turn["id"]
    )
    assert done["params"]["turn"]["status"] == "completed"


async def test_ten_kills_lose_nothing_that_was_told(tmp_path: Path) -> None:
    await _kill_often(tmp_path, 10)


@pytest.mark.slow
async def test_a_thousand_kills_lose_nothing_that_was_told(tmp_path: Path) -> None:
    await _kill_often(tmp_path, 1000)
