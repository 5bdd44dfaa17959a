"""What six products look for in a span, and that a turn, a tool and a model call have it.

Each rule is rebuilt from the product's documentation of August 2026: which keys it reads,
and what it makes of a span. A key that is renamed here or there fails the table.

    Jaeger >= 2.20      icon by operation; sections agent, model and tokens
    Langfuse            AGENT, TOOL or GENERATION by operation; session.id
    Phoenix >= 15.10    converts gen_ai.* where a provider is named
    Honeycomb           needs conversation, agent and operation
    Datadog             layout of the conventions 1.37: provider and operation
    Grafana             operation and conversation on every span of an agent
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest

from tests.trace_proxy.recording import Json, Proxy
from trace_proxy.context.span_record import Service, SpanRecord

Attributes = dict[str, Json]


@dataclass(frozen=True)
class Shown:
    """What a product makes of a span; empty where it reads nothing of the kind.

    Attributes:
        kind: Its own word.
        tokens: Input and output.
    """

    kind: str
    agent: str = ""
    provider: str = ""
    model: str = ""
    tokens: tuple[int, int] | None = None
    conversation: str = ""


Rule = Callable[[Attributes], Shown | None]


def text(said: Attributes, *keys: str) -> str:
    """The first of the keys that is there."""
    return next((str(said[key]) for key in keys if said.get(key)), "")


def tokens(said: Attributes) -> tuple[int, int] | None:
    if "gen_ai.usage.input_tokens" not in said:
        return None
    return said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]


def by_operation(said: Attributes, kinds: dict[str, str]) -> str:
    return kinds.get(text(said, "gen_ai.operation.name"), "")


def jaeger(said: Attributes) -> Shown | None:
    if not any(key.startswith("gen_ai.") for key in said):
        return None
    kinds = {"invoke_agent": "agent", "execute_tool": "tool", "chat": "model"}
    return Shown(
        by_operation(said, kinds) or "generic",
        text(said, "gen_ai.agent.name"),
        text(said, "gen_ai.provider.name"),
        text(said, "gen_ai.response.model", "gen_ai.request.model"),
        tokens(said),
        text(said, "gen_ai.conversation.id"),
    )


def langfuse(said: Attributes) -> Shown | None:
    kinds = {"invoke_agent": "AGENT", "execute_tool": "TOOL", "chat": "GENERATION"}
    kind = by_operation(said, kinds)
    if not kind:
        return None
    return Shown(
        kind,
        text(said, "gen_ai.agent.name"),
        model=text(said, "gen_ai.response.model", "gen_ai.request.model"),
        tokens=tokens(said),
        conversation=text(said, "session.id"),
    )


def phoenix(said: Attributes) -> Shown | None:
    kind = by_operation(said, {"invoke_agent": "AGENT", "execute_tool": "TOOL", "chat": "LLM"})
    provider = text(said, "gen_ai.provider.name")
    if not kind or not provider:
        return None
    return Shown(
        kind,
        text(said, "gen_ai.agent.name"),
        provider,
        text(said, "gen_ai.request.model"),
        tokens(said),
        text(said, "session.id", "gen_ai.conversation.id"),
    )


def honeycomb(said: Attributes) -> Shown | None:
    conversation, agent = text(said, "gen_ai.conversation.id"), text(said, "gen_ai.agent.name")
    operation = text(said, "gen_ai.operation.name")
    if not (conversation and agent and operation):
        return None
    return Shown(operation, agent, conversation=conversation, tokens=tokens(said))


def datadog(said: Attributes) -> Shown | None:
    kind = by_operation(said, {"invoke_agent": "agent", "execute_tool": "tool", "chat": "llm"})
    provider = text(said, "gen_ai.provider.name")
    if not kind or not provider:
        return None
    model = text(said, "gen_ai.request.model")
    conversation = text(said, "gen_ai.conversation.id")
    return Shown(
        kind, text(said, "gen_ai.agent.name"), provider, model, tokens(said), conversation
    )


def grafana(said: Attributes) -> Shown | None:
    operation, conversation = (
        text(said, "gen_ai.operation.name"),
        text(said, "gen_ai.conversation.id"),
    )
    return Shown(operation, conversation=conversation) if operation and conversation else None


TURN, TOOL, CALL = "invoke_agent core-server", "execute_tool shell", "chat small"
A: Final = "core-server"
P: Final = "local"

# Product, then what it makes of the turn, of the tool and of the model call.
TABLE: list[tuple[Rule, Shown, Shown, Shown]] = [
    (
        jaeger,
        Shown("agent", A, P, "small", (9, 4), "t"),
        Shown("tool", A, P, "", None, "t"),
        Shown("model", A, P, "small", (7, 3), "t"),
    ),
    (
        langfuse,
        Shown("AGENT", A, "", "small", (9, 4), "t"),
        Shown("TOOL", A, conversation="t"),
        Shown("GENERATION", A, "", "small", (7, 3), "t"),
    ),
    (
        phoenix,
        Shown("AGENT", A, P, "small", (9, 4), "t"),
        Shown("TOOL", A, P, conversation="t"),
        Shown("LLM", A, P, "small", (7, 3), "t"),
    ),
    (
        honeycomb,
        Shown("invoke_agent", A, tokens=(9, 4), conversation="t"),
        Shown("execute_tool", A, conversation="t"),
        Shown("chat", A, tokens=(7, 3), conversation="t"),
    ),
    (
        datadog,
        Shown("agent", A, P, "small", (9, 4), "t"),
        Shown("tool", A, P, conversation="t"),
        Shown("llm", A, P, "small", (7, 3), "t"),
    ),
    (
        grafana,
        Shown("invoke_agent", conversation="t"),
        Shown("execute_tool", conversation="t"),
        Shown("chat", conversation="t"),
    ),
]


@pytest.fixture(scope="module")
def spans() -> dict[str, SpanRecord]:
    """The spans of a turn with a command, an approval and a model call, by name."""
    proxy = Proxy().up()
    client = proxy.client()
    client.request(1, "thread/start")
    loaded = {"thread": {"id": "t"}, "model": "small", "modelProvider": P}
    proxy.core.answer(proxy.core.got()[-1]["id"], loaded)
    proxy.turn(client)
    ids = {"threadId": "t", "turnId": "u"}
    used = {"inputTokens": 7, "outputTokens": 3}
    timed = {"responseId": "r", "usage": used, "startedAtMs": 2_000, "completedAtMs": 3_000}
    proxy.core.notify("rawResponse/completed", {**ids, **timed})
    command = {"type": "commandExecution", "id": "i", "status": "completed", "exitCode": 0}
    proxy.core.notify("item/started", {**ids, "item": command})
    proxy.core.ask(0, "item/commandExecution/requestApproval", {**ids, "itemId": "i"})
    client.answer(0, {"decision": "accept"})
    proxy.core.notify("item/completed", {**ids, "item": command})
    usage = {"last": {"inputTokens": 9, "outputTokens": 4}}
    proxy.core.notify("thread/tokenUsage/updated", {**ids, "tokenUsage": usage})
    proxy.core.notify("turn/completed", {"threadId": "t", "turn": {"id": "u"}})
    client.request(9, "thread/read", {"threadId": "t"})
    proxy.core.answer(proxy.core.got()[-1]["id"], {})
    return {each.name: each for each in proxy.spans()}


def said(span: SpanRecord) -> Attributes:
    return {**span.shared, **span.attributes}


@pytest.mark.parametrize(
    ("rule", "turn", "tool", "call"), TABLE, ids=[row[0].__name__ for row in TABLE]
)
def test_a_product_recognises_turn_tool_and_model_call(
    spans: dict[str, SpanRecord], rule: Rule, turn: Shown, tool: Shown, call: Shown
) -> None:
    assert rule(said(spans[TURN])) == turn
    assert rule(said(spans[TOOL])) == tool
    assert rule(said(spans[CALL])) == call


def test_requests_of_no_agent_are_plain_everywhere(spans: dict[str, SpanRecord]) -> None:
    for name in ("thread/start", "thread/read"):
        assert [row[0](said(spans[name])) for row in TABLE] == [None] * len(TABLE)


def test_who_is_waited_for_is_a_service_of_its_own(spans: dict[str, SpanRecord]) -> None:
    services = {name: each.service for name, each in spans.items()}
    assert services["approval command"] is Service.CLIENT
    assert services["turn/start"] is Service.PROXY
    assert {services[name] for name in (TURN, TOOL, CALL)} == {Service.CORE}
    parents = {each.context: each.service for each in spans.values()}
    for span in spans.values():
        calls = span.kind.value == "client" and span.parent is not None and span.name != CALL
        if calls and span.parent is not None:
            assert parents[span.parent] is not span.service, "no service calls itself"
