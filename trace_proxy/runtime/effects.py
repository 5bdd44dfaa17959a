"""`relay.effects.Effects` over sockets, pipes and OpenTelemetry.

Each call goes straight to who carries it out; nothing happens here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from trace_proxy.runtime.clients.clients import Clients
from trace_proxy.runtime.cores.processes import Processes
from trace_proxy.runtime.telemetry.metrics.meters import Meters
from trace_proxy.state.core_session import CoreSession

if TYPE_CHECKING:
    from trace_proxy.runtime.cores.peer import PeerLinks

_log = structlog.get_logger("trace_proxy")


class RuntimeEffects:
    """The machines' way out.

    Args:
        clients: Who is sent to.
        processes: Who is written to.
        meters: Who measures.
        serving: Called when a core waits for its one client.
        core_up: Called when a core is up.
    """

    def __init__(
        self,
        clients: Clients,
        processes: Processes,
        meters: Meters,
        *,
        serving: Callable[[], None],
        core_up: Callable[[], None],
    ) -> None:
        self.send = clients.send
        self.fan_out = clients.fan_out
        self.close = clients.close
        self.write = processes.write
        self._peers: PeerLinks | None = None
        self.core_faulty = processes.faulty
        self.end_span = meters.end_span
        self.call_ended = meters.call_ended
        self.turn_ended = meters.turn_ended
        self.tool_ended = meters.tool_ended
        self.context_rejected = meters.context_rejected
        self.approval_asked = meters.approval_asked
        self.approval_settled = meters.approval_settled
        self.shed = meters.shed
        self.answer_ignored = meters.answer_ignored
        self.notification_dropped = meters.notification_dropped
        self.log = meters.log
        self.relayed = meters.relayed
        self.owned = meters.owned
        self._serving = serving
        self._core_up = core_up

    def reach_peers(self, peers: "PeerLinks", processes: Processes) -> None:
        """There is a fleet: some cores are other hosts."""
        self._peers = peers

        def write(core: CoreSession, line: bytes) -> None:
            (peers if core.url else processes).write(core, line)

        self.write = write

    def open_peer(self, core: CoreSession) -> None:
        """Connect to another host."""
        assert self._peers is not None, "only fleets have peers"
        self._peers.open(core)

    def close_peer(self, core: CoreSession) -> None:
        """Leave another host."""
        assert self._peers is not None, "only fleets have peers"
        self._peers.close(core)

    def core_waits(self, core: CoreSession) -> None:  # noqa: ARG002 - there is one
        """A core's process runs, and its one client may speak."""
        self._serving()

    def core_ready(self, core: CoreSession) -> None:
        """A core is up, with its threads."""
        _log.info("core.ready", core=core.index, epoch=core.epoch)
        self._core_up()
