"""ACP seen from the wire: prompts are turns, tools and permissions hang below them."""

import json
from typing import Any

import pytest

from tests.trace_proxy.relay.per_connection.pair_world import Client, Proxy
from trace_proxy.context.span_record import SpanRecord
from trace_proxy.context.trace_context import format_traceparent
from trace_proxy.protocol.program import Program
from trace_proxy.spans import semconv
from trace_proxy.spans.content import Content

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
OPTIONS = [
    {"optionId": "yes", "name": "Yes", "kind": "allow_always"},
    {"optionId": "no", "name": "No", "kind": "reject_once"},
]


class Agent:
    """A client and its agent, past their greeting."""

    def __init__(self, proxy: Proxy | None = None) -> None:
        self.proxy = proxy or Proxy()
        self.client: Client = self.proxy.client()
        self.client.say(
            jsonrpc="2.0",
            id=0,
            method="initialize",
            params={"protocolVersion": 1, "clientInfo": {"name": "c", "version": "2"}},
        )
        self.client.core_says(
            jsonrpc="2.0", id=0, result={"protocolVersion": 1, "agentInfo": {"name": "bot"}}
        )
        self.proxy.spans()
        self.client.got()
        self.client.heard()

    def prompt(self, key: int = 1, session: str = "s", **params: Any) -> dict[str, Any]:
        """The client sends a prompt; returns what came to the agent."""
        params = {"sessionId": session, "prompt": [], **params}
        self.client.say(jsonrpc="2.0", id=key, method="session/prompt", params=params)
        (line,) = self.client.got()
        got: dict[str, Any] = json.loads(line)
        return got

    def done(self, key: int = 1, **result: Any) -> list[SpanRecord]:
        """The agent answers it; returns what ended."""
        self.client.core_says(jsonrpc="2.0", id=key, result={"stopReason": "end_turn", **result})
        return self.proxy.spans()

    def update(self, what: str, session: str = "s", **change: Any) -> None:
        params = {"sessionId": session, "update": {"sessionUpdate": what, **change}}
        self.client.core_says(jsonrpc="2.0", method="session/update", params=params)

    def tool(self, tool: str = "t", kind: str = "execute", **change: Any) -> None:
        self.update("tool_call", toolCallId=tool, kind=kind, title="rm CANARY", **change)

    def ended(self, tool: str = "t", status: str = "completed") -> None:
        self.update("tool_call_update", toolCallId=tool, status=status)

    def ask(self, method: str = "session/request_permission", tool: str = "t") -> None:
        params = {"sessionId": "s", "toolCall": {"toolCallId": tool}, "options": OPTIONS}
        self.client.core_says(jsonrpc="2.0", id="ask", method=method, params=params)


def names(spans: list[SpanRecord]) -> list[str]:
    return [each.name for each in spans]


def test_a_prompt_is_a_request_with_its_turn_below_it() -> None:
    agent = Agent()
    agent.prompt(_meta={"traceparent": PARENT})
    usage = {"totalTokens": 9, "inputTokens": 4, "outputTokens": 5}
    turn, request = agent.done(stopReason="max_tokens", usage=usage)

    assert names([turn, request]) == ["invoke_agent bot", "session/prompt"]
    assert request.parent is not None
    assert f"{request.parent.trace_id:032x}" == TRACE
    assert turn.parent == request.context
    said = turn.attributes
    assert turn.shared[semconv.CONVERSATION_ID] == "s"
    assert turn.shared[semconv.AGENT_NAME] == "bot"
    assert said[semconv.STOP_REASON] == "max_tokens"
    assert said[semconv.TURN_STATUS] == "completed"
    assert (said[semconv.INPUT_TOKENS], said[semconv.OUTPUT_TOKENS]) == (4, 5)
    assert request.shared[semconv.CLIENT_NAME] == "c"
    assert agent.proxy.idle


def test_the_turns_context_goes_to_the_agent_and_other_members_stay() -> None:
    agent = Agent()
    got = agent.prompt(_meta={"a": 1, "traceparent": PARENT, "baggage": "b=1"})
    turn, _ = agent.done()

    carried = {"a": 1, "traceparent": format_traceparent(turn.context), "baggage": "b=1"}
    assert got["params"] == {"sessionId": "s", "prompt": [], "_meta": carried}


def test_the_requests_context_goes_with_every_other_request_of_the_protocol() -> None:
    agent = Agent()
    agent.client.say(jsonrpc="2.0", id=5, method="session/list")
    agent.client.say(jsonrpc="2.0", id=6, method="_vendor/thing", params={})
    agent.client.say(jsonrpc="2.0", method="session/cancel", params={"sessionId": "s"})
    known, unknown, note = map(json.loads, agent.client.got())
    agent.client.core_says(jsonrpc="2.0", id=5, result={})

    ended = [each for each in agent.proxy.spans() if each.name == "session/list"]
    assert known["params"]["_meta"]["traceparent"] == format_traceparent(ended[0].context)
    assert unknown["params"] == {}
    assert note["params"] == {"sessionId": "s"}


@pytest.mark.parametrize(
    ("trace", "meta", "source", "child"),
    [
        (True, True, "message", True),
        (False, True, "message", True),
        (True, False, "message", True),
        (False, False, "generated", False),
    ],
)
def test_trace_goes_before_meta(*, trace: bool, meta: bool, source: str, child: bool) -> None:
    agent = Agent()
    other = f"00-{'ab' * 16}-00f067aa0ba902b7-01"
    message: dict[str, Any] = {"params": {"sessionId": "s"}}
    if meta:
        message["params"]["_meta"] = {"traceparent": other if trace else PARENT}
    if trace:
        message["trace"] = {"traceparent": PARENT}
    agent.client.say(id=3, method="session/list", **message)
    agent.client.core_says(id=3, result={})

    (request,) = agent.proxy.spans()
    assert request.shared[semconv.CONTEXT_SOURCE] == source
    assert (request.parent is not None) is child
    if request.parent is not None:
        assert f"{request.parent.trace_id:032x}" == TRACE


def test_a_bad_context_in_meta_is_counted_and_costs_nothing() -> None:
    agent = Agent()
    got = agent.prompt(_meta={"traceparent": "00-nonsense"})
    turn, request = agent.done()

    assert [str(each.reason.value) for each in agent.proxy.effects.rejected] == ["malformed"]
    assert request.parent is None
    assert got["params"]["_meta"]["traceparent"] == format_traceparent(turn.context)


@pytest.mark.parametrize(
    ("reason", "status", "recorded"),
    [
        ("end_turn", "completed", "end_turn"),
        ("refusal", "completed", "refusal"),
        ("cancelled", "interrupted", "cancelled"),
        ("CANARY", "completed", "other"),
        (None, "completed", "other"),
    ],
)
def test_why_an_agent_stopped_is_one_of_few_words(
    reason: str | None, status: str, recorded: str
) -> None:
    agent = Agent()
    agent.prompt()
    turn, _ = agent.done(stopReason=reason)
    assert turn.attributes[semconv.STOP_REASON] == recorded
    assert turn.attributes[semconv.TURN_STATUS] == status
    assert turn.error == ""


def test_a_prompt_that_is_answered_with_an_error_has_failed() -> None:
    agent = Agent()
    agent.prompt()
    agent.client.core_says(id=1, error={"code": -32000, "message": "CANARY"})
    turn, request = agent.proxy.spans()
    assert turn.attributes[semconv.TURN_STATUS] == "failed"
    assert turn.error
    assert request.attributes[semconv.ERROR_TYPE] == "-32000"
    assert "CANARY" not in repr((turn, request))
    assert agent.proxy.idle


def test_text_is_counted_on_the_turn() -> None:
    agent = Agent()
    agent.prompt()
    for text in ("héllo", " you"):
        agent.update("agent_message_chunk", content={"type": "text", "text": text})
    agent.update("agent_message_chunk", content={"type": "image", "data": "x"})
    agent.update("agent_thought_chunk", content={"type": "text", "text": "hmm"})
    turn, _ = agent.done()
    assert turn.attributes[semconv.DELTAS] == 3
    assert turn.attributes[semconv.OUTPUT_BYTES] == 10
    assert turn.attributes[semconv.TIME_TO_FIRST_DELTA] == 0.001


def test_tools_begin_and_end_below_their_turn_and_their_titles_are_nobodys() -> None:
    agent = Agent()
    agent.prompt()
    agent.tool("a", "execute", status="pending")
    agent.update("tool_call_update", toolCallId="a", status="in_progress", title="CANARY")
    agent.ended("a")
    agent.tool("b", "CANARY", status="in_progress")
    agent.ended("b", "failed")
    agent.tool("c", "read", status="completed")
    agent.tool("d", "fetch")
    tools = agent.proxy.spans()
    interrupted, turn, _ = agent.done()

    assert names(tools) == ["execute_tool execute", "execute_tool other", "execute_tool read"]
    assert [bool(each.error) for each in tools] == [False, True, False]
    assert interrupted.name == "execute_tool fetch"
    assert interrupted.attributes[semconv.TOOL_STATUS] == "interrupted"
    assert {each.parent for each in (*tools, interrupted)} == {turn.context}
    assert [each.attributes.get(semconv.ERROR_TYPE) for each in tools] == [
        None,
        "tool_error",
        None,
    ]
    assert tools[0].end_ns - tools[0].start_ns == 2_000_000
    assert "CANARY" not in repr((*tools, interrupted, turn))


def test_a_history_that_is_repeated_is_no_work() -> None:
    agent = Agent()
    agent.client.say(id=1, method="session/load", params={"sessionId": "s"})
    agent.tool("a")
    agent.ended("a")
    agent.update("agent_message_chunk", content={"type": "text", "text": "x"})
    agent.client.core_says(id=1, result={})
    assert names(agent.proxy.spans()) == ["session/load"]


def test_a_permission_hangs_below_its_tool_and_says_who_waited_how_long() -> None:
    agent = Agent()
    agent.prompt()
    agent.tool("t")
    agent.ask()
    for _ in range(6):
        agent.proxy.tick()
    outcome = {"outcome": {"outcome": "selected", "optionId": "no"}}
    agent.client.say(jsonrpc="2.0", id="ask", result=outcome)
    (asked,) = agent.proxy.spans()
    agent.ended("t", "failed")
    tool, turn, _ = (*agent.proxy.spans(), *agent.done())

    assert asked.name == "session/request_permission"
    assert asked.parent == tool.context
    assert tool.parent == turn.context
    said = asked.attributes
    assert said[semconv.APPROVAL_DECISION] == "reject_once"
    assert said[semconv.APPROVAL_ANSWERED_BY] == "0"
    assert said[semconv.APPROVAL_WAIT] == 0.007


def test_what_else_an_agent_asks_hangs_below_its_turn() -> None:
    agent = Agent()
    agent.prompt()
    agent.ask("fs/read_text_file")
    agent.client.say(id="ask", result={"content": "CANARY"})
    agent.ask("_vendor/ask")
    agent.client.say(id="ask", error={"code": 1, "message": "CANARY"})
    known, unknown = agent.proxy.spans()
    turn, _ = agent.done()

    assert (known.name, unknown.name) == ("fs/read_text_file", "jsonrpc")
    assert known.attributes[semconv.APPROVAL_DECISION] == "answered"
    assert {known.parent, unknown.parent} == {turn.context}
    assert "CANARY" not in repr((known, unknown))


def test_a_cancel_is_a_moment_that_links_to_the_turn_it_ends() -> None:
    agent = Agent()
    agent.prompt()
    agent.client.say(jsonrpc="2.0", method="session/cancel", params={"sessionId": "s"})
    (cancel,) = agent.proxy.spans()
    turn, _ = agent.done(stopReason="cancelled")

    assert cancel.name == "session/cancel"
    assert cancel.links == (turn.context,)
    assert semconv.JSONRPC_REQUEST_ID not in cancel.attributes
    assert turn.attributes[semconv.TURN_STATUS] == "interrupted"


def test_two_clients_whose_agents_count_their_sessions_alike_do_not_mix() -> None:
    proxy = Proxy()
    one, other = Agent(proxy), Agent(proxy)
    one.prompt()
    other.prompt()
    one.tool("t", "read")
    other.ended("t")
    assert proxy.spans() == []
    (turn, request) = other.done()
    assert turn.parent == request.context
    assert names(one.done()) == ["execute_tool read", "invoke_agent bot", "session/prompt"]


@pytest.mark.parametrize("side", ["client", "core"])
def test_when_a_side_is_gone_all_that_ran_ends_with_it(side: str) -> None:
    agent = Agent()
    agent.prompt()
    agent.tool("t")
    agent.ask()
    if side == "client":
        agent.client.leave()
    else:
        agent.proxy.machine.core_lost(agent.client.core, 1, agent.proxy.tick())
    spans = {each.name: each for each in agent.proxy.spans()}

    assert set(spans) == {
        "execute_tool execute",
        "invoke_agent bot",
        "session/prompt",
        "session/request_permission",
    }
    assert all(each.error for each in spans.values())
    why = "connection_lost" if side == "client" else "core_lost"
    assert spans["invoke_agent bot"].attributes[semconv.ERROR_TYPE] == why
    assert agent.proxy.idle


def test_while_draining_prompts_are_refused_and_those_that_run_are_waited_for() -> None:
    agent = Agent()
    agent.prompt()
    agent.proxy.drain.signal("TERM", 0)
    assert agent.proxy.drain.work(0, agent.proxy.machine.board.in_flight, 0) == []
    for method in ("session/prompt", "session/new", "session/load", "session/fork"):
        agent.client.say(jsonrpc="2.0", id=2, method=method, params={"sessionId": "z"})
        assert agent.client.error()["error"]["data"]["reason"] == "draining"
    agent.client.say(jsonrpc="2.0", id=3, method="session/list", params={})
    assert len(agent.client.got()) == 1
    agent.client.core_says(jsonrpc="2.0", id=3, result={})
    agent.proxy.spans()
    agent.done()
    assert agent.proxy.drain.work(0, agent.proxy.machine.board.in_flight, 0) != []


def test_at_the_deadline_prompts_are_cancelled_and_say_who_ended_them() -> None:
    agent = Agent()
    agent.prompt(1, "one")
    agent.prompt(2, "two")
    agent.proxy.machine.deadline()
    cancels = [json.loads(line) for line in agent.client.got()]
    turn, _ = agent.done(1, stopReason="cancelled")

    assert [(each["method"], each["params"]) for each in cancels] == [
        ("session/cancel", {"sessionId": "one"}),
        ("session/cancel", {"sessionId": "two"}),
    ]
    assert all("id" not in each for each in cancels)
    assert turn.attributes[semconv.ENDED_BY] == "drain"


def test_content_is_recorded_only_when_it_is_asked_for() -> None:
    agent = Agent(Proxy(content=Content(300)))
    agent.prompt(prompt=[{"type": "text", "text": "CANARY prompt"}])
    agent.update("agent_message_chunk", content={"type": "text", "text": "CANARY answer"})
    agent.tool("t")
    agent.ask()
    agent.client.say(id="ask", result={"outcome": {"outcome": "cancelled"}})
    agent.ended("t")
    asked, tool, turn, request = (*agent.proxy.spans(), *agent.done())

    assert tool.attributes[semconv.TOOL_ARGUMENTS] == '"rm CANARY"'
    assert "CANARY answer" in str(turn.attributes[semconv.OUTPUT_MESSAGES])
    assert "CANARY prompt" in str(turn.attributes[semconv.INPUT_MESSAGES])
    assert "CANARY prompt" in str(request.shared[semconv.CONTENT_PARAMS])
    assert "cancelled" in str(asked.attributes[semconv.CONTENT_RESULT])


def test_the_option_decides_before_the_first_request_does() -> None:
    proxy = Proxy(program=Program.ACP)
    client = proxy.client()
    client.say(id=1, method="session/prompt", params={"sessionId": "s"})
    client.core_says(id=1, result={"stopReason": "end_turn"})
    assert names(proxy.spans()) == ["invoke_agent core-server", "session/prompt"]


def test_unsampled_prompts_leave_nothing_and_still_carry_their_context() -> None:
    agent = Agent(Proxy(sampled=False))
    got = agent.prompt()
    agent.tool("t")
    agent.ended("t")
    assert agent.done() == []
    assert got["params"]["_meta"]["traceparent"].endswith("-02")
    assert agent.proxy.idle
