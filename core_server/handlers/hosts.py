"""What hosts that share a store ask of their cores: who is there, and to let go."""

from core_server.context import Context
from core_server.errors import WireError
from core_server.handlers.loading import let_go
from core_server.jsonrpc import codes
from core_server.protocol.hosts import Host, HostListResult
from core_server.protocol.wire import Nothing


async def list_hosts(context: Context, _params: None) -> HostListResult:
    """`host/list`: the cores that share the store, this one among them."""
    _check(context)
    found = await context.store.hosts()
    return HostListResult(
        tuple(
            Host(
                host.host_id,
                host.url,
                host.load,
                host.draining,
                host.me,
                host.lease_s,
                host.taken_over,
                host.fenced,
            )
            for host in found
        )
    )


async def drain(context: Context, _params: None) -> Nothing:
    """`host/drain`: give up every thread as soon as its turn is over; then this is answered.

    Whoever asks admits no new work meanwhile. So no client of a host that is stopped in
    good order waits for the end of a lease.
    """
    _check(context)
    await context.store.drain()
    for thread in tuple(context.threads.values()):
        if not thread.facts.ephemeral:
            await context.turns.ended(thread)
            await let_go(context, thread)
    return Nothing()


def _check(context: Context) -> None:
    if not context.store.spans_machines:
        raise WireError(codes.METHOD_NOT_FOUND, "this store is no fleet's")
