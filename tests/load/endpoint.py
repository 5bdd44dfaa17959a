"""A model endpoint that costs next to nothing: one answer of the Responses API, made once.

    python -m tests.load.endpoint [--deltas 20]     prints its URL, serves until stdin ends

Whatever is posted gets the same stream, an event a write, as models write.
"""

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence

import msgspec

from tests.responses_events import Reply, Text, stream_events

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def answer(deltas: int) -> Sequence[bytes]:
    """The writes of an answer."""
    reply = Reply((Text(("word " * deltas).rstrip()),))
    frames = [
        b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), msgspec.json.encode(event))
        for event in stream_events(reply, "0001", "model")
    ]
    chunks = [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames]
    return [_HEAD + chunks[0], *chunks[1:-1], chunks[-1] + b"0\r\n\r\n"]


class Connection(asyncio.Protocol):
    """One kept-alive connection."""

    def __init__(self, writes: Sequence[bytes]) -> None:
        self._writes = writes
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._data, 0, end)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._data) < size:
                return
            self._data = self._data[size:]
            assert self._transport is not None
            for write in self._writes:
                self._transport.write(write)


async def serve(deltas: int) -> None:
    """Serve until stdin ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    writes = answer(deltas)
    server = await loop.create_server(lambda: Connection(writes), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"http://127.0.0.1:{port}/v1\n")
    sys.stdout.flush()
    loop.add_reader(sys.stdin, lambda: None if sys.stdin.read(4096) else ended.set())
    await ended.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--deltas", type=int, default=20)
    asyncio.run(serve(parser.parse_args().deltas))
