"""`trace-proxy --listen stdio://` with standard streams that are no pipes of a live client."""

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path
from typing import IO

from tests.e2e.processes import MARK, nobody_left
from tests.e2e.proxy import ROOT, Json, turn_params

ASKED: list[Json] = [
    {"id": 1, "method": "initialize", "params": {"clientInfo": {"name": "shell", "version": "1"}}},
    {"method": "initialized"},
    {"id": 2, "method": "thread/start", "params": {}},
    {"id": 3, "method": "thread/list", "params": {}},
]
LINES = "".join(json.dumps(each) + "\n" for each in ASKED).encode()


WRAPPER = (sys.executable, "-m", "trace_proxy", "--listen", "stdio://")


async def _run(directory: Path, stdin: Path | int, stdout: Path) -> int:
    env = {"PYTHONPATH": str(ROOT), "CORE_SERVER_STORE": "memory", "HOME": str(directory)}
    with stdout.open("wb") as out, (directory / "in").open("rb") as file:
        process = await asyncio.create_subprocess_exec(
            *WRAPPER,
            stdin=file if isinstance(stdin, Path) else stdin,
            stdout=out,
            stderr=asyncio.subprocess.DEVNULL,
            env=env,
            cwd=directory,
        )
        async with asyncio.timeout(15):
            if stdin == asyncio.subprocess.PIPE:
                await process.communicate(LINES)
            return await process.wait()


def _ids(stdout: Path) -> list[object]:
    answers = [json.loads(line) for line in stdout.read_bytes().splitlines()]
    return sorted(each["id"] for each in answers if "result" in each)


async def test_a_file_is_answered_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(LINES)
    assert await _run(tmp_path, tmp_path / "in", tmp_path / "out") == 0
    assert _ids(tmp_path / "out") == [1, 2, 3]


async def test_all_that_was_said_before_the_core_was_up_is_answered(tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    assert await _run(tmp_path, asyncio.subprocess.PIPE, tmp_path / "out") == 0
    assert _ids(tmp_path / "out") == [1, 2, 3]


async def test_with_nobody_there_it_ends(tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    assert await _run(tmp_path, asyncio.subprocess.DEVNULL, tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes() == b""


async def test_when_its_client_is_killed_in_a_turn_nothing_is_left(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    env = {"PYTHONPATH": str(ROOT), "CORE_SERVER_STORE": "memory", "HOME": str(tmp_path)}
    out, into = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *WRAPPER,
        stdin=asyncio.subprocess.PIPE,
        stdout=into,
        stderr=asyncio.subprocess.DEVNULL,
        env={**env, MARK: mark},
        cwd=tmp_path,
    )
    os.close(into)
    assert process.stdin is not None
    with os.fdopen(out, "rb") as stdout:
        process.stdin.write(LINES)
        thread = (await _answer(stdout, 2))["thread"]["id"]
        turn = {"id": 4, "method": "turn/start", "params": turn_params(thread, "/slow 60")}
        process.stdin.write(json.dumps(turn).encode() + b"\n")
        await _answer(stdout, 4)
    process.stdin.close()  # both ends of both pipes, as the kernel does it for the dead
    async with asyncio.timeout(15):
        assert await process.wait() == 3, "a turn was cut short"
    assert await nobody_left(mark, 1) == {}


async def _answer(stdout: IO[bytes], request_id: int) -> Json:
    while True:
        message = json.loads(await asyncio.to_thread(stdout.readline))
        if message.get("id") == request_id:
            result: Json = message["result"]
            return result
