"""The clients of the world: what they ask, what they may expect, what they leave as spans."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tests.trace_proxy.recording import Client, Json
from trace_proxy.context.span_record import STILL_OPEN, Kind, SpanRecord

IDS: Final = (b"0", b"1", b'"1"', b"-1", b"9223372036854775807", b'"\\u0061"', b'""')
METHODS: Final = (
    ("turn/start", True),
    ("thread/start", False),
    ("thread/resume", True),
    ("model/list", False),
    ("thread/unsubscribe", True),
    ("turn/interrupt", True),
    ("turn/steer", True),
    ("thread/compact/start", True),
    ("thread/fork", True),
    ("thread/archive", True),
    ("thread/list", False),
    ("thread/loaded/list", False),
    ("command/exec", False),
    ("fs/watch", False),
    ("fs/unwatch", False),
    ("no/such/method", False),
)


class Wire(msgspec.Struct):
    """A message as a client reads it."""

    id: msgspec.Raw = msgspec.Raw(b"")
    method: str = ""
    params: Json = None
    result: Json = None
    error: Json = None
    jsonrpc: str = ""


@dataclass(eq=False)
class Person:
    """A client and what it may expect."""

    client: Client
    strict: bool
    experimental: bool
    initialized: bool = False
    waiting: dict[int, bytes] = field(default_factory=dict)
    asked: dict[int, str | None] = field(default_factory=dict)


def check_spans(spans: list[SpanRecord], requests: int, turns: list[str]) -> None:
    """One span for each request and each turn, and nobody's parent is missing."""
    contexts = {each.context.span_id for each in spans}
    assert len(contexts) == len(spans), "one record for each span"
    assert sum(each.kind is Kind.SERVER for each in spans) == requests
    agents = [each for each in spans if each.name.startswith("invoke_agent")]
    ids = Counter(str(each.shared["trace_proxy.turn.id"]) for each in agents)
    assert ids == Counter(turns), "one span for each turn"
    for each in spans:
        assert each.start_ns <= each.end_ns or each.end_ns == STILL_OPEN
        if each.parent is not None:
            assert each.parent.span_id in contexts, each
            assert each.parent.trace_id == each.context.trace_id
