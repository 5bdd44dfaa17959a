"""Retries towards a collector: what passes is tried again, within the time for one batch."""

import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from trace_proxy.runtime.telemetry.otlp.client import OtlpClient
from trace_proxy.runtime.telemetry.otlp.settings import Compression, OtlpSettings

SETTINGS = OtlpSettings({"content-type": "application/x-protobuf"})


class Collector:
    """Answers with one status after the other, then with 200."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = []
        self.bodies: list[bytes] = []
        self.encodings: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.asked = asyncio.Event()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.content.read())
        self.encodings.append(request.headers.get("content-encoding", ""))
        self.asked.set()
        self.headers.append(request.headers)
        status, hint = self.answers.pop(0) if self.answers else (200, "")
        name = "location" if 300 <= status < 400 else "retry-after"
        return web.Response(status=status, headers={name: hint} if hint else {})


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/", collector.take)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield collector
    await runner.cleanup()


async def send(collector: Collector, settings: OtlpSettings = SETTINGS) -> str:
    client = OtlpClient(collector.url, settings)
    async with asyncio.timeout(20):
        why = await asyncio.to_thread(client.send, (b"spa", b"ns"))
    client.close()
    return why


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_passes_is_tried_again(collector: Collector, status: int) -> None:
    collector.answers = [(status, "0.01"), (status, "0")]

    assert await send(collector) == ""

    assert collector.bodies == [b"spans"] * 3


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500])
async def test_what_does_not_pass_is_given_up(collector: Collector, status: int) -> None:
    collector.answers = [(status, "0")]

    assert await send(collector) == f"the collector answered {status}"

    assert collector.bodies == [b"spans"]


@pytest.mark.parametrize("status", [301, 307, 308])
async def test_a_redirect_is_followed_once_with_the_body(
    collector: Collector, status: int
) -> None:
    collector.answers = [(status, "/"), (200, ""), (status, ""), (status, "/"), (status, "/")]

    assert await send(collector) == ""
    assert collector.bodies == [b"spans"] * 2
    assert await send(collector) == f"the collector answered {status}", "it says not where"
    assert await send(collector) == f"the collector answered {status}", "and again, twice"
    assert collector.bodies == [b"spans"] * 5


@pytest.mark.parametrize("status", [300, 302, 303, 304])
async def test_any_other_redirect_is_a_failure(collector: Collector, status: int) -> None:
    collector.answers = [(status, "/")]

    assert await send(collector) == f"the collector answered {status}"
    assert collector.bodies == [b"spans"]


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/", "http://[::1", "mailto:a"])
async def test_a_redirect_to_what_is_no_server_is_a_failure(
    collector: Collector, location: str
) -> None:
    collector.answers = [(307, location)]

    assert await send(collector) == "the collector answered 307"


async def test_keys_do_not_go_to_another_host(collector: Collector) -> None:
    collector.answers = [(307, collector.url.replace("127.0.0.1", "localhost")), (200, "")] * 2
    settings = replace(SETTINGS, headers={**SETTINGS.headers, "x-key": "secret"})

    assert await send(collector, settings) == ""

    assert [each.get("x-key") for each in collector.headers] == ["secret", None]
    assert collector.headers[1]["content-type"] == "application/x-protobuf"


async def test_without_a_hint_the_second_try_comes_after_a_second(collector: Collector) -> None:
    collector.answers = [(503, "soon")]
    begun_s = time.monotonic()

    assert await send(collector) == ""

    assert 0.8 <= time.monotonic() - begun_s < 5


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
@pytest.mark.parametrize("later_s", [-60, 60])
async def test_a_date_says_when_to_come_back(
    collector: Collector, later_s: int, zone: str
) -> None:
    when = datetime.now(UTC) + timedelta(seconds=later_s)
    collector.answers = [(503, format_datetime(when).replace("+0000", zone))]

    expected = "" if later_s < 0 else "the collector answered 503"
    assert await send(collector) == expected


async def test_a_next_try_that_would_be_too_late_is_not_waited_for(collector: Collector) -> None:
    collector.answers = [(503, "")]
    begun_s = time.monotonic()

    assert await send(collector, replace(SETTINGS, timeout_s=0.5)) == "the collector answered 503"

    assert time.monotonic() - begun_s < 0.5
    assert len(collector.bodies) == 1


async def test_six_tries_are_enough(collector: Collector) -> None:
    collector.answers = [(503, "0")] * 9

    assert await send(collector) == "the collector answered 503"

    assert len(collector.bodies) == 6


async def test_closing_ends_the_wait_for_the_next_try(collector: Collector) -> None:
    collector.answers = [(503, "9")]
    client = OtlpClient(collector.url, SETTINGS)
    async with asyncio.timeout(5):
        sending = asyncio.get_running_loop().run_in_executor(None, client.send, (b"spans",))
        await collector.asked.wait()
        client.close()
        client.close()

        assert await sending in {"shut down meanwhile", "the connection was lost"}
    assert len(collector.bodies) == 1


@pytest.mark.parametrize("compression", Compression)
async def test_the_body_is_compressed_as_the_settings_say(
    collector: Collector, compression: Compression
) -> None:
    headers = {"content-encoding": compression.value}

    assert await send(collector, OtlpSettings(headers, compression=compression)) == ""

    (body,) = collector.bodies
    match compression:
        case Compression.NONE:
            assert body == b"spans"
        case Compression.GZIP:
            assert gzip.decompress(body) == b"spans"
        case Compression.DEFLATE:
            assert zlib.decompress(body) == b"spans"
    assert collector.encodings == [compression.value]
