"""`trace-proxy --listen stdio://` with standard streams that are no pipes of a live client."""

import asyncio
import json
import sys
from pathlib import Path

from tests.e2e.proxy import ROOT, Json

ASKED: list[Json] = [
    {"id": 1, "method": "initialize", "params": {"clientInfo": {"name": "shell", "version": "1"}}},
    {"method": "initialized"},
    {"id": 2, "method": "thread/start", "params": {}},
    {"id": 3, "method": "thread/list", "params": {}},
]
LINES = "".join(json.dumps(each) + "\n" for each in ASKED).encode()


async def _run(directory: Path, stdin: Path | int, stdout: Path) -> int:
    env = {"PYTHONPATH": str(ROOT), "CORE_SERVER_STORE": "memory", "HOME": str(directory)}
    with stdout.open("wb") as out, (directory / "in").open("rb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trace_proxy", "--listen", "stdio://"),
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
