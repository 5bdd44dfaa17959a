"""How many requests may be under way: who is admitted and who is shed.

Counts requests and their bytes, of each connection and of the whole proxy, from
admission to settlement. A bound in bytes always lets one message through when
nothing else is counted against it, so that no message is too big for ever.
Nobody fills the proxy's bounds and shuts the others out:

    who has none under way    is admitted while there is room; a large one not to the last eighth
    who has some              while all that it has is no more than what is left free then

So one connection gets half, two get a third each, and who comes finds as much. Who is
alone may have all.
Queues have their own modules: `core_queue` in front of a core, `client_queue` in front of a client.
"""

from typing import Final

import msgspec

from trace_proxy.protocol.refusal import Refusal, overloaded

_CONNECTION_COUNT: Final = overloaded("Too many requests of this connection are in flight")
_CONNECTION_BYTES: Final = overloaded("Too many bytes of this connection are in flight")
_PROXY_COUNT: Final = overloaded("Too many requests of all clients are in flight")
_PROXY_BYTES: Final = overloaded("Too many bytes of all clients are in flight")

_SMALL_BYTES: Final = 64 * 1024
"""Large messages, one of each connection, leave an eighth of the room to smaller ones."""


class AdmissionBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of `Admission`, each at least 1; the defaults are argued in `limits`.

    Attributes:
        connection_max_requests: Unanswered requests of one connection.
        connection_max_bytes: And their bytes.
        proxy_max_requests: Unanswered requests of all connections.
        proxy_max_bytes: And their bytes.
    """

    connection_max_requests: int = 256
    connection_max_bytes: int = 32 * 1024 * 1024
    proxy_max_requests: int = 2048
    proxy_max_bytes: int = 64 * 1024 * 1024


class Load:
    """What one connection has in flight; its owner keeps it, only `Admission` changes it."""

    __slots__ = ("requests", "size_bytes")

    def __init__(self) -> None:
        self.requests = 0
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<Load requests={self.requests} bytes={self.size_bytes}>"


class Admission:
    """Admits requests within the bounds; what it admitted must be released once.

    Args:
        bounds: How much may be in flight.

    Attributes:
        alone: Whether one connection is all there is, and need leave nothing to others.
    """

    def __init__(self, bounds: AdmissionBounds) -> None:
        self._connection_requests = bounds.connection_max_requests
        self._connection_bytes = bounds.connection_max_bytes
        self._proxy_requests = bounds.proxy_max_requests
        self._proxy_bytes = bounds.proxy_max_bytes
        self.alone = False
        self.requests = 0
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<Admission requests={self.requests} bytes={self.size_bytes}>"

    def admit(self, load: Load, size_bytes: int) -> Refusal | None:
        """Count a request in, or say which bound it met; a refused one is not counted.

        The connection's own bounds come first: they are the ones that its client can mend.
        """
        if self.requests:
            refused = self._no_room(load, size_bytes)
            if refused is not None:
                return refused
        load.requests += 1
        load.size_bytes += size_bytes
        self.requests += 1
        self.size_bytes += size_bytes
        return None

    def _no_room(self, load: Load, size_bytes: int) -> Refusal | None:
        """The bound that a request meets, while there are others."""
        free_bytes = self._proxy_bytes - self.size_bytes - size_bytes
        if not load.requests:
            if self.requests >= self._proxy_requests:
                return _PROXY_COUNT
            kept_bytes = 0 if size_bytes <= _SMALL_BYTES else self._proxy_bytes // 8
            return _PROXY_BYTES if free_bytes < kept_bytes else None
        if load.requests >= self._connection_requests:
            return _CONNECTION_COUNT
        if load.size_bytes + size_bytes > self._connection_bytes:
            return _CONNECTION_BYTES
        to_leave, to_leave_bytes = load.requests, load.size_bytes + size_bytes
        if self.alone:
            to_leave = to_leave_bytes = 0
        if self._proxy_requests - self.requests <= to_leave:
            return _PROXY_COUNT
        return _PROXY_BYTES if free_bytes < to_leave_bytes else None

    def release(self, load: Load, size_bytes: int) -> None:
        """Count a request out: answered, failed, or it will never be.

        Args:
            load: As admitted; the connection itself may be gone.
            size_bytes: As admitted.

        Raises:
            ValueError: Nothing of this connection is in flight; nothing was changed.
        """
        if not load.requests:
            raise ValueError("released more often than admitted")
        load.requests -= 1
        load.size_bytes -= size_bytes
        self.requests -= 1
        self.size_bytes -= size_bytes


class HeldInput:
    """How much input all clients together make us hold: unfinished messages, and ones that wait.

    Each connection's own bound is the size of one message; a thousand of them would still be
    gigabytes. What is over the bound is taken from whoever holds most.

    Args:
        max_bytes: Of all together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[int, int] = {}
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<HeldInput clients={len(self._held)} bytes={self.size_bytes}>"

    def hold(self, key: int, size_bytes: int) -> int | None:
        """A client's held input is so much now.

        Returns:
            Whom to cut: who holds most, when all together hold too much; else None.
        """
        self.size_bytes += size_bytes - self._held.pop(key, 0)
        if size_bytes:
            self._held[key] = size_bytes
        if self.size_bytes <= self._max_bytes:
            return None
        return max(self._held, key=self._held.__getitem__)

    def leave(self, key: int) -> None:
        """A client is gone, and what it made us hold with it."""
        self.size_bytes -= self._held.pop(key, 0)
