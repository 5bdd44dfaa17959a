"""What do tokens and TLS cost, and do guesses cost anybody else anything?

    python -m tests.load.door [--harness DIR] [--rounds 5] [--part handshakes]

What is compared runs interleaved, in proxies that live at the same time, so ratios hold
on a noisy machine; figures are medians.

    handshakes  milliseconds until the 101: without a token, with one, with a signed one
    throughput  requests a second and CPU a request of 50 clients with 4 outstanding each,
                over ws and wss; with `--harness`, the core is its C program
    guesses     p99 of a neighbour's requests, alone and while somebody shows 10,000 wrong
                tokens, each on a connection of its own, at the lowest priority
"""

import argparse
import asyncio
import contextlib
import os
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from tests.door import SECRET, TOKEN, UPGRADE, Authority, claims, port_of, signed
from tests.e2e.proxy import Proxy, fake_core, trace_proxy
from tests.load.bench import build
from tests.load.figures import percentile, show

CLIENTS: Final = 50
OUTSTANDING: Final = 4
REQUESTS: Final = 30_000
HANDSHAKES: Final = 100
GUESSES: Final = 10_000
MASKED: Final = 0x80


def opening(port: int, token: str | None) -> bytes:
    """The bytes of a handshake."""
    fields = {"Host": f"127.0.0.1:{port}", **UPGRADE}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    lines = ["GET / HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


def handshake_s(port: int, token: str | None) -> float:
    """How long one takes, in blocking calls: nothing of ours is in between."""
    with socket.create_connection(("127.0.0.1", port), 10) as peer:
        begun_s = time.perf_counter()
        peer.sendall(opening(port, token))
        answer = peer.recv(4096)
        took_s = time.perf_counter() - begun_s
    assert answer.startswith(b"HTTP/1.1 101"), answer[:100]
    return took_s


def frame(text: bytes) -> bytes:
    """A masked text frame of less than 64 KiB, with a mask of zeros."""
    size = len(text)
    head = bytes([0x81, MASKED | size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + bytes(4) + text


class Asker(asyncio.Protocol):
    """A client that keeps so many requests under way, and counts answers."""

    def __init__(
        self, port: int, requests: int, token: str | None = None, *, paced: bool = False
    ) -> None:
        self._paced = paced
        self._opening = opening(port, token)
        self._left = requests
        self._waiting = requests
        self._next_id = 1
        self._input = bytearray()
        self._open = False
        self._sent_s = 0.0
        self.took_s: list[float] = []
        self.opened = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a websocket."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self.transport.write(self._opening)

    def begin(self, outstanding: int) -> None:
        """Send the first ones."""
        self._send(min(outstanding, self._left))

    def _send(self, many: int) -> None:
        frames = []
        for _ in range(many):
            self._next_id += 1
            text = b'{"id":%d,"method":"model/list","params":{"x":"%s"}}' % (
                self._next_id,
                b"x" * 200,
            )
            frames.append(frame(text))
        self._left -= many
        self._sent_s = time.perf_counter()
        assert self.transport is not None
        self.transport.write(b"".join(frames))

    def data_received(self, data: bytes) -> None:
        """Count whole frames, and ask again for each."""
        self._input += data
        if not self._open:
            head, found, rest = bytes(self._input).partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101"), head[:100]
            self._open, self._input = True, bytearray(rest)
            assert self.transport is not None
            hello = b'{"id":1,"method":"initialize","params":{"clientInfo":{"name":"l","version":"1"}}}'
            self.transport.write(frame(hello) + frame(b'{"method":"initialized"}'))
        came = self._frames()
        if came and not self.opened.done():
            self.opened.set_result(None)
            came -= 1
        if not came:
            return
        self.took_s.append(time.perf_counter() - self._sent_s)
        self._waiting -= came
        if self._waiting <= 0 and not self.done.done():
            self.done.set_result(None)
        if self._left and not self._paced:
            self._send(min(came, self._left))

    def _frames(self) -> int:
        """How many whole answers there are; takes them away."""
        at, many, data = 0, 0, self._input
        while len(data) >= at + 2:
            size, head = data[at + 1], 2
            if size == 126:
                size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            if len(data) < at + head + size:
                break
            many += b'"id"' in data[at + head : at + head + 12]
            at += head + size
        del data[:at]
        return many


async def connect(
    port: int, requests: int, tls: ssl.SSLContext | None = None, token: str | None = None
) -> Asker:
    """A client past its handshake."""
    loop = asyncio.get_running_loop()
    name = None if tls is None else "localhost"
    _, asker = await loop.create_connection(
        lambda: Asker(port, requests, token, paced=token is not None),
        "127.0.0.1",
        port,
        ssl=tls,
        server_hostname=name,
    )
    await asker.opened
    return asker


def cpu_us(pid: int) -> float:
    """CPU time of a process so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000


async def load(proxy: Proxy, tls: ssl.SSLContext | None) -> tuple[float, float]:
    """Requests a second, and CPU of the proxy a request."""
    each = REQUESTS // CLIENTS
    askers = [await connect(port_of(proxy.url), each, tls) for _ in range(CLIENTS)]
    cpu, begun_s = cpu_us(proxy.pid), time.perf_counter()
    for asker in askers:
        asker.begin(OUTSTANDING)
    for asker in askers:
        await asker.done
    took_s, used_us = time.perf_counter() - begun_s, cpu_us(proxy.pid) - cpu
    for asker in askers:
        assert asker.transport is not None
        asker.transport.abort()
    return REQUESTS / took_s, used_us / REQUESTS


async def quickly(proxy: Proxy, tls: ssl.SSLContext | None) -> tuple[float, float]:
    """The same in a loop that is quick enough not to be measured; it cannot start processes."""
    return await asyncio.to_thread(lambda: uvloop.run(load(proxy, tls)))


class Doors:
    """Proxies with the same core and different doors."""

    def __init__(self, directory: Path, core: list[str], rounds: int) -> None:
        self._core = core
        self._rounds = rounds
        self._authority = Authority(directory)
        cert, key = self._authority.issue()
        (directory / "token").write_text(TOKEN)
        (directory / "secret").write_bytes(SECRET)
        self._tls = ("--tls-cert", str(cert), "--tls-key", str(key))
        self._token = (
            "--ws-auth",
            "capability-token",
            "--ws-token-file",
            str(directory / "token"),
        )
        secret = ("--ws-shared-secret-file", str(directory / "secret"))
        self._signed = ("--ws-auth", "signed-bearer-token", *secret)

    async def handshakes(self) -> None:
        """Without, with, with a signed token."""
        doors = {"none": ((), None), "token": (self._token, TOKEN)}
        doors["signed"] = (self._signed, signed(claims(sub="somebody")))
        async with contextlib.AsyncExitStack() as stack:
            ports = {}
            for name, (options, _) in doors.items():
                proxy = await stack.enter_async_context(trace_proxy(*options, core=self._core))
                ports[name] = port_of(proxy.url)
            took: dict[str, list[float]] = {name: [] for name in doors}
            for _ in range(self._rounds * HANDSHAKES):
                for name, (_, token) in doors.items():
                    took[name].append(await asyncio.to_thread(handshake_s, ports[name], token))
        medians = {name: statistics.median(values) * 1000 for name, values in took.items()}
        for name, median in medians.items():
            show(
                door=name, handshake_ms=round(median, 3), ratio=round(median / medians["none"], 2)
            )

    async def throughput(self) -> None:
        """Ws, wss, and so on."""
        rates: dict[str, list[tuple[float, float]]] = {"ws": [], "wss": []}
        trusted = self._authority.trusted()
        async with (
            trace_proxy(core=self._core) as plain,
            trace_proxy(*self._tls, core=self._core) as encrypted,
        ):
            for _ in range(self._rounds):
                rates["ws"].append(await quickly(plain, None))
                rates["wss"].append(await quickly(encrypted, trusted))
        base = statistics.median(rate for rate, _ in rates["ws"])
        for name, pairs in rates.items():
            rate = statistics.median(rate for rate, _ in pairs)
            used = statistics.median(used for _, used in pairs)
            show(
                over=name,
                requests_s=round(rate),
                cpu_us=round(used, 1),
                ratio=round(rate / base, 2),
            )

    async def guesses(self) -> None:
        """A neighbour, alone and beside somebody who guesses."""
        async with trace_proxy(*self._token, core=self._core) as proxy:
            port = port_of(proxy.url)
            asker = await connect(port, sys.maxsize, token=TOKEN)
            alone, beside = list[float](), list[float]()
            for _ in range(self._rounds):
                alone += await paced(asker, asyncio.sleep(3))
                argv = (sys.executable, "-m", "tests.load.door", "--guess", str(port))
                guesser = await asyncio.create_subprocess_exec(*argv, "--guesses", str(GUESSES))
                beside += await paced(asker, guesser.wait())
                assert guesser.returncode == 0
            assert asker.transport is not None
            asker.transport.abort()
        p99 = [percentile(each, 0.99) * 1000 for each in (alone, beside)]
        show(
            neighbour_p99_ms={"alone": round(p99[0], 2), "beside": round(p99[1], 2)},
            ratio=round(p99[1] / p99[0], 2),
            asked=(len(alone), len(beside)),
        )


async def paced(asker: Asker, until: Coroutine[Any, Any, object]) -> list[float]:
    """One request each 5 ms until something is over; how long each took."""
    asker.took_s = []
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(until)
        while not waiting.done():
            asker.begin(1)
            await asyncio.sleep(0.005)
    return asker.took_s


def guess(port: int, many: int) -> None:
    """Show wrong tokens, each on a connection of its own."""
    os.nice(19)
    asked = opening(port, f"{TOKEN}-guessed")
    told = {b"401": 0, b"429": 0}
    for _ in range(many):
        with socket.create_connection(("127.0.0.1", port), 10) as peer:
            peer.sendall(asked)
            told[peer.recv(4096).split(b" ")[1]] += 1
    assert told[b"429"] > told[b"401"] > 0, told


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--harness", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", choices=("handshakes", "throughput", "guesses"))
    parser.add_argument("--guess", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--guesses", type=int, default=GUESSES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.guess is not None:
        guess(arguments.guess, arguments.guesses)
        return
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        core = fake_core("fake")
        if arguments.harness is not None:
            core = [build(arguments.harness, "echochild", where)]
        doors = Doors(where, core, arguments.rounds)
        for part in ("handshakes", "throughput", "guesses"):
            if arguments.part in (None, part):
                asyncio.run(getattr(doors, part)())


if __name__ == "__main__":
    main()
