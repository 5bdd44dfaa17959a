"""Is anybody left?  Many kills of proxies and cores, with commands running.

    python -m tests.load.orphans [--runs 100] [--seed 1]

Each run starts a proxy, lets a core run a command that outlives all patience (ours, in no
sandbox; or a core that ignores the end of its input and TERM, with children of its own),
and kills the proxy or the core with SIGKILL at a random moment. 3 s later no process of
the killed one's may live. Exit code 1 when one did.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time

from tests.e2e.processes import kill, marked, nobody_left
from tests.e2e.proxy import Client, Closed, Proxy, fake_core, trace_proxy
from tests.load.figures import milliseconds, show

WITHIN_S = 3.0
OUR_CORE = {"CORE_SERVER_SANDBOX": "none", "CORE_SERVER_STORE": "memory"}
RESISTING = fake_core("fake", "--ignore-eof", "--ignore-term", "--with-child")
SLEEPERS = ("sleep 300", "time.sleep")


async def run_command(client: Client) -> None:
    """A command of our own core."""
    await client.turn(await client.thread(), "/run sleep 300")
    asked = await client.wait_for("item/commandExecution/requestApproval")
    await client.send({"id": asked["id"], "result": {"decision": "accept"}})
    await client.wait_for("item/started")


async def keep_child(client: Client) -> None:
    """Another child of a core that has one already."""
    await client.turn(await client.thread(), "keep-child")
    await client.wait_for("turn/completed")


async def one_run(dice: random.Random) -> tuple[str, float, dict[int, str]]:
    """Kill somebody: who it was, how long the end took, and who was left."""
    ours = dice.random() < 0.5
    victim = dice.choice(("proxy", "core"))
    core, env = ([], OUR_CORE) if ours else (RESISTING, {})
    async with trace_proxy("--cores", "2", core=core, env=env) as proxy, proxy.client() as client:
        busy = run_command if ours else keep_child
        with contextlib.suppress(Closed, TimeoutError):
            async with asyncio.timeout(dice.random()):  # the moment of the kill
                await busy(client)
        began_s = time.monotonic()
        left = await kill_proxy(proxy) if victim == "proxy" else await kill_cores(proxy)
        return f"{victim}{'' if ours else ' (resisting)'}", time.monotonic() - began_s, left


async def kill_proxy(proxy: Proxy) -> dict[int, str]:
    """Nobody at all may be left."""
    kill(proxy.pid, signal.SIGKILL)
    return await nobody_left(proxy.mark, WITHIN_S)


async def kill_cores(proxy: Proxy) -> dict[int, str]:
    """Nobody may be left that the cores had started."""
    theirs = {pid for pid, text in marked(proxy.mark).items() if any(s in text for s in SLEEPERS)}
    for started in proxy.log("core.started"):
        kill(started["pid"], signal.SIGKILL)
    return await nobody_left(proxy.mark, WITHIN_S, among=theirs)


async def measure(options: argparse.Namespace) -> bool:
    """All of it; whether nobody was left."""
    ends: dict[str, list[float]] = {}
    orphans = 0
    for seed in range(options.seed, options.seed + options.runs):
        who, took_s, left = await one_run(random.Random(seed))  # noqa: S311 - repeatable
        ends.setdefault(who, []).append(took_s)
        if left:
            orphans += 1
            show(seed=seed, killed=who, left=left)
    show(kills=options.runs, with_orphans=orphans)
    for who, times_s in sorted(ends.items()):
        show(killed=who, times=len(times_s), all_gone_ms=milliseconds(times_s))
    return not orphans


def main() -> None:
    """Read the options and run."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100, help="kills at random moments")
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    sys.exit(0 if asyncio.run(measure(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
