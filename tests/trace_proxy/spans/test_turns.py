"""Turns and their tools, seen from the wire: spans for any core."""

import pytest

from tests.trace_proxy.recording import Client, Json, Proxy
from trace_proxy.context.span_record import Kind, Service, SpanEvent, SpanRecord
from trace_proxy.spans.turn_spans import TOOL_STATUS

CANARY = "CANARY"

OF_TURN: Json = {
    "gen_ai.conversation.id": "t",
    "session.id": "t",
    "trace_proxy.turn.id": "u",
    "trace_proxy.core.id": 0,
    "gen_ai.agent.name": "core-server",
    "trace_proxy.client.name": "client",
}
"""What all spans of the turn say."""


def named(spans: list[SpanRecord]) -> dict[str, SpanRecord]:
    found = {each.name: each for each in spans}
    assert len(found) == len(spans), "each once"
    return found


def started(proxy: Proxy, turn: str = "u") -> None:
    proxy.core.notify("turn/started", {"threadId": "t", "turn": {"id": turn}})


def completed(proxy: Proxy, turn: str = "u", status: str = "completed") -> None:
    params = {"threadId": "t", "turn": {"id": turn, "status": status, "error": CANARY}}
    proxy.core.notify("turn/completed", params)


def item(proxy: Proxy, what: str, **members: Json) -> None:
    params = {"threadId": "t", "turnId": "u", "item": {"type": "commandExecution", **members}}
    proxy.core.notify(f"item/{what}", params)


def test_a_turn_is_a_span_below_its_request_with_all_that_the_table_says(
    proxy: Proxy, client: Client
) -> None:
    client.request(1, "turn/start", {"threadId": "t", "input": [{"text": CANARY}]})
    accepted_ns = proxy.now_ns
    (asked,) = proxy.core.got()
    proxy.core.answer(asked["id"], {"turn": {"id": "u"}, "x": CANARY})
    started(proxy)
    for text in ("a", "\u00e9"):
        delta = {"threadId": "t", "turnId": "u", "itemId": "m", "delta": text}
        proxy.core.notify("item/agentMessage/delta", delta)
    first_delta_s = 3e-3
    last = {"inputTokens": 100, "outputTokens": 20, "cachedInputTokens": 10}
    usage = {"last": {**last, "reasoningOutputTokens": 5}, "total": {"inputTokens": 100}}
    for _ in range(2):  # the second is a replay
        tokens = {"threadId": "t", "turnId": "u", "tokenUsage": usage}
        proxy.core.notify("thread/tokenUsage/updated", tokens)
    completed(proxy)

    spans = named(proxy.spans())
    request, turn = spans["turn/start"], spans["invoke_agent core-server"]
    assert turn == SpanRecord(
        service=Service.CORE,
        name="invoke_agent core-server",
        kind=Kind.INTERNAL,
        context=turn.context,
        parent=request.context,
        start_ns=accepted_ns,
        end_ns=proxy.now_ns,
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.id": "t",
            "trace_proxy.turn.status": "completed",
            "trace_proxy.turn.index": 0,
            "trace_proxy.turn.deltas": 2,
            "trace_proxy.turn.output_bytes": 3,
            "gen_ai.request.model": "mock",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20,
            "gen_ai.usage.cache_read.input_tokens": 10,
            "gen_ai.usage.reasoning.output_tokens": 5,
            "trace_proxy.turn.time_to_first_delta": first_delta_s,
        },
        shared=OF_TURN,
    )
    assert request.attributes["trace_proxy.turn.id"] == "u"
    parent_id = asked["trace"]["traceparent"].split("-")[2]
    assert int(parent_id, 16) == turn.context.span_id, "a core's spans hang below the turn"


@pytest.mark.parametrize(
    "order",
    [
        ("answer", "started", "completed"),
        ("started", "answer", "completed"),
        ("started", "completed", "answer"),
        ("completed", "answer"),
        ("completed", "started", "answer"),
        ("answer", "completed", "started", "completed"),
    ],
)
def test_in_whatever_order_it_is_told_a_turn_is_one_span_below_its_request(
    proxy: Proxy, client: Client, order: tuple[str, ...]
) -> None:
    client.request(1, "turn/start", {"threadId": "t"})
    (asked,) = proxy.core.got()
    for event in order:
        if event == "answer":
            proxy.core.answer(asked["id"], {"turn": {"id": "u"}})
        else:
            (started if event == "started" else completed)(proxy)
    spans = named(proxy.spans())
    assert spans.keys() == {"turn/start", "invoke_agent core-server"}
    assert spans["invoke_agent core-server"].parent == spans["turn/start"].context
    assert spans["turn/start"].links == ()
    assert (len(proxy.hub.board.turns), proxy.core.session.turns) == (0, 0)


def test_a_start_that_joins_a_running_turn_links_to_it(proxy: Proxy, client: Client) -> None:
    proxy.turn(client)
    turn = proxy.hub.board.turns.get("u")
    assert turn is not None
    client.request(2, "turn/start", {"threadId": "t"})
    proxy.core.answer(proxy.core.got()[0]["id"], {"turn": {"id": "u"}})
    completed(proxy)
    _, joined, ended = proxy.spans()
    assert (joined.name, joined.links) == ("turn/start", (turn.context,))
    assert ended.name == "invoke_agent core-server"
    started(proxy, "v")
    completed(proxy, "v")
    assert proxy.spans()[0].parent is None, "what joined has no child of its own"


@pytest.mark.parametrize("method", ["turn/steer", "turn/interrupt", "thread/resume"])
def test_requests_about_a_running_turn_link_to_it(
    proxy: Proxy, client: Client, method: str
) -> None:
    proxy.turn(client)
    turn = proxy.hub.board.turns.get("u")
    assert turn is not None
    proxy.spans()
    for over in (False, True):
        client.request(2, method, {"threadId": "t"})
        asked = proxy.core.got()[0]["id"]
        if over:
            completed(proxy, status="interrupted")
        proxy.core.answer(asked, {"thread": {"id": "t"}})
        request = proxy.spans()[-1]
        assert (request.name, request.links) == (method, (turn.context,))
        assert request.attributes["trace_proxy.turn.id"] == "u"


@pytest.mark.parametrize("method", ["thread/compact/start", "thread/shellCommand"])
def test_a_turn_without_a_start_of_its_own_is_a_child_of_what_began_it(
    proxy: Proxy, client: Client, method: str
) -> None:
    client.request(1, method, {"threadId": "t"})
    proxy.core.answer(proxy.core.got()[0]["id"], {})
    started(proxy)
    completed(proxy)
    started(proxy, "nowhere")
    completed(proxy, "nowhere")
    request, turn, nowhere = proxy.spans()
    assert (turn.parent, nowhere.parent) == (request.context, None)
    assert turn.context.trace_id == request.context.trace_id


def test_a_detached_review_is_heard_by_who_asked_and_is_its_child(
    proxy: Proxy, client: Client
) -> None:
    client.request(1, "review/start", {"threadId": "t"})
    answer = {"turn": {"id": "v"}, "reviewThreadId": "r"}
    proxy.core.answer(proxy.core.got()[0]["id"], answer)
    proxy.core.notify("turn/started", {"threadId": "r", "turn": {"id": "v"}})
    proxy.core.notify("turn/completed", {"threadId": "r", "turn": {"id": "v"}})
    assert [each.get("method") for each in client.heard()] == [
        None,
        "turn/started",
        "turn/completed",
    ]
    started(proxy)
    completed(proxy)
    request, review, nowhere = proxy.spans()
    assert (review.parent, nowhere.parent) == (request.context, None)
    client.request(1, "review/start", {"threadId": "t"})
    proxy.core.answer(proxy.core.got()[0]["id"], {"turn": {"id": "w"}, "reviewThreadId": "t"})
    started(proxy, "w")
    completed(proxy, "w")
    request, inline = proxy.spans()
    assert inline.parent == request.context


@pytest.mark.parametrize("result", [{"turn": {"id": ""}}, {"turn": {}}, {"thread": {"id": ""}}, 5])
def test_an_answer_that_names_nothing_begins_nothing(
    proxy: Proxy, client: Client, result: Json
) -> None:
    for method in ("turn/start", "thread/start", "thread/resume", "review/start"):
        client.request(1, method, {"threadId": "x"})
        proxy.core.answer(proxy.core.got()[0]["id"], result)
    board = proxy.hub.board
    assert (len(board.turns), client.connection.threads) == (0, {"t"})
    assert [each["result"] for each in client.heard()] == [result] * 4


def test_a_start_that_failed_has_no_turn(proxy: Proxy, client: Client) -> None:
    client.request(1, "turn/start", {"threadId": "t"})
    proxy.core.fail(proxy.core.got()[0]["id"], -32600, CANARY)
    client.request(2, "turn/start", {"threadId": "t"})
    proxy.core.answer(proxy.core.got()[0]["id"], {"odd": CANARY})
    started(proxy)
    completed(proxy)
    failed, odd, turn = proxy.spans()
    assert (failed.attributes["error.type"], odd.error, turn.parent) == ("-32600", "", None)
    assert proxy.effects.logged[-1] == "core.answer_not_understood"


def test_a_start_is_told_from_a_turn_that_came_from_nowhere_meanwhile(
    proxy: Proxy, client: Client
) -> None:
    client.request(1, "turn/start", {"threadId": "t"})
    started(proxy, "nowhere")
    completed(proxy, "nowhere")
    proxy.core.answer(proxy.core.got()[0]["id"], {"turn": {"id": "u"}})
    completed(proxy)
    contexts = {each.context.span_id for each in proxy.spans()}
    assert len(contexts) == 3


def test_a_tool_is_a_span_below_its_turn_with_the_cores_own_times(
    proxy: Proxy, client: Client
) -> None:
    proxy.turn(client)
    turn = proxy.hub.board.turns.get("u")
    assert turn is not None
    proxy.spans()
    item(proxy, "started", id="i", command=CANARY, startedAtMs=2_000, cwd=CANARY)
    item(proxy, "started", id="i", startedAtMs=3_000)
    item(proxy, "completed", id="i", status="completed", exitCode=0, completedAtMs=2_500)
    item(proxy, "completed", id="i", status="completed", completedAtMs=9_000)
    (tool,) = proxy.spans()
    assert tool == SpanRecord(
        service=Service.CORE,
        name="execute_tool shell",
        kind=Kind.INTERNAL,
        context=tool.context,
        parent=turn.context,
        start_ns=2_000_000_000,
        end_ns=2_500_000_000,
        attributes={
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "shell",
            "gen_ai.tool.call.id": "i",
            "gen_ai.tool.type": "function",
            "trace_proxy.tool.status": "completed",
            "process.exit.code": 0,
        },
        shared=OF_TURN,
    )


@pytest.mark.parametrize(
    ("members", "tool"),
    [
        ({"type": "fileChange"}, "apply_patch"),
        ({"type": "mcpToolCall", "tool": "x" * 100}, "x" * 64),
        ({"type": "dynamicToolCall"}, "dynamicToolCall"),
        ({"type": "webSearch"}, "web_search"),
    ],
)
def test_tools_have_names(proxy: Proxy, client: Client, members: Json, tool: str) -> None:
    proxy.turn(client)
    proxy.spans()
    item(proxy, "started", id="i", **members)
    item(proxy, "completed", id="i", **members)
    assert [each.name for each in proxy.spans()] == [f"execute_tool {tool}"]


@pytest.mark.parametrize(
    ("members", "kind", "error"),
    [
        ({"status": "failed", "exitCode": 3}, "exit_code", "The command failed."),
        ({"status": "failed", "exitCode": 124}, "timeout", "The command took too long."),
        ({"status": "failed"}, "tool_error", "The tool failed."),
        ({"status": "failed", "type": "mcpToolCall"}, "tool_error", "The tool failed."),
        ({"status": "declined"}, "declined", "The tool was declined."),
        ({"status": "interrupted"}, "cancelled", "The tool was cancelled."),
        ({"status": "completed", "exitCode": 0}, "", ""),
        ({"status": CANARY}, "", ""),
        ({"status": "core_lost"}, "", ""),
        ({"status": None}, "", ""),
        ({}, "", ""),
    ],
)
def test_a_tool_says_what_failed(
    proxy: Proxy, client: Client, members: Json, kind: str, error: str
) -> None:
    proxy.turn(client)
    proxy.spans()
    item(proxy, "started", id="i", type=members.get("type", "commandExecution"))
    item(proxy, "completed", id="i", **members)
    (tool,) = proxy.spans()
    assert (tool.attributes.get("error.type", ""), tool.error) == (kind, error)
    assert proxy.effects.tools == [(tool.attributes["gen_ai.tool.name"], kind)]
    assert tool.attributes["trace_proxy.tool.status"] in {*TOOL_STATUS, "other"}


def test_an_mcp_tool_is_an_extension_of_its_server(proxy: Proxy, client: Client) -> None:
    proxy.turn(client)
    proxy.spans()
    for server in ("docs", 5, None):
        what = {"id": "i", "type": "mcpToolCall", "tool": "find", "server": server}
        item(proxy, "started", **what)
        item(proxy, "completed", **what, status="completed")
    named, *odd = proxy.spans()
    assert named.attributes["gen_ai.tool.type"] == "extension"
    assert named.attributes["mcp.method.name"] == "tools/call"
    assert named.attributes["trace_proxy.mcp.server"] == "docs"
    assert [each.attributes["trace_proxy.mcp.server"] for each in odd] == ["", ""]


@pytest.mark.parametrize("ms", [-5, 0, 10**30, 1.5e300, None])
def test_times_that_cannot_be_are_ours(proxy: Proxy, client: Client, ms: float | None) -> None:
    proxy.turn(client)
    proxy.spans()
    item(proxy, "started", id="i", startedAtMs=ms)
    start_ns = proxy.now_ns
    item(proxy, "completed", id="i", completedAtMs=ms)
    (tool,) = proxy.spans()
    assert (tool.start_ns, tool.end_ns) == (start_ns, proxy.now_ns)


def test_what_is_open_when_a_turn_ends_ends_with_it(proxy: Proxy, client: Client) -> None:
    proxy.turn(client)
    proxy.spans()
    item(proxy, "started", id="i")
    completed(proxy, status="interrupted")
    tool, turn = proxy.spans()
    assert tool.attributes["trace_proxy.tool.status"] == "interrupted"
    assert (tool.attributes["error.type"], turn.error) == ("cancelled", "")
    assert turn.attributes["trace_proxy.turn.status"] == "interrupted"


@pytest.mark.parametrize(
    ("status", "recorded", "error"),
    [
        ("failed", "failed", "The turn failed."),
        ("interrupted", "interrupted", ""),
        (CANARY, "other", ""),
        ("drain", "other", ""),
    ],
)
def test_a_failed_turn_is_an_error_and_an_interrupted_one_is_not(
    proxy: Proxy, client: Client, status: str, recorded: str, error: str
) -> None:
    proxy.turn(client)
    proxy.spans()
    completed(proxy, status=status)
    (turn,) = proxy.spans()
    assert (turn.attributes["trace_proxy.turn.status"], turn.error) == (recorded, error)


def test_a_crash_ends_turn_tool_and_request_as_lost(proxy: Proxy, client: Client) -> None:
    proxy.turn(client)
    proxy.spans()
    item(proxy, "started", id="i")
    client.request(3, "thread/read", {"threadId": "t"})
    proxy.core.die()
    spans = named(proxy.spans())
    assert {name: each.attributes["error.type"] for name, each in spans.items()} == {
        "thread/read": "-32003",
        "execute_tool shell": "core_lost",
        "invoke_agent core-server": "core_lost",
    }
    assert all(each.attributes["trace_proxy.ended_by"] == "core_lost" for each in spans.values())


def test_a_lost_connection_ends_its_requests_and_the_turn_goes_on(
    proxy: Proxy, client: Client
) -> None:
    client.request(1, "turn/start", {"threadId": "t"})
    client.leave()
    proxy.core.answer(proxy.core.got()[0]["id"], {"turn": {"id": "u"}})
    assert len(proxy.hub.board.turns) == 1
    completed(proxy)
    request, turn = proxy.spans()
    assert request.attributes["error.type"] == "connection_lost"
    assert (turn.parent, turn.error) == (request.context, "")


def test_the_end_of_a_turn_is_understood_whatever_else_is_there(
    proxy: Proxy, client: Client
) -> None:
    proxy.turn(client)
    odd = {"threadId": "t", "turn": {"id": "u", "status": {"type": "done"}}, "item": 5}
    proxy.core.notify("turn/completed", odd)
    assert len(proxy.hub.board.turns) == 0
    for params in ({"threadId": "t", "turn": 5}, {"turn": {"id": "v"}}, {"threadId": "t"}):
        proxy.core.notify("turn/completed", params)
        proxy.core.notify("turn/started", params)
        proxy.core.notify("item/started", {**params, "item": []})
    assert len(proxy.hub.board.turns) == 0


def test_the_model_is_what_the_thread_uses_now(proxy: Proxy, client: Client) -> None:
    for settings in ({"model": "newer"}, {"model": 5}, {}):
        params = {"threadId": "t", "threadSettings": settings}
        proxy.core.notify("thread/settings/updated", params)
    proxy.turn(client)
    completed(proxy)
    assert proxy.spans()[-1].attributes["gen_ai.request.model"] == "newer"


def test_unsampled_turns_leave_no_spans_and_are_measured() -> None:
    proxy = Proxy(sampled=False).up()
    client = proxy.client()
    proxy.thread(client)
    proxy.turn(client)
    item(proxy, "started", id="i")
    item(proxy, "completed", id="i")
    proxy.core.ask(0, "item/tool/call", {"threadId": "t"})
    client.answer(0, {})
    completed(proxy)
    assert proxy.spans() == []
    assert [each.status for each in proxy.effects.turns] == ["completed"]


def spawned(proxy: Proxy, what: str, thread: str = "t2", **members: Json) -> None:
    """An item that sets another agent to work; only the end names its thread, as on the wire."""
    receivers = [thread] if what == "completed" else []
    item(
        proxy,
        what,
        type="collabAgentToolCall",
        id="s",
        tool="spawnAgent",
        **{"receiverThreadIds": receivers, "status": what, "model": "small", **members},
    )


def child(proxy: Proxy, what: str, turn: str = "c", thread: str = "t2", root: str = "u") -> None:
    told = {"id": turn, "rootTurnId": root, "status": "completed"}
    proxy.core.notify(f"turn/{what}", {"threadId": thread, "turn": told})


@pytest.mark.parametrize("order", ["item first", "turn first"])
def test_a_subagents_turn_is_below_the_tool_and_its_tokens_are_the_roots_too(
    proxy: Proxy, client: Client, order: str
) -> None:
    proxy.turn(client)
    proxy.spans()
    spawned(proxy, "started")
    if order == "item first":
        spawned(proxy, "completed")
        child(proxy, "started")
    else:
        child(proxy, "started")
        spawned(proxy, "completed")
    for thread, turn, tokens in (("t2", "c", 7), ("t", "u", 5)):
        used = usage(tokens, tokens, threadId=thread, turnId=turn)
        proxy.core.notify("thread/tokenUsage/updated", used)
    child(proxy, "completed")
    completed(proxy)
    tool, sub, root = proxy.spans()
    assert (tool.name, tool.parent) == ("execute_tool spawnAgent", root.context)
    assert (sub.parent, sub.context.trace_id) == (tool.context, root.context.trace_id)
    assert sub.attributes["gen_ai.request.model"] == "small"
    assert sub.shared["trace_proxy.client.name"] == "client"
    assert sub.attributes["gen_ai.usage.input_tokens"] == 7
    assert root.attributes["gen_ai.usage.input_tokens"] == 12
    assert root.attributes["trace_proxy.turn.subagent_input_tokens"] == 7
    assert root.attributes["trace_proxy.turn.subagents"] == 1
    assert [each.turn.input_tokens for each in proxy.effects.turns] == [7, 5], "measured once"


def test_a_subagents_turn_after_its_senders_is_linked_and_one_that_a_person_began_too(
    proxy: Proxy, client: Client
) -> None:
    proxy.turn(client)
    spawned(proxy, "started")
    spawned(proxy, "completed")
    completed(proxy)
    tool = proxy.spans()[-2]
    child(proxy, "started")
    child(proxy, "completed")
    (late,) = proxy.spans()
    assert (late.parent, late.links) == (None, (tool.context,))
    assert late.context.trace_id != tool.context.trace_id
    proxy.turn(client, "t2", "d")
    child(proxy, "completed", "d")
    request, asked_for = proxy.spans()
    assert (asked_for.parent, asked_for.links) == (request.context, (tool.context,))


def test_a_grandchilds_tokens_are_the_roots_and_an_unnamed_child_is_below_its_root(
    proxy: Proxy, client: Client
) -> None:
    proxy.turn(client)
    proxy.spans()
    child(proxy, "started", "c", "t2")
    child(proxy, "started", "g", "t3", root="c")
    used = usage(7, 7, threadId="t3", turnId="g")
    proxy.core.notify("thread/tokenUsage/updated", used)
    child(proxy, "completed", "g", "t3")
    child(proxy, "completed", "c", "t2")
    completed(proxy)
    grandchild, sub, root = proxy.spans()
    assert (sub.parent, grandchild.parent) == (root.context, sub.context)
    assert root.attributes["gen_ai.usage.input_tokens"] == 7
    assert root.attributes["trace_proxy.turn.subagents"] == 2


def test_a_subagent_of_the_second_kind_is_called_by_its_path(proxy: Proxy, client: Client) -> None:
    proxy.turn(client)
    proxy.spans()
    for kind, path in (("started", "/root/kid"), ("completed", "/root/kid"), (5, None)):
        what = {"type": "subAgentActivity", "id": "a", "kind": kind, "agentThreadId": "t2"}
        item(proxy, "started", **what, agentPath=path)
        item(proxy, "completed", **what, agentPath=path)
    child(proxy, "started")
    child(proxy, "completed")
    tool, sub = proxy.spans()
    assert (tool.name, tool.attributes["trace_proxy.tool.status"]) == (
        "execute_tool spawn_agent",
        "completed",
    )
    assert (sub.name, sub.parent) == ("invoke_agent kid", tool.context)


def test_a_review_has_one_turn_though_it_has_two_names(proxy: Proxy, client: Client) -> None:
    client.request(1, "review/start", {"threadId": "t"})
    answer = {"turn": {"id": "U1"}, "reviewThreadId": "t"}
    proxy.core.answer(proxy.core.got()[0]["id"], answer)
    child(proxy, "started", "U2", "t", root="U1")
    child(proxy, "completed", "U1", "t", root="U1")
    request, review = proxy.spans()
    assert (review.parent, review.shared["trace_proxy.turn.id"]) == (request.context, "U1")
    assert len(proxy.hub.board.turns) == 0


def usage(total: int, last: int, **more: Json) -> Json:
    counts = {"inputTokens": last, "outputTokens": 0}
    return {"tokenUsage": {"last": counts, "total": {"inputTokens": total}}, **more}


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted"])
def test_a_total_that_is_repeated_when_a_turn_starts_is_nobodys(
    proxy: Proxy, client: Client, status: str
) -> None:
    proxy.turn(client)
    proxy.core.notify("thread/tokenUsage/updated", usage(100, 100, threadId="t", turnId="u"))
    completed(proxy)
    proxy.spans()
    for turn, tokens in (("v", None), ("w", 7)):
        started(proxy, turn)
        repeated = usage(100, 100, threadId="t", turnId=turn)
        proxy.core.notify("thread/tokenUsage/updated", repeated)
        if tokens:
            more = usage(100 + tokens, tokens, threadId="t", turnId=turn)
            proxy.core.notify("thread/tokenUsage/updated", more)
        completed(proxy, turn, status)
        (span,) = proxy.spans()
        assert span.attributes.get("gen_ai.usage.input_tokens") == tokens


def test_a_total_of_a_resumed_thread_is_known_before_its_first_turn(
    proxy: Proxy, client: Client
) -> None:
    replay = usage(500, 20, threadId="t", turnId="long-ago")
    proxy.core.notify("thread/tokenUsage/updated", replay)
    proxy.turn(client)
    proxy.core.notify("thread/tokenUsage/updated", {**replay, "turnId": "u"})
    proxy.core.notify("thread/tokenUsage/updated", usage(510, 10, threadId="t", turnId="u"))
    completed(proxy)
    assert proxy.spans()[-1].attributes["gen_ai.usage.input_tokens"] == 10


@pytest.mark.parametrize(
    ("info", "kind", "status"),
    [
        ("contextWindowExceeded", "contextWindowExceeded", None),
        ({"httpConnectionFailed": {"httpStatusCode": 401}}, "httpConnectionFailed", 401),
        (
            {"responseStreamDisconnected": {"httpStatusCode": None}},
            "responseStreamDisconnected",
            None,
        ),
        ({"httpConnectionFailed": {"httpStatusCode": 10**9}}, "httpConnectionFailed", None),
        ({"httpConnectionFailed": {"httpStatusCode": True}}, "httpConnectionFailed", None),
        ({"a": 1, "b": 2}, "_OTHER", None),
        (f"{CANARY} with blanks", "_OTHER", None),
        ("x" * 65, "_OTHER", None),
        (None, "_OTHER", None),
        (5, "_OTHER", None),
    ],
)
def test_a_failed_turn_says_why_and_each_retry_is_an_event(
    proxy: Proxy, client: Client, info: Json, kind: str, status: int | None
) -> None:
    expected: Json = {"error.type": kind} | (
        {} if status is None else {"http.response.status_code": status}
    )
    proxy.turn(client)
    proxy.spans()
    times = []
    for will_retry in (True, True, False):
        error = {"message": CANARY, "codexErrorInfo": info, "additionalDetails": CANARY}
        params = {"threadId": "t", "turnId": "u", "error": error, "willRetry": will_retry}
        proxy.core.notify("error", params)
        times.append(proxy.now_ns)
    completed(proxy, status="failed")
    (turn,) = proxy.spans()
    assert turn.events == tuple(SpanEvent("retry", at_ns, expected) for at_ns in times[:2])
    assert {key: turn.attributes[key] for key in expected} == expected
    assert CANARY not in repr(turn)


def test_the_end_of_a_turn_says_why_too_and_retries_are_bounded(
    proxy: Proxy, client: Client
) -> None:
    proxy.turn(client)
    proxy.spans()
    retry = {"threadId": "t", "turnId": "u", "error": {}, "willRetry": True}
    for _ in range(100):
        proxy.core.notify("error", retry)
    error = {"message": CANARY, "codexErrorInfo": "rateLimitExceeded"}
    end = {"threadId": "t", "turn": {"id": "u", "status": "failed", "error": error}}
    proxy.core.notify("turn/completed", end)
    (turn,) = proxy.spans()
    assert turn.attributes["error.type"] == "rateLimitExceeded"
    assert len(turn.events) == 32


def test_a_human_who_is_waited_for_is_no_part_of_the_first_delta(
    proxy: Proxy, client: Client
) -> None:
    client.request(1, "turn/start", {"threadId": "t"})
    accepted_ns = proxy.now_ns
    proxy.core.answer(proxy.core.got()[0]["id"], {"turn": {"id": "u"}})
    proxy.core.ask(0, "item/commandExecution/requestApproval", {"threadId": "t", "turnId": "u"})
    asked_ns = proxy.now_ns
    proxy.now_ns += 60_000_000_000
    client.answer(0, {"decision": "accept"})
    waited_s = (proxy.now_ns - asked_ns) / 1e9
    delta = {"threadId": "t", "turnId": "u", "itemId": "m", "delta": "x"}
    proxy.core.notify("item/agentMessage/delta", delta)
    first_s = (proxy.now_ns - accepted_ns) / 1e9 - waited_s
    completed(proxy)
    _, approval, turn = proxy.spans()
    assert turn.attributes["trace_proxy.turn.waiting"] == pytest.approx(waited_s)
    assert turn.attributes["trace_proxy.turn.time_to_first_delta"] == pytest.approx(first_s)
    assert (approval.service, approval.name) == (Service.CLIENT, "approval command")
    assert approval.attributes["trace_proxy.approval.wait"] == pytest.approx(waited_s)
    assert approval.attributes["jsonrpc.request.id"] == "0"
    assert approval.attributes["rpc.method"] == "item/commandExecution/requestApproval"


@pytest.mark.parametrize(
    ("greeting", "thread", "name"),
    [
        ({}, {}, "core-server"),
        ({"serverInfo": {"name": "ours"}}, {}, "ours"),
        ({"serverInfo": {"name": 5}}, {}, "core-server"),
        ({"serverInfo": {"name": "a\nb"}}, {}, "core-server"),
        ({"serverInfo": {"name": "ours"}}, {"agentNickname": "Ramanujan"}, "Ramanujan"),
        ({}, {"agentNickname": None, "agentRole": "explorer"}, "explorer"),
        ({}, {"agentNickname": "n" * 100}, "n" * 64),
    ],
)
def test_an_agent_is_called_as_its_thread_says_else_as_its_core(
    greeting: Json, thread: Json, name: str
) -> None:
    proxy = Proxy()
    proxy.core.start({"userAgent": "x", **greeting})
    client = proxy.client()
    client.request("start", "thread/start")
    loaded = {"thread": {"id": "t", **thread}, "model": "m", "modelProvider": "openai"}
    proxy.core.answer(proxy.core.got()[-1]["id"], loaded)
    proxy.turn(client)
    completed(proxy)
    turn = proxy.spans()[-1]
    assert turn.name == f"invoke_agent {name}"
    assert turn.shared["gen_ai.agent.name"] == name
    assert turn.shared["gen_ai.provider.name"] == "openai"


def test_a_rerouted_model_is_the_one_that_answered(proxy: Proxy, client: Client) -> None:
    for turn, model in (("u", "other"), ("v", None), ("w", 5)):
        proxy.turn(client, turn=turn)
        if model:
            rerouted = {"threadId": "t", "turnId": turn, "fromModel": "mock", "toModel": model}
            proxy.core.notify("model/rerouted", rerouted)
        completed(proxy, turn)
        said = proxy.spans()[-1].attributes
        assert said["gen_ai.request.model"] == "mock"
        assert said.get("gen_ai.response.model") == ("other" if turn == "u" else None)
        assert said["trace_proxy.turn.index"] == "uvw".index(turn)


def test_a_model_call_is_a_span_where_the_wire_tells_its_times(
    proxy: Proxy, client: Client
) -> None:
    proxy.turn(client)
    turn = proxy.hub.board.turns.get("u")
    assert turn is not None
    proxy.spans()
    used = {"inputTokens": 7, "outputTokens": 3, "cachedInputTokens": 2}
    call = {"threadId": "t", "turnId": "u", "responseId": "resp_1", "usage": used}
    proxy.core.notify("rawResponse/completed", call)
    assert proxy.spans() == [], "no times, no span"
    timed = {**call, "startedAtMs": 2_000, "completedAtMs": 2_500}
    proxy.core.notify("rawResponse/completed", timed)
    proxy.core.notify("rawResponse/completed", {**timed, "turnId": "another"})
    (span,) = proxy.spans()
    assert span == SpanRecord(
        service=Service.CORE,
        name="chat mock",
        kind=Kind.CLIENT,
        context=span.context,
        parent=turn.context,
        start_ns=2_000_000_000,
        end_ns=2_500_000_000,
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "mock",
            "gen_ai.response.id": "resp_1",
            "gen_ai.usage.input_tokens": 7,
            "gen_ai.usage.output_tokens": 3,
            "gen_ai.usage.cache_read.input_tokens": 2,
        },
        shared=OF_TURN,
    )


def test_nothing_that_was_said_is_in_any_span(proxy: Proxy, client: Client) -> None:
    client.request(1, "turn/start", {"threadId": "t", "input": CANARY, "model": CANARY})
    proxy.core.answer(proxy.core.got()[0]["id"], {"turn": {"id": "u", "x": CANARY}})
    for kind in ("commandExecution", "fileChange", "mcpToolCall", "agentMessage", "reasoning"):
        what = {"id": kind, "type": kind, "tool": "t", "command": CANARY, "changes": [CANARY]}
        item(proxy, "started", **what)
        item(proxy, "completed", **what, status=CANARY, aggregatedOutput=CANARY)
    delta = {"threadId": "t", "turnId": "u", "itemId": "m", "delta": CANARY}
    proxy.core.notify("item/agentMessage/delta", delta)
    proxy.core.ask(0, "item/tool/call", {"threadId": "t", "itemId": "x", "reason": CANARY})
    client.answer(0, {"decision": CANARY, "note": CANARY})
    client.request(2, "turn/steer", {"threadId": "t", "input": CANARY})
    proxy.core.fail(proxy.core.got()[-1]["id"], -32600, CANARY)
    client.request(3, "command/exec", {"processId": CANARY, "command": [CANARY]})
    proxy.core.answer(proxy.core.got()[-1]["id"], {"stdout": CANARY})
    client.raw(b'{"id":4,"method":"thread/read","params":"CANARY')
    completed(proxy)
    spans = proxy.spans()
    assert len(spans) == 8
    assert CANARY not in repr(spans)
