"""POSTs: against a real HTTP server, and against one that says what a test wants."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import pytest
from aiohttp import web

from trace_proxy.runtime.telemetry.otlp.http_post import Answer, HttpPost, NoAnswerError

LATER = Answer(429, "7", content_type="text/plain", body=b"later")
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Collector:
    """Says what it was asked; can hang."""

    def __init__(self) -> None:
        self.connections: set[object] = set()
        self.told: list[str] = []
        self.hang = asyncio.Event()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.connections.add(request.transport)
        if "hang" in request.query:
            await self.hang.wait()
        body = await request.text()
        self.told.append(
            f"{request.method} {request.path_qs} {request.headers['x-key']} {request.host} {body}"
        )
        return web.Response(status=429, text="later", headers={"retry-after": "7"})


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", collector.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    yield collector
    collector.hang.set()
    await runner.cleanup()


async def test_posts_share_one_connection(collector: Collector) -> None:
    post = HttpPost(f"{collector.url}?key=1", {"x-key": "k"})

    answers = [await asyncio.to_thread(post.post, b"spans", 5) for _ in range(3)]

    host = collector.url.split("/")[2]
    assert answers == [LATER] * 3
    assert collector.told == [f"POST /v1/traces?key=1 k {host} spans"] * 3
    assert len(collector.connections) == 1
    post.close()


async def test_a_body_larger_than_any_buffer_arrives_whole(collector: Collector) -> None:
    post = HttpPost(collector.url, {"x-key": "k"})
    parts = [bytes([65 + number]) * 1_000_000 for number in range(20)]

    assert await asyncio.to_thread(post.post, b"".join(parts), 20) == LATER

    assert collector.told[0].endswith(f" {b''.join(parts).decode()}")
    post.close()


@pytest.mark.parametrize("timeout_s", [0.02, 0.2])
async def test_a_collector_that_hangs_is_not_waited_for(
    collector: Collector, timeout_s: float
) -> None:
    post = HttpPost(f"{collector.url}?hang", {"x-key": "k"})

    with pytest.raises(NoAnswerError, match="no answer in time"):
        async with asyncio.timeout(5):
            await asyncio.to_thread(post.post, b"", timeout_s)
    post.close()


async def test_closing_ends_a_request_that_is_under_way(collector: Collector) -> None:
    post = HttpPost(f"{collector.url}?hang", {"x-key": "k"})
    async with asyncio.timeout(10):
        waiting = asyncio.get_running_loop().run_in_executor(None, post.post, b"", 60)
        while not collector.connections:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.001)
        post.close()

        with pytest.raises(NoAnswerError, match="the connection was lost"):
            await waiting
    with pytest.raises(NoAnswerError, match="shut down meanwhile"):
        post.post(b"", 1)


def test_a_server_that_takes_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        post = HttpPost(f"http://127.0.0.1:{server.getsockname()[1]}/", {})

        with pytest.raises(NoAnswerError, match="no answer in time"):
            post.post(b"x" * 30_000_001, 0.2)
        post.close()


def test_a_server_that_takes_its_time_gets_every_byte() -> None:
    parts = [bytes([number]) * 3_000_000 for number in range(3)]
    received = bytearray()

    def read_slowly() -> None:
        connection, _ = server.accept()
        connection.settimeout(10)
        with connection:
            while not received.endswith(parts[-1]):
                received.extend(connection.recv(1_000_000))
            connection.sendall(EMPTY)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=read_slowly)
        thread.start()
        post = HttpPost(f"http://127.0.0.1:{server.getsockname()[1]}/", {})

        assert post.post(b"".join(parts), 10) == Answer(200)
        post.close()
        thread.join(10)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: 9000000\r\n" in head + b"\r\n"
    assert body == b"".join(parts)


def test_nobody_there_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening: refused
        post = HttpPost(f"http://127.0.0.1:{taken.getsockname()[1]}/", {})

        with pytest.raises(NoAnswerError, match=r"^cannot connect$"):
            post.post(b"", 5)
        with pytest.raises(NoAnswerError, match="cannot connect in time"):
            post.post(b"", 0)


@contextmanager
def scripted(*connections: Sequence[bytes]) -> Iterator[str]:
    """A server that answers each request of each connection with these bytes, then closes."""

    def serve() -> None:
        for answers in connections:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as requests:
                for answer in answers:
                    length = 0
                    while line := requests.readline().strip():
                        name, _, value = line.lower().partition(b": ")
                        length += int(value) if name == b"content-length" else 0
                    requests.read(length)
                    for byte in (answer[:1], answer[1:]):  # never at once
                        connection.sendall(byte)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (EMPTY, 200),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello", 200),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + EMPTY, 200),
        (b"HTTP/1.1 400\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 30_000 + b"\r\ncontent-length: 0\r\n\r\n", 200),
    ],
)
def test_a_connection_goes_on_after_an_answer_that_says_its_length(
    answer: bytes, status: int
) -> None:
    with scripted([answer, EMPTY]) as url:
        post = HttpPost(url, {})

        assert post.post(b"a", 5).status == status
        assert post.post(b"b", 5) == Answer(200)
        post.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n" + b"y" * 99_999,
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-le",
    ],
)
def test_any_other_answer_counts_and_ends_its_connection(answer: bytes) -> None:
    with scripted([answer], [EMPTY]) as url:
        post = HttpPost(url, {})

        assert post.post(b"a", 5).status == 200
        assert post.post(b"b", 5).status == 200
        post.close()


def test_a_kept_connection_that_was_closed_meanwhile_is_opened_again_at_once() -> None:
    with scripted([EMPTY], [EMPTY]) as url:
        post = HttpPost(url, {})

        assert [post.post(b"a", 5), post.post(b"b", 5)] == [Answer(200)] * 2
        post.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "the connection was lost"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "the answer is not HTTP"),
    ],
)
def test_an_answer_that_is_none_is_a_failure_on_a_fresh_connection(
    answer: bytes, why: str
) -> None:
    with scripted([answer]) as url:
        post = HttpPost(url, {})

        with pytest.raises(NoAnswerError, match=why):
            post.post(b"a", 5)
        post.close()
