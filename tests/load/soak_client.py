"""One client of a soak: it asks, runs turns, hangs up, comes back, and keeps its ledger."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final

import aiohttp

from tests.e2e.proxy import MAX_MESSAGE_BYTES, leave, turn_params
from tests.load.ledger import History, Json, Ledger, Visit
from trace_proxy.protocol.methods import EVERYBODY

WAIT_S: Final = 60.0
"""An answer that takes longer on a living connection is lost."""

RETRY_S: Final = 0.1
TURNS_PER_THREAD: Final = 15
"""Then a new one: a resume brings all turns, and shall not grow for ever."""

UNWANTED: Final = EVERYBODY
"""Everybody hears these of all threads: 500 clients would hear nothing else."""

TEXTS: Final = ("hello", "a few words more than that", "/slow 0.4", "/tokens 50", "/run true")


BURST: Final = 4
"""Requests at a time."""

LEFT_IN_MID_TURN: Final = 0.2
"""Of the turns: their client hangs up and resumes while they run, or just as they end."""

MID_TURN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Habits:
    """What clients do how often.

    Attributes:
        interval_s: Mean time between two bursts of requests.
        turn_share: Of the bursts, how many come with a turn if none runs.
        visit_s: Mean time until it hangs up.
    """

    interval_s: float
    turn_share: float
    visit_s: float


class Left(Exception):  # noqa: N818 - what happened, not an error by itself
    """The connection has ended, or is of no more use."""


class Line:
    """One connection in use."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, visit: Visit) -> None:
        self._socket = socket
        self._waiting: dict[int | str, asyncio.Future[Json | None]] = {}
        self._next_id = 0
        self.visit = visit
        self.hung_up = False
        self.ended = False

    async def listen(self) -> None:
        """Read until the connection ends."""
        try:
            while (message := await self._socket.receive()).type is aiohttp.WSMsgType.TEXT:
                await self._take(json.loads(message.data))
        except ConnectionError:
            pass  # while answering the core
        finally:
            self.ended = True
            code = self._socket.close_code
            self.visit.closed(code, time.monotonic(), by_us=self.hung_up)
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(None)

    async def _take(self, message: Json) -> None:
        if "method" not in message:
            if self.visit.answered(message, time.monotonic()):
                future = self._waiting.pop(message["id"])
                if not future.done():
                    future.set_result(message)
        elif "id" in message:
            self.visit.asked_by_core(message)
            answer = {"id": message["id"], "result": {"decision": "accept"}}
            await self._socket.send_str(json.dumps(answer))
        else:
            self.visit.told(message)

    async def ask(self, method: str, params: Json) -> Json:
        """Send a request; returns its answer, which may be an error."""
        if self.ended:
            raise Left
        self._next_id += 1
        # The same ids on every connection, and both kinds: the proxy must keep them apart.
        request_id = f"r-{self._next_id}" if self._next_id % 3 == 0 else self._next_id
        future: asyncio.Future[Json | None] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        self.visit.asked(request_id, method, params.get("threadId", ""), time.monotonic())
        message = {"id": request_id, "method": method, "params": params}
        try:
            await self._socket.send_str(json.dumps(message))
            async with asyncio.timeout(WAIT_S):
                answer = await future
        except ConnectionError:
            raise Left from None
        if answer is None:
            raise Left
        return answer

    async def hang_up(self) -> None:
        """Leave without a Close."""
        self.hung_up = True
        await leave(self._socket)


class Client:
    """A client that comes back.

    Args:
        session: To connect with.
        url: Where the proxy of the moment is.
        ledger: Everybody's.
        others: Threads of all clients, each may read.
        dice: Its own randomness.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: Callable[[], str],
        ledger: Ledger,
        others: dict[str, None],
        dice: random.Random,
    ) -> None:
        self._session = session
        self._url = url
        self._others = others
        self._dice = dice
        self._history = History(ledger)
        self._ledger = ledger
        self.line: Line | None = None

    async def live(self, over: asyncio.Event, habits: Habits) -> None:
        """Come, ask and leave until it is over, then see that every turn has ended.

        Args:
            over: Set when no more shall be asked.
            habits: How much it asks, and how often it leaves.
        """
        while True:
            try:
                await self._visit(over, habits)
            except (Left, aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(self._dice.uniform(0.02, 0.3))
            except TimeoutError:
                self._ledger.lost.add(f"no answer or no end within {WAIT_S} s")
            else:
                return

    async def _visit(self, over: asyncio.Event, habits: Habits) -> None:
        socket = await self._session.ws_connect(self._url(), max_msg_size=MAX_MESSAGE_BYTES)
        self.line = line = Line(socket, Visit(self._history, UNWANTED))
        done = False
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(line.listen())
                with contextlib.suppress(Left):  # it would leave the group as a group
                    await self._use(line, over, habits)
                    done = True
                await line.hang_up()
        except* TimeoutError:
            raise TimeoutError from None
        finally:
            await leave(socket)
        if not done:
            raise Left

    async def _use(self, line: Line, over: asyncio.Event, habits: Habits) -> None:
        await self._greet(line)
        leaves_s = time.monotonic() + self._dice.expovariate(1 / habits.visit_s)
        due_s = time.monotonic() + self._dice.uniform(0, habits.interval_s)
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due_s - time.monotonic())):
                    await over.wait()
            due_s += self._dice.expovariate(1 / habits.interval_s)  # kept up with when it is late
            async with asyncio.TaskGroup() as tasks:
                if time.monotonic() > leaves_s:
                    tasks.create_task(line.hang_up())  # with requests in flight
                for _ in range(BURST):
                    tasks.create_task(quietly(self._read_something(line)))
                if not line.visit.running and self._dice.random() < habits.turn_share:
                    tasks.create_task(quietly(self._turn(line)))
            if line.ended or line.hung_up:
                raise Left
        await self._settle(line)

    async def _greet(self, line: Line) -> None:
        """Introduce itself and take its thread up again, or begin one."""
        await self._ask(
            line,
            "initialize",
            {
                "clientInfo": {"name": "soak", "version": "1"},
                "capabilities": {"optOutNotificationMethods": sorted(UNWANTED)},
            },
        )
        if not self._history.thread:
            await self._begin(line)
        else:
            await self._ask(line, "thread/resume", {"threadId": self._history.thread})

    async def _begin(self, line: Line) -> None:
        result = await self._ask(line, "thread/start", {})
        self._others.pop(self._history.thread, None)
        self._history.renew(result["thread"]["id"])
        self._others[self._history.thread] = None

    async def _ask(self, line: Line, method: str, params: Json) -> Json:
        """Ask until there is a result; raises `Left` when that must be elsewhere."""
        async with asyncio.timeout(WAIT_S):
            while "result" not in (answer := await line.ask(method, params)):
                data = answer["error"].get("data") or {}
                if not data.get("retryable") or data.get("reason") == "draining":
                    raise Left
                await asyncio.sleep(RETRY_S)
        result: Json = answer["result"]
        return result

    async def _read_something(self, line: Line) -> None:
        """A request that changes nothing, mostly about somebody's thread."""
        chance = self._dice.random()
        if chance < 0.1:
            await self._ask(line, "thread/list", {"limit": 3})
        elif chance < 0.2:
            await self._ask(line, "model/list", {})
        else:
            thread = self._dice.choice(tuple(self._others))
            await self._ask(line, "thread/read", {"threadId": thread})

    async def _turn(self, line: Line) -> None:
        if len(self._history.turns) >= TURNS_PER_THREAD:
            await self._settle(line)
            await self._ask(line, "thread/unsubscribe", {"threadId": self._history.thread})
            await self._begin(line)
        text = self._dice.choice(TEXTS)
        await self._ask(line, "turn/start", turn_params(self._history.thread, text))
        if self._dice.random() < LEFT_IN_MID_TURN:
            await asyncio.sleep(self._dice.uniform(0, MID_TURN_S))
            await line.hang_up()

    async def _settle(self, line: Line) -> None:
        """Wait for the turns that run, then compare with what is stored."""
        async with asyncio.timeout(WAIT_S):
            while line.visit.running:
                if line.ended:
                    raise Left
                await asyncio.sleep(0.02)
        params = {"threadId": self._history.thread, "includeTurns": True}
        read = await self._ask(line, "thread/read", params)
        for turn in self._history.compare(read["thread"]):
            self._ledger.lost.add(f"turn {turn} was said to be over and runs")


async def quietly(asking: Coroutine[None, None, None]) -> None:
    """One request of several; what becomes of the connection is noticed by itself."""
    with contextlib.suppress(Left):
        await asking
