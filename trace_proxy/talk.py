"""Talk to a proxy from a terminal: one turn, streamed.

    python -m trace_proxy.talk ws://127.0.0.1:4500 "hello there"

A small, whole client of the protocol: initialize, thread/start, turn/start, deltas,
approvals by keyboard, turn/completed. For people, not for scripts.

Where the environment says where traces go (`OTEL_EXPORTER_OTLP_ENDPOINT`), it exports a
span of its own, under which all its requests are one trace, and says the trace id at the
end. Elsewhere it sends no trace context: a parent that nobody exports would be missed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import structlog

from trace_proxy.context.span_record import Kind, Service, SpanContext, SpanRecord
from trace_proxy.context.w3c import format_traceparent
from trace_proxy.runtime.telemetry.setup import Telemetry
from trace_proxy.settings.listen import ListenTcp

FAILED: Final = 1

SPAN: Final = "talk"
NOWHERE: Final = "none"
EXPORT_S: Final = 5.0
"""For its one span; a collector that is not there is not waited for any longer."""

_TEXT: Final = frozenset({"item/agentMessage/delta", "item/commandExecution/outputDelta"})
_APPROVALS: Final = frozenset(
    {"item/commandExecution/requestApproval", "item/fileChange/requestApproval"}
)


class Conversation:
    """One thread with one turn over an open websocket.

    Args:
        socket: Open.
        context: The span of it all, None when there is none.
    """

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, context: SpanContext | None
    ) -> None:
        self._socket = socket
        self._next_id = 0
        self._trace: dict[str, Any] = {}
        if context is not None:
            self._trace = {"trace": {"traceparent": format_traceparent(context)}}

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer; notifications meanwhile are shown.

        Raises:
            ConnectionError: the proxy closed the connection, or refused the request.
        """
        request_id, self._next_id = self._next_id, self._next_id + 1
        request = {"id": request_id, "method": method, "params": params, **self._trace}
        await self._socket.send_json(request)
        async for message in self._messages():
            if message.get("id") == request_id and "method" not in message:
                if "error" in message:
                    raise ConnectionError(f"{method}: {message['error']['message']}")
                result: dict[str, Any] = message["result"]
                return result
            await self._show(message)
        raise ConnectionError(f"closed with code {self._socket.close_code}")

    async def until_turn_completed(self) -> str:
        """Show what streams in; returns the turn's status.

        Raises:
            ConnectionError: the proxy closed the connection first.
        """
        async for message in self._messages():
            await self._show(message)
            if message.get("method") == "turn/completed":
                return str(message["params"]["turn"]["status"])
        raise ConnectionError(f"closed with code {self._socket.close_code}")

    async def _messages(self) -> AsyncIterator[dict[str, Any]]:
        async for frame in self._socket:
            if frame.type is aiohttp.WSMsgType.TEXT:
                yield json.loads(frame.data)

    async def _show(self, message: dict[str, Any]) -> None:
        method, params = message.get("method", ""), message.get("params", {})
        if method in _TEXT:
            _say(params["delta"])
        elif method == "error":
            _say(f"\n[{params['error']['message']}]\n")
        elif method in _APPROVALS:
            what = params.get("command") or "a file change"
            _say(f"\nAllow {what} ? [y/N] ")
            answer = (await _typed()).strip().lower()
            decision = "accept" if answer in (b"y", b"yes") else "decline"
            await self._socket.send_json({"id": message["id"], "result": {"decision": decision}})


async def _typed() -> bytes:
    """The next line of stdin, read by a thread that nobody waits for when Ctrl-C comes."""
    loop = asyncio.get_running_loop()
    line = loop.create_future()

    def read() -> None:
        typed = b""
        while (byte := os.read(0, 1)) not in (b"", b"\n"):
            typed += byte
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so is the question
            loop.call_soon_threadsafe(line.set_result, typed)

    threading.Thread(target=read, daemon=True).start()
    answer: bytes = await line
    return answer


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def session_to(url: str, *, token_file: str | None, ca: str | None) -> aiohttp.ClientSession:
    """A session that shows the token and trusts the authority; to be entered.

    Args:
        url: Where to; the token goes over TLS, or stays on this machine.
        token_file: Holds the bearer token, None without one.
        ca: PEM file of the authority that the proxy's certificate is from; None: those that
            the system trusts.

    Raises:
        ConnectionError: A file cannot be used, or the token would be readable on its way.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if token_file and parts.scheme not in ("wss", "https") and not ListenTcp(host, 0).loopback:
        raise ConnectionError("a token goes to wss:// or to this machine only")
    try:
        token = Path(token_file).read_bytes().strip() if token_file else b""
        trust: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca) if ca else True
    except ssl.SSLError:
        raise ConnectionError(f"{ca} holds no certificate in PEM format") from None
    except OSError as error:
        raise ConnectionError(f"{error.filename or ca}: {error.strerror}") from None
    if token_file and not (token.isascii() and token and token.decode().isprintable()):
        raise ConnectionError(f"{token_file} holds no token")
    headers = {"Authorization": f"Bearer {token.decode()}"} if token else {}
    return aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=trust))


async def talk(
    url: str, text: str, *, token_file: str | None = None, ca: str | None = None
) -> int:
    """Run one turn; returns the exit code."""
    session = session_to(url, token_file=token_file, ca=ca)
    telemetry, start_ns = Telemetry(os.environ), time.time_ns()
    context = None
    if telemetry.destination != NOWHERE:
        trace_id = telemetry.new_trace_id()
        flags = 2 | telemetry.sampled(None, trace_id, SPAN)
        context = SpanContext(trace_id, telemetry.new_span_id(), flags)
    try:
        return await _converse(session, url, text, context)
    finally:
        if context is not None and context.sampled:
            end_ns = time.time_ns()
            telemetry.export(
                SpanRecord(Service.CLIENT, SPAN, Kind.CLIENT, context, None, start_ns, end_ns, {})
            )
        await telemetry.shutdown(EXPORT_S)


async def _converse(
    session: aiohttp.ClientSession, url: str, text: str, context: SpanContext | None
) -> int:
    async with session, session.ws_connect(url) as socket:
        conversation = Conversation(socket, context)
        client = {"name": "trace_proxy.talk", "version": "1"}
        await conversation.ask("initialize", {"clientInfo": client})
        await socket.send_json({"method": "initialized"})
        thread = (await conversation.ask("thread/start", {}))["thread"]["id"]
        turn = {"threadId": thread, "input": [{"type": "text", "text": text}]}
        await conversation.ask("turn/start", turn)
        status = await conversation.until_turn_completed()
        trace = "" if context is None else f"; trace {context.trace_id:032x}"
        _say(f"\n\nturn {status}{trace}\n")
        return 0 if status == "completed" else FAILED


def main() -> int:
    """Read the command line and talk."""
    parser = argparse.ArgumentParser(
        prog="python -m trace_proxy.talk",
        description="Run one turn through a trace-proxy and stream the answer.",
    )
    parser.add_argument("url", help="where the proxy listens, e.g. ws://127.0.0.1:4500")
    parser.add_argument("text", help="what to say; /help lists what the offline engine does")
    parser.add_argument("--token-file", metavar="FILE", help="holds the bearer token to show")
    parser.add_argument("--ca", metavar="FILE", help="the authority to trust for wss://, PEM")
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    access = {"token_file": arguments.token_file, "ca": arguments.ca}
    try:
        return asyncio.run(talk(arguments.url, arguments.text, **access))
    except (aiohttp.ClientError, OSError) as error:
        sys.stderr.write(f"cannot talk to {arguments.url}: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
