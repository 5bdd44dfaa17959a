"""The console page in a real browser, against real proxies."""

import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from playwright.async_api import Request, expect

from tests.browser.chromium import WAIT_MS, console, hide
from tests.collector import CollectedSpan
from tests.e2e.clients import WebsocketClient
from tests.e2e.proxy import trace_proxy
from tests.jaeger.jaeger import Jaeger

CANARY = "CANARY"


def free_port() -> int:
    """A port that a restarted proxy can have again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def turn_and_request(spans: Sequence[CollectedSpan]) -> bool:
    """Whether a trace has both."""
    return {"turn/start", "invoke_agent"} <= {span.name.split()[0] for span in spans}


async def asked(client: WebsocketClient) -> dict[str, object]:
    """The next question that a core puts to a client."""
    return await client.wait(lambda each: "method" in each and "id" in each)


async def test_one_types_it_streams_and_the_link_leads_to_a_trace_that_jaeger_has(
    jaeger: Jaeger,
) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_url}
    async with (
        trace_proxy("--jaeger-url", jaeger.query_url, env=env) as proxy,
        console(proxy.http_url) as watched,
    ):
        thread = await watched.new_thread()
        await watched.send("/slow 3")
        live = watched.region("Live turns").locator(f'[data-thread="{thread}"]')
        await expect(live).to_contain_text("thinking")
        await expect(live).to_contain_text("trace appears when it ends")
        await expect(watched.region("Thread")).to_contain_text("tick")
        row = watched.region("Recent turns").locator(f'[data-thread="{thread}"]')
        await expect(row).to_contain_text("completed")
        link = row.get_by_role("link", name="Trace", exact=True)
        # Not the new page's address: Jaeger may be away for a moment, and Chromium then shows an
        # error page in place of what it was about to load.
        context = watched.page.context
        async with context.expect_event("request", Request.is_navigation_request) as opening:
            await link.click()
        opened = (await opening.value).url
        trace_id = opened.rpartition("/")[2]
        assert opened == f"{jaeger.query_url}/trace/{trace_id}"
        spans = await jaeger.trace(trace_id, until=turn_and_request)
        assert {span.trace_id for span in spans} == {trace_id}
        conversation = row.get_by_role("link", name="all", exact=True)
        assert thread in (await conversation.get_attribute("href") or "")


async def test_an_answer_in_the_page_resolves_it_for_the_other_client() -> None:
    async with (
        trace_proxy() as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        thread = await client.thread()
        await client.turn(thread, "/run touch approved")
        question = await asked(client)
        await expect(watched.page).to_have_title("(1) trace-proxy")
        await watched.says("Needs you", "Run a command")
        await watched.join(thread)
        approval = watched.region("Thread").get_by_role("group", name="Run this command?")
        await expect(approval).to_contain_text("touch approved")
        await expect(approval).to_contain_text(f"{proxy.directory}/workspace")
        await approval.get_by_role("button", name="Accept", exact=True).click()
        resolved = await client.wait_for("serverRequest/resolved")
        assert resolved["params"]["requestId"] == question["id"]
        await client.wait_for("turn/completed")
        assert (proxy.directory / "workspace/approved").exists()
        await expect(watched.page).to_have_title("trace-proxy")
        await expect(approval).to_have_count(0)


async def test_when_another_client_answers_first_the_page_says_so() -> None:
    async with (
        trace_proxy() as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        thread = await client.thread()
        await client.turn(thread, "/run echo once; sleep 2")
        question = await asked(client)
        await watched.join(thread)
        approval = watched.region("Thread").get_by_role("group", name="Run this command?")
        await approval.get_by_role("button", name="Accept", exact=True).wait_for(timeout=WAIT_MS)
        await client.send({"id": question["id"], "result": {"decision": "accept"}})
        await expect(approval).to_contain_text("Another client answered first.")
        await expect(approval.get_by_role("button", name="Accept", exact=True)).to_have_count(0)


async def test_a_whole_diff_is_on_screen_before_one_may_accept_and_nothing_has_the_focus() -> None:
    async with trace_proxy() as proxy, console(proxy.http_url) as watched:
        await watched.new_thread()
        await watched.send("/write new/file.txt first words")
        approval = watched.region("Thread").get_by_role("group", name="Change these files?")
        await expect(approval).to_contain_text("new/file.txt")
        await expect(approval).to_contain_text("+first words")
        focused = "document.activeElement.closest('.approval')"
        assert await watched.page.evaluate(focused) is None
        await approval.get_by_role("button", name="Decline", exact=True).click()
        await watched.says("Recent turns", "completed")
        assert list((proxy.directory / "workspace").iterdir()) == []


async def test_how_a_turn_failed_stays_in_its_thread() -> None:
    async with trace_proxy() as proxy, console(proxy.http_url) as watched:
        thread = await watched.new_thread()
        await watched.send("/fail for a reason")
        await watched.says("Thread", "Failed: for a reason")
        await watched.send("and on")
        await watched.says("Thread", "Failed: for a reason")
        await watched.button("Leave").click()
        await watched.join(thread)
        await watched.says("Thread", "Failed: for a reason")


async def test_recent_turns_are_filtered_by_client_and_by_status() -> None:
    async with (
        trace_proxy() as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        await client.turn(await client.thread(), "/fail on purpose")
        await watched.new_thread()
        await watched.send("hello")
        recent = watched.region("Recent turns")
        rows = recent.locator(".row")
        await expect(rows).to_have_count(2)
        await recent.get_by_label("Status").select_option("failed")
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text("failed")
        await recent.get_by_label("Client").select_option("console")
        await expect(recent).to_contain_text("No recent turn fits the filter.")
        await recent.get_by_label("Status").select_option("")
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text("completed")


async def test_who_has_scrolled_up_reads_on_and_who_has_not_sees_the_end() -> None:
    async with trace_proxy() as proxy, console(proxy.http_url) as watched:
        await watched.new_thread()
        await watched.send("/tokens 900")
        await expect(watched.region("Recent turns").locator(".row")).to_have_count(
            1, timeout=WAIT_MS
        )
        log = watched.region("Thread").get_by_role("log")
        measured = """(log) => [log.scrollHeight > 2 * log.clientHeight, -log.scrollTop,
            log.querySelector('.item').getBoundingClientRect().y]"""
        assert (await log.evaluate(measured))[:2] == [True, 0]
        await log.evaluate("(log) => { log.scrollTop = -200; }")
        _, _, before = await log.evaluate(measured)
        await watched.send("/tokens 900")
        await expect(watched.region("Recent turns").locator(".row")).to_have_count(
            2, timeout=WAIT_MS
        )
        _, behind, after = await log.evaluate(measured)
        assert behind > 400
        assert abs(after - before) < 2


async def test_all_of_a_paused_wire_is_there() -> None:
    async with (
        trace_proxy() as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        wire = watched.region("Wire")
        shown = wire.locator("[data-connection]")
        await client.request("model/list", {})
        while int(await wire.locator(".count").inner_text()) < 60:  # of what has come to the page
            await client.request("model/list", {})
        await expect(shown).to_have_count(24)
        await expect(wire).to_contain_text("Pause shows all")
        await wire.get_by_role("button", name="Pause").click()
        await expect(shown).not_to_have_count(24)


async def test_a_drain_counts_down_and_takes_no_new_work_but_answers() -> None:
    async with (
        trace_proxy("--drain-timeout", "60") as proxy,
        console(proxy.http_url) as watched,
    ):
        await watched.new_thread()
        await watched.send("/run echo answered")
        accept = watched.button("Accept")
        await accept.wait_for(timeout=WAIT_MS)
        proxy.signal(signal.SIGTERM)
        bar = watched.page.get_by_role("status").first
        await expect(bar).to_have_text(
            re.compile(r"draining: 1 turn left, 5\d s left"), timeout=WAIT_MS
        )
        await expect(watched.page.get_by_label("Message", exact=True)).to_be_disabled()
        await expect(watched.button("New thread")).to_be_disabled()
        await accept.click()
        await watched.says("Thread", "exit 0")
        assert await proxy.exit_code() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_after_a_restart_the_page_is_back_by_itself_and_its_thread_too(
    how: signal.Signals, tmp_path: Path
) -> None:
    listen = f"ws://127.0.0.1:{free_port()}"
    async with (
        trace_proxy(listen=listen, directory=tmp_path) as first,
        console(first.http_url) as watched,
    ):
        thread = await watched.new_thread()
        await watched.send("before the restart")
        await watched.says("Recent turns", "completed")
        first.signal(how)
        await first.exit_code()
        lost = watched.page.get_by_role("alert")
        await expect(lost).to_contain_text("comes back by itself")
        async with trace_proxy(listen=listen, directory=tmp_path):
            await expect(lost).to_have_count(0)
            await expect(watched.button("Leave")).to_be_visible()
            await expect(watched.page.get_by_label("Message", exact=True)).to_be_enabled(
                timeout=WAIT_MS
            )
            assert await watched.region("Thread").get_attribute("data-thread") == thread
            await watched.send("after it")
            row = watched.region("Recent turns").locator(f'[data-thread="{thread}"]')
            await expect(row).to_contain_text("completed")
            for said in ("before the restart", "after it"):
                await watched.says("Thread", said)


async def test_the_crash_of_a_core_is_shown_and_its_turn_as_interrupted() -> None:
    async with trace_proxy() as proxy, console(proxy.http_url) as watched:
        await watched.new_thread()
        await watched.send("/slow 60")
        await watched.says("Live turns", "thinking")
        os.kill(proxy.core_pid(), signal.SIGKILL)
        await expect(watched.page.get_by_text("core 0 ready, 1 restart")).to_be_visible(
            timeout=WAIT_MS
        )
        row = watched.region("Recent turns").locator("[data-turn]")
        await expect(row).to_contain_text("interrupted")
        await expect(row).to_contain_text("core_lost")


async def test_markup_from_a_model_stays_text() -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    async with trace_proxy() as proxy, console(proxy.http_url) as watched:
        await watched.new_thread()
        await watched.send(evil)
        await watched.says("Recent turns", "completed")
        answer = watched.region("Thread").locator(".text")
        await expect(answer).to_contain_text("<img src=x onerror=")
        assert await watched.region("Thread").locator("img, script").count() == 0
        assert await watched.page.title() == "trace-proxy"


async def test_nothing_that_was_said_is_in_the_overview() -> None:
    core = ["sh", "-c", f'exec "$0" -m core_server #{CANARY}-argv', sys.executable]
    env = {"A_SECRET": f"{CANARY}-environment"}
    async with (
        trace_proxy(core=core, env=env) as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        thread = await client.thread()
        for text in (
            f"a prompt with {CANARY}-prompt",
            f"/think {CANARY}-thought",
            f"/fail {CANARY}-failure",
        ):
            await client.turn(thread, text)
            await client.wait_for("turn/completed")
        await client.turn(thread, f"/write {CANARY}-path.txt {CANARY}-content")
        await asked(client)
        await watched.says("Needs you", "Change files")
        await expect(watched.region("Recent turns").locator("[data-turn]")).to_have_count(3)
        await watched.says("Wire", "item/fileChange/requestApproval")
        assert CANARY not in await watched.page.content()
        kept = "JSON.stringify([{...localStorage}, {...sessionStorage}])"
        assert await watched.page.evaluate(kept) == "[{},{}]"


async def test_a_hidden_tab_asks_for_nothing() -> None:
    async with trace_proxy() as proxy, console(proxy.http_url) as watched:
        streams = [url for url in watched.requests if "/console/events" in url]
        assert len(streams) == 1
        async with watched.page.expect_event("requestfailed") as ended:
            await hide(watched.page, hidden=True)
        assert "/console/events" in (await ended.value).url
        async with watched.page.expect_request("**/console/events*"):
            await hide(watched.page, hidden=False)
        await expect(watched.page.get_by_role("status").first).to_have_text("serving")


async def test_the_wire_can_be_filtered_stopped_and_started() -> None:
    async with (
        trace_proxy() as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        wire = watched.region("Wire")
        await client.request("model/list", {})
        await expect(wire.locator("[data-connection]").first).to_be_visible(timeout=WAIT_MS)
        await client.error("no/such/method", {})
        await wire.get_by_label("Filter the wire").fill("no/such")
        await expect(wire.locator("[data-connection]")).to_have_count(1)
        await expect(wire.locator("[data-connection]")).to_contain_text("-32")
        async with watched.page.expect_request("**/console/events?wire=0"):
            await wire.get_by_role("button", name="Pause").click()
        await wire.get_by_label("Filter the wire").fill("thread/start")
        await client.thread()
        await expect(watched.region("Clients")).to_contain_text("e2e")
        async with watched.page.expect_request("**/console/events?wire=1"):
            await wire.get_by_role("button", name="Go").click()
        await expect(wire.locator("[data-connection]")).to_have_count(0)
        await client.thread()
        await expect(wire.locator("[data-connection]")).not_to_have_count(0)


async def test_a_page_that_has_lost_its_rows_says_what_to_do_next() -> None:
    async with trace_proxy() as proxy, console(proxy.http_url) as watched:
        for region, hint in {
            "Needs you": "Nothing waits for a human",
            "Live turns": "New thread",
            "Recent turns": "The last 200 turns stay here",
            "Clients": "Nobody is connected",
            "Wire": "Messages show here",
            "Thread": "Begin a conversation",
        }.items():
            await expect(watched.region(region)).to_contain_text(hint)
