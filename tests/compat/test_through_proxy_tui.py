"""`codex --remote ws://…`, the Codex TUI, through trace-proxy, on our core and on the real one.

Its messages with a slash in front are its own commands; with a blank before the slash they
are text, and reach our offline engine.
"""

from pathlib import Path

from tests.compat.cores import CoreName, both_cores, running_core
from tests.compat.real_codex import codex_home, codex_path, needs_codex
from tests.compat.terminal import Screen, needs_tmux, terminal
from tests.e2e.proxy import trace_proxy

pytestmark = [needs_codex, needs_tmux]

NOBODY = "http://127.0.0.1:9/v1"
"""The TUI itself asks no model: that is the core's part."""


async def _send(screen: Screen, text: str) -> None:
    await screen.enter(f" {text}" if text.startswith("/") else text)


@both_cores
async def test_the_tui_talks_asks_is_interrupted_and_leaves(
    name: CoreName, tmp_path: Path
) -> None:
    here = tmp_path / "tui"
    here.mkdir()
    async with running_core(name, tmp_path) as core:
        env = codex_home(here, NOBODY)
        async with trace_proxy("--log-level", "debug", core=core.command, env=core.env) as proxy:
            argv = [str(codex_path()), "--remote", proxy.url]
            async with terminal(argv, here / "workspace", env) as screen:
                await screen.shows("OpenAI Codex")
                await screen.shows("Ask Codex to do anything")

                await _send(screen, core.say("hello there friend"))
                await screen.shows("• hello there friend")
                await screen.shows("Ask Codex to do anything")

                await _send(screen, core.run("echo answer $((40 + 2))"))
                await screen.shows("Would you like to run the following command?")
                await screen.press("y")
                await screen.shows("You approved codex to run")
                await screen.shows("answer 42")
                await screen.shows("Ask Codex to do anything")

                await _send(screen, core.slow(60))
                await screen.shows(core.slow_words)
                await screen.press("Escape")
                await screen.shows("Conversation interrupted")

                await screen.enter("/quit")
                await screen.ended()
            await proxy.logged("connection.closed")
            assert name == "codex" or proxy.log("request.failed") == [], "ours knows all it asks"
