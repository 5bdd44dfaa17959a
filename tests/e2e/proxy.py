"""A real trace-proxy and real clients, for end-to-end tests and load commands.

    async with trace_proxy("--drain-timeout", "5") as proxy, proxy.client() as client:
        thread = await client.thread()
        turn = await client.turn(thread, "/slow 1")
        proxy.signal(signal.SIGTERM)
        done = await client.wait_for("turn/completed")
        assert await proxy.exit_code() == 0

Clients pull: nothing is read from the socket unless a test waits for something, so a
client that does not read is a test that does not wait. Each proxy has a directory for
its store and workspace and a mark by which all its descendants are found and ended.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.processes import MARK, POLL_S, kill, marked, nobody_left

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
CORES = Path(__file__).with_name("cores")
WAIT_S = 15.0
"""Nothing here takes so long; other work on the machine may."""

MAX_MESSAGE_BYTES = 128 * 1024 * 1024


def fake_core(name: str, *arguments: str) -> list[str]:
    """The command of one of the small cores in `cores/`."""
    return [sys.executable, "-u", str(CORES / f"{name}.py"), *arguments]


class RpcError(Exception):
    """An error answer."""

    def __init__(self, error: Json) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")


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
        message = await self.wait(
            lambda each: each.get("id") == request_id and "method" not in each, timeout_s
        )
        if "error" in message:
            raise RpcError(message["error"])
        result: Json = message["result"]
        return result

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

    async def initialize(self, *, experimental: bool = False) -> Json:
        """The handshake."""
        params: Json = {
            "clientInfo": {"name": "e2e", "version": "1"},
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


class Proxy:
    """A running trace-proxy.

    Attributes:
        process: Its process.
        directory: Its store, workspace and log.
        mark: What all its descendants carry.
        ready: The `proxy.ready` line.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        directory: Path,
        mark: str,
        session: aiohttp.ClientSession,
    ) -> None:
        self.process = process
        self.directory = directory
        self.mark = mark
        self.ready: Json = {}
        self._session = session

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def url(self) -> str:
        """Its first websocket URL."""
        url: str = next(each for each in self.ready["listen"] if each.startswith("ws://"))
        return url

    @property
    def http_url(self) -> str:
        """The same for plain requests."""
        return "http" + self.url.removeprefix("ws")

    @property
    def stderr(self) -> str:
        """All that it has written to stderr."""
        return (self.directory / "stderr").read_text(errors="replace")

    def log(self, event: str = "") -> list[Json]:
        """Its log lines, all or those of an event."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("{")]
        parsed: list[Json] = [json.loads(line) for line in lines if line.endswith("}")]
        return [each for each in parsed if not event or each["event"] == event]

    async def logged(self, event: str, times: int = 1, timeout_s: float = WAIT_S) -> Json:
        """Wait until it has logged an event so often; returns the latest of them."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(found := self.log(event)) < times:
                    assert self.process.returncode is None, self.stderr
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise AssertionError(f"no {event}: {self.stderr}") from None
        return found[-1]

    def core_pid(self, times: int = 1) -> int:
        """The process of the core that was started last, and that it is the nth start."""
        started = self.log("core.started")
        assert len(started) == times, started
        pid: int = started[-1]["pid"]
        return pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def exit_code(self, timeout_s: float = WAIT_S) -> int:
        """Wait for its end."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"still running: {self.stderr}") from None

    async def survivors(self, within_s: float = 3.0) -> dict[int, str]:
        """Who is left of its descendants after so long; empty as it should be."""
        return await nobody_left(self.mark, within_s)

    async def connect(self, **options: Any) -> aiohttp.ClientWebSocketResponse:
        """Open a websocket."""
        options.setdefault("max_msg_size", MAX_MESSAGE_BYTES)
        socket: aiohttp.ClientWebSocketResponse = await self._session.ws_connect(
            self.url, **options
        )
        return socket

    @contextlib.asynccontextmanager
    async def client(
        self, *, experimental: bool = False, initialize: bool = True, **options: Any
    ) -> AsyncIterator[WebsocketClient]:
        """A client, by default past its handshake."""
        socket = await self.connect(**options)
        client = WebsocketClient(socket)
        try:
            if initialize:
                await client.initialize(experimental=experimental)
            yield client
        finally:
            await leave(socket)

    async def pipe_client(self) -> PipeClient:
        """The client of `--listen stdio://`, past its handshake."""
        client = PipeClient(self.process)
        await client.initialize()
        return client

    async def get(self, path: str) -> tuple[int, str, Json]:
        """A plain request: status, body and headers."""
        async with self._session.get(self.http_url + path) as response:
            return response.status, await response.text(), dict(response.headers)


async def leave(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Hang up without a Close, whatever the peer does."""
    connection = socket._response.connection  # noqa: SLF001 - there is no public abort
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(1):
            await socket.close()


@contextlib.asynccontextmanager
async def trace_proxy(
    *options: str,
    core: Sequence[str] = (),
    env: dict[str, str] | None = None,
    listen: str = "ws://127.0.0.1:0",
    wait: bool = True,
    directory: Path | None = None,
    pipes: bool = False,
) -> AsyncIterator[Proxy]:
    """Start a proxy, wait until it serves, and leave nothing of it behind.

    Args:
        options: Its options.
        core: Its core's command; our own core-server by default.
        env: On top of our environment.
        listen: Its listener.
        wait: Whether to wait for `proxy.ready`.
        directory: For its store, to be kept; a temporary one by default.
        pipes: Whether its stdin and stdout are pipes to us, for `stdio://`.
    """
    mark = f"e2e-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix=mark) as temporary:
        where = directory or Path(temporary)
        async with aiohttp.ClientSession() as session:
            process = await _start(mark, where, _argv(listen, options, core), env, pipes=pipes)
            proxy = Proxy(process, where, mark, session)
            try:
                if wait:
                    proxy.ready = await proxy.logged("proxy.ready")
                yield proxy
            finally:
                await _end(proxy)


def _argv(listen: str, options: Sequence[str], core: Sequence[str]) -> list[str]:
    argv = [sys.executable, "-m", "trace_proxy", "--log-format", "json", "--listen", listen]
    return [*argv, *options, *(("--", *core) if core else ())]


async def _start(
    mark: str,
    directory: Path,
    argv: list[str],
    env: dict[str, str] | None,
    *,
    pipes: bool,
) -> asyncio.subprocess.Process:
    (directory / "workspace").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CORE_SERVER_STORE": f"sqlite:///{directory}/threads.db",
        "CORE_SERVER_WORKSPACE": f"{directory}/workspace",
        MARK: mark,
        **(env or {}),
    }
    with (directory / "stderr").open("wb") as stderr:
        return await asyncio.create_subprocess_exec(
            *argv,
            env=environment,
            cwd=directory,
            stderr=stderr,
            stdin=asyncio.subprocess.PIPE if pipes else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if pipes else asyncio.subprocess.DEVNULL,
            process_group=0,
        )


async def _end(proxy: Proxy) -> None:
    if proxy.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            proxy.process.kill()
        await proxy.process.wait()
    for pid in marked(proxy.mark):
        kill(pid)
