"""A real browser on the console page: Debian's Chromium, driven by playwright.

Whatever a test does, the page must have no error, no breach of its policy and no request
to another origin: `console` looks at that when it ends.
"""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import (
    Browser,
    Locator,
    Page,
    TimeoutError,  # noqa: A004
    async_playwright,
    expect,
)

REQUIRE = "TRACE_PROXY_REQUIRE_BROWSER"

WAIT_MS = 45_000
"""Nothing here takes so long; other work on the machine may."""

expect.set_options(timeout=WAIT_MS)

_NOT_OURS = ("net::ERR_", "Failed to load resource", "WebSocket connection to")
"""What Chromium says by itself when a proxy is stopped under the page."""


@dataclass(slots=True)
class Watched:
    """The page of a proxy, and what it did wrong.

    Attributes:
        page: The tab.
        requests: Every URL that it asked for.
        faults: Errors, breaches of its policy, requests to elsewhere.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def region(self, name: str) -> Locator:
        """A part of the page by its heading."""
        return self.page.get_by_role("region", name=name, exact=True)

    def button(self, name: str) -> Locator:
        """A button of the thread pane."""
        return self.region("Thread").get_by_role("button", name=name, exact=True)

    async def says(self, region: str, text: str) -> None:
        """Wait until a row or message of a part of the page shows a text."""
        row = self.region(region).locator(".row, .item, .note").filter(has_text=text)
        await row.first.wait_for(timeout=WAIT_MS)

    async def send(self, text: str) -> None:
        """Type into the composer and send it."""
        await self.page.get_by_label("Message", exact=True).fill(text)
        await self.button("Send").click()

    async def new_thread(self) -> str:
        """Begin a thread; returns its id."""
        await self.button("New thread").click()
        await self.button("Leave").wait_for(timeout=WAIT_MS)
        thread = await self.region("Thread").get_attribute("data-thread")
        assert thread
        return thread

    async def join(self, thread: str) -> None:
        """Join a thread from wherever it is listed."""
        row = self.page.locator(f'[data-thread="{thread}"]')
        await row.get_by_role("button", name="Join", exact=True).first.click(timeout=WAIT_MS)


def executable() -> str:
    """Where Chromium is; skips where there is none, unless it is required."""
    found = shutil.which("chromium")
    if found is None and os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, and there is no chromium on PATH", pytrace=False)
    if found is None:
        pytest.skip("there is no chromium on PATH")
    return found


@contextlib.asynccontextmanager
async def chromium(runner: str | None = None) -> AsyncIterator[Browser]:
    """A browser of its own, started by another program if need be."""
    path = runner or executable()
    arguments = ["--no-sandbox", "--enable-precise-memory-info", "--js-flags=--expose-gc"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def console(url: str, runner: str | None = None, **options: Any) -> AsyncIterator[Watched]:
    """The page of the proxy at `url`, once it shows the overview.

    Args:
        url: As `http://HOST:PORT`, with a fragment if need be.
        runner: A program that starts the browser with the arguments it is given.
        options: Of the browser's context: viewport, color_scheme, reduced_motion, …

    Raises:
        AssertionError: when it ends and the page did something wrong.
    """
    async with chromium(runner) as browser:
        context = await browser.new_context(**options)
        page = await context.new_page()
        watched = Watched(page)
        watch(watched, url)
        await page.goto(url)
        await _shown(watched)
        yield watched
        await page.close()
    assert watched.faults == []


async def _shown(watched: Watched) -> None:
    try:
        await watched.region("Needs you").wait_for(timeout=WAIT_MS)
    except TimeoutError as error:
        text = await watched.page.locator("body").inner_text()
        error.add_note(f"asked for {watched.requests}, faults {watched.faults}, shows {text!r}")
        raise


async def hide(page: Page, *, hidden: bool) -> None:
    """Tell the page that its tab is hidden, or in front."""
    script = """(hidden) => {
        Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    await page.evaluate(script, hidden)


def watch(watched: Watched, url: str) -> None:
    """Note what the page asks for, and what goes wrong in it."""
    origin = urlsplit(url).netloc

    def asked(address: str) -> None:
        watched.requests.append(address)
        if urlsplit(address).netloc != origin:
            watched.faults.append(f"request to {address}")

    def said(kind: str, text: str) -> None:
        if kind in {"error", "warning"} and not any(each in text for each in _NOT_OURS):
            watched.faults.append(f"{kind}: {text}")

    page = watched.page
    page.on("request", lambda request: asked(request.url))
    page.on("websocket", lambda socket: asked(socket.url))
    page.on("console", lambda message: said(message.type, message.text))
    page.on("pageerror", lambda error: watched.faults.append(f"error: {error}"))
