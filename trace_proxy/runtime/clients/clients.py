"""All clients that are connected: what is queued for them, written, and who is cut.

Messages are queued without waiting; all that was queued in one turn of the event loop
is written at its end. Who takes nothing is cut, and nobody else notices.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import structlog

from trace_proxy.queues.client_queue import (
    ClientQueue,
    ClientQueueBounds,
    TotalOutbound,
    Verdict,
)
from trace_proxy.runtime.clients.client import Client
from trace_proxy.runtime.telemetry.metrics.metrics import Metrics
from trace_proxy.settings.limits import Limits
from trace_proxy.state.connection import Connection

ClientT = TypeVar("ClientT", bound=Client)

_log = structlog.get_logger("trace_proxy")


class Clients:
    """The clients, by the key of their connection.

    Args:
        limits: Of their queues, each and all together.
        metrics: What was written and cut is counted there.
        flushed: Called after everything queued in a turn of the loop was offered.

    Attributes:
        by_key: Who is here.
        total: What is queued for all of them.
        nobody: Set while nobody is here.
    """

    def __init__(self, limits: Limits, metrics: Metrics, flushed: Callable[[], None]) -> None:
        self.by_key: dict[int, Client] = {}
        self.total = TotalOutbound(limits.max_client_queues_bytes)
        self.nobody = asyncio.Event()
        self.nobody.set()
        self._limits = limits
        self._bounds = queue_bounds(limits)
        self._metrics = metrics
        self._flushed = flushed
        self._dirty: list[Client] = []
        self._joins = False
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Clients {list(self.by_key.values())!r}>"

    def add(self, key: int, make: Callable[[ClientQueue], ClientT]) -> ClientT:
        """Somebody is connected; `make` builds the transport around its queue."""
        client = make(self.total.open(key, self._bounds))
        client.key = key
        client.written = self._written
        self.by_key[key] = client
        self.nobody.clear()
        self._metrics.connections = len(self.by_key)
        return client

    def remove(self, key: int) -> int | None:
        """It is gone; returns the close code that we gave it, if any."""
        client = self.by_key.pop(key, None)
        self.total.close(key)
        self._metrics.connections = len(self.by_key)
        if not self.by_key:
            self.nobody.set()
        return None if client is None or client.closing is None else client.closing[0]

    def send(self, connection: Connection, message: bytes) -> None:
        """Queue a message for a client."""
        client = self.by_key.get(connection.key)
        if client is not None and client.closing is None:
            client.queue.append(client.encode(message))
            if not client.dirty:
                self._soon(client)

    def fan_out(self, connections: Iterable[Connection], messages: Sequence[bytes]) -> None:
        """Queue the same messages for several, encoded once for each kind of transport."""
        encoded: dict[type[Client], list[bytes]] = {}
        for connection in connections:
            client = self.by_key.get(connection.key)
            if client is not None and client.closing is None:
                frames = encoded.get(type(client))
                if frames is None:
                    frames = encoded[type(client)] = client.encode_all(messages)
                client.queue.extend(frames)
                if not client.dirty:
                    self._soon(client)

    def close(self, connection: Connection, code: int, reason: str) -> None:
        """End a connection."""
        client = self.by_key.get(connection.key)
        if client is not None:
            client.close(code, reason)

    def join(self, take: Callable[[], None]) -> None:
        """Write what a call queues when it is through, not a turn of the loop later.

        What a core says comes in one piece, so nothing more is to be waited for: who is
        alone has its answer a wake-up of the loop earlier.
        """
        self._joins = True
        try:
            take()
        finally:
            self._joins = False
            if self._dirty:
                self._flush()

    def look_after(self, now_s: float) -> None:
        """Cut who does not keep up, and the largest queues while all together are too large.

        Who is silent is pinged, and given up when it says nothing to that; who does not
        finish a message is closed.
        """
        self._flush()  # what nobody has offered to its client yet makes nobody slow
        for client in list(self.by_key.values()):
            if client.congested and client.judge(now_s) is Verdict.CUT:
                self._cut(client)
            elif client.closing is None:
                self._listen_for(client, now_s)
        while self.total.over and (largest := self.total.largest()) is not None:
            self._cut(self.by_key[largest])

    def _listen_for(self, client: Client, now_s: float) -> None:
        """Is it there still?"""
        heard_at_s, since_s = client.heard_at_s, client.unfinished_since_s
        if heard_at_s is None:
            return
        if since_s is not None and now_s - since_s > self._limits.unfinished_timeout_s:
            self._metrics.cut.add("unfinished")
            client.close(1008, "finish a message sooner")
            return
        interval_s = self._limits.ping_interval_s
        silent_s = now_s - heard_at_s
        if not interval_s or silent_s < interval_s:
            return
        # A pong may come within the same millisecond, which is how fine the loop's clock is.
        if client.pinged_at_s is None or client.pinged_at_s <= heard_at_s:
            client.pinged_at_s = now_s
            client.ping()
        elif now_s - client.pinged_at_s >= self._limits.ping_timeout_s:
            self._metrics.cut.add("vanished")
            _log.info("connection.vanished", connection=client.key, silent_s=round(silent_s))
            client.abort()

    @property
    def unflushed_bytes(self) -> int:
        """What the kernels of all peers have not got yet."""
        return sum(client.unflushed_bytes for client in self.by_key.values())

    def _soon(self, client: Client) -> None:
        """Write what waits at the end of this turn of the loop; cut who does not take it."""
        if client.congested:
            if client.queue.over_hard:
                self._cut(client)
            return
        client.dirty = True
        self._dirty.append(client)
        if len(self._dirty) == 1 and not self._joins:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for client in dirty:
            client.flush()
        self._flushed()

    def _cut(self, client: Client) -> None:
        """Close a client that does not keep up; nobody else notices."""
        if client.closing is None:
            self._metrics.cut.add("slow_consumer")
            _log.warning("connection.cut", connection=client.key, reason="slow_consumer")
        client.close(1013, "too slow: reconnect and resume", drop=True)

    def _written(self, messages: int, size: int) -> None:
        """Count what was given to a client's transport."""
        self._metrics.messages_to_clients += messages
        self._metrics.bytes_to_clients += size


def queue_bounds(limits: Limits) -> ClientQueueBounds:
    """Of one client's queue."""
    return ClientQueueBounds(
        soft_max_bytes=limits.soft_client_queue_bytes,
        soft_max_messages=limits.soft_client_queue_messages,
        soft_s=limits.soft_client_queue_timeout_s,
        hard_max_bytes=limits.max_client_queue_bytes,
        hard_max_messages=limits.max_client_queue_messages,
        stall_s=limits.client_stall_s,
        control_max_frames=limits.max_control_messages,
    )
