"""The baseline: the same relay as most people would write it, with a stock SDK span each.

aiohttp, one child, ids remapped, a span per request by `start_span` and the stock OTLP
exporter. No gate, no bounds, no drain, no turns. `bench.py` runs it beside trace-proxy.

    python tests/load/stock_proxy.py PORT COMMAND [ARG...]     (OTEL_* as usual)
"""

import asyncio
import sys
from typing import Final

import msgspec
from aiohttp import WSMsgType, web
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind

LINE_BYTES: Final = 64 * 1024 * 1024


class Request(msgspec.Struct):
    """What a relay must see of a request."""

    method: str
    id: int | str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")


class Answer(msgspec.Struct):
    """What a relay must see of an answer."""

    id: int | str
    result: msgspec.Raw = msgspec.Raw(b"null")


class StockProxy:
    """Relays requests of all clients to one child."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = trace.get_tracer("stock", tracer_provider=provider)
        self._child = child
        self._pending: dict[int | str, tuple[web.WebSocketResponse, int | str, Span]] = {}
        self._next_id = 0

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """One client."""
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        assert self._child.stdin is not None
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            call = msgspec.json.decode(message.data, type=Request)
            if call.id is None:
                self._child.stdin.write(message.data.encode() + b"\n")
                continue
            span = self._tracer.start_span(
                call.method,
                kind=SpanKind.SERVER,
                attributes={
                    "rpc.system.name": "jsonrpc",
                    "rpc.method": call.method,
                    "jsonrpc.request.id": str(call.id),
                    "network.transport": "tcp",
                    "network.protocol.name": "websocket",
                    "network.peer.address": request.remote or "",
                },
            )
            self._next_id += 1
            self._pending[self._next_id] = (socket, call.id, span)
            call.id = self._next_id
            self._child.stdin.write(msgspec.json.encode(call) + b"\n")
        return socket

    async def relay(self) -> None:
        """Answers of the child to whoever asked."""
        assert self._child.stdout is not None
        while line := await self._child.stdout.readline():
            answer = msgspec.json.decode(line, type=Answer)
            socket, answer.id, span = self._pending.pop(answer.id)
            await socket.send_str(msgspec.json.encode(answer).decode())
            span.end()


async def main() -> None:
    """Serve until killed."""
    child = await asyncio.create_subprocess_exec(
        *sys.argv[2:], stdin=-1, stdout=-1, limit=LINE_BYTES
    )
    proxy = StockProxy(child)
    application = web.Application()
    application.router.add_get("/", proxy.serve)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    sys.stderr.write("proxy.ready\n")
    sys.stderr.flush()
    await proxy.relay()


if __name__ == "__main__":
    asyncio.run(main())
