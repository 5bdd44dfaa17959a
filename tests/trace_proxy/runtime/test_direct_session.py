"""The short way to a plain HTTP collector, and all the cases that must not take it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import requests
from aiohttp import web

from trace_proxy.runtime.direct_session import DirectSession, direct_session

PLAIN = "http://127.0.0.1:4318/v1/traces"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


class Collector:
    """Says what it was asked; can hang."""

    def __init__(self) -> None:
        self.connections: set[object] = set()
        self.hang = asyncio.Event()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.connections.add(request.transport)
        if "hang" in request.query:
            await self.hang.wait()
        body = await request.text()
        told = f"{request.method} {request.path_qs} {request.headers.get('x-key')} {body}"
        return web.Response(status=429, text=told, headers={"retry-after": "7"})


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", collector.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    yield collector
    collector.hang.set()
    await runner.cleanup()


async def post(session: requests.Session, url: str, timeout_s: float = 5) -> requests.Response:
    return await asyncio.to_thread(
        session.request,
        method="POST",
        url=url,
        headers={"x-key": "k"},
        data=b"spans",
        timeout=timeout_s,
        allow_redirects=False,
    )


async def test_posts_share_one_connection_and_answer_as_requests_does(
    collector: Collector,
) -> None:
    url = f"{collector.url}?key=1"
    session = DirectSession(url)

    answers = [await post(session, url) for _ in range(3)]

    assert {answer.text for answer in answers} == {"POST /v1/traces?key=1 k spans"}
    assert (answers[0].status_code, answers[0].reason) == (429, "Too Many Requests")
    assert answers[0].headers["Retry-After"] == "7"
    assert len(collector.connections) == 1
    session.close()


async def test_what_is_not_the_one_request_goes_the_ordinary_way(collector: Collector) -> None:
    session = DirectSession(collector.url)

    answer = await asyncio.to_thread(session.get, f"{collector.url}/other", timeout=5)

    assert answer.text == "GET /v1/traces/other None "
    session.close()


async def test_a_collector_that_hangs_is_a_read_timeout(collector: Collector) -> None:
    url = f"{collector.url}?hang"
    session = DirectSession(url)

    with pytest.raises(requests.exceptions.ReadTimeout):
        await post(session, url, timeout_s=0.05)
    session.close()


async def test_nobody_there_is_a_connection_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        session = DirectSession(url)

        with pytest.raises(requests.exceptions.ConnectionError):
            await post(session, url)
        session.close()


def test_a_plain_collector_gets_the_short_way() -> None:
    session = direct_session(PLAIN, {})

    assert isinstance(session, DirectSession)
    session.close()


@pytest.mark.parametrize(
    ("url", "environ"),
    [
        ("https://127.0.0.1:4318/v1/traces", {}),
        ("http://me:secret@127.0.0.1:4318/v1/traces", {}),
        (PLAIN, {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "cloud"}),
        (PLAIN, {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER": "cloud"}),
    ],
)
def test_tls_and_credentials_need_the_ordinary_client(url: str, environ: dict[str, str]) -> None:
    assert direct_session(url, environ) is None


def test_a_proxy_needs_the_ordinary_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")

    assert direct_session(PLAIN, {}) is None


def test_a_netrc_entry_needs_the_ordinary_client(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")

    assert direct_session(PLAIN, {}) is None
