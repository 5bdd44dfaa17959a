"""The console over HTTP: who gets it, under which rules, and what its stream says."""

import asyncio
import contextlib
import gzip
import hashlib
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.clients import Json
from tests.e2e.proxy import Proxy, trace_proxy
from trace_proxy.runtime.clients import console

HERE = Path(console.__file__).parents[2] / "console"

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
CANARY = "CANARY"


class Stream:
    """The events of `/console/events`, as a page reads them."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self.raw = b""

    async def next(self, timeout_s: float = 15) -> tuple[str, Json]:
        """The next event: its name and data."""
        async with asyncio.timeout(timeout_s):
            event = await self._content.readuntil(b"\n\n")
        self.raw += event
        name, data = event.decode().split("\n", 1)
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def until(self, section: str, text: str) -> Json:
        """The first change of a section that has this text."""
        while True:
            _, data = await self.next()
            if text in json.dumps(data.get("sections", {}).get(section, "")):
                return data


@contextlib.asynccontextmanager
async def stream(proxy: Proxy, query: str = "") -> AsyncIterator[Stream]:
    url = f"{proxy.http_url}/console/events{query}"
    async with (
        aiohttp.ClientSession(read_bufsize=2**20) as session,
        session.get(url) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        yield Stream(response.content)


async def ask(
    proxy: Proxy, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, Mapping[str, str]]:
    """One request, its answer as it came over the wire."""
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(method, proxy.http_url + path, headers=headers) as response,
    ):
        return response.status, await response.read(), response.headers


async def test_every_file_is_served_under_the_policy_and_only_if_it_has_changed() -> None:
    async with trace_proxy() as proxy:
        status, page, _ = await ask(proxy, "/", **{"Accept-Encoding": "identity"})
        named = re.findall(r'(?:src|href)="([^"]+)"', page.decode())
        assert status == 200
        assert len(named) >= 8
        for path in ["/", *(f"/{name}" for name in named)]:
            status, body, headers = await ask(proxy, path, **{"Accept-Encoding": "identity"})
            assert (status, headers["Content-Security-Policy"]) == (200, CSP), path
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            _, zipped, _ = await ask(proxy, path, **{"Accept-Encoding": "gzip"})
            assert gzip.decompress(zipped) == body
            again = await ask(proxy, path, **{"If-None-Match": headers["ETag"]})
            assert again[:2] == (304, b"")
            assert (await ask(proxy, path, "HEAD"))[:2] == (200, b"")


async def test_all_that_the_page_imports_is_served() -> None:
    async with trace_proxy() as proxy:
        for file in HERE.glob("*.js"):
            for name in re.findall(r'(?:from |import\()"\./([^"]+)"', file.read_text()):
                assert (await ask(proxy, f"/console/{name}"))[0] == 200


REFUSED: list[tuple[str, str, dict[str, str], int]] = [
    ("/", "GET", {"Host": "evil.example"}, 421),
    ("/console/app.js", "GET", {"Host": "evil.example"}, 421),
    ("/console/events", "GET", {"Host": "evil.example"}, 421),
    ("/", "GET", {"Origin": "http://evil.example"}, 403),
    ("/console/events", "GET", {"Origin": "http://evil.example"}, 403),
    ("/console/events", "GET", {"Origin": "null"}, 403),
    ("/", "POST", {}, 405),
    ("/console/events", "POST", {}, 405),
    ("/console", "GET", {}, 404),
    ("/console/", "GET", {}, 404),
    ("/console/../console.py", "GET", {}, 404),
    ("/console/vendor/VENDORED.md", "GET", {}, 404),
]


async def test_who_may_not_have_it() -> None:
    async with trace_proxy() as proxy:
        for path, method, headers, status in REFUSED:
            got = (await ask(proxy, path, method, **headers))[0]
            assert got == status, (path, method, headers)


async def test_off_is_404_and_the_websocket_is_there() -> None:
    async with trace_proxy("--console", "off") as proxy, proxy.client() as client:
        for path in ("/", "/console/app.js", "/console/events"):
            assert (await ask(proxy, path))[0] == 404
        await client.request("model/list", {})


async def test_a_snapshot_then_what_changes_until_the_turn_is_recent() -> None:
    async with (
        trace_proxy("--jaeger-url", "http://jaeger.example") as proxy,
        proxy.client() as client,
        stream(proxy) as events,
    ):
        name, first = await events.next()
        assert name == "snapshot"
        assert abs(first["nowMs"] - time.time() * 1000) < 60_000
        top = first["top"]
        assert (top["state"], top["clients"], top["turns"]) == ("serving", 1, 0)
        assert top["cores"] == [{"id": 0, "state": "ready", "restarts": 0}]
        assert top["collector"] == {"kind": "none", "state": "none", "dropped": 0}
        assert (top["jaegerUrl"], top["coreService"]) == ("http://jaeger.example", "core-server")
        assert first["sections"]["clients"]["0"]["name"] == "e2e"
        thread = await client.thread()
        turn = await client.turn(thread, "/slow 1")
        live = await events.until("live", turn)
        assert live["sections"]["live"]["set"][turn]["thread"] == thread
        recent = await events.until("recent", turn)
        row = recent["sections"]["recent"]["set"][turn]
        assert (row["status"], row["client"]) == ("completed", "e2e")
        assert sum(row["split"]) >= 900
        assert "wire" not in recent


async def test_at_most_four_events_a_second_whatever_happens() -> None:
    async with (
        trace_proxy() as proxy,
        proxy.client() as client,
        stream(proxy, "?wire=1") as events,
    ):
        await events.next()
        await client.turn(await client.thread(), "/tokens 20000")
        began, came = time.monotonic(), 0
        while time.monotonic() - began < 3:
            await events.next()
            came += 1
        took_s = time.monotonic() - began
        assert 1 <= came <= 4 * took_s + 1
        assert b"item/agentMessage/delta" in events.raw
        assert b'"skipped":' in events.raw


async def test_it_says_something_every_five_seconds_when_nothing_happens() -> None:
    async with trace_proxy() as proxy, stream(proxy) as events:
        await events.next()
        began = time.monotonic()
        name, data = await events.next()
        assert (name, set(data)) == ("change", {"nowMs"})
        assert time.monotonic() - began > 4


async def test_watchers_are_counted_and_let_go() -> None:
    async with trace_proxy() as proxy, contextlib.AsyncExitStack() as open_streams:
        for _ in range(console.MAX_STREAMS):
            await open_streams.enter_async_context(stream(proxy))
        status, _, headers = await ask(proxy, "/console/events")
        assert (status, headers["Retry-After"]) == (503, "3")
        await open_streams.aclose()
        async with asyncio.timeout(15):
            while (await ask(proxy, "/console/events", "HEAD"))[0] == 503:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)


async def test_it_is_no_client_and_no_work_and_ends_with_the_listener() -> None:
    async with trace_proxy() as proxy, stream(proxy, "?wire=1") as events:
        await events.next()
        _, ready, _ = await ask(proxy, "/readyz")
        assert json.loads(ready)["connections"] == 0
        began = time.monotonic()
        proxy.signal(signal.SIGTERM)
        assert await proxy.exit_code() == 0
        assert time.monotonic() - began < 5
        with pytest.raises((aiohttp.ClientError, asyncio.IncompleteReadError)):
            await events.until("needs", "what never comes")


async def test_a_watcher_that_does_not_read_holds_nobody_up() -> None:
    async with trace_proxy() as proxy, proxy.client() as client:
        host, port = proxy.http_url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(
            f"GET /console/events?wire=1 HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        )
        for _ in range(3):
            await client.turn(await client.thread(), "/tokens 20000")
            await client.wait_for("turn/completed")
        proxy.signal(signal.SIGTERM)
        await client.closed()
        assert await proxy.exit_code() == 0
        writer.close()


async def test_whose_large_messages_wait_is_shown_as_paced() -> None:
    async with (
        trace_proxy() as proxy,
        proxy.client(),
        proxy.client() as sender,
        stream(proxy) as events,
    ):
        for _ in range(4):  # the first is what may come at once
            await sender.begin("model/list", {"cursor": "x" * 1_500_000})
        changed = await events.until("clients", '"paced"')
    states = [row["state"] for row in changed["sections"]["clients"]["set"].values()]
    assert states == ["paced"]


async def test_no_event_holds_what_was_said_or_where() -> None:
    env = {"A_SECRET": f"{CANARY}-environment"}
    async with (
        trace_proxy(env=env) as proxy,
        proxy.client(headers={"User-Agent": f"{CANARY}-agent"}) as client,
        stream(proxy, "?wire=1") as events,
    ):
        thread = await client.thread()
        for text in (f"{CANARY}-prompt", f"/think {CANARY}-thought", f"/fail {CANARY}-failure"):
            await client.turn(thread, text)
            await client.wait_for("turn/completed")
        await client.error("turn/start", {"threadId": f"{CANARY}-thread", "input": []})
        turn = await client.turn(thread, f"/run echo {CANARY}-output > {CANARY}-path")
        asked = await client.wait(lambda each: "method" in each and "id" in each)
        await events.until("needs", turn)
        await client.send({"id": asked["id"], "result": {"decision": "accept"}})
        await events.until("recent", turn)
        assert CANARY.encode() not in events.raw
        assert str(proxy.directory).encode() not in events.raw
        assert b"core_server" not in events.raw


def test_what_others_wrote_is_unmodified_and_has_its_licence() -> None:
    table = (HERE / "vendor/VENDORED.md").read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", table, re.MULTILINE))
    there = {path.name for path in (HERE / "vendor").iterdir()} - {"VENDORED.md"}
    assert set(rows) == there
    for name, digest in rows.items():
        assert hashlib.sha256((HERE / "vendor" / name).read_bytes()).hexdigest() == digest


def test_the_page_makes_no_html_of_text_and_keeps_nothing() -> None:
    code = "".join(path.read_text() for path in HERE.glob("*.js"))
    for word in (
        "innerHTML",
        "outerHTML",
        "dangerouslySet",
        "localStorage",
        "eval(",
        "document.write",
    ):
        assert word not in code
    assert re.findall(r"https?://", code) == []
