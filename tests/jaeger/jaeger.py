"""A running Jaeger v2, asked as a person would: traces by id, services, the service graph.

It is a client of the query API and starts nothing; where a Jaeger comes from is in
`conftest.py`. Traces come as the same `CollectedSpan`s as from the in-test collector.
"""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.collector import CollectedSpan, Until, holds, spans_from_json, tree

POLL_S = 0.1
"""Jaeger has no way to wait; a span shows within a few hundred milliseconds."""

WAIT_S = 30.0
"""For what was exported a moment ago."""


@dataclass(frozen=True, slots=True)
class Edge:
    """One line of the service graph."""

    parent: str
    child: str
    calls: int


@dataclass(frozen=True, slots=True)
class Jaeger:
    """Where it is.

    Attributes:
        query_url: The query API and UI, without a slash at the end.
        otlp_url: The value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    """

    query_url: str
    otlp_url: str

    async def trace(
        self, trace_id: str, until: Until = 1, timeout_s: float = WAIT_S
    ) -> list[CollectedSpan]:
        """Read a trace by its id (32 hex digits) until it has what is waited for.

        Raises:
            AssertionError: not in time; it shows what Jaeger had.
        """
        spans: list[CollectedSpan] = []
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    with contextlib.suppress(aiohttp.ClientConnectionError):
                        spans = await self._read(trace_id)
                    if spans and holds(until, spans):
                        return spans
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            shown = "\n".join(tree(spans)) or "nothing"
            msg = f"not within {timeout_s} s; Jaeger has of trace {trace_id}:\n{shown}"
            raise AssertionError(msg) from None

    async def services(self) -> set[str]:
        """The services that have ever sent a span."""
        answer = await self._get("/api/v3/services")
        return set(answer.get("services", ()))

    async def operations(self, service: str) -> set[tuple[str, str]]:
        """The span names of a service, each with its kind."""
        answer = await self._get("/api/v3/operations", service=service)
        return {(each["name"], each.get("spanKind", "")) for each in answer["operations"]}

    async def dependencies(self, lookback_s: float = 3600) -> set[Edge]:
        """The service graph of the last hour."""
        # Only the older API has it. The end lies ahead: a span may have ended just now.
        end_ms, lookback_ms = int(time.time() * 1000) + 60_000, int(lookback_s * 1000)
        answer = await self._get("/api/dependencies", endTs=str(end_ms), lookback=str(lookback_ms))
        edges = answer["data"] or ()
        return {Edge(each["parent"], each["child"], each["callCount"]) for each in edges}

    async def search(self, service: str, tags: dict[str, str], *, at_least: int = 1) -> set[str]:
        """The ids of a service's traces that have a span with all these tags.

        Waits until there are so many, but not for ever.
        """
        end_s = time.monotonic() + WAIT_S
        while True:
            # The older API again: /api/v3/traces does not filter by attribute.
            answer = await self._get(
                "/api/traces", service=service, tags=json.dumps(tags), limit="100", lookback="1h"
            )
            found = {each["traceID"] for each in answer["data"] or ()}
            if len(found) >= at_least or time.monotonic() > end_s:
                return found
            await asyncio.sleep(POLL_S)

    async def _read(self, trace_id: str) -> list[CollectedSpan]:
        document, body = await self._fetch(f"/api/v3/traces/{trace_id}", {}, missing=404)
        return spans_from_json(document.get("result", {}), raw=body)

    async def _get(self, path: str, **query: str) -> dict[str, Any]:
        document, _ = await self._fetch(path, query)
        return document

    async def _fetch(
        self, path: str, query: dict[str, str], missing: int | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Get one page; the status `missing` means that it is not there yet."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.query_url}{path}", params=query) as response,
        ):
            body = await response.read()
            if response.status == missing:
                return {}, body
            assert response.status == 200, f"{path} answered {response.status}: {body[:200]!r}"
            document: dict[str, Any] = json.loads(body)
            return document, body
