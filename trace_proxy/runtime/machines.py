"""Which machine decides, with its bounds: cores that are shared, or one for each client."""

from trace_proxy.drain import Drain
from trace_proxy.queues.admission import Admission
from trace_proxy.queues.core_queue import CoreQueue
from trace_proxy.relay.effects import Effects
from trace_proxy.relay.per_connection.passthrough import PassThrough
from trace_proxy.relay.shared.hub import Hub
from trace_proxy.relay.shared.pool import Restarts
from trace_proxy.runtime.bounds import admission_bounds, core_queue_bounds, pair_queue_bounds
from trace_proxy.runtime.telemetry.setup import Telemetry
from trace_proxy.settings.config import Config, Delivery, ListenStdio, Sessions
from trace_proxy.spans.content import Content
from trace_proxy.state.core_session import CoreSession


def machine(
    config: Config, effects: Effects, telemetry: Telemetry, drain: Drain, version: str
) -> Hub | PassThrough:
    """Make what `--sessions` asks for.

    Args:
        config: All settings.
        effects: The way out.
        telemetry: Ids, sampling, and how much content a span may hold.
        drain: When to stop.
        version: Ours, as shared cores see it.
    """
    limits, pool = config.limits, config.pool
    admission = Admission(admission_bounds(limits))
    content = Content(telemetry.max_value_chars) if config.tracing.record_content else None
    if pool.sessions is Sessions.PER_CONNECTION:
        return PassThrough(
            effects,
            telemetry,
            admission=admission,
            drain=drain,
            core_queue_bounds=pair_queue_bounds(limits),
            content=content,
        )
    cores = [CoreSession(i, CoreQueue(core_queue_bounds(limits))) for i in range(pool.cores)]
    restarts = [
        Restarts(
            min_s=pool.restart_backoff_min_s,
            max_s=pool.restart_backoff_max_s,
            most=pool.max_restarts,
            window_s=pool.restart_window_s,
        )
        for _ in cores
    ]
    return Hub(
        effects,
        telemetry,
        cores,
        restarts,
        admission=admission,
        drain=drain,
        broadcast=pool.delivery is Delivery.BROADCAST,
        version=version,
        content=content,
        alone=all(isinstance(where, ListenStdio) for where in config.listen),
    )
