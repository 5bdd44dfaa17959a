"""The two pictures that README opens with: the page at work, and a trace.

    .venv/bin/python -m tests.browser.readme_pictures

makes .pictures/page.webp and .pictures/trace.webp anew. What they show was said by a
scripted model; all else is real. The trace is drawn from what a real Jaeger answers for
its id: `TRACE_PROXY_TEST_JAEGER_QUERY_URL` and `TRACE_PROXY_TEST_JAEGER_OTLP_URL` name it.
"""

import asyncio
import base64
import contextlib
import html
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from playwright.async_api import Page, ViewportSize

from tests.browser.chromium import WAIT_MS, Watched, chromium, console
from tests.browser.pictures import answered, client, settled
from tests.collector import CollectedSpan
from tests.e2e.clients import WebsocketClient, turn_params
from tests.e2e.proxy import Json, Proxy, trace_proxy
from tests.e2e.traces import new_trace_id, traceparent
from tests.jaeger.jaeger import Jaeger
from tests.responses_api import Call, Reasoning, Reply, ResponsesApi, Text

PICTURES: Final = Path(__file__).parents[2] / ".pictures"
WIDE: Final = ViewportSize(width=1280, height=830)
SCALE: Final = 1.5
"""Pixels of a dot: sharp on most screens, and still small."""

APPROVED_AFTER_S: Final = 1.9


def shell(command: str, why: str = "") -> Call:
    """The model wants to run this, confined, or unconfined for a reason."""
    asks = {"escalated": True, "justification": why} if why else {}
    return Call("shell", json.dumps({"command": command, **asks}))


def says(text: str, *, slowly_s: float = 0.0) -> Reply:
    """The model answers."""
    return Reply((Text(text),), delay_s=slowly_s, usage=(1840, 900, 212, 60))


async def turn(who: WebsocketClient, text: str, *, wait: bool = True) -> None:
    """A turn in a thread of its own."""
    thread = await who.thread()
    await who.turn(thread, text)
    if wait:
        await answered(who)


@contextlib.asynccontextmanager
async def served(api: ResponsesApi, jaeger: Jaeger) -> AsyncIterator[Proxy]:
    """A proxy with a model and a collector, in a small project."""
    env = {
        "CORE_SERVER_ENGINE": "openai",
        "CORE_SERVER_MODEL": "gpt-5",
        "OPENAI_BASE_URL": api.url,
        "OPENAI_API_KEY": "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with tempfile.TemporaryDirectory(prefix="project-") as name:
        options = ("--jaeger-url", jaeger.query_url)
        async with trace_proxy(*options, env=env | {"HOME": name}, directory=Path(name)) as proxy:
            yield proxy


@contextlib.asynccontextmanager
async def at_work(proxy: Proxy, api: ResponsesApi) -> AsyncIterator[None]:
    """Three clients with turns of every kind."""
    async with (
        client(proxy, "codex-tui", "0.171.0") as tui,
        client(proxy, "vscode", "1.106.2") as ide,
        client(proxy, "ci-bot", "3.2.0") as bot,
    ):
        api.script(Reply((shell("sleep 0.9; echo 214 passed"),)), says("All 214 tests pass."))
        await turn(bot, "Run the tests.")
        api.script(Reply((Reasoning(("Where is it read?",)), Text("In src/retry.py."))))
        await turn(tui, "Where is the retry limit set?")
        api.script(Reply(status=401, error=("invalid_api_key", "no such key")))
        await turn(bot, "Label the new issues.")
        api.script(Reply((shell("touch notes.md", "May I?"),)), says("Done."))
        await turn(ide, "Begin the notes.")
        api.script(Reply((shell("sleep 120"),)))
        await turn(bot, "Run the soak.", wait=False)
        await bot.wait(
            lambda each: (
                each.get("method") == "item/started"
                and each["params"]["item"]["type"] == "commandExecution"
            )
        )
        api.script(Reply((Text("Reading the log of the last failure first. "),), end="stall"))
        await turn(tui, "Why does the test of retries hang?", wait=False)
        await tui.wait_for("item/agentMessage/delta")
        api.script(Reply((shell("npm install --global pyright", "It is not there."),)))
        await turn(ide, "Check the types.", wait=False)
        await ide.wait(lambda each: "method" in each and "id" in each)
        yield


async def page(watched: Watched, api: ResponsesApi) -> None:
    """A conversation in the page itself, up to an approval."""
    text = Text("The limit is 5 now and its test passes; I will push the branch.")
    push = shell("git push origin retry-limit", "The branch is to be pushed.")
    api.script(Reply((text, push)))
    await watched.new_thread()
    await watched.send("Raise the retry limit to 5, and push it as a branch.")
    await watched.button("Accept").wait_for(timeout=WAIT_MS)


async def traced(proxy: Proxy, api: ResponsesApi, jaeger: Jaeger) -> list[CollectedSpan]:
    """A turn with a command that a human has to approve, as Jaeger has it."""
    api.script(
        Reply((shell("sleep 0.4; echo 214 passed", "It writes to the cache."),), delay_s=0.03),
        says("All 214 tests pass.", slowly_s=0.05),
    )
    trace_id = new_trace_id()
    async with client(proxy, "vscode", "1.106.2") as ide:
        thread = await ide.thread()
        trace: Json = {"traceparent": traceparent(trace_id)}
        await ide.request("turn/start", turn_params(thread, "Run the tests."), trace=trace)
        asked = await ide.wait(lambda each: "method" in each and "id" in each)
        await asyncio.sleep(APPROVED_AFTER_S)
        await ide.send({"id": asked["id"], "result": {"decision": "accept"}})
        await answered(ide)
    whole = {"turn/start", "invoke_agent", "chat", "execute_tool", "approval"}
    return await jaeger.trace(
        trace_id, until=lambda spans: whole <= {span.name.split()[0] for span in spans}
    )


STYLE: Final = """
body { margin:0; font:13px/1.4 system-ui, sans-serif; color:#1b2130; background:#fff }
header { padding:12px 16px; border-bottom:1px solid #e2e5ec }
header b { font-size:15px } header span { color:#5b6478; margin-left:10px }
.row { display:grid; grid-template-columns:380px 1fr; align-items:center; height:30px; border-bottom:1px solid #f0f2f6 }
.name { padding-left:16px; white-space:nowrap; overflow:hidden; text-overflow:ellipsis }
.name i { display:inline-block; width:3px; height:14px; border-radius:2px; margin-right:7px; vertical-align:-2px; background:var(--of) }
.name span { color:#5b6478; margin-left:6px }
.lane { position:relative; height:100%; margin-right:16px; border-left:1px solid #e2e5ec }
.bar { position:absolute; top:8px; height:14px; min-width:2px; border-radius:3px; background:var(--of) }
.bar + span { position:absolute; top:6px; font-size:12px; color:#5b6478; white-space:nowrap }
.axis .lane span { position:absolute; top:6px; font-size:11px; color:#5b6478 }
.trace-proxy { --of:#4d7be8 } .core-server { --of:#2a9d6e } .client { --of:#e08a1e }
"""


def drawn(spans: list[CollectedSpan]) -> str:
    """A trace as a page of its own, much as Jaeger draws it."""
    first_ns = min(span.start_ns for span in spans)
    whole_ns = max(span.end_ns for span in spans) - first_ns
    rows = "".join(_row(span, depth, first_ns, whole_ns) for span, depth in _below("", spans))
    services = len({span.service for span in spans})
    ticks = "".join(
        f'<span style="left:{each * 25}%">{whole_ns * each / 4e9:.1f} s</span>'
        for each in range(4)
    )
    return (
        f"<!doctype html><style>{STYLE}</style><header><b>trace-proxy: turn/start</b>"
        f"<span>{whole_ns / 1e9:.2f} s · {services} services · {len(spans)} spans</span></header>"
        f'<div class="row axis"><span></span><span class="lane">{ticks}</span></div>{rows}'
    )


def _below(
    parent: str, spans: list[CollectedSpan], depth: int = 0
) -> Iterator[tuple[CollectedSpan, int]]:
    """The spans below one, each with how deep it hangs; of none: those whose parent is elsewhere."""
    ids = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda each: each.start_ns):
        if span.parent_span_id == parent or (not parent and span.parent_span_id not in ids):
            yield span, depth
            yield from _below(span.span_id, spans, depth + 1)


def _row(span: CollectedSpan, depth: int, first_ns: int, whole_ns: int) -> str:
    left = 100 * (span.start_ns - first_ns) / whole_ns
    width = 100 * (span.end_ns - span.start_ns) / whole_ns
    ms = (span.end_ns - span.start_ns) / 1e6
    took = f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.0f} ms"
    room = (
        f"left:calc({left + width}% + 6px)"
        if left + width < 85
        else f"right:calc({100 - left}% + 6px)"
    )
    if left + width >= 85 and left < 15:
        room = "right:6px;color:#fff;font-weight:600"
    return (
        f'<div class="row {span.service}"><span class="name" style="padding-left:{16 + 20 * depth}px">'
        f"<i></i><b>{html.escape(span.service)}</b><span>{html.escape(span.name)}</span></span>"
        f'<span class="lane"><span class="bar" style="left:{left}%;width:{width}%"></span>'
        f'<span style="{room}">{took}</span></span></div>'
    )


async def save(shown: Page, name: str, height: float) -> None:
    """What is in the window, small."""
    await settled(shown)
    devtools = await shown.context.new_cdp_session(shown)
    clip = {"x": 0, "y": 0, "width": WIDE["width"], "height": height, "scale": 1}
    options = {"format": "webp", "quality": 82, "clip": clip}
    shot = await devtools.send("Page.captureScreenshot", options)
    (PICTURES / name).write_bytes(base64.b64decode(shot["data"]))


async def make(jaeger: Jaeger) -> None:
    """Both."""
    async with ResponsesApi() as api, served(api, jaeger) as proxy:
        spans = await traced(proxy, api, jaeger)
        async with (
            at_work(proxy, api),
            console(proxy.http_url, viewport=WIDE, device_scale_factor=SCALE) as watched,
        ):
            await page(watched, api)
            await save(watched.page, "page.webp", WIDE["height"])
    async with chromium() as browser:
        tab = await browser.new_page(viewport=WIDE, device_scale_factor=SCALE)
        await tab.set_content(drawn(spans))
        await save(tab, "trace.webp", await tab.evaluate("document.body.scrollHeight"))


if __name__ == "__main__":
    names = ("TRACE_PROXY_TEST_JAEGER_QUERY_URL", "TRACE_PROXY_TEST_JAEGER_OTLP_URL")
    asyncio.run(make(Jaeger(*(os.environ[name].rstrip("/") for name in names))))
