"""How a core ends: end of input, signals, a client that is gone."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.core_process import completed, core, run_turn, start_thread, text
from tests.stdio_client import Json, RpcError, StdioClient


def _store(path: Path) -> str:
    return f"sqlite:///{path}/threads.db"


async def _slow_turn(client: StdioClient, seconds: float = 30) -> tuple[str, str]:
    thread_id = await start_thread(client)
    params = {"threadId": thread_id, "input": text(f"/slow {seconds}")}
    answer = await client.request("turn/start", params)
    await client.wait_for("item/agentMessage/delta")
    return thread_id, answer["turn"]["id"]


async def _stored_turns(store: str, thread_id: str) -> list[Json]:
    async with core(store=store) as client:
        result = await client.request("thread/resume", {"threadId": thread_id})
        turns: list[Json] = result["thread"]["turns"]
        return turns


async def test_the_end_of_input_interrupts_turns_and_exits_zero_in_time(tmp_path: Path) -> None:
    store = _store(tmp_path)
    async with core(store=store) as client:
        thread_id, turn_id = await _slow_turn(client)
        began_s = time.monotonic()
        assert await client.close() == 0
        assert time.monotonic() - began_s < 1.5
        done = await completed(client, turn_id)
    assert done["turn"]["status"] == "interrupted"
    assert [turn["status"] for turn in await _stored_turns(store, thread_id)] == ["interrupted"]


async def test_a_closed_stdout_ends_it_too(tmp_path: Path) -> None:
    async with core(store=_store(tmp_path)) as client:
        await _slow_turn(client)
        assert client.process.stdout is not None
        began_s = time.monotonic()
        process: Any = client.process  # asyncio has no public way to close a pipe for reading
        process._transport.get_pipe_transport(1).close()  # noqa: SLF001
        async with asyncio.timeout(3):
            assert await client.process.wait() == 0
        assert time.monotonic() - began_s < 1.5


async def test_a_term_finishes_turns_and_refuses_new_ones(tmp_path: Path) -> None:
    async with core(store=_store(tmp_path)) as client:
        _, turn_id = await _slow_turn(client, 1)
        client.process.send_signal(signal.SIGTERM)
        await _refused_soon(client)
        assert await client.request("thread/loaded/list", {})
        done = await completed(client, turn_id)
        async with asyncio.timeout(3):
            assert await client.process.wait() == 0
    assert done["turn"]["status"] == "completed"
    assert client.received[-1]["method"] == "turn/completed"


async def _refused_soon(client: StdioClient) -> None:
    """Until the signal has arrived, threads are started; then that is refused."""
    async with asyncio.timeout(3):
        while (error := await _refusal(client)) is None:
            pass
    assert error.code == -32001
    assert error.data == {"reason": "draining", "retryable": True, "retryAfterMs": 1000}


async def _refusal(client: StdioClient) -> RpcError | None:
    try:
        await client.request("thread/start", {})
    except RpcError as error:
        return error
    return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_an_idle_core_exits_at_once_on_a_signal(number: signal.Signals) -> None:
    async with core() as client:
        began_s = time.monotonic()
        client.process.send_signal(number)
        async with asyncio.timeout(3):
            assert await client.process.wait() == 0
        assert time.monotonic() - began_s < 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_second_signal_forces(number: signal.Signals, code: int) -> None:
    async with core() as client:
        await _slow_turn(client)
        client.process.send_signal(signal.SIGHUP)
        await _refused_soon(client)
        await asyncio.sleep(0.15)  # two signals within 100 ms are one
        client.process.send_signal(number)
        async with asyncio.timeout(3):
            assert await client.process.wait() == code


async def test_a_term_after_the_end_of_input_keeps_to_its_rules(tmp_path: Path) -> None:
    """The official client closes stdin, sends SIGTERM at once, and kills after 2 s."""
    async with core(store=_store(tmp_path)) as client:
        await _slow_turn(client)
        assert client.process.stdin is not None
        began_s = time.monotonic()
        client.process.stdin.close()
        client.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(3):
            assert await client.process.wait() == 0
        assert time.monotonic() - began_s < 1.5


@pytest.mark.parametrize("delay_s", [0.06, 0.1, 0.15, 0.2, 0.3, 0.4])
async def test_a_signal_is_safe_from_the_start(delay_s: float) -> None:
    async with core(initialize=False) as client:
        await asyncio.sleep(delay_s)  # the moment is what is tested
        client.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(3):
            code = await client.process.wait()
    assert code in (0, -signal.SIGTERM)  # before main, the interpreter itself ends
    assert b"Traceback" not in client.stderr


async def test_commands_die_with_their_turn(tmp_path: Path) -> None:
    async with core(
        "--sandbox", "none", "--approval-policy", "never", workspace=tmp_path
    ) as client:
        thread_id = await start_thread(client)
        line = "/run echo $$ > pid; sleep 60"
        await client.request("turn/start", {"threadId": thread_id, "input": text(line)})
        async with asyncio.timeout(5):
            while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        pid = int((tmp_path / "pid").read_text())
        assert await client.close() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_thread_goes_on_in_a_new_process(tmp_path: Path) -> None:
    store = _store(tmp_path)
    async with core(store=store) as client:
        thread_id = await start_thread(client)
        first = await run_turn(client, thread_id, "first words")
    async with core(store=store) as client:
        assert (await client.request("thread/loaded/list", {}))["data"] == []
        with pytest.raises(RpcError):
            await client.request("turn/start", {"threadId": thread_id, "input": []})
        listed = await client.request("thread/list", {})
        assert [(t["id"], t["preview"], t["status"]) for t in listed["data"]] == [
            (thread_id, "first words", {"type": "notLoaded"})
        ]
        result = await client.request("thread/resume", {"threadId": thread_id})
        assert [turn["id"] for turn in result["thread"]["turns"]] == [first["turn"]["id"]]
        await run_turn(client, thread_id, "second words")
        items = await client.request("thread/items/list", {"threadId": thread_id})
    texts = [
        entry["item"].get("text") or entry["item"]["content"][0]["text"] for entry in items["data"]
    ]
    assert texts == ["first words", "first words", "second words", "second words"]


async def test_requests_may_be_piped_and_are_all_answered() -> None:
    async with core(initialize=False) as client:
        info = {"clientInfo": {"name": "pipe", "version": "1"}}
        ids = [
            client.begin("initialize", info),
            client.begin("thread/start", {}),
            client.begin("thread/list", {}),
        ]
        assert await client.close() == 0
        for request_id in ids:
            await client.answer(request_id)
