"""Odd input of every kind, from both sides, in both modes: nothing raises, nothing is left.

What a shell catches ("our bug with one line must not cost the next ones") must not happen
at all; so here nobody catches it.
"""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trace_proxy.recording import Proxy as Shared
from tests.trace_proxy.relay.per_connection.pair_world import Proxy as Pairs
from trace_proxy.protocol import acp, mcp, methods
from trace_proxy.protocol.program import Program
from trace_proxy.spans.turns import OBSERVED

IDS = st.one_of(
    st.integers(-2, 4),
    st.sampled_from(["1", "a", "", "ask", None, 1.0, True, 2**63, -(2**64), [1], {"id": 1}, "\0"]),
)
LEAVES = st.one_of(
    IDS,
    st.sampled_from(
        [
            "t",
            "u",
            "i",
            "idle",
            "active",
            "notLoaded",
            "completed",
            "failed",
            "2024-11-05",
            "\u2028",
        ]
    ),
    st.sampled_from([0.5, -1, 10**30, "x" * 300, [], {}, "agent_message_chunk", "tool_call"]),
)
NAMES = st.sampled_from(
    """
    threadId turnId itemId requestId id turn thread item status type delta sessionId update
    sessionUpdate toolCallId content text usage tokenUsage total last inputTokens error
    codexErrorInfo willRetry message rootTurnId parentThreadId receiverThreadIds agentThreadId
    startedAtMs completedAtMs durationMs processId watchId searchId capabilities clientInfo name
    version protocolVersion processId rootUri experimentalApi optOutNotificationMethods model
    threadSettings reviewThreadId _meta traceparent progressToken data cursor nextCursor limit
    decision outcome stopReason isError arguments prompt
    """.split()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
METHODS = st.sampled_from(
    sorted(methods.KNOWN | methods.SERVER_REQUESTS | OBSERVED | set(methods.HANDLES))
    + sorted(acp.METHODS | acp.SERVER_REQUESTS | mcp.METHODS | mcp.SERVER_REQUESTS)
    + sorted(methods.CANCEL_NOTES)
    + ["initialize", "initialized", "thread/status/changed", "serverRequest/resolved"]
    + ["thread/closed", "thread/settings/updated", "item/agentMessage/delta", "session/update"]
    + ["", "\0", "x" * 2000]
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message that is one, nearly one, or none."""
    message: dict[str, Any] = {}
    for name, values, share in (
        ("jsonrpc", st.sampled_from(["2.0", "1.0", 2]), 3),
        ("id", IDS, 7),
        ("method", st.one_of(METHODS, METHODS, METHODS, LEAVES), 7),
        ("params", VALUES, 8),
        ("trace", VALUES, 1),
        ("result", VALUES, 3),
        ("error", VALUES, 2),
    ):
        if draw(st.integers(0, 9)) < share:
            message[name] = draw(values)
    text = json.dumps(message, ensure_ascii=draw(st.booleans())).encode(errors="replace")
    at = draw(st.integers(0, len(text)))
    match draw(st.integers(0, 19)):
        case 0:
            return text[:at]
        case 1:
            return (
                text[:at] + draw(st.binary(min_size=1, max_size=3)).replace(b"\n", b"") + text[at:]
            )
        case 2:
            return b"[%b]" % text
        case _:
            return text


SCRIPT = st.lists(st.tuples(st.sampled_from(["one", "two", "core"]), messages()), max_size=15)


@settings(max_examples=100)
@given(SCRIPT, st.booleans())
def test_nothing_that_clients_or_a_shared_core_say_raises(
    script: list[tuple[str, bytes]],
    well_met: bool,  # noqa: FBT001 - drawn
) -> None:
    proxy = Shared(cores=2).up()
    people = {"one": proxy.client(experimental=True), "two": proxy.client()}
    if well_met:
        proxy.turn(people["one"], proxy.thread(people["one"], "t"), "u")
    for who, line in script:
        if who == "core":
            proxy.core.raw(line)
        else:
            people[who].raw(line)
    for client in people.values():
        client.leave()
    assert proxy.hub.board.in_flight == 0


@settings(max_examples=100)
@given(SCRIPT, st.sampled_from([None, *Program]))
def test_nothing_that_a_client_or_its_own_core_say_raises(
    script: list[tuple[str, bytes]], program: Program | None
) -> None:
    proxy = Pairs(program=program)
    people = {"one": proxy.client(), "two": proxy.client()}
    for who, line in script:
        if who == "core":
            people["one"].core_raw(line)
        else:
            people[who].raw(line)
    people["one"].leave()
    people["two"].core_dies(1)
    people["two"].leave()
    assert proxy.idle
