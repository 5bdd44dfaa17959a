"""`docker compose --profile fleet up`: three hosts on one PostgreSQL, and one is killed under load."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.docker.stack import BUILD_S, Stack, free_ports
from tests.docker.test_compose import in_jaeger
from tests.e2e.clients import WebsocketClient, turn_params
from tests.e2e.people import Person, client_at, insisting
from tests.e2e.traces import new_trace_id, traceparent

HOSTS = ("host-1", "host-2", "host-3")

MOVED_S = 30
"""The lease is 10 s; the rest is for a machine that is shared with others."""


@pytest.fixture(scope="module")
def fleet(docker: None) -> Iterator[Stack]:
    """The hosts with all that they need, and `down -v` at the end."""
    del docker
    names = ("HOST_1_PORT", "HOST_2_PORT", "HOST_3_PORT", "JAEGER_PORT", "OTLP_PORT")
    ports = map(str, free_ports(len(names)))
    stack = Stack(dict(zip(names, ports, strict=True)))
    try:
        stack.compose("--profile", "fleet", "up", "--build", "-d", *HOSTS, timeout_s=BUILD_S)
        yield stack
    finally:
        stack.compose("--profile", "fleet", "down", "-v", "--rmi", "local")


@asynccontextmanager
async def at(fleet: Stack, host: str) -> AsyncIterator[WebsocketClient]:
    """A client of one host, through its published port."""
    async with client_at(fleet.host_url(host)) as client:
        yield client


async def started(fleet: Stack) -> list[Person]:
    """Two people at each host, and two at the second whose threads the first host owns."""
    people = []
    for owner, host in [*zip(HOSTS, HOSTS, strict=True), (HOSTS[0], HOSTS[1])] * 2:
        async with at(fleet, owner) as client:
            people.append(Person(host, await client.thread()))
    return people


async def test_hosts_see_each_others_threads_and_a_turn_over_two_of_them_is_one_trace(
    fleet: Stack,
) -> None:
    for host in HOSTS:
        await fleet.healthy(host)
    trace_id = new_trace_id()
    async with at(fleet, "host-1") as there, at(fleet, "host-2") as here:
        thread = await there.thread()
        await here.request("thread/resume", {"threadId": thread})
        trace = {"traceparent": traceparent(trace_id)}
        await here.request("turn/start", turn_params(thread, "hello"), trace=trace)
        await here.wait_for("turn/completed")
    async with at(fleet, "host-3") as third:
        listed = await third.request("thread/list", {})

    assert thread in {each["id"] for each in listed["data"]}
    await in_jaeger(fleet, trace_id, {"turn/start", "invoke_agent"})


async def test_a_host_that_is_killed_under_load_loses_nothing_and_its_threads_go_on_elsewhere(
    fleet: Stack,
) -> None:
    for host in HOSTS:
        await fleet.healthy(host)
    people, over = await started(fleet), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for person in people:
            tasks.create_task(person.work(partial(at, fleet), over, lambda _: HOSTS[-1]))
        for person in people:
            await person.runs(3, since_s=0, within_s=MOVED_S)

        await asyncio.to_thread(fleet.kill, "host-1")
        killed_at_s = time.monotonic()
        for person in people:
            await person.runs(3, since_s=killed_at_s, within_s=MOVED_S)
        over.set()

    async with at(fleet, "host-2") as client:
        for person in people:
            assert await person.complaints(client) == []

    await asyncio.to_thread(fleet.compose, "--profile", "fleet", "up", "-d", "host-1")
    await fleet.healthy("host-1")
    async with at(fleet, "host-1") as client:
        await insisting(client, "thread/resume", {"threadId": people[0].thread})
        await insisting(client, "turn/start", turn_params(people[0].thread, "back"))
        assert (await client.wait_for("turn/completed"))["params"]["turn"]["status"] == "completed"
