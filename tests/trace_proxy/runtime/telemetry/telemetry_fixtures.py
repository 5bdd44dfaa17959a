"""What the tests of telemetry share: spans to export, and an environment of their own."""

import asyncio
import os
from collections.abc import Callable

import pytest

from trace_proxy.context.span_record import AttributeValue, Kind, Service, SpanContext, SpanRecord
from trace_proxy.runtime.telemetry.setup import Telemetry

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SECRET = "canary-7c1f"


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what the caller's shell says; let spans not wait for company."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


def telemetry(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Telemetry:
    """Set variables, for the SDK too, and build from them."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return Telemetry(os.environ, version="1.2.3")


def record(
    span_id: int = 1,
    *,
    service: Service = Service.PROXY,
    parent: SpanContext | None = None,
    attributes: dict[str, AttributeValue] | None = None,
) -> SpanRecord:
    """One request, or one turn of the core."""
    name, kind = ("thread/read", Kind.SERVER)
    if service is Service.CORE:
        name, kind = "invoke_agent", Kind.INTERNAL
    own = SpanContext(TRACE_ID, span_id, flags=3)
    return SpanRecord(service, name, kind, own, parent, 1_000, 2_000, attributes or {})


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a counter that the exporter's thread writes."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a thread counts, and knows no asyncio.Event
            await asyncio.sleep(0.005)
