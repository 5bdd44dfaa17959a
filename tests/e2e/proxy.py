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
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.clients import (
    WAIT_S,
    Client,
    Closed,
    Json,
    PipeClient,
    RpcError,
    WebsocketClient,
    turn_params,
)
from tests.e2e.processes import MARK, POLL_S, kill, marked, nobody_left

__all__ = [
    "Client",
    "Closed",
    "Json",
    "PipeClient",
    "Proxy",
    "RpcError",
    "WebsocketClient",
    "fake_core",
    "trace_proxy",
    "turn_params",
]

ROOT = Path(__file__).parents[2]
CORES = Path(__file__).with_name("cores")
MAX_MESSAGE_BYTES = 128 * 1024 * 1024


def fake_core(name: str, *arguments: str) -> list[str]:
    """The command of one of the small cores in `cores/`."""
    return [sys.executable, "-u", str(CORES / f"{name}.py"), *arguments]


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
        url: str = next(each for each in self.ready["listen"] if each.startswith("ws"))
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

    async def connect(self, path: str = "", **options: Any) -> aiohttp.ClientWebSocketResponse:
        """Open a websocket."""
        options.setdefault("max_msg_size", MAX_MESSAGE_BYTES)
        socket: aiohttp.ClientWebSocketResponse = await self._session.ws_connect(
            self.url + path, **options
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

    async def pipe_client(self, *, experimental: bool = False) -> PipeClient:
        """The client of `--listen stdio://`, past its handshake."""
        client = PipeClient(self.process)
        await client.initialize(experimental=experimental)
        return client

    async def get(self, path: str, **options: Any) -> tuple[int, str, Json]:
        """A plain request: status, body and headers."""
        async with self._session.get(self.http_url + path, **options) as response:
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
