"""The whole core with every bound set to one: the cheapest deadlock finder."""

import sys
from pathlib import Path

from tests.core_process import completed, core, run_turn, start_thread, text

TIGHT = """
import sys
from core_server import cli
from core_server.outgoing import outbox
from core_server.runtime import dispatcher, stdio
from core_server.turns import sample, tasks
dispatcher.MAX_IN_FLIGHT = dispatcher.MAX_UNREAD_BYTES = outbox.HIGH_WATER_BYTES = 1
sample.EVENTS_PER_BREATH = tasks.MAX_HISTORIES = 1
stdio.READ_BYTES, stdio.WRITE_BYTES = 16, 16
raise SystemExit(cli.main(sys.argv[1:]))
"""
PROGRAM = (sys.executable, "-c", TIGHT)


async def test_turns_of_all_kinds_end(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/threads.db"
    options = ("--sandbox", "none")
    async with core(*options, workspace=tmp_path, store=store, program=PROGRAM) as client:
        client.on_request = lambda _: {"result": {"decision": "accept"}}
        first, second = await start_thread(client), await start_thread(client)
        for words in ("hello", "/think hard", "/tokens 500", "/write a.txt b", "/fail no"):
            for thread_id in (first, second):
                done = await run_turn(client, thread_id, words)
                assert done["turn"]["status"] == ("failed" if "fail" in words else "completed")
        done = await run_turn(client, first, "/run head -c 200000 /dev/zero | tr '\\0' x")
        assert done["turn"]["status"] == "completed"


async def test_a_flood_of_requests_is_answered(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/threads.db"
    async with core(store=store, program=PROGRAM) as client:
        thread_id = await start_thread(client)
        methods = ("thread/list", "thread/loaded/list", "thread/read", "model/list")
        ids = [client.begin(methods[n % 4], {"threadId": thread_id}) for n in range(400)]
        for request_id in ids:
            await client.answer(request_id)


async def test_a_turn_can_be_interrupted_and_joined() -> None:
    async with core(program=PROGRAM) as client:
        named = {"threadId": await start_thread(client)}
        turn_id = (await client.request("turn/start", {**named, "input": text("/slow 30")}))[
            "turn"
        ]["id"]
        await client.wait_for("item/agentMessage/delta")
        await client.request(
            "turn/steer", {**named, "expectedTurnId": turn_id, "input": text("/slow 30")}
        )
        await client.wait_for("item/agentMessage/delta")
        await client.request("turn/interrupt", {**named, "turnId": turn_id})
        assert (await completed(client, turn_id))["turn"]["status"] == "interrupted"
