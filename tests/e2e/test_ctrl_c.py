"""Both programs at a terminal: what is said there, and what a Ctrl-C says and does."""

import asyncio
import contextlib
import json
import os
import pty
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from tests.e2e.clients import WAIT_S
from tests.e2e.proxy import ROOT, Json

TAKE_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(2, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
CTRL_C = b"\x03"
LINE = re.compile(r"^\d\d:\d\d:\d\d \[\w+\] [a-z.]+ ?")
"""Local time to the second, level, event."""


class AtTerminal:
    """A program whose stderr is a terminal, which it is started from."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self._master = master
        self._seen = ""
        self._changed = asyncio.Condition()

    @property
    def lines(self) -> list[str]:
        """What stands there, without colours."""
        plain = re.sub(r"\x1b\[[0-9;]*m|\^C", "", self._seen)  # it echoes the keys
        return [line.rstrip() for line in plain.split("\n") if line.strip()]

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    async def shows(self, words: str) -> str:
        """Wait for a line with these words."""
        try:
            async with asyncio.timeout(WAIT_S), self._changed:
                while True:
                    for line in self.lines:
                        if words in line:
                            return line
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {words!r}: {self.lines}") from None

    async def read(self) -> None:
        """Read until the terminal is closed."""
        os.set_blocking(self._master, False)
        readable, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._master, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                with contextlib.suppress(BlockingIOError):
                    self._seen += os.read(self._master, 65536).decode()
                async with self._changed:
                    self._changed.notify_all()
        except OSError:  # EIO: nobody has its other end any more
            return
        finally:
            loop.remove_reader(self._master)


@contextlib.asynccontextmanager
async def at_terminal(argv: Sequence[str], cwd: Path) -> AsyncIterator[AtTerminal]:
    """Start it in a session whose terminal it has."""
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", TAKE_TERMINAL, *argv],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=slave,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(cwd)},
        start_new_session=True,
    )
    os.close(slave)
    seen = AtTerminal(process, master)
    try:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(seen.read())
            yield seen
            reading.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(master)


CORE = [sys.executable, "-m", "core_server", "--store", "memory"]
PROXY = [sys.executable, "-m", "trace_proxy", "--listen", "stdio://", "--", *CORE]
BOTH = pytest.mark.parametrize("argv", [CORE, PROXY], ids=["core-server", "trace-proxy"])
FIRST = "waiting for 1 turn, no limit; Ctrl-C (or SIGTERM) again stops now"


class Pipe:
    """The client: lines to stdin, lines from stdout."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._next_id = 0

    async def ask(self, method: str, params: Json) -> Json:
        """A request and its answer."""
        assert self._process.stdin is not None
        self._next_id += 1
        message = {"id": self._next_id, "method": method, "params": params}
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        number = self._next_id
        answer = await self.hears(lambda m: m.get("id") == number)
        result: Json = answer["result"]
        return result

    async def hears(self, fits: Callable[[Json], bool]) -> Json:
        """The next message that fits."""
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            while True:
                message: Json = json.loads(await self._process.stdout.readline())
                if fits(message):
                    return message

    async def turn(self, words: str) -> None:
        """Shake hands, and have a turn running."""
        await self.ask("initialize", {"clientInfo": {"name": "someone", "version": "1"}})
        thread = (await self.ask("thread/start", {}))["thread"]["id"]
        asked = {"threadId": thread, "input": [{"type": "text", "text": words}]}
        await self.ask("turn/start", asked)
        await self.hears(lambda m: m.get("method") == "item/agentMessage/delta")


@BOTH
async def test_a_ctrl_c_says_what_is_waited_for_and_the_turn_ends(
    argv: list[str], tmp_path: Path
) -> None:
    async with at_terminal(argv, tmp_path) as screen:
        client = Pipe(screen.process)
        await client.turn("/slow 1")
        screen.press(CTRL_C)
        await screen.shows(FIRST)
        done = await client.hears(lambda m: m.get("method") == "turn/completed")
        assert done["params"]["turn"]["status"] == "completed"
        async with asyncio.timeout(WAIT_S):
            assert await screen.process.wait() == 0
        assert [line for line in screen.lines if not LINE.match(line)] == []
        assert "None" not in "".join(screen.lines)


@BOTH
async def test_a_second_ctrl_c_ends_it_at_once_and_says_so(
    argv: list[str], tmp_path: Path
) -> None:
    async with at_terminal(argv, tmp_path) as screen:
        await Pipe(screen.process).turn("/slow 60")
        screen.press(CTRL_C)
        await screen.shows(FIRST)
        await asyncio.sleep(0.15)  # or it would be one signal said twice
        screen.press(CTRL_C)
        async with asyncio.timeout(WAIT_S):
            assert await screen.process.wait() == 130
        await screen.shows("forced")


@BOTH
async def test_with_nothing_to_wait_for_a_ctrl_c_ends_it(argv: list[str], tmp_path: Path) -> None:
    async with at_terminal(argv, tmp_path) as screen:
        hello = {"clientInfo": {"name": "someone", "version": "1"}}
        await Pipe(screen.process).ask("initialize", hello)
        screen.press(CTRL_C)
        await screen.shows("nothing runs; ending now")
        async with asyncio.timeout(WAIT_S):
            assert await screen.process.wait() == 0


async def test_who_looks_on_sees_clients_by_name_and_turns_begin_and_end(tmp_path: Path) -> None:
    async with at_terminal(PROXY, tmp_path) as screen:
        client = Pipe(screen.process)
        await client.turn("hello")
        assert "client=someone" in await screen.shows("connection.initialized")
        assert "client=someone" in await screen.shows("turn.started")
        await screen.shows("turn.ended")
