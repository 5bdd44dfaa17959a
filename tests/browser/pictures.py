"""Every screen of the page as a picture, in light and dark, wide and narrow, to be looked at.

    .venv/bin/python -m tests.browser.pictures DIR [SCREEN…]

makes DIR/SCREEN-light-1280.png and the like. What they show is real: proxies, cores,
clients and turns, set up as each screen needs it.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Literal

from playwright.async_api import Page, expect

from tests.browser.chromium import WAIT_MS, Watched, console
from tests.e2e.clients import WebsocketClient
from tests.e2e.proxy import Json, Proxy, fake_core, trace_proxy

SIZES = [(1280, 800), (960, 800), (400, 800)]
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
JAEGER = ("--jaeger-url", "http://localhost:16686")

LONG_OUTPUT = "/run seq 1 200 | sed 's/$/: a line of output as long as such lines are/'; exit 3"

PERMISSIONS: Final[Json] = {
    "cwd": "/home/you/project",
    "reason": "The tests download their fixtures.",
    "permissions": {
        "network": {"enabled": True},
        "fileSystem": {
            "entries": [
                {"path": {"type": "path", "path": "/home/you/.cache/fixtures"}, "access": "write"}
            ]
        },
    },
}
QUESTIONS: Final[Json] = {
    "isBlocking": True,
    "questions": [
        {
            "id": "database",
            "header": "Database",
            "question": "Which database shall the tests run against?",
            "isOther": True,
            "options": [
                {"label": "SQLite", "description": "Nothing to start; one writer."},
                {"label": "PostgreSQL", "description": "What production has."},
            ],
        },
        {"id": "name", "header": "Name", "question": "What is the new module called?"},
    ],
}

FORM: Final[Json] = {
    "serverName": "tickets",
    "mode": "form",
    "message": "Which ticket is this for?",
    "requestedSchema": {
        "type": "object",
        "required": ["ticket", "hours", "kind", "labels"],
        "properties": {
            "ticket": {"type": "string", "title": "Ticket", "minLength": 3, "maxLength": 12},
            "note": {"type": "string", "description": "For who reads it later."},
            "mail": {"type": "string", "title": "Who is told", "format": "email"},
            "due": {"type": "string", "title": "Due", "format": "date-time"},
            "hours": {"type": "number", "title": "Hours", "minimum": 0.5, "maximum": 8},
            "priority": {"type": "integer", "title": "Priority", "default": 3},
            "kind": {
                "type": "string",
                "title": "Kind",
                "oneOf": [{"const": "b", "title": "Bug"}, {"const": "f", "title": "Feature"}],
            },
            "area": {"type": "string", "enum": ["ui", "core"], "enumNames": ["The page", "Core"]},
            "billed": {"type": "boolean", "title": "Billed", "default": True},
            "labels": {
                "type": "array",
                "title": "Labels",
                "maxItems": 2,
                "items": {"type": "string", "enum": ["slow", "flaky", "docs"]},
            },
        },
    },
}

TOOL_CALL: Final[Json] = {
    "serverName": "tickets",
    "mode": "form",
    "message": 'Allow the tickets MCP server to run tool "close"?',
    "requestedSchema": {"type": "object", "properties": {}},
    "_meta": {
        "codex_approval_kind": "mcp_tool_call",
        "persist": ["session", "always"],
        "tool_params": {"ticket": "T-42"},
    },
}

LINK: Final[Json] = {
    "serverName": "tickets",
    "mode": "url",
    "message": "Sign in to the tracker, please.",
    "elicitationId": "e-1",
    "url": "https://tracker.example/login?state=1",
}

QUESTIONED: Final[dict[str, tuple[str, Json]]] = {
    "permissions": ("item/permissions/requestApproval", PERMISSIONS),
    "questions": ("item/tool/requestUserInput", QUESTIONS),
    "form": ("mcpServer/elicitation/request", FORM),
    "tool-call": ("mcpServer/elicitation/request", TOOL_CALL),
    "link": ("mcpServer/elicitation/request", LINK),
}
"""What else than a command and a file change may wait for a human."""


@contextlib.asynccontextmanager
async def client(proxy: Proxy, name: str, version: str) -> AsyncIterator[WebsocketClient]:
    """A client by this name."""
    async with proxy.client(initialize=False) as found:
        await found.initialize(experimental=True, name=name, version=version)
        yield found


async def done(watched: WebsocketClient, text: str, decision: str = "accept") -> str:
    """A turn from its begin to its end; returns its thread."""
    thread = await watched.thread()
    await watched.turn(thread, text)
    await answered(watched, decision)
    return thread


async def answered(watched: WebsocketClient, decision: str = "accept") -> None:
    """See a turn to its end, and answer what it asks."""
    while True:
        message = await watched.wait(
            lambda each: (
                each.get("method") == "turn/completed" or ("method" in each and "id" in each)
            )
        )
        if message["method"] == "turn/completed":
            return
        await watched.send({"id": message["id"], "result": {"decision": decision}})


def asks(method: str, params: Json) -> str:
    """The text of a turn of the fake core that asks this."""
    return f"ask {method} {json.dumps(params)}"


Shoot = Callable[[Watched, str], Awaitable[None]]
Screen = Callable[[Shoot], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def served(*options: str, env: dict[str, str] | None = None) -> AsyncIterator[Proxy]:
    """A proxy whose commands see no login profile of this machine."""
    with tempfile.TemporaryDirectory() as home:
        async with trace_proxy(*JAEGER, *options, env={"HOME": home, **(env or {})}) as proxy:
            yield proxy


async def empty(shoot: Shoot) -> None:
    """Nobody is there, nothing has been."""
    async with served() as proxy, console(proxy.http_url) as watched:
        await shoot(watched, "")


@contextlib.asynccontextmanager
async def crowd(proxy: Proxy) -> AsyncIterator[tuple[str, str]]:
    """Three clients with turns of every kind.

    Gives a thread in which a command waits to be approved, and one that streams.
    """
    async with (
        client(proxy, "codex-tui", "0.171.0") as tui,
        client(proxy, "vscode", "1.96.2") as ide,
        client(proxy, "ci-bot", "3.2") as bot,
    ):
        await done(bot, "/run sleep 0.6; echo 214 passed")
        await done(ide, "/think about the error first")
        await done(bot, "/fail on purpose")
        await done(tui, "/write notes/plan.md # The plan", "decline")
        await done(ide, "Where is the retry limit set?")
        streaming = await tui.thread()
        await tui.turn(streaming, "/slow 120")
        running = await bot.thread()
        await bot.turn(running, "/run sleep 90")
        asked = await bot.wait(lambda each: "method" in each and "id" in each)
        await bot.send({"id": asked["id"], "result": {"decision": "accept"}})
        patched = await ide.thread()
        await ide.turn(patched, "/write src/retry.py LIMIT = 5")
        waiting = await tui.thread()
        await done_in(tui, waiting, "/run git status --short; echo ' M src/retry.py'")
        await tui.turn(waiting, "/run git push origin main")
        await tui.wait(lambda each: "method" in each and "id" in each)
        yield waiting, streaming


async def done_in(watched: WebsocketClient, thread: str, text: str) -> None:
    """A turn in a thread that there is."""
    await watched.turn(thread, text)
    await answered(watched)


async def busy(shoot: Shoot) -> None:
    """Approvals wait, turns run and have run, a thread is joined."""
    async with (
        served() as proxy,
        console(proxy.http_url) as watched,
        crowd(proxy) as (waiting, streaming),
    ):
        await expect(watched.region("Needs you").locator(".row")).to_have_count(2)
        await shoot(watched, "overview")
        await watched.join(waiting)
        await watched.button("Accept").wait_for(timeout=WAIT_MS)
        await shoot(watched, "joined")
        await watched.join(streaming)
        await expect(watched.region("Thread")).to_contain_text("tick")
        await shoot(watched, "streaming")
        await watched.region("Wire").get_by_role("button", name="Pause").click()
        await watched.region("Recent turns").get_by_label("Status").select_option("failed")
        await shoot(watched, "filtered")


async def thread(shoot: Shoot) -> None:
    """What a thread may hold."""
    async with served() as proxy, console(proxy.http_url) as watched:
        await watched.new_thread()
        await shoot(watched, "new")
        await watched.send("hello there, with a line that is long enough to be wrapped somewhere")
        await completed(watched, 1)
        await watched.send("/think about markup & <b>tags</b>")
        await completed(watched, 2)
        await watched.send("/fail because the model is not there")
        await completed(watched, 3)
        await shoot(watched, "failed")
        await watched.send("/slow 60")
        await expect(watched.region("Thread")).to_contain_text("tick")
        await watched.button("Stop").click()
        await completed(watched, 4)
        await shoot(watched, "interrupted")
        await watched.send("/write src/deeply/nested/module.py def answer(): return 42")
        await watched.button("Accept").wait_for(timeout=WAIT_MS)
        await shoot(watched, "file-approval")
        await watched.button("Accept").click()
        await completed(watched, 5)
        await shoot(watched, "diff")
        await watched.send(LONG_OUTPUT)
        await watched.button("Accept").wait_for(timeout=WAIT_MS)
        await shoot(watched, "command-approval")
        await watched.button("Accept").click()
        await completed(watched, 6)
        await shoot(watched, "long-output")
        for number in range(7, 27):
            await watched.send(f"message number {number}")
            await completed(watched, number)
        await shoot(watched, "many")


async def completed(watched: Watched, count: int) -> None:
    """Wait until so many turns have ended."""
    rows = watched.region("Recent turns").locator(".row")
    await expect(rows).to_have_count(count)


async def questions(shoot: Shoot) -> None:
    """What else may wait for a human."""
    async with (
        trace_proxy(*JAEGER, core=fake_core("fake")) as proxy,
        client(proxy, "codex-tui", "0.171.0") as tui,
        console(proxy.http_url) as watched,
    ):
        threads = {}
        for name, (method, params) in QUESTIONED.items():
            thread = threads[name] = await tui.thread()
            await tui.turn(thread, asks(method, params))
        for name, thread in threads.items():
            await watched.join(thread)
            await watched.page.locator(".approval .primary").wait_for(timeout=WAIT_MS)
            await shoot(watched, name)


async def ending(shoot: Shoot) -> None:
    """The proxy drains, and is gone."""
    async with (
        served("--drain-timeout", "60") as proxy,
        console(proxy.http_url) as watched,
    ):
        await watched.new_thread()
        await watched.send("/run echo answered")
        await watched.button("Accept").wait_for(timeout=WAIT_MS)
        proxy.signal(signal.SIGTERM)
        await expect(watched.page.get_by_role("status").first).to_contain_text("draining")
        await shoot(watched, "draining")
        await watched.button("Accept").click()
        await proxy.exit_code()
        await watched.page.get_by_role("alert").wait_for(timeout=WAIT_MS)
        await shoot(watched, "lost")


async def token(shoot: Shoot) -> None:
    """Who comes has to say who it is."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "token"
        file.write_text("a-token-that-nobody-guesses")
        file.chmod(0o600)
        options = ("--ws-auth", "capability-token", "--ws-token-file", str(file))
        async with (
            trace_proxy(*options) as proxy,
            console(f"{proxy.http_url}/#token=a-token-that-nobody-guesses") as watched,
        ):
            await watched.page.evaluate("sessionStorage.clear()")
            await watched.page.reload()
            await watched.page.get_by_role("textbox", name="Token").wait_for(timeout=WAIT_MS)
            await shoot(watched, "")


SCREENS: dict[str, Screen] = {
    each.__name__: each for each in (empty, busy, thread, questions, ending, token)
}


def into(directory: Path, screen: str) -> Shoot:
    """Takes the pictures of a screen."""

    async def shoot(watched: Watched, what: str) -> None:
        page = watched.page
        name = f"{screen}-{what}" if what else screen
        for width, height in SIZES:
            await page.set_viewport_size({"width": width, "height": height})
            for scheme in SCHEMES:
                await page.emulate_media(color_scheme=scheme)
                await settled(page)
                path = directory / f"{name}-{scheme}-{width}.png"
                await page.screenshot(path=path, full_page=width < SIZES[0][0])
        await page.set_viewport_size({"width": SIZES[0][0], "height": SIZES[0][1]})

    return shoot


async def settled(page: Page) -> None:
    """Two frames later: what was asked for has been painted."""
    frames = "new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))"
    await page.evaluate(frames)
    await page.wait_for_timeout(300)  # a transition's length


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("screens", nargs="*", metavar="SCREEN", help=", ".join(SCREENS))
    asked = parser.parse_args()
    directory: Path = asked.directory
    directory.mkdir(parents=True, exist_ok=True)
    for name in asked.screens or SCREENS:
        asyncio.run(SCREENS[name](into(directory, name)))


if __name__ == "__main__":
    main()
