"""What does an abusive client cost the proxy's memory, and its neighbour's latency?

    python -m tests.load.abuse [--requests 300] [--rounds 5]

For each kind of abuse: how much resident memory the proxy gains at most while one client
does it, and the 99th percentile of a well-behaved neighbour's requests meanwhile, beside
that of an idle proxy. Rounds alternate, so that the ratio holds on a busy machine.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from tests.e2e.processes import resident_bytes
from tests.e2e.proxy import Proxy, WebsocketClient, fake_core, trace_proxy, turn_params
from tests.load.figures import percentile, show

MIB = 1024 * 1024


async def flood_of_requests(client: WebsocketClient) -> None:
    """Requests as fast as the socket takes them, answers never read."""
    while True:
        for _ in range(100):
            await client.begin("model/list", {"text": "x" * 1000})
        await asyncio.sleep(0)


async def flood_of_deltas(client: WebsocketClient) -> None:
    """Turns that stream far more than is read."""
    thread = await client.thread()
    for _ in range(3):
        await client.begin("turn/start", turn_params(thread, "flood 20000 1000"))
        await asyncio.sleep(0.5)
    await asyncio.sleep(3600)


async def flood_of_pings(client: WebsocketClient) -> None:
    """Pings, pongs never read."""
    while True:
        for _ in range(100):
            await client.socket.ping(b"x" * 125)
        await asyncio.sleep(0)


async def giant_messages(client: WebsocketClient) -> None:
    """Messages of the largest legal size, one after the other, answers never read."""
    text = "x" * (15 * MIB)
    while True:
        await client.begin("model/list", {"text": text})


ABUSES: dict[str, Callable[[WebsocketClient], Awaitable[None]]] = {
    "requests, answers not read": flood_of_requests,
    "deltas not read": flood_of_deltas,
    "pings, pongs not read": flood_of_pings,
    "messages of 15 MiB": giant_messages,
}


async def latencies(neighbour: WebsocketClient, requests: int) -> list[float]:
    """How long a neighbour's requests take, each sent 5 ms after the answer before."""
    took_s = []
    for number in range(requests):
        began_s = time.monotonic()
        await neighbour.request("model/list", {"n": number})
        took_s.append(time.monotonic() - began_s)
        await asyncio.sleep(0.005)
    return took_s


async def highest(proxy: Proxy, reached: list[int]) -> None:
    """Watch the proxy's memory."""
    while True:
        reached.append(resident_bytes(proxy.pid))
        await asyncio.sleep(0.02)


async def abused(
    abuse: Callable[[WebsocketClient], Awaitable[None]], requests: int
) -> tuple[int, list[float], list[float]]:
    """Memory gained, and the neighbour's latencies without and with the abuse."""
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as neighbour:
        await latencies(neighbour, 50)
        before = resident_bytes(proxy.pid)
        quiet = await latencies(neighbour, requests)
        reached = [before]
        async with proxy.client() as client, asyncio.TaskGroup() as tasks:

            async def attack() -> None:
                with contextlib.suppress(ConnectionError):
                    await abuse(client)

            attacker = tasks.create_task(attack())
            watcher = tasks.create_task(highest(proxy, reached))
            beside = await latencies(neighbour, requests)
            attacker.cancel()
            watcher.cancel()
        return max(reached) - before, quiet, beside


async def measure(options: argparse.Namespace) -> None:
    """All kinds, several rounds."""
    for name, abuse in ABUSES.items():
        grown: list[int] = []
        quiet: list[float] = []
        beside: list[float] = []
        for _ in range(options.rounds):
            gained, without, with_abuse = await abused(abuse, options.requests)
            grown.append(gained)
            quiet += without
            beside += with_abuse
        p99_s = percentile(quiet, 0.99), percentile(beside, 0.99)
        show(
            abuse=name,
            grown_mib=round(max(grown) / MIB, 1),
            neighbour_p99_ms=[round(each * 1000, 2) for each in p99_s],
            ratio=round(p99_s[1] / p99_s[0], 1),
        )


def main() -> None:
    """Read the options and run."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=300, help="of the neighbour, a round")
    parser.add_argument("--rounds", type=int, default=5, help="proxies for each abuse")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
