"""Who hears what happens in a thread: thread -> connections, in order of subscription."""

from collections.abc import Iterable

from trace_proxy.state.connection import Connection


class Subscribers:
    """Subscriptions of all connections; a connection's own side is `connection.threads`."""

    __slots__ = ("_by_thread", "_replays")

    def __init__(self) -> None:
        self._by_thread: dict[str, dict[int, Connection]] = {}
        self._replays: dict[str, Connection | None] = {}

    def __repr__(self) -> str:
        return f"<Subscribers threads={len(self._by_thread)}>"

    def add(self, thread: str, connection: Connection) -> None:
        """Subscribe; a no-op when it already is."""
        connection.threads.add(thread)
        self._by_thread.setdefault(thread, {})[connection.key] = connection

    def remove(self, thread: str, connection: Connection) -> bool:
        """Unsubscribe; tells whether it was subscribed."""
        if thread not in connection.threads:
            return False
        connection.threads.remove(thread)
        if self._replays.get(thread) is connection:
            del self._replays[thread]
        here = self._by_thread[thread]
        del here[connection.key]
        if not here:
            del self._by_thread[thread]
        return True

    def leave(self, connection: Connection) -> list[str]:
        """End all subscriptions of a connection; returns the threads it heard."""
        threads = sorted(connection.threads)
        for thread in threads:
            self.remove(thread, connection)
        return threads

    def leave_hops(self, thread: str) -> None:
        """End the subscriptions of other hosts: they hear a thread of our own cores alone."""
        for connection in list(self.of(thread)):
            if connection.peer.hop:
                self.remove(thread, connection)

    def forget(self, thread: str) -> None:
        """The thread is gone: deleted, or unloaded."""
        self._replays.pop(thread, None)
        for connection in self._by_thread.pop(thread, {}).values():
            connection.threads.discard(thread)

    def resumed(self, thread: str, connection: Connection | None) -> None:
        """A thread was resumed: the usage that its core repeats now is for who asked.

        Args:
            thread: Which.
            connection: Who asked; None when we did, and nobody needs to hear it.
        """
        self._replays[thread] = connection

    def replayed(self, thread: str) -> tuple[Connection, ...] | None:
        """Who a repeated message is for, once a resume; None when none is expected."""
        if thread not in self._replays:
            return None
        connection = self._replays.pop(thread)
        return () if connection is None else (connection,)

    def of(self, thread: str) -> Iterable[Connection]:
        """The subscribers of a thread; do not subscribe while iterating."""
        here = self._by_thread.get(thread)
        return () if here is None else here.values()

    def has(self, thread: str) -> bool:
        """Whether anybody hears this thread."""
        return thread in self._by_thread

    def threads(self) -> list[str]:
        """All threads that somebody hears."""
        return list(self._by_thread)
