"""Where ids and sampling decisions come from: randomness, handed to the machines."""

from typing import Protocol

from trace_proxy.context.span_record import SpanContext


class Ids(Protocol):
    """Randomness and sampling, handed to the machines."""

    def new_trace_id(self) -> int:
        """128 random bits, never zero."""
        ...

    def new_span_id(self) -> int:
        """64 random bits, never zero."""
        ...

    def sampled(self, parent: SpanContext | None, trace_id: int, name: str) -> bool:
        """Ask the configured sampler."""
        ...
