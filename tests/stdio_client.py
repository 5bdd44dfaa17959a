"""A small real JSON-RPC client over stdio: spawn, request, notifications, wait.

    async with StdioClient.spawned([sys.executable, "-m", "core_server"]) as client:
        await client.initialize()
        result = await client.request("thread/start", {})
        done = await client.wait_for("turn/completed")

Every message that came is kept in `received`, in order, for whole-value comparison.
Questions of the server are answered by `on_request`, or wait in `wait_for`.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec

Json = dict[str, Any]

LIMIT_BYTES = 64 * 1024 * 1024
"""StreamReader's bound for a line."""


class RpcError(Exception):
    """An error answer."""

    def __init__(self, error: Json) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")


def result_of(answer: Json) -> Json:
    """What was answered; raises `RpcError` for an error."""
    if "error" in answer:
        raise RpcError(answer["error"])
    result: Json = answer["result"]
    return result


class StdioClient:
    """One client of one process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.received: list[Json] = []
        self.sent: list[Json] = []
        self.stderr = b""
        self.on_request: Callable[[Json], Json | None] = lambda _: None
        self.eof = asyncio.Event()
        self._next_id = 0
        self._changed = asyncio.Condition()
        self._seen = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def spawned(
        cls,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        read: bool = True,
    ) -> AsyncIterator["StdioClient"]:
        """Start a process, read what it says, and end it at the end.

        Args:
            argv: Program and arguments.
            cwd: Its directory.
            env: Set on top of our own environment.
            read: Whether to read its stdout from the start; else call `read_stdout`.
        """
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            limit=LIMIT_BYTES,
        )
        client = cls(process)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(client._read_stderr())]
                if read:
                    tasks.append(group.create_task(client.read_stdout()))
                yield client
                await client.close()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def close(self, timeout_s: float = 5.0) -> int:
        """Close stdin and wait for the exit code."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            async with asyncio.timeout(timeout_s):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            raise AssertionError(
                f"still running {timeout_s} s after EOF: {self.stderr!r}"
            ) from None

    def write(self, line: bytes) -> None:
        """Write raw bytes; a newline is added."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")

    def send(self, message: Json) -> None:
        """Write a message."""
        if "id" in message:
            self.sent.append(message)
        self.write(msgspec.json.encode(message))

    def notify(self, method: str) -> None:
        """Send a notification."""
        self.send({"method": method})

    def begin(self, method: str, params: object = None, **more: object) -> int:
        """Send a request; returns its id."""
        self._next_id += 1
        message: Json = {"id": self._next_id, "method": method, **more}
        if params is not None:
            message["params"] = params
        self.send(message)
        return self._next_id

    async def answer(self, request_id: object, timeout_s: float = 10.0) -> Json:
        """The answer to a request; raises `RpcError` for an error."""
        message = await self.wait(
            lambda known: known.get("id") == request_id and "method" not in known, timeout_s
        )
        return result_of(message)

    async def request(self, method: str, params: object = None, **more: object) -> Json:
        """Send a request and wait for its answer."""
        return await self.answer(self.begin(method, params, **more))

    async def initialize(self, *, experimental: bool = False, **info: str) -> Json:
        """The handshake; a core on a server has loaded its library and connected before it answers."""
        client = {"name": "test-client", "version": "1.2.3", **info}
        params: Json = {"clientInfo": client, "capabilities": {"experimentalApi": experimental}}
        result = await self.answer(self.begin("initialize", params), timeout_s=60.0)
        self.notify("initialized")
        return result

    async def wait_for(self, method: str, timeout_s: float = 10.0, **params: object) -> Json:
        """The first message with this method and these params that was not waited for yet."""

        def fits(message: Json) -> bool:
            known = message.get("params") or {}
            return message.get("method") == method and all(
                known.get(name) == value for name, value in params.items()
            )

        return await self.wait(fits, timeout_s, consume=True)

    async def wait(
        self, fits: Callable[[Json], bool], timeout_s: float = 10.0, *, consume: bool = False
    ) -> Json:
        """The first message that fits; with `consume`, among those after the last consumed."""
        place = self._seen if consume else 0
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                while True:
                    while place < len(self.received):
                        if fits(self.received[place]):
                            if consume:
                                self._seen = place + 1
                            return self.received[place]
                        place += 1
                    if self.eof.is_set():
                        raise AssertionError(f"the server is gone: {self.stderr.decode()}")
                    await self._changed.wait()
        except TimeoutError:
            tail = self.received[-5:]
            raise AssertionError(f"nothing fits; last: {tail}; {self.stderr!r}") from None

    def methods(self) -> list[str]:
        """The methods of all notifications and questions so far."""
        return [message["method"] for message in self.received if "method" in message]

    async def read_stdout(self) -> None:
        """Read to the end."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            message = msgspec.json.decode(line)
            self.received.append(message)
            if "method" in message and "id" in message:
                result = self.on_request(message)
                if result is not None:
                    self.send({"id": message["id"], **result})
            async with self._changed:
                self._changed.notify_all()
        self.eof.set()
        async with self._changed:
            self._changed.notify_all()

    async def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        while chunk := await self.process.stderr.read(65536):
            self.stderr += chunk
