"""Talk to a proxy from a terminal: one turn, streamed.

    python -m trace_proxy.talk ws://127.0.0.1:4500 "hello there"

A small, whole client of the protocol: initialize, thread/start, turn/start, deltas,
approvals by keyboard, turn/completed. Says the trace id at the end, so that the turn
can be found in Jaeger. For people, not for scripts.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp

FAILED: Final = 1

_TEXT: Final = frozenset({"item/agentMessage/delta", "item/commandExecution/outputDelta"})
_APPROVALS: Final = frozenset(
    {"item/commandExecution/requestApproval", "item/fileChange/requestApproval"}
)


class Conversation:
    """One thread with one turn over an open websocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._next_id = 0
        self.trace_id = secrets.token_hex(16)

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer; notifications meanwhile are shown.

        Raises:
            ConnectionError: the proxy closed the connection, or refused the request.
        """
        request_id, self._next_id = self._next_id, self._next_id + 1
        trace = {"traceparent": f"00-{self.trace_id}-{secrets.token_hex(8)}-01"}
        request = {"id": request_id, "method": method, "params": params, "trace": trace}
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


async def talk(url: str, text: str) -> int:
    """Run one turn; returns the exit code."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        conversation = Conversation(socket)
        client = {"name": "trace_proxy.talk", "version": "1"}
        await conversation.ask("initialize", {"clientInfo": client})
        await socket.send_json({"method": "initialized"})
        thread = (await conversation.ask("thread/start", {}))["thread"]["id"]
        turn = {"threadId": thread, "input": [{"type": "text", "text": text}]}
        await conversation.ask("turn/start", turn)
        status = await conversation.until_turn_completed()
        _say(f"\n\nturn {status}; trace {conversation.trace_id}\n")
        return 0 if status == "completed" else FAILED


def main() -> int:
    """Read the command line and talk."""
    parser = argparse.ArgumentParser(
        prog="python -m trace_proxy.talk",
        description="Run one turn through a trace-proxy and stream the answer.",
    )
    parser.add_argument("url", help="where the proxy listens, e.g. ws://127.0.0.1:4500")
    parser.add_argument("text", help="what to say; /help lists what the offline engine does")
    arguments = parser.parse_args()
    try:
        return asyncio.run(talk(arguments.url, arguments.text))
    except (aiohttp.ClientError, OSError) as error:
        sys.stderr.write(f"cannot talk to {arguments.url}: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
