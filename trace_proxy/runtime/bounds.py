"""The bounds of the machines, out of the options."""

from trace_proxy.queues.admission import AdmissionBounds
from trace_proxy.queues.client_queue import OutboxBounds
from trace_proxy.queues.core_queue import LaneBounds
from trace_proxy.settings.limits import Limits


def admission_bounds(limits: Limits) -> AdmissionBounds:
    """For `Admission`."""
    return AdmissionBounds(
        connection_max_requests=limits.max_in_flight_per_connection,
        connection_max_bytes=limits.max_in_flight_bytes_per_connection,
        proxy_max_requests=limits.max_in_flight,
        proxy_max_bytes=limits.max_in_flight_bytes,
    )


def lane_bounds(limits: Limits) -> LaneBounds:
    """For one core's `Lanes`."""
    return LaneBounds(
        max_messages=limits.max_core_queue_messages,
        max_bytes=limits.max_core_queue_bytes,
        window=limits.max_core_outstanding,
        window_of_one=limits.max_core_outstanding_per_connection,
        max_answers=limits.max_client_answers,
    )


def pair_bounds(limits: Limits) -> LaneBounds:
    """For the lines that wait for the core of one client, requests or not."""
    return LaneBounds(
        max_answers=limits.max_core_queue_messages, max_bytes=limits.max_core_queue_bytes
    )


def outbox_bounds(limits: Limits) -> OutboxBounds:
    """For one client's `Outbox`."""
    return OutboxBounds(
        soft_max_bytes=limits.soft_client_queue_bytes,
        soft_max_messages=limits.soft_client_queue_messages,
        soft_s=limits.soft_client_queue_timeout_s,
        hard_max_bytes=limits.max_client_queue_bytes,
        hard_max_messages=limits.max_client_queue_messages,
        stall_s=limits.client_stall_s,
        control_max_frames=limits.max_control_messages,
    )
