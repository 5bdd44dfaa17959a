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
    env = codex_home(here, NOBODY)
    async with (
        running_core(name, tmp_path) as core,
        trace_proxy("--log-level", "debug", core=core.command, env=core.env) as proxy,
    ):
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


async def test_the_tui_shares_a_thread_and_finds_it_again(tmp_path: Path) -> None:
    """Its question is answered by another client; later it resumes what it has left."""
    here = tmp_path / "tui"
    env = codex_home(here, NOBODY)
    async with (
        running_core("ours", tmp_path) as core,
        trace_proxy(env=core.env) as proxy,
        proxy.client() as other,
    ):
        argv = [str(codex_path()), "--remote", proxy.url]
        async with terminal(argv, here / "workspace", env) as screen:
            await screen.shows("Ask Codex to do anything")
            await _send(screen, "/write notes.txt remember me")
            await screen.shows("Would you like to make the following edits?")

            (thread,) = (await other.request("thread/list", {}))["data"]
            await other.request("thread/resume", {"threadId": thread["id"]})
            asked = await other.wait_for("item/fileChange/requestApproval")
            await other.send({"id": asked["id"], "result": {"decision": "accept"}})
            await other.wait_for("turn/completed")
            await screen.shows("Result of the file change: Done.")
            await screen.shows("Ask Codex to do anything")
            await screen.enter("/quit")
            await screen.ended()

        argv = [str(codex_path()), "resume", "--remote", proxy.url, thread["id"]]
        async with terminal(argv, here / "workspace", env) as screen:
            await screen.shows("Result of the file change: Done.")
            await screen.shows("Ask Codex to do anything")
            await _send(screen, "and on")
            await screen.shows("• and on")
            await screen.enter("/quit")
            await screen.ended()
