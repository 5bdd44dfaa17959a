"""A traced proxy, and scenes in it: one client whose requests make one trace.

    async with traced() as stage, stage.scene() as scene:
        await scene.turn("/run echo hi", decision="accept")
        await scene.becomes("trace-proxy: turn/start [server]", ...)

A scene's requests carry a `trace` of its own, so that many scenes share a proxy and a
collector and none sees the spans of another.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.collector import CollectedSpan, Collector, tree
from tests.e2e.proxy import Client, Json, Proxy, trace_proxy, turn_params

PARENT_SPAN = "00f067aa0ba902b7"
"""The client's own span in every scene."""


def new_trace_id() -> str:
    """A trace id as W3C writes it."""
    return secrets.token_hex(16)


def traceparent(trace_id: str, *, sampled: bool = True) -> str:
    """A `traceparent` below the client's own span."""
    return f"00-{trace_id}-{PARENT_SPAN}-{'01' if sampled else '00'}"


def environment(endpoint: str) -> dict[str, str]:
    """What makes a proxy export there, soon."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "20"}


@dataclass(slots=True)
class Scene:
    """One client and one trace.

    Attributes:
        client: A client past its handshake.
        collector: Where the spans come in.
        thread: The thread that turns run in, empty until the first.
        trace_id: Of all requests sent by the methods here.
    """

    client: Client
    collector: Collector
    thread: str = ""
    trace_id: str = field(default_factory=new_trace_id)

    @property
    def trace(self) -> Json:
        """The `trace` member of this scene's requests."""
        return {"traceparent": traceparent(self.trace_id)}

    async def begin(self, method: str, params: object = None) -> int:
        """Send a request of this scene; returns its id."""
        return await self.client.begin(method, params, trace=self.trace)

    async def request(self, method: str, params: object = None) -> Json:
        """Send a request of this scene and wait for its result."""
        return await self.client.answer(await self.begin(method, params))

    async def begin_turn(self, text: str) -> str:
        """Start a turn; returns its id."""
        if not self.thread:
            self.thread = await self.client.thread()
        result = await self.request("turn/start", turn_params(self.thread, text))
        turn: str = result["turn"]["id"]
        return turn

    async def turn(self, text: str, decision: str = "") -> Json:
        """Run a turn to its end, answering what it asks for; returns it."""
        await self.begin_turn(text)
        return await self.end_turn(decision)

    async def end_turn(self, decision: str = "") -> Json:
        """Wait for the end of a turn, answering what it asks for; returns it."""
        if decision:
            await self.decide(decision)
        done: Json = (await self.client.wait_for("turn/completed"))["params"]["turn"]
        return done

    async def decide(self, decision: str) -> Json:
        """Answer the next approval; returns the request."""
        asked = await self.client.wait(lambda each: "method" in each and "id" in each)
        await self.client.send({"id": asked["id"], "result": {"decision": decision}})
        return asked

    def spans(self) -> list[CollectedSpan]:
        """This scene's spans so far, but those of model calls, which are many."""
        return [span for span in self._all() if not span.name.startswith("chat ")]

    def calls(self) -> list[CollectedSpan]:
        """The model calls among its spans, oldest first."""
        calls = [span for span in self._all() if span.name.startswith("chat ")]
        return sorted(calls, key=lambda each: each.start_ns)

    def _all(self) -> list[CollectedSpan]:
        return [span for span in self.collector.spans if span.trace_id == self.trace_id]

    async def becomes(self, *lines: str) -> list[CollectedSpan]:
        """Wait until the scene's tree is this; returns its spans in the tree's order."""
        await self.collector.wait_for(lambda _: len(self.spans()) >= len(lines))
        assert tree(self.spans()) == list(lines)
        return in_order(self.spans())


def in_order(spans: Sequence[CollectedSpan]) -> list[CollectedSpan]:
    """The spans in the order in which `tree` draws them."""
    known = {span.span_id for span in spans}
    children: dict[str, list[CollectedSpan]] = {}
    for span in sorted(spans, key=lambda each: (each.start_ns, each.name)):
        parent = span.parent_span_id if span.parent_span_id in known else ""
        children.setdefault(parent, []).append(span)

    def walk(parent: str) -> list[CollectedSpan]:
        found = []
        for span in children.get(parent, ()):
            found += [span, *walk(span.span_id)]
        return found

    return walk("")


@dataclass(frozen=True, slots=True)
class Stage:
    """A proxy that exports to a collector."""

    proxy: Proxy
    collector: Collector

    @contextlib.asynccontextmanager
    async def scene(self, **options: Any) -> AsyncIterator[Scene]:
        """A new client with a trace of its own."""
        async with self.proxy.client(**options) as client:
            yield Scene(client, self.collector)

    async def metrics(self) -> dict[str, float]:
        """Samples of `/metrics` by name and labels, as they stand in the text."""
        return samples((await self.proxy.get("/metrics"))[1])

    async def metric_becomes(self, name: str, value: float, timeout_s: float = 10) -> None:
        """Poll `/metrics` until a sample has this value."""
        async with asyncio.timeout(timeout_s):
            while True:
                if (await self.metrics()).get(name) == value:
                    return
                await asyncio.sleep(0.02)


def samples(text: str) -> dict[str, float]:
    """Prometheus text as a mapping."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@contextlib.asynccontextmanager
async def traced(
    *options: str,
    core: Sequence[str] = (),
    env: dict[str, str] | None = None,
    collector: Collector | None = None,
) -> AsyncIterator[Stage]:
    """Start a collector and a proxy that exports to it."""
    async with contextlib.AsyncExitStack() as stack:
        if collector is None:
            collector = await stack.enter_async_context(Collector())
        settings = {**environment(collector.url), **(env or {})}
        proxy = await stack.enter_async_context(trace_proxy(*options, core=core, env=settings))
        yield Stage(proxy, collector)
