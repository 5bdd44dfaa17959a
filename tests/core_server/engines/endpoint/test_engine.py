"""The engine against a real endpoint on loopback: streams, retries, cuts, cancellation."""

import asyncio
import gzip
import logging
import socket
import traceback
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from core_server.engines.base import (
    EngineError,
    Event,
    MessageDone,
    MessageStarted,
    Prompt,
    Retrying,
    TextDelta,
    TextPart,
    ToolCall,
    Usage,
    UserMessage,
)
from core_server.engines.endpoint import engine as engine_module
from core_server.engines.endpoint.address import Address
from core_server.engines.endpoint.engine import OpenAIEngine, Patience
from core_server.engines.endpoint.failures import HIGH_DEMAND
from core_server.engines.opening import WIRES, build_engine
from tests.responses_api import Call, Raw, Reply, ResponsesApi, Text

KEY = "sk-canary-0123456789"
QUICK = Patience(first_backoff_s=0.001, idle_timeout_s=10)
HELLO = Reply((Text("hello you"),))
LIMIT_S = 20

Build = Callable[..., OpenAIEngine]


@pytest.fixture
async def api() -> AsyncIterator[ResponsesApi]:
    async with ResponsesApi() as endpoint:
        yield endpoint


@pytest.fixture
async def build(api: ResponsesApi) -> AsyncIterator[Build]:
    """Build engines for the endpoint, with short waits; closed at the end."""
    engines: list[OpenAIEngine] = []

    def build_one(
        base_url: str = "", api_key: str = KEY, patience: Patience = QUICK
    ) -> OpenAIEngine:
        engine = OpenAIEngine(
            "m", address=Address(base_url or api.url), api_key=api_key, patience=patience
        )
        engines.append(engine)
        return engine

    yield build_one
    for engine in engines:
        await engine.close()


def prompt(traceparent: str = "", tracestate: str = "") -> Prompt:
    history = (UserMessage((TextPart("hi"),)),)
    return Prompt(history, model="m", traceparent=traceparent, tracestate=tracestate)


async def ask(engine: OpenAIEngine, asked: Prompt | None = None) -> list[Event]:
    async with asyncio.timeout(LIMIT_S):
        return [event async for event in engine.sample(asked or prompt())]


async def collect(engine: OpenAIEngine) -> tuple[list[Event], EngineError]:
    """The events of a sample that fails, and how it fails."""
    events: list[Event] = []
    async with asyncio.timeout(LIMIT_S):
        try:
            async for event in engine.sample(prompt()):
                events.append(event)  # noqa: PERF401 - kept up to the error
        except EngineError as error:
            return events, error
    pytest.fail(f"it did not fail: {events}")


@asynccontextmanager
async def page_server(
    page: bytes,
    then: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None,
    status: str = "200 OK",
) -> AsyncIterator[str]:
    """Answer every request with this body, and what `then` writes until the client goes."""
    ended: list[asyncio.Event] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.Event())
        try:
            await serve(reader, writer)
        finally:
            ended.pop().set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: text/event-stream\r\n".encode())
        writer.write(b"Connection: close\r\n\r\n" + page)
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(2):
                await (then(reader, writer) if then is not None else writer.drain())
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with asyncio.timeout(LIMIT_S):
            while ended:
                await ended[-1].wait()


def retries(events: list[Event]) -> list[Retrying]:
    return [event for event in events if isinstance(event, Retrying)]


def messages(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, MessageDone)]


async def test_key_and_trace_context_go_out_as_headers(api: ResponsesApi, build: Build) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    await ask(build(), prompt(traceparent=parent, tracestate="a=b"))

    headers = api.seen[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["accept"] == "text/event-stream"
    assert (headers["traceparent"], headers["tracestate"]) == (parent, "a=b")
    assert api.seen[0].body["stream"] is True


async def test_an_endpoint_without_a_key_is_served_too(api: ResponsesApi, build: Build) -> None:
    assert messages(await ask(build(api_key=""))) == ["Hello from the model"]
    assert KEY not in str(api.seen[0].headers)


async def test_the_connection_serves_the_next_sample(api: ResponsesApi, build: Build) -> None:
    engine = build()

    for _ in range(3):
        await ask(engine)

    assert len({seen.peer_port for seen in api.seen}) == 1


async def test_the_stream_is_over_before_a_tool_call_comes_out(
    api: ResponsesApi, build: Build
) -> None:
    api.script(Reply((Call("shell", '{"command":["ls"]}'),)))

    engine = build()

    async with asyncio.timeout(LIMIT_S), aclosing(engine.sample(prompt())) as events:
        assert isinstance(await anext(events), ToolCall)
        # The connection is free again: another sample uses it while we hold the call.
        await ask(engine)

    assert api.seen[0].peer_port == api.seen[1].peer_port


@pytest.mark.parametrize("status", [500, 502, 503, 529])
async def test_a_server_error_is_tried_again(api: ResponsesApi, build: Build, status: int) -> None:
    api.script(Reply(status=status), Reply(status=status), HELLO)

    events = await ask(build())

    told = [(event.http_status, event.attempt, event.attempts) for event in retries(events)]
    assert told == [(status, 1, 5), (status, 2, 5)]
    assert "scripted failure" in retries(events)[0].message
    assert messages(events) == ["hello you"]
    assert len(api.seen) == 3


async def test_six_tries_and_no_more(api: ResponsesApi, build: Build) -> None:
    api.script(*[Raw(b"", "", status=500)] * 9)

    events, error = await collect(build())

    assert events == [
        Retrying(HIGH_DEMAND, "internalServerError", 500, attempt, 5) for attempt in range(1, 6)
    ]
    assert (str(error), error.info, error.http_status) == (HIGH_DEMAND, "internalServerError", 500)
    assert len(api.seen) == 6


async def test_a_rate_limit_waits_as_long_as_it_is_told(api: ResponsesApi, build: Build) -> None:
    api.script(Reply(status=429, error=("x", "slower"), headers={"Retry-After": "0.3"}), HELLO)
    loop = asyncio.get_running_loop()
    begun_s = loop.time()

    events = await ask(build())

    assert loop.time() - begun_s >= 0.3
    told = Retrying("rate limit reached: slower", "rateLimitExceeded", 429, 1, 5)
    assert retries(events) == [told]
    assert messages(events) == ["hello you"]


async def test_no_endpoint_can_hold_a_turn_up_for_an_hour(api: ResponsesApi, build: Build) -> None:
    """It would be asked in vain before."""
    api.script(Reply(status=429, error=("x", "slower"), headers={"Retry-After": "3600"}))

    events, error = await collect(build())

    assert (events, len(api.seen)) == ([], 1)
    assert str(error) == (
        "exceeded retry limit, last status: 429 Too Many Requests "
        "(the endpoint asks to wait 3600 s)"
    )
    assert error.details == "rate limit reached: slower"


async def test_a_rate_limit_that_stays_has_its_own_last_word(
    api: ResponsesApi, build: Build
) -> None:
    api.script(*[Reply(status=429)] * 2)

    _, error = await collect(build(patience=replace(QUICK, max_tries=2)))

    assert str(error) == "exceeded retry limit, last status: 429 Too Many Requests"
    assert (error.info, error.http_status) == ("responseTooManyFailedAttempts", 429)


@pytest.mark.parametrize(
    ("status", "info"),
    [
        (400, "other"),
        (401, "httpConnectionFailed"),
        (403, "httpConnectionFailed"),
        (404, "httpConnectionFailed"),
        (422, "httpConnectionFailed"),
        (501, "httpConnectionFailed"),
    ],
)
async def test_a_refusal_is_final(api: ResponsesApi, build: Build, status: int, info: str) -> None:
    api.script(Reply(status=status, error=("nope", "not like this")))

    events, error = await collect(build())

    assert events == []
    assert "not like this" in str(error)
    assert (error.info, error.http_status) == (info, status)
    assert len(api.seen) == 1


async def test_a_bad_request_shows_the_raw_body(api: ResponsesApi, build: Build) -> None:
    api.script(Reply(status=400, error=("c", "m")))

    _, error = await collect(build())

    assert str(error) == (
        '{"error": {"message": "m", "type": "invalid_request_error", "param": null, "code": "c"}}'
    )


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("eof", "stream closed before response.completed"),
        ("cut", "the connection was closed before the answer's end"),
    ],
)
async def test_a_cut_message_has_no_done_and_the_next_try_starts_a_new_one(
    api: ResponsesApi, build: Build, end: str, reason: str
) -> None:
    cut = Reply((Text("hello there"),), end="cut" if end == "cut" else "eof", after=5)
    api.script(cut, HELLO)

    events = await ask(build())

    first, second = (event.item_id for event in events if isinstance(event, MessageStarted))
    assert first != second
    assert events == [
        MessageStarted(first),
        TextDelta(first, "hello"),
        Retrying(
            f"stream disconnected before completion: {reason}",
            "responseStreamDisconnected",
            None,
            1,
            5,
        ),
        MessageStarted(second),
        TextDelta(second, "hello"),
        TextDelta(second, " you"),
        MessageDone(second, "hello you"),
        Usage(100, 20, 10, 5, "resp_0002"),
    ]
    assert api.seen[1].body == api.seen[0].body


async def test_what_was_said_before_the_cut_goes_along_and_a_call_does_not(
    api: ResponsesApi, build: Build
) -> None:
    whole = (Text("I look.", streamed=False), Call("shell", "{}", "c1"))
    api.script(Reply(whole, end="eof"), Reply((Call("shell", "{}", "c2"),)))

    events = await ask(build())

    assert messages(events) == ["I look."]
    assert [event.call_id for event in events if isinstance(event, ToolCall)] == ["c2"]
    items = api.seen[1].body["input"]
    assert isinstance(items, list)
    assert items[-1] == {"type": "message", "role": "assistant", "content": "I look."}


async def test_a_silent_stream_counts_as_cut(api: ResponsesApi, build: Build) -> None:
    api.script(Reply((Text("hello there"),), end="stall", after=5), HELLO)

    events = await ask(build(patience=replace(QUICK, idle_timeout_s=0.2)))

    assert retries(events) == [
        Retrying(
            "stream disconnected before completion: nothing came for 0.2 s",
            "responseStreamDisconnected",
            None,
            1,
            5,
        )
    ]
    assert messages(events) == ["hello you"]
    async with asyncio.timeout(LIMIT_S):
        await api.seen[0].gone.wait()


async def test_nobody_listening_is_told_with_the_address(build: Build) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://user:pass@127.0.0.1:{port}/v1"

    events, error = await collect(build(base_url=url, patience=replace(QUICK, max_tries=2)))

    assert len(retries(events)) == 1
    assert str(error).startswith(f"Connection failed: http://127.0.0.1:{port}/v1: ")
    assert error.info == "httpConnectionFailed"


async def test_a_connection_that_is_not_accepted_times_out(build: Build) -> None:
    # A full backlog: the kernel drops what comes after, as a dead host does.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        filler = [socket.socket() for _ in range(4)]
        try:
            for one in filler:
                one.settimeout(0)
                one.connect_ex(address)
            url = f"http://127.0.0.1:{address[1]}/v1"
            _, error = await collect(
                build(base_url=url, patience=replace(QUICK, max_tries=1, connect_timeout_s=0.2))
            )
        finally:
            for one in filler:
                one.close()

    assert str(error) == f"Connection failed: {url} did not accept a connection within 0.2 s"


async def test_a_complete_response_is_complete_however_its_stream_ends(
    api: ResponsesApi, build: Build
) -> None:
    api.script(Reply((Text("hello you"),), end="linger"))
    assert messages(await ask(build())) == ["hello you"]
    async with asyncio.timeout(LIMIT_S):
        await api.seen[0].gone.wait()

    page = b'data: {"type": "response.completed", "response": {}}\n\ndata: {not json\n\n'
    async with page_server(page) as url:
        assert await ask(build(base_url=url)) == []


async def test_a_failed_response_ends_with_its_message(api: ResponsesApi, build: Build) -> None:
    api.script(*[Reply(end="failed", error=("server_error", "the model fell over"))] * 6)

    events, error = await collect(build())

    assert retries(events) == events
    assert str(error) == "the model fell over"
    assert len(api.seen) == 6


async def test_an_incomplete_response_shows_what_there_is_and_fails(
    api: ResponsesApi, build: Build
) -> None:
    api.script(Reply((Text("half"),), end="incomplete"))

    events, error = await collect(build())

    assert messages(events) == ["half"]
    assert str(error) == "Incomplete response returned, reason: max_output_tokens"


async def test_an_error_event_ends_with_its_message(api: ResponsesApi, build: Build) -> None:
    api.script(Reply(end="error", error=("invalid_prompt", "boom")))

    _, error = await collect(build())

    assert str(error) == "boom"
    assert len(api.seen) == 1


async def test_closing_the_sample_closes_the_http_stream(api: ResponsesApi, build: Build) -> None:
    api.script(Reply((Text("hello there"),), end="stall", after=5))

    async with asyncio.timeout(LIMIT_S):
        async with aclosing(build().sample(prompt())) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
        await api.seen[0].gone.wait()


@pytest.mark.parametrize("after", [0, 5])
async def test_cancelling_the_sample_closes_the_http_stream(
    api: ResponsesApi, build: Build, after: int
) -> None:
    api.script(Reply((Text("hello there"),), end="stall", after=after))

    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(ask(build()))
        seen = await api.nth_seen(1)
        running.cancel()
        await seen.gone.wait()

    assert running.cancelled()


async def test_cancelling_ends_the_wait_before_a_retry(api: ResponsesApi, build: Build) -> None:
    api.script(Reply(status=500))

    async with (
        asyncio.timeout(LIMIT_S),
        aclosing(build(patience=replace(QUICK, first_backoff_s=60)).sample(prompt())) as events,
    ):
        assert isinstance(await anext(events), Retrying)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(events)


@pytest.mark.parametrize("status", [400, 401, 404, 429])
async def test_the_key_is_in_no_error_and_no_traceback(
    api: ResponsesApi, build: Build, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api.script(*[Reply(status=status, error=("x", f"bad key: {KEY}"))] * 2)
    engine = build(patience=replace(QUICK, max_tries=2))

    events, error = await collect(engine)

    told = [*traceback.format_exception(error), repr(events), repr(engine), caplog.text]
    assert KEY not in "".join(told)
    assert error.__context__ is None


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "slow_down"])
async def test_the_key_is_in_no_error_of_a_stream(
    api: ResponsesApi, build: Build, code: str
) -> None:
    api.script(*[Reply(end="failed", error=(code, f"bad key: {KEY}"))] * 2)

    events, error = await collect(build(patience=replace(QUICK, max_tries=2)))

    assert KEY not in repr(events) + str(error)
    assert str(error) == "bad key: [secret]"


@pytest.mark.parametrize(
    ("status", "body", "content_type", "words"),
    [
        (400, b"<html><title>Bad Gateway</title></html>", "text/html", "Bad Gateway"),
        (400, b"", "", "400 Bad Request: (no text)"),
        (401, b'{"detail": "Invalid token"}', "application/json", "Invalid token"),
        (403, b"blocked by policy", "text/plain", "blocked by policy"),
        (404, b'{"object":"error","message":"no model m"}', "application/json", "no model m"),
        (404, b"{not json", "application/json", "{not json"),
        (405, b"[]", "application/json", "405 Method Not Allowed: (no text)"),
        (413, b'"too big"', "application/json", "too big"),
        (422, b'{"detail":[{"loc":["body"],"msg":"field required"}]}', "", "field required"),
        (451, b"\xff\xfe\x00", "application/octet-stream", "\ufffd"),
    ],
)
async def test_a_refusal_of_any_shape_is_told_in_its_words(
    api: ResponsesApi, build: Build, status: int, body: bytes, content_type: str, words: str
) -> None:
    api.script(Raw(body, content_type, status))

    events, error = await collect(build())

    assert (events, len(api.seen)) == ([], 1)
    assert words in str(error)
    assert error.http_status == status


async def test_an_error_answer_without_end_is_not_read_to_its_end(build: Build) -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"words " * 1000)
            await writer.drain()

    async with page_server(b"<title>Oh</title>", endless, status="404 Not Found") as url:
        _, error = await collect(build(base_url=url))

    assert "unexpected status 404 Not Found: Oh" in str(error)


async def test_a_query_of_the_address_goes_along(api: ResponsesApi) -> None:
    environ = {"OPENAI_BASE_URL": f"{api.url}?api-version=2026-01-01&x=%20"}
    for wire in WIRES:
        engine = build_engine("openai", model="m", environ=environ, wire=wire)
        async with asyncio.timeout(LIMIT_S):
            assert [event async for event in engine.sample(prompt())]
        await engine.close()

    assert [seen.target for seen in api.seen] == [
        "/v1/responses?api-version=2026-01-01&x=%20",
        "/v1/chat/completions?api-version=2026-01-01&x=%20",
    ]


async def test_a_proxy_is_used_where_there_is_one(api: ResponsesApi) -> None:
    environ = {
        "OPENAI_BASE_URL": "http://models.invalid/v1",
        "HTTP_PROXY": api.url.removesuffix("/v1"),
    }
    engine = build_engine("openai", model="m", environ=environ)

    assert messages([event async for event in engine.sample(prompt())]) == ["Hello from the model"]
    await engine.close()
    assert api.seen[0].headers["host"] == "models.invalid"


@asynccontextmanager
async def socks_server(verdict: bytes, port: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A SOCKS5 proxy (RFC 1928) that leads to one port whatever is asked; and what was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        *_, length = await reader.readexactly(5)
        asked.append(await reader.readexactly(length))
        await reader.readexactly(2)
        writer.write(b"\x05" + verdict + b"\x00\x01" + b"\x00" * 6)
        if verdict == b"\x00":
            there, back = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as both:
                both.create_task(carry(reader, back))
                both.create_task(carry(there, writer))
        writer.close()

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"socks5h://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_a_socks_proxy_is_used_and_its_refusal_told(api: ResponsesApi) -> None:
    port = int(api.url.removesuffix("/v1").rpartition(":")[2])
    environ = {"OPENAI_BASE_URL": "http://models.invalid/v1"}
    async with socks_server(b"\x00", port) as (url, asked):
        engine = build_engine("openai", model="m", environ={**environ, "ALL_PROXY": url})
        said = messages([event async for event in engine.sample(prompt())])
        await engine.close()
    assert (said, asked) == (["Hello from the model"], [b"models.invalid"])

    async with socks_server(b"\x02", port) as (url, _):
        address = Address(environ["OPENAI_BASE_URL"], proxy=url)
        engine = OpenAIEngine("m", address=address, patience=replace(QUICK, max_tries=1))
        _, error = await collect(engine)
        await engine.close()
    assert str(error).startswith("Connection failed: http://models.invalid/v1: ")


async def test_user_and_password_of_the_address_go_instead_of_the_key(api: ResponsesApi) -> None:
    url = api.url.replace("http://", "http://me:p%40ss@")
    engine = OpenAIEngine("m", address=Address(url), api_key=KEY, patience=QUICK)
    await ask(engine)
    await engine.close()

    basic = api.seen[0].headers["authorization"].removeprefix("Basic ")
    assert b64decode(basic) == b"me:p@ss"


async def test_a_redirect_that_keeps_the_method_is_followed_on_this_host(
    api: ResponsesApi, build: Build
) -> None:
    for status in (307, 308):
        api.script(Raw(b"", "", status, {"Location": "/v1/responses?moved=1"}), HELLO)
        assert messages(await ask(build())) == ["hello you"]

    assert [seen.target for seen in api.seen] == ["/v1/responses", "/v1/responses?moved=1"] * 2
    assert api.seen[1].body == api.seen[0].body


@pytest.mark.parametrize(
    ("status", "location", "told"),
    [
        (301, "https://other.invalid/v1/responses?key=q", "https://other.invalid/v1/responses"),
        (302, "/login", "/login"),
        (307, "http://u:p@other.invalid/v1", "http://other.invalid/v1"),
        (308, "", "(no text)"),
    ],
)
async def test_any_other_redirect_is_told_and_the_key_stays_here(
    api: ResponsesApi, build: Build, status: int, location: str, told: str
) -> None:
    api.script(Raw(b"", "", status, {"Location": location} if location else {}))

    _, error = await collect(build())

    assert f"unexpected status {status}" in str(error)
    assert told in str(error)
    assert "key=q" not in str(error)
    assert len(api.seen) == 1


async def test_redirects_in_a_circle_end(api: ResponsesApi, build: Build) -> None:
    api.script(*[Raw(b"", "", 307, {"Location": f"/v1/responses?n={n}"}) for n in range(9)])

    _, error = await collect(build())

    assert "unexpected status 307 Temporary Redirect" in str(error)
    assert len(api.seen) == 4


async def test_comments_keep_a_stream_alive_but_not_for_ever(build: Build) -> None:
    async def comments(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b": still thinking\n\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with page_server(b"", comments) as url:
        patience = replace(QUICK, max_tries=1, quiet_timeout_s=0.3)
        events, error = await collect(build(base_url=url, patience=patience))

    assert events == []
    assert str(error) == "stream disconnected before completion: no event for 0.3 s"


async def test_usage_is_not_waited_for_when_a_chat_answer_is_complete() -> None:
    frame = b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.drain()
        await reader.read()

    async with page_server(frame, nothing) as url:
        patience = replace(QUICK, ending_timeout_s=0.1)
        engine = OpenAIEngine("m", address=Address(url), wire="chat", patience=patience)
        assert messages(await ask(engine)) == ["hi"]
        await engine.close()


async def test_a_compressed_stream_is_read(api: ResponsesApi, build: Build) -> None:
    page = b'data: {"type":"response.output_text.delta","delta":"hi"}\n\n'
    page += b'data: {"type":"response.completed","response":{}}\n\n'
    api.script(Raw(gzip.compress(page), headers={"Content-Encoding": "gzip"}))
    assert messages(await ask(build())) == ["hi"]

    api.script(Raw(b"no gzip at all", headers={"Content-Encoding": "gzip"}))
    _, error = await collect(build(patience=replace(QUICK, max_tries=1)))
    assert error.info == "responseStreamDisconnected"


@pytest.mark.parametrize("pad", [0, 1_990])
async def test_no_secret_is_in_any_text_in_any_shape(
    api: ResponsesApi, pad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "canary/+secret=1"
    host = api.url.removeprefix("http://")
    environ = {
        "OPENAI_BASE_URL": f"http://me:canary-password@{host}?code=canary-in-query",
        "OPENAI_API_KEY": secret,
    }
    shapes = [secret, quote(secret, safe=""), "canary-password", "canary-in-query"]
    body = ("x" * pad + " ".join(shapes)).encode()
    for raw in (Raw(body, "text/plain", 400), Raw(body, "text/plain"), Raw(body, "", 500)):
        api.script(*[raw] * 2)
        engine = build_engine("openai", model="m", environ=environ)
        assert isinstance(engine, OpenAIEngine)
        monkeypatch.setattr(engine, "_patience", replace(QUICK, max_tries=2))
        events, error = await collect(engine)
        api.forget()
        told = repr(events) + str(error) + str(error.details) + repr(engine)
        assert "canary" not in told
        await engine.close()


async def test_a_key_that_is_a_word_does_not_make_words_unreadable(
    api: ResponsesApi, build: Build
) -> None:
    api.script(Reply(status=404, error=("x", "model ollama not found")))

    _, error = await collect(build(api_key="ollama"))

    assert "model ollama not found" in str(error)


async def test_a_package_that_does_not_load_is_an_engine_error(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: OpenAIEngine) -> None:
        raise ImportError("no module")

    monkeypatch.setattr(engine_module.OpenAIEngine, "_open", broken)

    _, error = await collect(build())

    assert str(error) == "the HTTP library does not load: no module"
