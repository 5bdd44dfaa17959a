"""The page of a proxy that asks who comes."""

from pathlib import Path

from playwright.async_api import expect

from tests.browser.chromium import WAIT_MS, Watched, chromium, console, watch
from tests.e2e.proxy import trace_proxy

TOKEN = "a-token-that-nobody-guesses"


def guarded(directory: Path) -> tuple[str, ...]:
    """The options of a proxy that wants the token."""
    file = directory / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    return ("--ws-auth", "capability-token", "--ws-token-file", str(file))


async def test_the_page_asks_for_the_token_once_and_uses_it_for_both_ways_in(
    tmp_path: Path,
) -> None:
    async with trace_proxy(*guarded(tmp_path)) as proxy, chromium() as browser:
        page = await browser.new_page()
        watched = Watched(page)
        watch(watched, proxy.http_url)
        await page.goto(proxy.http_url)
        field = page.get_by_role("textbox", name="Token")
        await expect(page.get_by_text("This proxy asks who you are.")).to_be_visible(
            timeout=WAIT_MS
        )
        await field.fill("a wrong one")
        await page.get_by_role("button", name="Enter").click()
        await expect(page.get_by_text("That token was refused.")).to_be_visible()
        await field.fill(TOKEN)
        await page.keyboard.press("Enter")
        await watched.region("Needs you").wait_for(timeout=WAIT_MS)
        await watched.new_thread()
        await watched.send("let in")
        await watched.says("Recent turns", "completed")
        await page.reload()
        await watched.region("Needs you").wait_for(timeout=WAIT_MS)
        assert not [url for url in watched.requests if TOKEN in url]
        assert TOKEN not in proxy.stderr
        assert watched.faults == []


async def test_a_refusal_that_comes_before_the_first_frame_is_shown(tmp_path: Path) -> None:
    slow = "window.requestAnimationFrame = (show) => setTimeout(show, 1000, performance.now())"
    async with trace_proxy(*guarded(tmp_path)) as proxy, chromium() as browser:
        page = await browser.new_page()
        await page.add_init_script(slow)
        await page.goto(proxy.http_url)
        asks = page.get_by_text("This proxy asks who you are.")
        await expect(asks).to_be_visible()


async def test_a_token_in_the_address_is_taken_and_erased(tmp_path: Path) -> None:
    async with (
        trace_proxy(*guarded(tmp_path)) as proxy,
        console(f"{proxy.http_url}/#token={TOKEN}") as watched,
    ):
        assert await watched.page.evaluate("location.hash") == ""
        assert await watched.page.evaluate("sessionStorage.token") == TOKEN
        assert await watched.page.evaluate("localStorage.length") == 0


async def test_without_the_token_there_is_the_page_and_nothing_of_what_goes_on(
    tmp_path: Path,
) -> None:
    async with trace_proxy(*guarded(tmp_path)) as proxy:
        assert (await proxy.get("/"))[0] == 200
        assert (await proxy.get("/console/app.js"))[0] == 200
        status, body, _ = await proxy.get("/console/events")
        assert (status, body) == (401, "missing websocket bearer token")
