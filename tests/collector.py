"""A real OTLP/HTTP collector inside the test's event loop, and spans as tests compare them.

    async with Collector() as collector:
        ...  # a program with OTEL_EXPORTER_OTLP_ENDPOINT=collector.url
        spans = await collector.wait_for(3)
        assert tree(spans) == ["trace-proxy: turn/start [server]", ...]

It can answer 503, hang, stop, and come back on its port. It is not a store: the queries
that Jaeger would answer are plain Python over `collector.spans`.
"""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

# Without type stubs, hence imported by name.
_message_to_dict: Callable[..., dict[str, Any]] = import_module(
    "google.protobuf.json_format"
).MessageToDict
_DecodeError: type[Exception] = import_module("google.protobuf.message").DecodeError

_MAX_BODY_BYTES = 64 * 1024 * 1024  # a whole load run in one batch fits
_CLOSE_TIMEOUT_S = 1.0

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES = ("unset", "ok", "error")


@dataclass(frozen=True, slots=True)
class CollectedLink:
    """A link to another span."""

    trace_id: str
    span_id: str
    trace_state: str = ""


@dataclass(frozen=True, slots=True)
class CollectedSpan:
    """One exported span; ids are lower-case hex, empty where there is none.

    Attributes:
        kind: `internal`, `server`, `client`.
        status: `unset`, `ok`, `error`.
        flags: As in OTLP: W3C flags in the low byte, 0x100 and 0x200 tell about the parent.
        raw: The whole body that brought it, uncompressed: search it for secrets.
    """

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    status: str = "unset"
    message: str = ""
    links: tuple[CollectedLink, ...] = ()
    events: tuple[str, ...] = ()
    flags: int = 0
    trace_state: str = ""
    resource: dict[str, Any] = field(default_factory=dict)
    scope: str = ""
    scope_schema_url: str = ""
    raw: bytes = field(default=b"", repr=False, compare=False)


Until = int | Callable[[Sequence[CollectedSpan]], object]
"""How many spans, or a predicate on all of them."""


class Mode(Enum):
    """How the collector behaves."""

    OK = auto()
    ANSWER_503 = auto()
    HANG = auto()
    WEB_PAGE = auto()


class Collector:
    """Takes `POST /v1/traces` on loopback, protobuf or JSON, plain or gzip.

    Attributes:
        spans: All that was accepted, in order of arrival; tests may clear it.
        bodies: Their requests' bodies, uncompressed.
        headers: Their requests' headers, lower-case names.
        refuses: Spans of each batch that it says it rejected, and why.
        requests: How many exports were tried, in any mode, also the refused ones.
    """

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        self.refuses = (0, "")
        self._mode = Mode.OK
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        """The value for `OTEL_EXPORTER_OTLP_ENDPOINT`; it stays when the collector stops."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def mode(self) -> Mode:
        """How it behaves from now on; changing it answers what hangs with 503."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        self._notify()

    async def start(self) -> None:
        """Listen: on a free port at first, on the same one ever after."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_post("/v1/traces", self._export)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_TIMEOUT_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Be gone: connections are refused until `start`. Spans are kept."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._notify()
            await runner.cleanup()

    async def wait_for(self, until: Until, timeout_s: float = 10) -> list[CollectedSpan]:
        """Wait until so many spans are there, or until a predicate on them holds.

        Returns:
            All spans so far.

        Raises:
            AssertionError: not in time; it shows what had arrived.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not holds(until, self.spans):
                    await self._changed.wait()
        except TimeoutError:
            shown = "\n".join(tree(self.spans)) or "nothing"
            msg = f"not within {timeout_s} s; {len(self.spans)} spans came:\n{shown}"
            raise AssertionError(msg) from None
        return list(self.spans)

    async def wait_for_requests(self, count: int, timeout_s: float = 10) -> None:
        """Wait until so many exports were tried, also refused or hanging ones."""
        async with asyncio.timeout(timeout_s):
            while self.requests < count:
                await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _hangs(self) -> bool:
        return self._mode is Mode.HANG and self._runner is not None

    async def _export(self, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp undoes the compression
        self.requests += 1
        self._notify()
        hung = self._hangs()
        while self._hangs():
            await self._changed.wait()
        if self._mode is Mode.WEB_PAGE:
            return web.Response(text="<!doctype html><title>Sign in</title>")
        if hung or self._mode is not Mode.OK:
            return web.Response(status=503)
        try:
            if request.content_type == "application/json":
                arrived = spans_from_json(json.loads(body), raw=body)
            else:
                arrived = spans_from_protobuf(body)
        except (_DecodeError, ValueError) as error:
            return web.Response(status=400, text=str(error))
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.spans += arrived
        self._notify()
        rejected, message = self.refuses
        if request.content_type == "application/json":
            partial = {"rejectedSpans": str(rejected), "errorMessage": message}
            return web.json_response({"partialSuccess": partial} if message else {})
        answer = ExportTraceServiceResponse()
        if message:
            answer.partial_success.rejected_spans = rejected
            answer.partial_success.error_message = message
        return web.Response(body=answer.SerializeToString(), content_type="application/x-protobuf")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


def holds(until: Until, spans: Sequence[CollectedSpan]) -> bool:
    """Whether what is waited for has come."""
    return len(spans) >= until if isinstance(until, int) else bool(until(spans))


def spans_from_protobuf(body: bytes) -> list[CollectedSpan]:
    """Decode an `ExportTraceServiceRequest`.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    request = ExportTraceServiceRequest.FromString(body)
    document = _message_to_dict(request, use_integers_for_enums=True)
    return list(_spans(document, body, lambda text: base64.b64decode(text).hex()))


def spans_from_json(document: Mapping[str, Any], raw: bytes = b"") -> list[CollectedSpan]:
    """Decode OTLP JSON: a request, a line of a trace file, or Jaeger's `result`."""
    return list(_spans(document, raw, str))


def _spans(
    document: Mapping[str, Any], raw: bytes, hex_of: Callable[[str], str]
) -> Iterator[CollectedSpan]:
    for per_resource in document.get("resourceSpans", ()):
        resource = _attributes(per_resource.get("resource", {}))
        for per_scope in per_resource.get("scopeSpans", ()):
            scope = per_scope.get("scope", {}).get("name", "")
            url = per_scope.get("schemaUrl", "")
            for span in per_scope.get("spans", ()):
                collected = _span(span, resource, scope, raw, hex_of)
                yield replace(collected, scope_schema_url=url)


def _span(
    span: Mapping[str, Any],
    resource: dict[str, Any],
    scope: str,
    raw: bytes,
    hex_of: Callable[[str], str],
) -> CollectedSpan:
    status = span.get("status", {})
    return CollectedSpan(
        service=resource.get("service.name", ""),
        name=span.get("name", ""),
        kind=_KINDS[span.get("kind", 0)],
        trace_id=hex_of(span.get("traceId", "")),
        span_id=hex_of(span.get("spanId", "")),
        parent_span_id=hex_of(span.get("parentSpanId", "")),
        start_ns=int(span.get("startTimeUnixNano", 0)),
        end_ns=int(span.get("endTimeUnixNano", 0)),
        attributes=_attributes(span),
        status=_STATUSES[status.get("code", 0)],
        message=status.get("message", ""),
        links=tuple(
            CollectedLink(
                hex_of(each["traceId"]), hex_of(each["spanId"]), each.get("traceState", "")
            )
            for each in span.get("links", ())
        ),
        events=tuple(event.get("name", "") for event in span.get("events", ())),
        flags=span.get("flags", 0),
        trace_state=span.get("traceState", ""),
        resource=resource,
        scope=scope,
        raw=raw,
    )


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {each["key"]: _value(each.get("value", {})) for each in holder.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> object:
    """Undo OTLP's `AnyValue`; 64-bit integers travel as strings."""
    if "intValue" in value:
        return int(value["intValue"])
    if "arrayValue" in value:
        return [_value(each) for each in value["arrayValue"].get("values", ())]
    return next(iter(value.values()), None)


def tree(spans: Sequence[CollectedSpan]) -> list[str]:
    """Draw who is whose child, two spaces a level, siblings by start time.

    A line reads `SERVICE: NAME [KIND]`, with ` ERROR` behind it if the span failed. A span
    whose parent is not among `spans` stands at the left.
    """
    children: dict[str, list[CollectedSpan]] = {}
    known = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda each: (each.start_ns, each.name)):
        parent = span.parent_span_id if span.parent_span_id in known else ""
        children.setdefault(parent, []).append(span)

    def draw(parent: str, depth: int) -> Iterator[str]:
        for span in children.get(parent, ()):
            failed = " ERROR" if span.status == "error" else ""
            yield f"{'  ' * depth}{span.service}: {span.name} [{span.kind}]{failed}"
            yield from draw(span.span_id, depth + 1)

    return list(draw("", 0))
