"""Our core inside the test's own loop, on real pipes: for stores and engines made to fail."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

from core_server.config import Config
from core_server.engines.base import Engine
from core_server.engines.offline import OfflineEngine
from core_server.runtime.server import Server
from core_server.storage.base import Store
from core_server.storage.memory import MemoryStore
from tests.core_process import check_schema
from tests.stdio_client import LIMIT_BYTES, StdioClient


class Wires:
    """What `StdioClient` needs of a process: its two ends."""

    def __init__(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.returncode: int | None = None
        self.ended = asyncio.Event()

    async def wait(self) -> int:
        """Wait until the server returned."""
        await self.ended.wait()
        return 0


@contextlib.asynccontextmanager
async def served(
    config: Config | None = None,
    *,
    store: Store | None = None,
    engine: Engine | None = None,
    initialize: bool = True,
    experimental: bool = False,
) -> AsyncIterator[StdioClient]:
    """A served core and its client; the core has returned when the block is left."""
    to_core, from_core = os.pipe(), os.pipe()
    server = Server(
        config or Config(),
        engine or OfflineEngine(),
        store or MemoryStore(),
        (to_core[0], from_core[1]),
    )
    wires = Wires(await _writer(to_core[1]), await _reader(from_core[0]))
    process: Any = wires
    client = StdioClient(process)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_serve(server, wires))
            group.create_task(client.read_stdout())
            if initialize:
                await client.initialize(experimental=experimental)
            try:
                yield client
            finally:
                await client.close()
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    check_schema(client)


async def _serve(server: Server, wires: Wires) -> None:
    try:
        await server.serve()
    finally:
        wires.ended.set()


async def _reader(fd: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=LIMIT_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: protocol, os.fdopen(fd, "rb", 0))
    return reader


async def _writer(fd: int) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(fd, "wb", 0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)
