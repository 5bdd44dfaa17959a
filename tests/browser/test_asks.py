"""Every kind of question that a core may put to a human, answered on the page."""

import json
from typing import Final

import pytest
from playwright.async_api import Page, expect

from tests.browser.chromium import WAIT_MS, Watched, console
from tests.browser.pictures import FORM, LINK, PERMISSIONS, QUESTIONS, TOOL_CALL, asks
from tests.e2e.clients import WebsocketClient, text_of
from tests.e2e.proxy import Json, fake_core, trace_proxy
from trace_proxy.protocol import methods

ELICITATION = "mcpServer/elicitation/request"
COMMAND = {"command": "make install", "cwd": "/src", "kind": "command"}
ALWAYS = {"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["make"]}}
HOST = {"applyNetworkPolicyAmendment": {"network_policy_amendment": {"action": "deny", "host": "x.example"}}}  # fmt: skip
REVIEW = {"command": ["make", "install"], "cwd": "/src", "parsedCmd": []}
PATCH = {"fileChanges": {"/src/a.txt": {"type": "add", "content": "new words"}}}
DENIED = {"decision": {"denied": {"rejection": "declined by a human"}}}
VERIFY = {"serverName": "bank", "mode": "openai/userVerification", "title": "Is it you?", "description": "Pay 5", "challenge": "c"}  # fmt: skip
OTHER_FORM = {"serverName": "x", "mode": "openai/form", "message": "Where?", "requestedSchema": {"properties": {"map": {"type": "geo"}}}}  # fmt: skip
NO_FORM = OTHER_FORM | {"mode": "openaiForm", "requestedSchema": True}

Case = tuple[str, Json, str, str, object]

CASES: Final[list[Case]] = [
    ("item/commandExecution/requestApproval", COMMAND, "make install", "Accept", "accept"),
    (
        "item/commandExecution/requestApproval",
        COMMAND | {"kind": "writeStdin", "availableDecisions": ["acceptForSession", "decline"]},
        "kind: writeStdin",
        "Accept for session",
        "acceptForSession",
    ),
    (
        "item/commandExecution/requestApproval",
        COMMAND | {"availableDecisions": ["accept", ALWAYS, "cancel"]},
        "/src",
        "Always accept make",
        {"decision": ALWAYS},
    ),
    (
        "item/commandExecution/requestApproval",
        {"availableDecisions": [HOST], "networkApprovalContext": {"host": "x.example"}},
        "host: x.example",
        "Always deny x.example",
        {"decision": HOST},
    ),
    ("item/fileChange/requestApproval", {"grantRoot": "/etc"}, "/etc", "Decline", "decline"),
    (
        "item/permissions/requestApproval",
        PERMISSIONS,
        "permissions.network.enabled: true",
        "Accept",
        {"permissions": PERMISSIONS["permissions"], "scope": "turn"},
    ),
    (
        "item/permissions/requestApproval",
        PERMISSIONS,
        "/home/you/.cache/fixtures",
        "Decline",
        {"permissions": {}, "scope": "turn"},
    ),
    ("execCommandApproval", REVIEW, "make\ninstall", "Accept", "approved"),
    ("execCommandApproval", REVIEW, "/src", "Decline", DENIED),
    ("applyPatchApproval", PATCH, "new words", "Cancel turn", "abort"),
    (ELICITATION, FORM, "Which ticket", "Decline", {"action": "decline"}),
    (ELICITATION, FORM, "tickets", "Cancel", {"action": "cancel"}),
    (ELICITATION, TOOL_CALL, "T-42", "Accept", {"action": "accept", "content": {}}),
    (
        ELICITATION,
        TOOL_CALL,
        'run tool "close"?',
        "Accept for session",
        {"action": "accept", "content": {}, "_meta": {"persist": "session"}},
    ),
    (
        ELICITATION,
        TOOL_CALL,
        "tickets",
        "Always accept",
        {"action": "accept", "content": {}, "_meta": {"persist": "always"}},
    ),
    (ELICITATION, LINK, "Opens tracker.example", "Accept", {"action": "accept"}),
    (ELICITATION, VERIFY, "Is it you?", "Decline", {"action": "decline"}),
    (ELICITATION, OTHER_FORM, "no field for map", "Decline", {"action": "decline"}),
    (ELICITATION, NO_FORM, "no field for this form", "Cancel", {"action": "cancel"}),
]
ANSWERED_IN_WORDS = {"item/tool/requestUserInput"}


def decided(client: WebsocketClient) -> list[object]:
    """What the fake core was answered: a decision's word, or the whole result."""
    texts = text_of(client).split("decided ")[1:]
    return [json.loads(each) if each.startswith("{") else each for each in texts]


async def question(watched: Watched, client: WebsocketClient, method: str, params: Json) -> None:
    """Have it asked, and join its thread."""
    thread = await client.thread()
    await client.turn(thread, asks(method, params))
    await watched.join(thread)
    await watched.page.locator(".approval button").first.wait_for(timeout=WAIT_MS)


def test_all_that_a_human_can_be_asked_is_in_the_table() -> None:
    tried = {method for method, *_ in CASES} | ANSWERED_IN_WORDS
    assert tried == methods.SERVER_REQUESTS - methods.OF_PROGRAMS


async def test_each_kind_shows_what_it_is_about_and_its_answers_have_the_right_shape() -> None:
    async with (
        trace_proxy(core=fake_core("fake")) as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        for method, params, shown, button, expected in CASES:
            await question(watched, client, method, params)
            approval = watched.page.locator(".approval")
            await expect(approval).to_contain_text(shown)
            client.received.clear()
            await watched.button(button).click()
            await client.wait_for("turn/completed")
            assert decided(client) == [expected], (method, button)


async def test_what_only_a_program_can_answer_waits_for_no_human() -> None:
    async with (
        trace_proxy(core=fake_core("fake")) as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        thread = await client.thread()
        call = {"tool": "lookup", "callId": "c", "arguments": {"word": "x"}}
        await client.turn(thread, asks("item/tool/call", call))
        asked = await client.wait(lambda each: each.get("method") == "item/tool/call")
        await watched.says("Wire", "item/tool/call")
        await expect(watched.region("Needs you").locator(".row")).to_have_count(0)
        await expect(watched.region("Live turns")).not_to_contain_text("waits for a human")
        await watched.join(thread)
        approval = watched.page.locator(".approval")
        await expect(approval).to_contain_text("another client may")
        await expect(approval.get_by_role("button")).to_have_count(0)
        await client.send({"id": asked["id"], "result": {"contentItems": [], "success": True}})
        await client.wait_for("turn/completed")


async def test_a_form_takes_what_its_schema_allows_and_answers_with_json_of_its_types() -> None:
    async with (
        trace_proxy(core=fake_core("fake")) as proxy,
        proxy.client() as client,
        console(proxy.http_url, timezone_id="UTC") as watched,
    ):
        await question(watched, client, ELICITATION, FORM)
        page = watched.page
        await expect(page.get_by_label("Priority")).to_have_value("3")
        for label, wrong, right in (
            ("Ticket", "", "T-42"),
            ("Ticket", "T4", "T-42"),
            ("Hours", "9", "1.5"),
            ("Priority", "1.5", "2"),
            ("Who is told", "nobody", "you@example.org"),
        ):
            await page.get_by_label(label).press_sequentially("x")  # as somebody types
            await page.get_by_label(label).fill(wrong)
            await watched.button("Accept").click()
            assert await refused(page, label), (label, wrong)
            await page.get_by_label(label).fill(right)
        await page.get_by_label("Due").fill("2026-12-01T08:30")
        await page.get_by_label("Bug").check()
        await watched.button("Accept").click()
        focused = "document.activeElement.name"
        assert await page.evaluate(focused) == "labels"  # one at least
        for label in ("slow", "flaky", "docs"):
            await page.get_by_label(label).check()
        await watched.button("Accept").click()
        await page.get_by_label("docs").uncheck()
        await page.get_by_label("Billed").uncheck()
        assert decided(client) == []
        await watched.button("Accept").click()
        await client.wait_for("turn/completed")
    assert decided(client) == [
        {
            "action": "accept",
            "content": {
                "ticket": "T-42",
                "mail": "you@example.org",
                "due": "2026-12-01T08:30:00.000Z",
                "hours": 1.5,
                "priority": 2,
                "kind": "b",
                "billed": False,
                "labels": ["slow", "flaky"],
            },
        }
    ]


async def refused(page: Page, label: str) -> bool:
    """Whether the browser found fault with a field."""
    invalid: bool = await page.get_by_label(label).evaluate("(field) => !field.checkValidity()")
    return invalid


@pytest.mark.parametrize(
    "url", ["javascript:document.title='owned'", "file:///etc/passwd", "no url"]
)
async def test_a_link_that_is_none_of_the_web_is_text(url: str) -> None:
    async with (
        trace_proxy(core=fake_core("fake")) as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        await question(watched, client, ELICITATION, LINK | {"url": url})
        await expect(watched.page.locator(".approval")).to_contain_text(url)
        assert await watched.page.locator(".approval a").count() == 0


async def test_a_link_is_opened_by_a_click_alone_and_tells_nobody_where_it_stood() -> None:
    async with (
        trace_proxy(core=fake_core("fake")) as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        await question(watched, client, ELICITATION, LINK)
        link = watched.page.locator(".approval").get_by_role("link")
        assert await link.get_attribute("href") == LINK["url"]
        assert await link.get_attribute("target") == "_blank"
        assert await link.get_attribute("rel") == "noreferrer"
        assert len(watched.page.context.pages) == 1


async def test_questions_are_answered_by_choice_in_words_and_by_something_else() -> None:
    async with (
        trace_proxy(core=fake_core("fake")) as proxy,
        proxy.client() as client,
        console(proxy.http_url) as watched,
    ):
        page = watched.page
        for choose, answer in ((True, "PostgreSQL"), (False, "DuckDB")):
            await question(watched, client, "item/tool/requestUserInput", QUESTIONS)
            await page.get_by_label("SQLite").check(timeout=WAIT_MS)
            if choose:
                await page.get_by_label("PostgreSQL").check()
            else:
                await page.get_by_label("Database: your answer").fill(answer)
            await watched.button("Answer").click()
            assert await refused(page, "Name")
            await page.get_by_label("Name").fill("retries")
            client.received.clear()
            await watched.button("Answer").click()
            await client.wait_for("turn/completed")
            assert decided(client) == [
                {"answers": {"database": {"answers": [answer]}, "name": {"answers": ["retries"]}}}
            ]
