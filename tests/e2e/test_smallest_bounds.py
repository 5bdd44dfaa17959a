"""The same with every bound on what is held at its smallest: the cheapest finder of deadlocks.

A time says how long somebody else may take. With one second for a core the machine would decide
the test: a core that waits so long for a disk has hung, and is ended.
"""

import signal
from collections.abc import Awaitable, Callable
from dataclasses import fields
from functools import partial

import pytest

from tests.e2e.clients import Client, has_id, text_of
from tests.e2e.clients import turn_params as params
from tests.e2e.proxy import Proxy, fake_core, trace_proxy
from trace_proxy.settings.limits import Limits, option_of

FAST = ("--restart-backoff-min", "0.05", "--restart-backoff-max", "0.1")
CORE = fake_core("fake")


def smallest() -> list[str]:
    """Every count and every size at its smallest, as options."""
    ones = Limits.all_ones()
    options: list[str] = []
    for bound in fields(ones):
        if not bound.name.endswith("_s"):
            options += [option_of(bound.name), str(getattr(ones, bound.name))]
    return [*options, *FAST]


async def say_hello(_: Proxy, client: Client, thread: str) -> None:
    await client.turn(thread, "hello")
    await client.wait_for("turn/completed")
    assert text_of(client) == "hello"


async def flood(_: Proxy, client: Client, thread: str) -> None:
    await client.turn(thread, "flood 300 1000")
    await client.wait_for("turn/completed")
    assert len(text_of(client)) == 300_000


async def approve(_: Proxy, client: Client, thread: str) -> None:
    await client.turn(thread, "ask")
    asked = await client.wait_for("item/commandExecution/requestApproval")
    await client.send({"id": asked["id"], "result": {"decision": "accept"}})
    await client.wait_for("turn/completed")
    assert text_of(client) == "decided accept"


async def interrupt(_: Proxy, client: Client, thread: str) -> None:
    turn = await client.turn(thread, "hold")
    await client.request("turn/interrupt", {"threadId": thread, "turnId": turn})
    assert (await client.wait_for("turn/completed"))["params"]["turn"]["status"] == "interrupted"


async def pipeline(_: Proxy, client: Client, __: str) -> None:
    ids = [await client.begin("model/list", {"n": n}) for n in range(50)]
    for each in ids:
        message = await client.wait(partial(has_id, each))
        assert "result" in message or message["error"]["code"] == -32001
    assert await client.request("model/list", {"a": 1}) == {"a": 1}


async def lose_the_core(proxy: Proxy, client: Client, thread: str) -> None:
    await client.begin("turn/start", params(thread, "crash"))
    await proxy.logged("core.ready", times=2)
    assert await client.request("model/list", {"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    "scenario", [say_hello, flood, approve, interrupt, pipeline, lose_the_core]
)
async def test_with_every_bound_at_its_smallest_one_client_is_served(
    scenario: Callable[[Proxy, Client, str], Awaitable[None]],
) -> None:
    async with trace_proxy(*smallest(), core=CORE) as proxy:
        async with proxy.client() as client:
            await scenario(proxy, client, await client.thread())
        proxy.signal(signal.SIGTERM)
        assert await proxy.exit_code() == 0


async def test_with_every_bound_at_its_smallest_our_own_core_serves_a_turn() -> None:
    async with trace_proxy(*smallest()) as proxy, proxy.client() as client:
        await client.turn(await client.thread(), "hello")
        proxy.signal(signal.SIGTERM)
        await client.wait_for("turn/completed")
        assert await client.closed() == 1012
        assert await proxy.exit_code() == 0
