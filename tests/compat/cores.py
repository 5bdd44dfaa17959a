"""Two cores behind one face: ours with its offline engine, and the real `codex app-server`.

    async with running_core("codex", directory) as core:
        proxy = trace_proxy(core=core.command, env=core.env)
        await client.turn(thread, core.slow(2))

What a test types differs between them, since ours takes directives and the real one gets its
lines from `tests.responses_api`; what must come back does not.
"""

import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from tests.compat import real_codex
from tests.responses_api import ResponsesApi

CoreName = Literal["ours", "codex"]

both_cores = pytest.mark.parametrize(
    "name", ["ours", pytest.param("codex", marks=real_codex.needs_codex)]
)


@dataclasses.dataclass(frozen=True, slots=True)
class Core:
    """How to start a core, and what to say to it.

    Attributes:
        name: `ours` or `codex`.
        command: For after `--`; empty for the proxy's own default.
        env: What the core needs, on top of our environment.
        workspace: Where its commands run.
    """

    name: CoreName
    command: tuple[str, ...]
    env: dict[str, str]
    workspace: Path

    def say(self, text: str) -> str:
        """A message whose answer contains the text."""
        return text if self.name == "ours" else f"text: {text}"

    def slow(self, seconds: float) -> str:
        """A message whose answer streams for so long."""
        return f"/slow {seconds}" if self.name == "ours" else f"slow: {seconds}"

    @property
    def slow_words(self) -> str:
        """What such an answer begins with."""
        return "tick 1" if self.name == "ours" else "word word"

    def run(self, command: str) -> str:
        """A message that proposes a command, which needs an approval."""
        if self.name == "ours":
            return f"/run {command}"
        arguments = {
            "cmd": command,
            "login": False,
            "sandbox_permissions": "require_escalated",
            "justification": "The test wants it",
        }
        return f"call: exec_command {json.dumps(arguments)}"


@contextlib.asynccontextmanager
async def running_core(name: CoreName, directory: Path) -> AsyncIterator[Core]:
    """Prepare a core in a directory; for the real one, its model runs meanwhile."""
    workspace = directory / "workspace"
    workspace.mkdir(exist_ok=True)
    if name == "ours":
        env = {
            "CORE_SERVER_STORE": f"sqlite:///{directory}/threads.db",
            "CORE_SERVER_WORKSPACE": str(workspace),
        }
        yield Core(name, (), env, workspace)
        return
    async with ResponsesApi() as api:
        env = real_codex.codex_home(directory, api.url)
        yield Core(name, tuple(real_codex.app_server()), env, workspace)
