"""What does an abusive client cost the proxy's memory, and its neighbour's latency?

    python -m tests.load.abuse [--requests 300] [--rounds 5] [--only "31 KiB"]

For each kind of abuse: how much resident memory the proxy gains at most while one client
does it, and the 99th percentile of a well-behaved neighbour's requests, without and with
it: of those that the proxy answers itself, and of those that wait for a core which is
small, slow and shared with the abuser; and the longest of them. The abuser runs at the
lowest priority, so that it competes for the proxy and not for the processor.

Where others work on the machine, run it under `chrt --rr 1` (as root): only the abuser
then competes with them.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import aiohttp

from tests.e2e.processes import resident_bytes
from tests.e2e.proxy import (
    MAX_MESSAGE_BYTES,
    Closed,
    Proxy,
    WebsocketClient,
    fake_core,
    leave,
    trace_proxy,
    turn_params,
)
from tests.load.figures import percentile, show
from tests.load.shapes import SHAPES, shaped

KIB = 1024
MIB = 1024 * KIB


async def flood_of_requests(client: WebsocketClient) -> None:
    """Requests as fast as the socket takes them, answers never read."""
    while True:
        for _ in range(100):
            await client.begin("model/list", {"text": "x" * 1000})
        await asyncio.sleep(0)


async def flood_that_listens(client: WebsocketClient) -> None:
    """The same with all answers read, so that nothing ends it."""
    async with asyncio.TaskGroup() as tasks:
        flood = tasks.create_task(flood_of_requests(client))
        async for _ in client.socket:
            pass
        flood.cancel()


async def flood_of_deltas(client: WebsocketClient) -> None:
    """Turns that stream far more than is read."""
    thread = await client.thread()
    while True:
        await client.begin("turn/start", turn_params(thread, "flood 20000 1000"))
        await asyncio.sleep(0.5)


async def flood_of_pings(client: WebsocketClient) -> None:
    """Pings, pongs never read."""
    while True:
        for _ in range(100):
            await client.socket.ping(b"x" * 125)
        await asyncio.sleep(0)


def messages_of(size: int) -> Callable[[WebsocketClient], Awaitable[None]]:
    """Messages of so many bytes, one after the other, answers never read."""

    async def flood(client: WebsocketClient) -> None:
        text = "x" * size
        while True:
            await client.begin("model/list", {"text": text})

    return flood


def messages_like(shape: str, size: int) -> Callable[[WebsocketClient], Awaitable[None]]:
    """Messages of a shape, one after the other, answers never read."""

    async def flood(client: WebsocketClient) -> None:
        text = shaped(shape, size)
        while True:
            await client.write(text)

    return flood


def frames_of(frame: bytes, first: bytes = b"") -> Callable[[WebsocketClient], Awaitable[None]]:
    """The same frame again and again, what is answered is read."""

    async def flood(client: WebsocketClient) -> None:
        connection = client.socket._response.connection  # noqa: SLF001 - no public way
        assert connection is not None
        transport = connection.transport
        assert isinstance(transport, asyncio.Transport)
        transport.write(first)
        many = frame * (64 * KIB // len(frame))
        async with asyncio.TaskGroup() as tasks:
            answers = tasks.create_task(all_read(client))
            while not client.socket.closed and not transport.is_closing():
                while transport.get_write_buffer_size() < MIB:
                    transport.write(many)
                await asyncio.sleep(0.001)
            answers.cancel()

    return flood


async def all_read(client: WebsocketClient) -> None:
    """Read what comes, until the end."""
    async for _ in client.socket:
        pass


def texts_of(*texts: str) -> Callable[[WebsocketClient], Awaitable[None]]:
    """The same messages again and again, what is answered is read."""
    return frames_of(b"".join(_frame(text.encode()) for text in texts))


def _frame(payload: bytes) -> bytes:
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload


async def flood_of_pages(client: WebsocketClient, path: str) -> None:
    """Plain requests, eight at a time."""
    url = client.socket._response.url.with_path(path)  # noqa: SLF001 - no public way

    async def ask(session: aiohttp.ClientSession) -> None:
        while True:
            async with session.get(url) as response:
                await response.read()

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(ask(session))


async def flood_of_connections(client: WebsocketClient) -> None:
    """Come, say hello and go, eight at a time."""
    url = client.socket._response.url  # noqa: SLF001 - no public way

    async def come(session: aiohttp.ClientSession) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError, Closed):
                async with session.ws_connect(url) as socket:
                    await WebsocketClient(socket).initialize()

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(come(session))


ABUSES: dict[str, Callable[[WebsocketClient], Awaitable[None]]] = {
    "requests, answers not read": flood_of_requests,
    "requests, answers read": flood_that_listens,
    "deltas not read": flood_of_deltas,
    "pings, pongs not read": flood_of_pings,
    "messages of 64 KiB": messages_of(64 * KIB),
    "messages of 900 KiB": messages_of(900 * KIB),
    "messages of 15 MiB": messages_of(15 * MIB),
    "messages of nothing": frames_of(b"\x81\x80" + bytes(4)),
    "fragments of nothing": frames_of(b"\x00\x80" + bytes(4), first=b"\x01\x80" + bytes(4)),
    "pongs": frames_of(b"\x8a\x80" + bytes(4)),
    "no JSON": texts_of("[[[["),
    "answers to nothing": texts_of('{"id":1,"result":{}}'),
    "notifications": texts_of('{"method":"nobody/knows","params":{}}'),
    "interrupts": texts_of('{"id":1,"method":"turn/interrupt","params":{"threadId":"x"}}'),
    "ids of 1 KiB": texts_of('{"id":"%s","method":"model/list"}' % ("x" * KIB)),
    "unknown methods": texts_of('{"id":1,"method":"%s"}' % ("x" * 100)),
    "threads": texts_of('{"id":1,"method":"thread/start","params":{}}'),
    "GET /healthz": partial(flood_of_pages, path="/healthz"),
    "GET /metrics": partial(flood_of_pages, path="/metrics"),
    "connections": flood_of_connections,
    **{f"15 MiB of {shape}": messages_like(shape, 15 * MIB) for shape in SHAPES},
    **{f"31 KiB of {shape}": messages_like(shape, 31 * KIB) for shape in SHAPES},
    **{f"1.9 KiB of {shape}": messages_like(shape, 1900) for shape in SHAPES},
}


BY_PROXY = "thread/unsubscribe"
BY_CORE = "model/list"


async def latencies(neighbour: WebsocketClient, requests: int) -> dict[str, list[float]]:
    """How long a neighbour's requests take, each sent 5 ms after the answer before."""
    took_s: dict[str, list[float]] = {BY_PROXY: [], BY_CORE: []}
    for _ in range(requests):
        for method, times_s in took_s.items():
            began_s = time.monotonic()
            await neighbour.request(method, {"threadId": "none"})
            times_s.append(time.monotonic() - began_s)
            await asyncio.sleep(0.005)
    return took_s


async def highest(proxy: Proxy, reached: list[int]) -> None:
    """Watch the proxy's memory."""
    while True:
        reached.append(resident_bytes(proxy.pid))
        await asyncio.sleep(0.02)


async def abused(
    name: str, requests: int
) -> tuple[int, dict[str, list[float]], dict[str, list[float]]]:
    """Memory gained, and the neighbour's latencies without and with the abuse."""
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as neighbour:
        await latencies(neighbour, 50)
        before = resident_bytes(proxy.pid)
        quiet = await latencies(neighbour, requests)
        reached = [before]
        # Another process: it must not slow down the clock that the neighbour is held to.
        attacker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.load.abuse", "--attack", name, "--url", proxy.url),
        )
        try:
            await proxy.logged("connection.opened", times=2)
            async with asyncio.TaskGroup() as tasks:
                watcher = tasks.create_task(highest(proxy, reached))
                loud = await latencies(neighbour, requests)
                watcher.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                attacker.kill()
            await attacker.wait()
        return max(reached) - before, quiet, loud


async def attack(name: str, url: str) -> None:
    """Be the abusive client until the process is ended: who is cut comes back at once."""
    alone = os.sched_getscheduler(0) == os.SCHED_OTHER
    os.sched_setscheduler(0, os.SCHED_IDLE if alone else os.SCHED_OTHER, os.sched_param(0))
    async with aiohttp.ClientSession() as session:
        while True:
            socket = await session.ws_connect(url, max_msg_size=MAX_MESSAGE_BYTES)
            client = WebsocketClient(socket)
            with contextlib.suppress(ConnectionError, Closed):
                await client.initialize()
                await ABUSES[name](client)
            await leave(socket)


async def measure(options: argparse.Namespace) -> None:
    """All kinds, several rounds."""
    for name in [each for each in ABUSES if options.only in each]:
        rounds = [await abused(name, options.requests) for _ in range(options.rounds)]
        show(
            abuse=name,
            grown_mib=round(max(gained for gained, _, _ in rounds) / MIB, 1),
            p99_by_proxy=beside([(quiet[BY_PROXY], loud[BY_PROXY]) for _, quiet, loud in rounds]),
            p99_by_core=beside([(quiet[BY_CORE], loud[BY_CORE]) for _, quiet, loud in rounds]),
        )


def beside(rounds: list[tuple[list[float], list[float]]]) -> dict[str, float]:
    """The 99th percentiles without and with the abuse, and their ratio."""
    without_s = percentile([each for quiet, _ in rounds for each in quiet], 0.99)
    with_s = percentile([each for _, loud in rounds for each in loud], 0.99)
    return {
        "without_ms": round(without_s * 1000, 2),
        "with_ms": round(with_s * 1000, 2),
        "ratio": round(with_s / without_s, 1),
        "longest_ms": round(max(each for _, loud in rounds for each in loud) * 1000, 1),
    }


def main() -> None:
    """Read the options and run."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=300, help="of the neighbour, a round")
    parser.add_argument("--rounds", type=int, default=5, help="proxies for each abuse")
    parser.add_argument("--only", default="", help="kinds of abuse with this in their name")
    parser.add_argument(
        "--attack", choices=ABUSES, metavar="KIND", help="only be this client, of --url"
    )
    parser.add_argument("--url", help="of a proxy")
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack(options.attack, options.url))
    else:
        asyncio.run(measure(options))


if __name__ == "__main__":
    main()
