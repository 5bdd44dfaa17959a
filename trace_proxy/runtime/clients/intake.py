"""What clients say, on its way to the machine that decides.

Transports call it with what they have parsed. Whatever a message does to us, it harms
nobody but its sender: a bug of ours with one message ends one connection.
"""

import asyncio
import time
from typing import Final, Protocol

import structlog

from core_server.jsonrpc.framing import HEAD_BYTES, Oversized
from trace_proxy.queues.admission import HeldInput
from trace_proxy.queues.pace import MIDDLING, MIDDLING_BURST_S, Pace
from trace_proxy.relay.board import Board
from trace_proxy.runtime.clients.client import Client
from trace_proxy.runtime.clients.clients import Clients
from trace_proxy.runtime.telemetry.metrics.metrics import Metrics
from trace_proxy.settings.limits import Limits
from trace_proxy.state.connection import Connection

LATELY_S: Final = 1.0
"""After so long without a word of anybody else a client counts as alone."""

MANY: Final = 8
"""Messages at once that ask for nothing: answers, notifications, what is refused at once."""

_log = structlog.get_logger("trace_proxy")


class Machine(Protocol):
    """Who decides what becomes of a message."""

    @property
    def board(self) -> Board:
        """What it knows."""
        ...

    def client_message(self, connection: Connection, data: bytes, now_ns: int) -> None:
        """Take a message of a client."""
        ...


class Intake:
    """The one way in for all transports.

    Args:
        machine: Who decides.
        clients: Who is here.
        metrics: What came is counted there.
        limits: Of what a client may send.
    """

    def __init__(
        self, machine: Machine, clients: Clients, metrics: Metrics, limits: Limits
    ) -> None:
        self._machine = machine
        self._board = machine.board
        self._clients = clients.by_key
        self._metrics = metrics
        self._max_message_bytes = limits.max_message_bytes
        self._full = limits.max_in_flight_per_connection
        self._large_bytes = limits.large_message_bytes
        large_bytes_per_s = limits.large_message_bytes_per_second
        self._large = Pace(large_bytes_per_s)
        self._middling = Pace(MIDDLING * large_bytes_per_s, MIDDLING_BURST_S)
        self._held = HeldInput(limits.max_unfinished_bytes)
        self._loop = asyncio.get_running_loop()
        self._speaker = -1
        self._speaker_since_s = 0.0

    def __repr__(self) -> str:
        return f"<Intake speaker={self._speaker}>"

    def messages(self, client: Client, texts: list[bytes]) -> bool:
        """A client said something; what came together was parsed at the same time.

        Returns:
            Whether to let others go first: it has as many requests under way as it may, or
            said much of which nothing is a request that is under way now.
        """
        connection = self._board.connections.get(client.key)
        if connection is None:
            return False
        metrics, limit = self._metrics, self._max_message_bytes
        metrics.messages_from_clients += len(texts)
        metrics.bytes_from_clients += sum(map(len, texts))
        if client.key != self._speaker:
            self._speaker, self._speaker_since_s = client.key, self._loop.time()
        take, now_ns = self._machine.client_message, time.time_ns()
        requests = connection.load.requests
        for data in texts:
            if client.closing is not None:
                return False
            if len(data) > limit:
                self._board.too_large(connection, data[:HEAD_BYTES], limit)
                continue
            try:
                take(connection, data, now_ns)
            except Exception:  # noqa: BLE001 - our bug with one message must end nobody else
                _log.exception("connection.message_failed", connection=client.key, bytes=len(data))
                client.close(1011, "a fault of this server: reconnect and resume")
        if connection.load.requests >= self._full:
            return True
        said_nothing = len(texts) >= MANY and connection.load.requests <= requests
        return said_nothing and not self.alone(client)

    def oversized(self, client: Client, line: Oversized) -> None:
        """A line of the stdio client is over the limit."""
        connection = self._board.connections[client.key]
        self._board.too_large(connection, line.head, self._max_message_bytes)

    def alone(self, client: Client) -> bool:
        """Whether no other client has said anything lately."""
        if len(self._clients) == 1:
            return True
        since_s = self._loop.time() - self._speaker_since_s
        return client.key == self._speaker and since_s > LATELY_S

    def weighs(self, client: Client, cost_bytes: int) -> float:
        """A message that is not small is to be handled; returns for how long it has to wait."""
        if len(self._clients) == 1:
            return 0.0
        if cost_bytes >= self._large_bytes:
            return self._large.handle(client.key, cost_bytes, self._loop.time())
        if self.alone(client):
            return 0.0
        return self._middling.handle(client.key, cost_bytes, self._loop.time())

    def holds(self, client: Client, size: int) -> None:
        """So much of a client's input is held; where that is too much, the largest goes."""
        largest = self._held.hold(client.key, size)
        while largest is not None:
            self._metrics.cut.add("held_input")
            _log.warning("connection.cut", connection=largest, reason="held_input")
            self._clients[largest].close(1013, "too much is unfinished here: send it again later")
            largest = self._held.hold(largest, 0)

    def left(self, key: int) -> None:
        """A client is gone."""
        self._large.leave(key)
        self._middling.leave(key)
        self._held.leave(key)
