"""Turns and their tools, seen from the wire: spans for any core."""

import pytest

from tests.trace_proxy.recording import Client, Json, Proxy
from trace_proxy.context.span_record import Kind, Service, SpanRecord

CANARY = "CANARY"


@pytest.fixture
def proxy() -> Proxy:
    return Proxy().up()


@pytest.fixture
def client(proxy: Proxy) -> Client:
    client = proxy.client()
    proxy.thread(client)
    return client


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
    usage = {"last": {"inputTokens": 100, "outputTokens": 20}, "total": {"inputTokens": 100}}
    for _ in range(2):  # the second is a replay
        tokens = {"threadId": "t", "turnId": "u", "tokenUsage": usage}
        proxy.core.notify("thread/tokenUsage/updated", tokens)
    completed(proxy)

    spans = named(proxy.spans())
    request, turn = spans["turn/start"], spans["invoke_agent"]
    assert turn == SpanRecord(
        service=Service.CORE,
        name="invoke_agent",
        kind=Kind.INTERNAL,
        context=turn.context,
        parent=request.context,
        start_ns=accepted_ns,
        end_ns=proxy.now_ns,
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.conversation.id": "t",
            "trace_proxy.turn.id": "u",
            "trace_proxy.turn.status": "completed",
            "trace_proxy.core.id": 0,
            "trace_proxy.turn.deltas": 2,
            "trace_proxy.turn.output_bytes": 3,
            "gen_ai.request.model": "mock",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20,
            "trace_proxy.turn.time_to_first_delta": first_delta_s,
        },
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
    assert spans.keys() == {"turn/start", "invoke_agent"}
    assert spans["invoke_agent"].parent == spans["turn/start"].context
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
    assert ended.name == "invoke_agent"
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
            "trace_proxy.tool.status": "completed",
            "gen_ai.conversation.id": "t",
            "trace_proxy.turn.id": "u",
            "trace_proxy.core.id": 0,
            "process.exit.code": 0,
        },
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
    ("status", "recorded", "error"),
    [
        ("failed", "failed", "The tool failed."),
        ("declined", "declined", ""),
        (CANARY, "other", ""),
        ("core_lost", "other", ""),
        (None, "other", ""),
    ],
)
def test_a_tool_that_fails_is_an_error_and_one_that_was_declined_is_not(
    proxy: Proxy, client: Client, status: str | None, recorded: str, error: str
) -> None:
    proxy.turn(client)
    proxy.spans()
    item(proxy, "started", id="i")
    item(proxy, "completed", id="i", status=status, exitCode=3)
    (tool,) = proxy.spans()
    assert (tool.attributes["trace_proxy.tool.status"], tool.error) == (recorded, error)
    assert tool.attributes.get("error.type", "") == ("failed" if error else "")
    assert tool.attributes["process.exit.code"] == 3


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
    assert (tool.error, turn.error) == ("", "")
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
        "invoke_agent": "core_lost",
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
