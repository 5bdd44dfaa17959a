"""Real JSON-RPC clients that pull: nothing is read unless a test waits for something."""

import asyncio
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

import aiohttp

from tests.stdio_client import Json, RpcError, result_of

__all__ = [
    "Client",
    "Closed",
    "Json",
    "PipeClient",
    "RpcError",
    "WebsocketClient",
    "has_id",
    "text_of",
    "turn_params",
]

WAIT_S = 15.0
"""Nothing here takes so long; other work on the machine may."""


class Closed(Exception):  # noqa: N818 - what happened, not an error by itself
    """The connection has ended; `code` is None when it did without a Close."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Client(ABC):
    """One client, however it is connected.

    Attributes:
        received: Every message read so far, in order.
    """

    def __init__(self) -> None:
        self.received: list[Json] = []
        self._unseen: deque[Json] = deque()
        self._next_id = 0

    @abstractmethod
    async def write(self, text: str) -> None:
        """Send any text as one message."""

    @abstractmethod
    async def read(self) -> str | bytes:
        """The next message; raises `Closed`."""

    async def send(self, message: Json) -> None:
        """Send a message as it is."""
        await self.write(json.dumps(message))

    async def begin(self, method: str, params: object = None, **more: object) -> int:
        """Send a request; returns its id."""
        self._next_id += 1
        message: Json = {"id": self._next_id, "method": method, **more}
        if params is not None:
            message["params"] = params
        await self.send(message)
        return self._next_id

    async def answer(self, request_id: object, timeout_s: float = WAIT_S) -> Json:
        """The result of a request; raises `RpcError` when it failed."""
        return result_of(await self.wait(lambda each: has_id(request_id, each), timeout_s))

    async def request(self, method: str, params: object = None, **more: object) -> Json:
        """Send a request and wait for its result."""
        return await self.answer(await self.begin(method, params, **more))

    async def error(self, method: str, params: object = None) -> RpcError:
        """Send a request that must fail."""
        try:
            result = await self.request(method, params)
        except RpcError as error:
            return error
        raise AssertionError(f"{method} did not fail: {result}")

    async def initialize(
        self, *, experimental: bool = False, name: str = "e2e", version: str = "1"
    ) -> Json:
        """The handshake."""
        params: Json = {
            "clientInfo": {"name": name, "version": version},
            "capabilities": {"experimentalApi": experimental},
        }
        result = await self.request("initialize", params)
        await self.send({"method": "initialized"})
        return result

    async def thread(self) -> str:
        """Start a thread; returns its id."""
        result = await self.request("thread/start", {})
        thread: str = result["thread"]["id"]
        return thread

    async def turn(self, thread: str, text: str) -> str:
        """Start a turn; returns its id."""
        result = await self.request("turn/start", turn_params(thread, text))
        turn: str = result["turn"]["id"]
        return turn

    async def wait_for(self, method: str, timeout_s: float = WAIT_S) -> Json:
        """The next message with this method that nobody waited for yet."""
        return await self.wait(lambda each: each.get("method") == method, timeout_s)

    async def wait(self, fits: Callable[[Json], bool], timeout_s: float = WAIT_S) -> Json:
        """The first message that fits and was not returned before."""
        for message in self._unseen:
            if fits(message):
                self._unseen.remove(message)
                return message
        try:
            async with asyncio.timeout(timeout_s):
                while not fits(message := await self._read()):
                    self._unseen.append(message)
                return message
        except TimeoutError:
            raise AssertionError(f"nothing fits; last: {self.received[-3:]}") from None

    async def _read(self) -> Json:
        read: Json = json.loads(await self.read())
        self.received.append(read)
        return read

    async def closed(self, timeout_s: float = WAIT_S) -> int | None:
        """Read until the connection ends; returns its close code."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._unseen.append(await self._read())
        except Closed as closed:
            return closed.code

    def methods(self) -> list[str]:
        """The methods of all that was read."""
        return [each["method"] for each in self.received if "method" in each]


class WebsocketClient(Client):
    """A client with a websocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        super().__init__()
        self.socket = socket

    async def write(self, text: str) -> None:
        """Send a text message."""
        await self.socket.send_str(text)

    async def read(self) -> str | bytes:
        """The next text message."""
        message = await self.socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise Closed(self.socket.close_code)
        text: str = message.data
        return text


class PipeClient(Client):
    """A client at the other end of the proxy's own stdin and stdout."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin = process.stdin
        self.stdout = process.stdout

    async def write(self, text: str) -> None:
        """Send a line."""
        self.stdin.write(text.encode() + b"\n")
        await self.stdin.drain()

    async def read(self) -> str | bytes:
        """The next line."""
        line = await self.stdout.readline()
        if not line:
            raise Closed(None)
        return line


def turn_params(thread: str, text: str) -> Json:
    """Params of `turn/start`."""
    return {"threadId": thread, "input": [{"type": "text", "text": text}]}


def has_id(request_id: object, message: Json) -> bool:
    """Whether this is the answer."""
    return message.get("id") == request_id and "method" not in message


def text_of(client: Client) -> str:
    """All text that was streamed to it."""
    deltas = [each for each in client.received if each.get("method", "").endswith("/delta")]
    return "".join(each["params"]["delta"] for each in deltas)
