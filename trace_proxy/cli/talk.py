"""Talk to a proxy from a terminal: turns, streamed.

    trace-proxy talk "hello there"                     one turn
    trace-proxy talk ws://127.0.0.1:4500               a turn for each line

A small, whole client of the protocol: initialize, thread/start, turn/start, deltas,
approvals by keyboard, turn/completed. With `OTEL_EXPORTER_OTLP_ENDPOINT` it exports a
span for each turn, which is the turn's root, and says its trace id; without, it sends
no trace context, so that no trace has a parent that nobody exports.
For people, not for scripts.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
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

DEFAULT_URL: Final = "ws://127.0.0.1:4500"

ITEMS_KEPT: Final = 64
"""File changes whose approval may still be asked for."""

SPAN: Final = "talk"
NOWHERE: Final = "none"
EXPORT_S: Final = 5.0
"""For its spans; a collector that is not there is not waited for any longer."""

_TEXT: Final = frozenset({"item/agentMessage/delta", "item/commandExecution/outputDelta"})
_APPROVALS: Final = frozenset(
    {"item/commandExecution/requestApproval", "item/fileChange/requestApproval"}
)
_REFUSED: Final = 503


class Tracer:
    """A span of our own for each turn, if there is somebody to export it to."""

    def __init__(self) -> None:
        self._telemetry = Telemetry(os.environ)

    def __repr__(self) -> str:
        return f"<Tracer {self._telemetry.destination}>"

    @contextlib.contextmanager
    def turn(self) -> Iterator[SpanContext | None]:
        """The context of a turn's span, which is exported when the turn is over."""
        telemetry, start_ns = self._telemetry, time.time_ns()
        if telemetry.destination == NOWHERE:
            yield None
            return
        trace_id = telemetry.new_trace_id()
        flags = 2 | telemetry.sampled(None, trace_id, SPAN)
        context = SpanContext(trace_id, telemetry.new_span_id(), flags)
        try:
            yield context
        finally:
            if context.sampled:
                end_ns = time.time_ns()
                record = SpanRecord(
                    Service.CLIENT, SPAN, Kind.CLIENT, context, None, start_ns, end_ns, {}
                )
                telemetry.export(record)

    async def shutdown(self) -> None:
        """Send what is left, but not for ever."""
        await self._telemetry.shutdown(EXPORT_S)


class Conversation:
    """One thread over an open websocket, a turn after the other."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._next_id = 0
        self._changes: dict[str, list[dict[str, Any]]] = {}
        self._thread = ""

    async def begin(self, context: SpanContext | None) -> None:
        """Introduce ourselves and start a thread, once.

        Raises:
            ConnectionError: the proxy closed the connection, or refused a request.
        """
        if self._thread:
            return
        client = {"name": "trace-proxy talk", "version": "1"}
        await self._ask("initialize", {"clientInfo": client}, context)
        await self._socket.send_json({"method": "initialized"})
        self._thread = (await self._ask("thread/start", {}, context))["thread"]["id"]

    async def turn(self, text: str, context: SpanContext | None) -> str:
        """Say something and show what streams in; returns the turn's status.

        Raises:
            ConnectionError: the proxy closed the connection first, or refused the request.
        """
        params = {"threadId": self._thread, "input": [{"type": "text", "text": text}]}
        await self._ask("turn/start", params, context)
        async for message in self._messages():
            await self._show(message)
            if message.get("method") == "turn/completed":
                return str(message["params"]["turn"]["status"])
        raise ConnectionError(f"closed with code {self._socket.close_code}")

    async def _ask(
        self, method: str, params: dict[str, Any], context: SpanContext | None
    ) -> dict[str, Any]:
        """Send a request and wait for its answer; notifications meanwhile are shown."""
        request_id, self._next_id = self._next_id, self._next_id + 1
        request: dict[str, Any] = {"id": request_id, "method": method, "params": params}
        if context is not None:
            request["trace"] = {"traceparent": format_traceparent(context)}
        await self._socket.send_json(request)
        async for message in self._messages():
            if message.get("id") == request_id and "method" not in message:
                if "error" in message:
                    raise ConnectionError(f"{method}: {message['error']['message']}")
                result: dict[str, Any] = message["result"]
                return result
            await self._show(message)
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
        elif method == "item/started" and params["item"].get("type") == "fileChange":
            self._changes[params["item"]["id"]] = params["item"].get("changes", [])
            if len(self._changes) > ITEMS_KEPT:
                del self._changes[next(iter(self._changes))]
        elif method in _APPROVALS:
            _say(_question(params, self._changes.get(params.get("itemId", ""), [])))
            answer = (await _typed() or b"").strip().lower()
            decision = "accept" if answer in (b"y", b"yes") else "decline"
            await self._socket.send_json({"id": message["id"], "result": {"decision": decision}})


def _question(params: dict[str, Any], changes: Sequence[dict[str, Any]]) -> str:
    """All that one must see before one says yes."""
    lines = [params["reason"]] if params.get("reason") else []
    for change in changes:
        kind = change.get("kind") or {}
        lines += [f"{kind.get('type', 'change')} {change.get('path', '')}"]
        lines += [f"    {line}" for line in change.get("diff", "").splitlines()]
    if params.get("grantRoot"):
        lines += [f"to write anywhere below {params['grantRoot']}"]
    if params.get("cwd"):
        lines += [f"in {params['cwd']}"]
    shown = "".join(f"  {_visible(line)}\n" for line in lines)
    what = _visible(params["command"]) if params.get("command") else "this file change"
    return f"\n{shown}Allow {what} ? [y/N] "


def _visible(text: str) -> str:
    """Without what would move the cursor: one says yes to what one sees."""
    return "".join(
        each if each.isprintable() or each == "\t" else repr(each)[1:-1] for each in text
    )


async def _typed() -> bytes | None:
    """The next line of stdin, read by a thread that nobody waits for when Ctrl-C comes.

    None at the end of the input.
    """
    loop = asyncio.get_running_loop()
    line = loop.create_future()

    def read() -> None:
        typed, byte = b"", b""
        while (byte := os.read(0, 1)) not in (b"", b"\n"):
            typed += byte
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so is the question
            loop.call_soon_threadsafe(line.set_result, typed if typed or byte else None)

    threading.Thread(target=read, daemon=True).start()
    answer: bytes | None = await line
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
    url: str, text: str | None, *, token_file: str | None = None, ca: str | None = None
) -> int:
    """Run one turn, or without a text one for each line; returns the exit code.

    Raises:
        ConnectionError: the proxy refuses, or a file cannot be used, in words for people.
        aiohttp.ClientError: it cannot be reached.
    """
    session = session_to(url, token_file=token_file, ca=ca)
    tracer = Tracer()
    try:
        async with session, await _connected(session, url) as socket:
            return await _converse(Conversation(socket), tracer, text)
    finally:
        await tracer.shutdown()


async def _connected(session: aiohttp.ClientSession, url: str) -> aiohttp.ClientWebSocketResponse:
    try:
        return await session.ws_connect(url)
    except aiohttp.WSServerHandshakeError as error:
        if error.status == _REFUSED:
            raise ConnectionError(await _why_refused(session, url)) from None
        raise


async def _converse(conversation: Conversation, tracer: Tracer, text: str | None) -> int:
    if text is None:  # whoever thinks before the first line is not to be hung up on
        await conversation.begin(None)
    code = 0
    async for said in _texts(text):
        with tracer.turn() as context:
            await conversation.begin(context)
            status = await conversation.turn(said, context)
        trace = "" if context is None else f"; trace {context.trace_id:032x}"
        _say(f"\n\nturn {status}{trace}\n")
        code = 0 if status == "completed" else FAILED
    return code


async def _texts(text: str | None) -> AsyncIterator[str]:
    """The one text, or what is typed."""
    if text is not None:
        yield text
        return
    while True:
        if sys.stdin.isatty():
            _say("> ")
        line = await _typed()
        if line is None:
            return
        if line.strip():
            yield line.decode(errors="replace")


async def _why_refused(session: aiohttp.ClientSession, url: str) -> str:
    """503 says that it takes nobody; /readyz says why."""
    with contextlib.suppress(aiohttp.ClientError, ValueError, TypeError, KeyError):
        async with session.get(f"http{url.removeprefix('ws').rstrip('/')}/readyz") as answer:
            if (await answer.json())["state"] in ("starting", "serving"):
                return "it has as many clients as it takes; try again later"
    return "draining: it takes no new clients; try again when its successor is there"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and talk.

    Args:
        arguments: Those behind `talk`; None: the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="trace-proxy talk",
        description="Run turns through a trace-proxy and stream the answers.",
        usage="%(prog)s [-h] [--token-file FILE] [--ca FILE] [URL] [TEXT]",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="URL, TEXT",
        help=f"where the proxy listens (default {DEFAULT_URL}), and what to say (default: the "
        "lines of stdin); /help lists what the offline engine does",
    )
    parser.add_argument("--token-file", metavar="FILE", help="holds the bearer token to show")
    parser.add_argument("--ca", metavar="FILE", help="the authority to trust for wss://, PEM")
    given = parser.parse_args(arguments)
    words: list[str] = given.words
    if len(words) > 2:
        parser.error("give one text: quote it")
    url, text = _url_and_text(words)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        return asyncio.run(talk(url, text, token_file=given.token_file, ca=given.ca))
    except (aiohttp.ClientError, OSError) as error:
        sys.stderr.write(f"cannot talk to {url}: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        return 130


def _url_and_text(words: Sequence[str]) -> tuple[str, str | None]:
    match words:
        case [url, text]:
            return url, text
        case [word] if re.match(r"[a-z]+://", word):
            return word, None
        case [text]:
            return DEFAULT_URL, text
        case _:
            return DEFAULT_URL, None
