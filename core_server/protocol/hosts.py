"""The hosts that share a store: `host/list`, `host/drain`. Not methods of the reference.

They are for whoever runs this core, and served only where the store spans machines.
"""

from core_server.protocol.wire import Wire


class Host(Wire, frozen=True):
    """A core that shares the store.

    Attributes:
        host_id: As configured, or empty.
        url: Where its host serves, or empty.
        load: Threads that it owns.
        draining: It will end soon.
        me: It is the core that answers.
        lease_s: How long its leases last without a further heartbeat; negative for the dead.
        taken_over: Threads that it took from owners that were dead, since its start; 0 for
            all but the core that answers.
        fenced: Its writes that were refused since it had lost the thread; likewise.
    """

    host_id: str
    url: str
    load: int
    draining: bool
    me: bool
    lease_s: float
    taken_over: int
    fenced: int


class HostListResult(Wire, frozen=True):
    """Answer of `host/list`."""

    data: tuple[Host, ...]
