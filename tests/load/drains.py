"""Does a drain lose a turn?  Many real drains at random moments under load.

    python -m tests.load.drains [--runs 200] [--parallel 2] [--seed 1]

Each run starts a proxy with our own core, lets clients start turns as fast as they are
answered, and sends SIGTERM at a random moment. Then every admitted turn must have been
completed in front of its client before Close 1012, every other `turn/start` refused with
the reason, the exit code be 0 and no process be left. Also measures: the end of an idle
proxy, and of one that is forced. Exit code 1 when anything was lost.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
from dataclasses import dataclass, field

from tests.e2e.proxy import Client, Closed, Proxy, fake_core, trace_proxy, turn_params
from tests.load.figures import milliseconds, show

CLIENTS = 3
LATEST_S = 1.0
"""The signal comes up to so long after the first turn."""

TEXTS = ("hello", "a few words more than that", "/slow 0.2", "/slow 0.5", "/tokens 200")


@dataclass
class Tally:
    """What all runs came to."""

    turns: int = 0
    refused: int = 0
    cut_off: int = 0
    lost: list[str] = field(default_factory=list)
    bad_ends: list[str] = field(default_factory=list)
    drains_s: list[float] = field(default_factory=list)


async def busy(client: Client, dice: random.Random) -> None:
    """Start turns, each after the one before, until the proxy closes."""
    thread = await client.thread()
    while True:
        await client.begin("turn/start", turn_params(thread, dice.choice(TEXTS)))
        answer = await client.wait(lambda each: "id" in each and "method" not in each)
        if "result" in answer:
            await client.wait_for("turn/completed")
        else:
            await asyncio.sleep(0.02)  # as a client that was told to come back later


def check(client: Client, closed: int | None, tally: Tally) -> None:
    """Compare what was admitted with what was completed."""
    answers = [each for each in client.received if "id" in each and "method" not in each]
    admitted = {
        each["result"]["turn"]["id"] for each in answers if "turn" in each.get("result", {})
    }
    ended = {
        each["params"]["turn"]["id"]: each["params"]["turn"]["status"]
        for each in client.received
        if each.get("method") == "turn/completed"
    }
    for each in answers:
        if "error" in each:
            if each["error"]["data"]["reason"] == "draining":
                tally.refused += 1
            else:
                tally.lost.append(f"refused otherwise: {each}")
    tally.turns += len(admitted)
    tally.lost += [turn for turn in admitted if ended.get(turn) != "completed"]
    if closed != 1012:
        tally.cut_off += 1
        tally.lost.append(f"closed with {closed}")


async def one_run(dice: random.Random, tally: Tally) -> None:
    """One proxy, one signal."""
    env = {"CORE_SERVER_STORE": "memory"}
    async with trace_proxy(env=env) as proxy, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(proxy.client()) for _ in range(CLIENTS)]
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(until_closed(client, dice, tally))
            await asyncio.sleep(dice.random() * LATEST_S)
            began_s = time.monotonic()
            proxy.signal(signal.SIGTERM)
        await ended(proxy, tally)
        tally.drains_s.append(time.monotonic() - began_s)


async def until_closed(client: Client, dice: random.Random, tally: Tally) -> None:
    """Keep a client busy to the end, then check."""
    closed: int | None = None
    try:
        await busy(client, dice)
    except Closed as end:
        closed = end.code
    except ConnectionError:
        closed = await client.closed()
    check(client, closed, tally)


async def ended(proxy: Proxy, tally: Tally) -> None:
    """The process must end well and leave nobody."""
    code = await proxy.exit_code(timeout_s=20)
    left = await proxy.survivors(within_s=0.5)
    if code or left:
        tally.bad_ends.append(f"exit {code}, left {left}: {proxy.stderr[-500:]}")


async def idle_drain() -> float:
    """Seconds from the signal to the exit of a proxy with one idle client."""
    async with trace_proxy() as proxy, proxy.client() as client:
        await client.thread()
        began_s = time.monotonic()
        proxy.signal(signal.SIGTERM)
        await client.closed()
        await proxy.exit_code()
        return time.monotonic() - began_s


async def readiness() -> float:
    """Seconds from the signal to the first 503."""
    async with trace_proxy(core=fake_core("fake")) as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "hold")
        await proxy.get("/readyz")
        began_s = time.monotonic()
        proxy.signal(signal.SIGTERM)
        while (await proxy.get("/readyz"))[0] != 503:
            pass
        return time.monotonic() - began_s


async def forced_end() -> float:
    """Seconds from the second signal to the end of everything, with a core that resists."""
    core = fake_core("fake", "--ignore-eof", "--ignore-term", "--with-child")
    async with trace_proxy(core=core) as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "hold")
        proxy.signal(signal.SIGTERM)
        await proxy.logged("drain.started")
        await asyncio.sleep(0.15)  # or it would be one signal said twice
        began_s = time.monotonic()
        proxy.signal(signal.SIGTERM)
        await proxy.exit_code()
        left = await proxy.survivors(within_s=3)
        return time.monotonic() - began_s if not left else float("inf")


async def measure(options: argparse.Namespace) -> bool:
    """All of it; whether nothing was lost."""
    tally = Tally()
    seeds = iter(range(options.seed, options.seed + options.runs))

    async def worker() -> None:
        for seed in seeds:
            await one_run(random.Random(seed), tally)  # noqa: S311 - repeatable on purpose

    async with asyncio.TaskGroup() as tasks:
        for _ in range(options.parallel):
            tasks.create_task(worker())
    show(
        drains=len(tally.drains_s),
        turns=tally.turns,
        refused=tally.refused,
        lost=len(tally.lost),
        bad_ends=len(tally.bad_ends),
        drain_ms=milliseconds(tally.drains_s),
    )
    for each in (tally.lost + tally.bad_ends)[:10]:
        show(problem=each)
    times = range(options.times)
    show(idle_drain_ms=milliseconds([await idle_drain() for _ in times]))
    show(readiness_503_ms=milliseconds([await readiness() for _ in times]))
    show(forced_end_ms=milliseconds([await forced_end() for _ in times]))
    return not tally.lost and not tally.bad_ends


def main() -> None:
    """Read the options and run."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200, help="drains at random moments")
    parser.add_argument("--parallel", type=int, default=2, help="proxies at a time")
    parser.add_argument("--times", type=int, default=10, help="idle drains and forced ends")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    sys.exit(0 if asyncio.run(measure(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
