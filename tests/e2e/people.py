"""People who use a fleet while hosts of it die: what they were told, and whether it stayed true."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from tests.e2e.clients import Closed, Json, RpcError, WebsocketClient, turn_params

RETRYABLE: Final = {-32001, -32003, -32010}
RETRY_S: Final = 0.1
"""A client that is told to try again, tries so often."""

At = Callable[[str], AbstractAsyncContextManager[WebsocketClient]]
"""Connects to a host by its name."""


@asynccontextmanager
async def client_at(url: str) -> AsyncIterator[WebsocketClient]:
    """A client of the host at a websocket's URL."""
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
            data = error.data if isinstance(error.data, dict) else {}
            if error.code not in RETRYABLE and not data.get("retryable"):
                raise
        await asyncio.sleep(RETRY_S)


@dataclass(slots=True)
class Person:
    """Somebody who runs one turn after the other in a thread, from whichever host is there.

    Attributes:
        host: Where he is connected.
        thread: Where his turns run.
        words: What he says in each.
        rest_s: How long he rests after each, so that hosts can start beside him.
        turns: Those that were accepted, with the status that he was told, None for nothing.
        items: Those that he was told of as completed.
        completed_at_s: When turns were completed.
        twice: What a connection was told of more than once.
        progress: Set with each of them.
    """

    host: str
    thread: str = ""
    words: str = "hello there"
    rest_s: float = 0
    turns: dict[str, str | None] = field(default_factory=dict)
    items: set[str] = field(default_factory=set)
    completed_at_s: list[float] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: int = 0
    _told: set[str] = field(default_factory=set)

    async def work(self, at: At, over: asyncio.Event, next_host: Callable[[str], str]) -> None:
        """Until it is over; a host that is gone is left for the next one."""
        while not over.is_set():
            try:
                async with at(self.host) as client:
                    self._seen, self._told = 0, set()
                    await insisting(client, "thread/resume", {"threadId": self.thread})
                    while not over.is_set():
                        await self._turn(client)
                        await asyncio.sleep(self.rest_s)
            except (Closed, aiohttp.ClientError, ConnectionError):
                self.host = next_host(self.host)
                await asyncio.sleep(RETRY_S)

    async def _turn(self, client: WebsocketClient) -> None:
        answer = await insisting(client, "turn/start", turn_params(self.thread, self.words))
        turn = answer["turn"]["id"]
        self.turns[turn] = None
        try:
            ended = await client.wait(
                lambda each: (
                    each.get("method") == "turn/completed" and each["params"]["turn"]["id"] == turn
                )
            )
        finally:
            self._note(client)
        self.turns[turn] = ended["params"]["turn"]["status"]
        if self.turns[turn] == "completed":
            self.completed_at_s.append(time.monotonic())
            self.progress.set()

    def _note(self, client: WebsocketClient) -> None:
        """What this connection was told since the last look."""
        for each in client.received[self._seen :]:
            what = ""
            if each.get("method") == "item/completed":
                what = each["params"]["item"]["id"]
                self.items.add(what)
            elif each.get("method") == "turn/completed":
                what = f"the end of {each['params']['turn']['id']}"
            if what in self._told:
                self.twice.append(what)
            elif what:
                self._told.add(what)
        self._seen = len(client.received)

    async def runs(self, count: int, since_s: float, within_s: float) -> None:
        """Wait until so many turns were completed since then."""
        async with asyncio.timeout(within_s):
            while sum(at_s > since_s for at_s in self.completed_at_s) < count:
                self.progress.clear()
                await self.progress.wait()

    async def complaints(self, client: WebsocketClient) -> list[str]:
        """All that he was told of and is not there, or there twice, or runs for ever."""
        params = {"threadId": self.thread, "includeTurns": True}
        turns = (await client.request("thread/read", params))["thread"]["turns"]
        status = {turn["id"]: turn["status"] for turn in turns}
        items = [item["id"] for turn in turns for item in turn["items"]]
        ended = {turn: end for turn, end in self.turns.items() if end == "completed"}
        return [
            *(f"{what} was told of twice" for what in dict.fromkeys(self.twice)),
            *(f"item {item} is lost" for item in self.items - set(items)),
            *(f"item {item} is there {n} times" for item, n in Counter(items).items() if n > 1),
            *(f"turn {turn} is lost" for turn in set(self.turns) - set(status)),
            *(["a turn is there twice"] if len(status) < len(turns) else []),
            *(
                f"turn {turn} is {end}"
                for turn, end in status.items()
                if end not in ("completed", "interrupted")
            ),
            *(
                f"turn {turn} was {end} and is {status.get(turn)}"
                for turn, end in ended.items()
                if status.get(turn) != end
            ),
        ]
