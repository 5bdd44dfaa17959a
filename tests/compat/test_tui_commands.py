"""Every command of the newest Codex TUI, typed once, on our core: none crashes it or fails."""

import asyncio
import re
from pathlib import Path

from tests.compat.cores import running_core
from tests.compat.real_codex import codex_home, needs_newest_codex, newest_codex
from tests.compat.terminal import HAND_S, WAIT_S, Screen, needs_tmux, terminal
from tests.e2e.clients import Client
from tests.e2e.proxy import Proxy, trace_proxy

pytestmark = [needs_newest_codex, needs_tmux]

NOBODY = "http://127.0.0.1:9/v1"

READY = "Ask Codex to do anything"

BAD = re.compile(r"failed|panic|not served|Could not|-32\d\d\d", re.IGNORECASE)
"""What a line of the screen must not say; what our own texts say is not among it."""

COMMANDS: tuple[tuple[str, str, str], ...] = (
    # what is typed, what shows then, the key that closes it
    ("hello there friend", "• hello there friend", ""),
    ("/model", "Select Model and Effort", "Escape"),
    ("/permissions", "Update Model Permissions", "Escape"),
    ("/experimental", "Experimental features", "Escape"),
    ("/memories", "Enable memories?", "Escape"),
    ("/import", "No compatible setup was found", ""),
    ("/hooks", "Right before a session ends", "Escape"),
    ("/rename another name", "· another name", ""),
    ("/review look at this", "• look at this", ""),
    ("/stop", "Stopping all background terminals", ""),
    ("/ps", "No background terminals running", ""),
    ("/mcp", "No MCP servers configured", ""),
    ("/approve", "No recent auto-review denials", ""),
    ("/feedback", "Feedback uploads are disabled", ""),
    ("/goal reach it", "Objective: reach it", ""),
    ("/subagents", "Select an agent to watch", "Escape"),
    ("/skills", "Choose an action", "Escape"),
    ("/config", "Changes save automatically", "Escape"),
    ("/statusline", "Current model name", "Escape"),
    ("/ide", "IDE context could not be enabled", ""),
    ("/cd elsewhere", "Changing directories is not supported", ""),
    ("/export", "Export conversation", "Escape"),
    ("/diff", "q close", "q"),
    ("/recap", "• hello there friend", ""),
    ("/init", "Agent-Specific Instructions", ""),
    ("/compact", "Context compacted", ""),
    ("/plan", "Plan mode", ""),
    ("make a plan of it", "• make a plan of it", ""),
    ("/agents", "Reasoning:", "Escape"),
    ("/fork", READY, ""),
    ("/new", READY, ""),
    ("/clear", READY, ""),
    ("/archive", "Archive this session?", "Escape"),
    ("/delete", "Delete", "Escape"),
)

ALLOWED = ("IDE context could not be enabled",)


async def _typed(screen: Screen, words: str) -> None:
    await screen.tmux("send-keys", "-l", "--", words)
    await screen.shows(words.removeprefix("!"))
    await asyncio.sleep(HAND_S)  # an Enter right behind a text counts as pasted
    await screen.press("Enter")


async def _idle(other: Client) -> None:
    """Wait until no turn runs: some commands are refused meanwhile."""
    async with asyncio.timeout(WAIT_S):
        while True:
            threads = (await other.request("thread/list", {}))["data"]
            if all(thread["status"]["type"] != "active" for thread in threads):
                return
            await asyncio.sleep(HAND_S)


async def _closed(screen: Screen, key: str, shown: str) -> None:
    """Press a key until what it closes is gone: a list that is still drawn takes none."""
    async with asyncio.timeout(WAIT_S):
        while shown in await screen.visible():
            await screen.press(key)
            await asyncio.sleep(HAND_S)


def _complaints(seen: str) -> list[str]:
    return [
        line.strip()
        for line in seen.splitlines()
        if BAD.search(line) and not any(known in line for known in ALLOWED)
    ]


def _unserved(proxy: Proxy) -> list[object]:
    """Requests that our core did not know."""
    return [entry for entry in proxy.log("request.failed") if entry.get("code") == -32601]


async def test_every_command_of_the_tui_does_something_and_none_fails(tmp_path: Path) -> None:
    here = tmp_path / "tui"
    env = codex_home(here, NOBODY)
    async with (
        running_core("ours", tmp_path) as core,
        trace_proxy("--log-level", "debug", env=core.env) as proxy,
        proxy.client() as other,
        terminal([str(newest_codex()), "--remote", proxy.url], here / "workspace", env) as screen,
    ):
        await screen.shows(READY)
        for words, shown, keys in COMMANDS:
            await _typed(screen, words)
            seen = await screen.shows(shown)
            assert _complaints(seen) == [], words
            if keys:
                await _closed(screen, keys, shown)
            await screen.shows(READY)
            await _idle(other)
        assert _unserved(proxy) == []
        await _typed(screen, "/quit")
        await screen.ended()


async def test_a_side_conversation_and_a_shell_command_work(tmp_path: Path) -> None:
    here = tmp_path / "tui"
    env = codex_home(here, NOBODY)
    async with (
        running_core("ours", tmp_path) as core,
        trace_proxy("--log-level", "debug", env=core.env) as proxy,
        terminal([str(newest_codex()), "--remote", proxy.url], here / "workspace", env) as screen,
    ):
        await screen.shows(READY)
        await _typed(screen, "the main matter")
        await screen.shows("• the main matter")
        await _typed(screen, "/btw aside")
        await screen.shows("Side from main thread")
        await screen.shows("• aside")
        await screen.press("C-c")
        await screen.shows(READY)
        await _typed(screen, "!echo $((40 + 2)) shown")
        seen = await screen.shows("42 shown")
        assert _complaints(seen) == []
        assert _unserved(proxy) == []
        await _typed(screen, "/logout")
        await screen.ended()
