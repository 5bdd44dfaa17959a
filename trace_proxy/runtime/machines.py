"""Which machine decides, with its bounds: cores that are shared, or one for each client."""

from typing import Final

from trace_proxy.drain import Drain
from trace_proxy.protocol.program import Program
from trace_proxy.queues.admission import Admission, AdmissionBounds
from trace_proxy.queues.core_queue import CoreQueue, CoreQueueBounds
from trace_proxy.relay.effects import Effects
from trace_proxy.relay.per_connection.passthrough import PassThrough
from trace_proxy.relay.shared.hub import Hub
from trace_proxy.relay.shared.pool import Restarts
from trace_proxy.runtime.telemetry.setup import Telemetry
from trace_proxy.settings.config import Config, Delivery, ListenStdio, Placement, Sessions, Spoken
from trace_proxy.settings.limits import Limits
from trace_proxy.spans.content import Content
from trace_proxy.state.core_session import CoreSession

_PROGRAMS: Final[dict[Spoken, Program | None]] = {
    Spoken.AUTO: None,
    **{Spoken(program.value): program for program in Program},
}


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
    admission = Admission(_admission_bounds(limits))
    content = Content(telemetry.max_value_chars) if config.tracing.record_content else None
    if pool.sessions is Sessions.PER_CONNECTION:
        return PassThrough(
            effects,
            telemetry,
            admission=admission,
            drain=drain,
            core_queue_bounds=_pair_queue_bounds(limits),
            content=content,
            core_name=config.tracing.core_service_name,
            program=_PROGRAMS[pool.protocol],
        )
    cores = [CoreSession(i, CoreQueue(_core_queue_bounds(limits))) for i in range(pool.cores)]
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
        core_name=config.tracing.core_service_name,
        advertise_url=config.fleet.advertise_url or "",
        least_loaded=config.fleet.placement is Placement.LEAST_LOADED,
        make_queue=lambda: CoreQueue(_core_queue_bounds(limits)),
        alone=all(isinstance(where, ListenStdio) for where in config.listen),
    )


def _admission_bounds(limits: Limits) -> AdmissionBounds:
    """For `Admission`."""
    return AdmissionBounds(
        connection_max_requests=limits.max_in_flight_per_connection,
        connection_max_bytes=limits.max_in_flight_bytes_per_connection,
        proxy_max_requests=limits.max_in_flight,
        proxy_max_bytes=limits.max_in_flight_bytes,
    )


def _core_queue_bounds(limits: Limits) -> CoreQueueBounds:
    """For one core's `CoreQueue`."""
    return CoreQueueBounds(
        max_messages=limits.max_core_queue_messages,
        max_bytes=limits.max_core_queue_bytes,
        window=limits.max_core_outstanding,
        window_of_one=limits.max_core_outstanding_per_connection,
        max_answers=limits.max_client_answers,
    )


def _pair_queue_bounds(limits: Limits) -> CoreQueueBounds:
    """For the lines that wait for the core of one client, requests or not."""
    return CoreQueueBounds(
        max_answers=limits.max_core_queue_messages, max_bytes=limits.max_core_queue_bytes
    )
