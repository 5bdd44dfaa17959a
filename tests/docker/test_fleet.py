"""`docker compose --profile fleet up`: three hosts on one PostgreSQL, and one is killed under load."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from tests.docker.stack import BUILD_S, Stack, free_ports
from tests.docker.test_compose import in_jaeger
from tests.e2e.clients import Closed, Json, RpcError, WebsocketClient, turn_params
from tests.e2e.traces import new_trace_id, traceparent

HOSTS = ("host-1", "host-2", "host-3")

RETRYABLE = {-32001, -32003, -32010}
RETRY_S = 0.1
"""A client that is told to try again, tries so often."""

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
    url = fleet.host_url(host)
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        client = WebsocketClient(socket)
        await client.initialize()
        yield client


async def insisting(client: WebsocketClient, method: str, params: Json) -> Json:
    """The result of a request that is sent again while it is told to be."""
    while True:
        try:
            return await client.request(method, params)
        except RpcError as error:
            if error.code not in RETRYABLE:
                raise
        await asyncio.sleep(RETRY_S)


@dataclass(slots=True)
class Person:
    """Somebody who runs one turn after the other in a thread, from whichever host is there.

    Attributes:
        host: Where he is connected.
        thread: Where his turns run.
        turns: Those that were accepted, with the status that he was told, None for nothing.
        items: Those that he was told of as completed.
        completed_at_s: When turns were completed.
        progress: Set with each of them.
    """

    host: str
    thread: str = ""
    turns: dict[str, str | None] = field(default_factory=dict)
    items: set[str] = field(default_factory=set)
    completed_at_s: list[float] = field(default_factory=list)
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self, fleet: Stack, over: asyncio.Event) -> None:
        """Until it is over; a host that is gone is left for another one."""
        while not over.is_set():
            try:
                async with at(fleet, self.host) as client:
                    await insisting(client, "thread/resume", {"threadId": self.thread})
                    while not over.is_set():
                        await self._turn(client)
            except (Closed, aiohttp.ClientError, ConnectionError):
                self.host = HOSTS[-1]
                await asyncio.sleep(RETRY_S)

    async def _turn(self, client: WebsocketClient) -> None:
        answer = await insisting(client, "turn/start", turn_params(self.thread, "hello there"))
        turn = answer["turn"]["id"]
        self.turns[turn] = None
        begin = len(client.received)
        try:
            ended = await client.wait(
                lambda each: (
                    each.get("method") == "turn/completed" and each["params"]["turn"]["id"] == turn
                )
            )
        finally:
            for each in client.received[begin:]:
                if each.get("method") == "item/completed" and each["params"]["turnId"] == turn:
                    self.items.add(each["params"]["item"]["id"])
        self.turns[turn] = ended["params"]["turn"]["status"]
        if self.turns[turn] == "completed":
            self.completed_at_s.append(time.monotonic())
            self.progress.set()

    async def runs(self, count: int, since_s: float) -> None:
        """Wait until so many turns were completed since then."""
        async with asyncio.timeout(MOVED_S):
            while sum(at_s > since_s for at_s in self.completed_at_s) < count:
                self.progress.clear()
                await self.progress.wait()


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
            tasks.create_task(person.work(fleet, over))
        for person in people:
            await person.runs(3, since_s=0)

        await asyncio.to_thread(fleet.kill, "host-1")
        killed_at_s = time.monotonic()
        for person in people:
            await person.runs(3, since_s=killed_at_s)
        over.set()

    async with at(fleet, "host-2") as client:
        for person in people:
            await check(client, person)

    await asyncio.to_thread(fleet.compose, "--profile", "fleet", "up", "-d", "host-1")
    await fleet.healthy("host-1")
    async with at(fleet, "host-1") as client:
        await insisting(client, "thread/resume", {"threadId": people[0].thread})
        await insisting(client, "turn/start", turn_params(people[0].thread, "back"))
        assert (await client.wait_for("turn/completed"))["params"]["turn"]["status"] == "completed"


async def check(client: WebsocketClient, person: Person) -> None:
    """All that he was told of is there, once, and nothing runs for ever."""
    params = {"threadId": person.thread, "includeTurns": True}
    turns = (await client.request("thread/read", params))["thread"]["turns"]
    status = {turn["id"]: turn["status"] for turn in turns}
    items = [item["id"] for turn in turns for item in turn["items"]]

    assert len(status) == len(turns)
    assert len(set(items)) == len(items)
    assert person.items <= set(items)
    assert set(person.turns) <= set(status)
    assert set(status.values()) <= {"completed", "interrupted"}
    told = {turn: end for turn, end in person.turns.items() if end == "completed"}
    assert told.items() <= status.items()
