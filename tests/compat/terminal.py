"""A terminal for a full-screen program: what it shows as text, and keys for it. tmux is the terminal.

    async with terminal([program], directory, env) as screen:
        await screen.enter("hello")
        await screen.shows("hello to you")

It has a server of its own, on a socket in the given directory, which ends with it.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

WAIT_S = 20.0
"""Nothing on a screen takes so long; a busy machine may."""

POLL_S = 0.05

HAND_S = 0.5
"""Nobody types faster; an Enter right behind a text counts as pasted, and is a new line."""

COLUMNS, ROWS = "200", "60"
"""Wide enough that no text of a test is wrapped, high enough that nothing scrolls away."""


class Screen:
    """The screen, and the keyboard."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def tmux(self, *arguments: str) -> tuple[int, str]:
        """Run a tmux command; returns its exit code and output."""
        process = await asyncio.create_subprocess_exec(
            *("tmux", "-S", str(self._socket), "-f", "/dev/null", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace")

    async def text(self) -> str:
        """What is on the screen, and what has scrolled away above it."""
        return (await self.tmux("capture-pane", "-p", "-J", "-S", "-200"))[1]

    async def visible(self) -> str:
        """What is on the screen now."""
        return (await self.tmux("capture-pane", "-p", "-J"))[1]

    async def shows(self, text: str) -> str:
        """Wait until a text is on the screen; returns the screen."""
        seen = ""
        try:
            async with asyncio.timeout(WAIT_S):
                while text not in (seen := await self.text()):  # noqa: ASYNC110 - tmux tells nobody
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise AssertionError(f"{text!r} never showed:\n{seen}") from None
        return seen

    async def enter(self, text: str) -> None:
        """Type a text, wait until it is on the screen, and press Enter."""
        await self.tmux("send-keys", "-l", "--", text)
        await self.shows(text.strip())
        await asyncio.sleep(HAND_S)
        await self.press("Enter")

    async def press(self, key: str) -> None:
        """Press a key, by its tmux name: `Enter`, `Escape`, `y`."""
        await self.tmux("send-keys", key)

    async def ended(self) -> None:
        """Wait until the program has exited."""
        try:
            async with asyncio.timeout(WAIT_S):
                while (await self.tmux("has-session"))[0] == 0:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise AssertionError(f"still there:\n{await self.text()}") from None


@contextlib.asynccontextmanager
async def terminal(
    argv: Sequence[str], directory: Path, env: Mapping[str, str]
) -> AsyncIterator[Screen]:
    """Run a program in a terminal of its own, in a directory, and end it at the end.

    Args:
        argv: Program and arguments.
        directory: Its working directory; holds the socket too.
        env: On top of our environment.
    """
    screen = Screen(directory / "tmux")
    variables = [f"{name}={value}" for name, value in env.items()]
    size = ("-x", COLUMNS, "-y", ROWS, "-c", str(directory))
    code, said = await screen.tmux("new-session", "-d", *size, "env", *variables, *argv)
    assert code == 0, said
    try:
        yield screen
    finally:
        await screen.tmux("kill-server")
