"""The bounds of the machines, out of the options."""

from trace_proxy.queues.admission import AdmissionBounds
from trace_proxy.queues.client_queue import ClientQueueBounds
from trace_proxy.queues.core_queue import CoreQueueBounds
from trace_proxy.settings.limits import Limits


def admission_bounds(limits: Limits) -> AdmissionBounds:
    """For `Admission`."""
    return AdmissionBounds(
        connection_max_requests=limits.max_in_flight_per_connection,
        connection_max_bytes=limits.max_in_flight_bytes_per_connection,
        proxy_max_requests=limits.max_in_flight,
        proxy_max_bytes=limits.max_in_flight_bytes,
    )


def core_queue_bounds(limits: Limits) -> CoreQueueBounds:
    """For one core's `CoreQueue`."""
    return CoreQueueBounds(
        max_messages=limits.max_core_queue_messages,
        max_bytes=limits.max_core_queue_bytes,
        window=limits.max_core_outstanding,
        window_of_one=limits.max_core_outstanding_per_connection,
        max_answers=limits.max_client_answers,
    )


def pair_queue_bounds(limits: Limits) -> CoreQueueBounds:
    """For the lines that wait for the core of one client, requests or not."""
    return CoreQueueBounds(
        max_answers=limits.max_core_queue_messages, max_bytes=limits.max_core_queue_bytes
    )


def client_queue_bounds(limits: Limits) -> ClientQueueBounds:
    """For one client's `ClientQueue`."""
    return ClientQueueBounds(
        soft_max_bytes=limits.soft_client_queue_bytes,
        soft_max_messages=limits.soft_client_queue_messages,
        soft_s=limits.soft_client_queue_timeout_s,
        hard_max_bytes=limits.max_client_queue_bytes,
        hard_max_messages=limits.max_client_queue_messages,
        stall_s=limits.client_stall_s,
        control_max_frames=limits.max_control_messages,
    )
