"""A small model endpoint that speaks the Responses API and Chat Completions, for tests.

In a test: `async with ResponsesApi() as api`, then `api.url` and `api.script(Reply(...))`;
`api.seen` holds what was asked. As a process: `python -m tests.responses_api [PORT]` prints its
URL and serves until its stdin ends; `POST /script` takes a JSON list of replies,
`GET /seen` gives the requests. A request that nothing was scripted for is answered by its
last text: see `responses_events.reply_to`. A `Raw` is answered byte for byte. It is no model and checks no key.
"""

import asyncio
import contextlib
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Self

import msgspec
from aiohttp import web

from tests.chat_events import stream_chunks
from tests.responses_events import (
    Call,
    Json,
    Raw,
    Reasoning,
    Reply,
    Text,
    reply_to,
    stream_events,
)

__all__ = ["Call", "Raw", "Reasoning", "Reply", "ResponsesApi", "Seen", "Text"]


class Seen:
    """A request as it came in.

    Attributes:
        headers: Lower-case names.
        body: Decoded.
        peer_port: Tells its connection from others.
        target: Path and query, as asked.
        gone: Set when the client went before the answer's end.
    """

    def __init__(
        self, headers: dict[str, str], body: Json, peer_port: int, target: str = ""
    ) -> None:
        self.headers = headers
        self.body = body
        self.peer_port = peer_port
        self.target = target
        self.gone = asyncio.Event()


class ResponsesApi:
    """The endpoint on a free port of 127.0.0.1.

    Args:
        answer: To a request that nothing was scripted for.
    """

    def __init__(self, answer: Callable[[Json], Reply] = reply_to, port: int = 0) -> None:
        self.url = ""
        self._port = port
        self._answer = answer
        self.seen: list[Seen] = []
        self._replies: deque[Reply | Raw] = deque()
        self._arrived = asyncio.Condition()
        self._calls = 0
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/responses", self._respond)
        app.router.add_post("/v1/chat/completions", self._respond)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/script", self._take_script)
        app.router.add_get("/seen", self._give_seen)
        # A handler is cancelled when its client goes: that is how `gone` comes about.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        server = self._runner.server
        assert server is not None
        transports = [each.transport for each in server.connections]
        await self._runner.cleanup()
        for transport in transports:  # one whose peer takes nothing is still open
            if transport is not None:
                transport.abort()
        await asyncio.sleep(0)  # they are closed in the loop's next turn

    def script(self, *replies: Reply | Raw) -> None:
        """Answer the next requests so."""
        self._replies.extend(replies)

    def forget(self) -> None:
        """Drop the answers that nobody asked for."""
        self._replies.clear()

    async def nth_seen(self, count: int) -> Seen:
        """Wait for the request of that number, from 1."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.seen) >= count)
        return self.seen[count - 1]

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read(), type=dict[str, object])
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert request.transport is not None
        port = request.transport.get_extra_info("peername")[1]
        seen = Seen(headers, body, port, request.raw_path)
        reply = self._replies.popleft() if self._replies else self._answer(body)
        async with self._arrived:
            self.seen.append(seen)
            self._arrived.notify_all()
        try:
            if isinstance(reply, Raw):
                return await _raw_answer(request, reply)
            if reply.status != 200:
                return _error_answer(reply)
            return await self._stream(request, reply, str(body.get("model")))
        except (ConnectionResetError, asyncio.CancelledError):
            seen.gone.set()
            raise

    async def _stream(self, request: web.Request, reply: Reply, model: str) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", **reply.headers}
        answer = web.StreamResponse(headers=headers)
        await answer.prepare(request)
        self._calls += 1
        serial = f"{self._calls:04}"
        chat = request.path.endswith("/chat/completions")
        frames = _chat_frames if chat else _responses_frames
        for frame in frames(reply, serial, model)[: reply.after]:
            if reply.delay_s:
                await asyncio.sleep(reply.delay_s)
            await answer.write(frame)
        if reply.end in {"stall", "linger"}:
            await asyncio.Event().wait()
        if reply.end == "cut" and request.transport is not None:
            request.transport.close()
        return answer

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [], "models": []})

    async def _take_script(self, request: web.Request) -> web.Response:
        self.script(*msgspec.json.decode(await request.read(), type=list[Reply]))
        return web.json_response({})

    async def _give_seen(self, _request: web.Request) -> web.Response:
        seen = [{"headers": one.headers, "body": one.body} for one in self.seen]
        return web.json_response(seen)


def _responses_frames(reply: Reply, serial: str, model: str) -> list[bytes]:
    events = _numbered(stream_events(reply, serial, model))
    return [
        f"event: {event['type']}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"
        for event in events
    ]


def _chat_frames(reply: Reply, serial: str, model: str) -> list[bytes]:
    chunks = stream_chunks(reply, serial, model)
    frames = [b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks]
    done = [b"data: [DONE]\n\n"] if reply.end in {"completed", "incomplete", "linger"} else []
    return [*frames, *done]


async def _raw_answer(request: web.Request, reply: Raw) -> web.StreamResponse:
    answer = web.StreamResponse(status=reply.status, headers=reply.headers)
    if reply.content_type:
        answer.headers["Content-Type"] = reply.content_type
    await answer.prepare(request)
    at = 0
    for cut in (*sorted(reply.cuts), len(reply.body)):
        if piece := reply.body[at:cut]:
            await answer.write(piece)
            at = cut
    if reply.cut and request.transport is not None:
        request.transport.close()
    return answer


def _numbered(events: Iterator[Json]) -> Iterator[Json]:
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


def _error_answer(reply: Reply) -> web.Response:
    code, message = reply.error
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=reply.status, headers=reply.headers)


async def _serve() -> None:
    async with ResponsesApi(port=int(sys.argv[1]) if sys.argv[1:] else 0) as api:
        sys.stdout.write(api.url + "\n")
        sys.stdout.flush()
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        loop.add_reader(sys.stdin, lambda: None if sys.stdin.read(4096) else ended.set())
        await ended.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())
