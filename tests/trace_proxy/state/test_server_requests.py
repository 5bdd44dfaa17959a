"""What a core asks its clients: asked of many, answered once, by who may."""

import pytest

from tests.trace_proxy.recording import Client, Json, Proxy
from trace_proxy.context.span_record import Kind, Service
from trace_proxy.spans.approvals import decision
from trace_proxy.state.server_requests import ANSWERED_KEPT

APPROVAL = "item/commandExecution/requestApproval"
ACCEPT = {"decision": "accept"}


def subscribe(proxy: Proxy, client: Client, thread: str = "t") -> list[Json]:
    """Let a client resume the thread; returns what it heard."""
    client.request("r", "thread/resume", {"threadId": thread})
    proxy.core.answer(proxy.core.got()[-1]["id"], {"thread": {"id": thread}})
    heard: list[Json] = client.heard()
    return heard


def test_the_first_answer_of_a_subscriber_wins_and_all_see_it_resolved() -> None:
    proxy = Proxy().up()
    one, two, stranger = proxy.client(), proxy.client(), proxy.client()
    proxy.thread(one)
    subscribe(proxy, two)
    proxy.core.ask("q", APPROVAL, {"threadId": "t", "command": "ls"})
    question = {"method": APPROVAL, "id": 0, "params": {"threadId": "t", "command": "ls"}}
    assert (one.heard(), two.heard(), stranger.heard()) == ([question], [question], [])

    stranger.answer(0, ACCEPT)
    two.answer("0", ACCEPT)
    two.answer(1, ACCEPT)
    assert proxy.core.got() == []
    two.answer(0, ACCEPT)
    one.answer(0, {"decision": "decline"})
    assert proxy.core.got() == [{"id": "q", "result": ACCEPT}]
    assert proxy.effects.ignored_answers == 4

    proxy.core.notify("serverRequest/resolved", {"threadId": "t", "requestId": "q"})
    resolved = {
        "method": "serverRequest/resolved",
        "params": {"threadId": "t", "requestId": 0},
        "emittedAtMs": 5,
    }
    assert (one.heard(), two.heard(), stranger.heard()) == ([resolved], [resolved], [])
    assert proxy.effects.pending_approvals == 0


def test_ids_of_cores_may_be_equal_and_of_any_type() -> None:
    proxy = Proxy(cores=2).up()
    client = proxy.client()
    for core, core_id in ((0, 7), (0, "7"), (1, 7), (1, "\u00e9")):
        proxy.cores[core].ask(core_id, "item/tool/call", {})
    assert [each["id"] for each in client.heard()] == [0, 1, 2, 3]
    for ours in range(4):
        client.raw(b'{"id":%d,"error":{"code":-%d,"message":"no"}}' % (ours, ours))
    first, second = (core.got() for core in proxy.cores)
    assert [each["id"] for each in first] == [7, "7"]
    assert [(each["id"], each["error"]["code"]) for each in second] == [(7, -2), ("\u00e9", -3)]


def test_a_late_subscriber_is_asked_after_its_resume_response() -> None:
    proxy = Proxy().up()
    early, late = proxy.client(), proxy.client()
    proxy.thread(early)
    proxy.core.ask(0, APPROVAL, {"threadId": "t"})
    proxy.core.ask(1, APPROVAL, {"threadId": "t"})
    early.heard()
    heard = subscribe(proxy, late)
    assert [each["id"] for each in heard] == ["r", 0, 1]
    proxy.core.ask(0, APPROVAL, {"threadId": "t"})  # as the reference does after a resume
    assert (early.heard(), late.heard()) == ([], [])
    assert subscribe(proxy, late)[1:] == [], "it knows"
    late.answer(1, ACCEPT)
    assert proxy.core.got() == [{"id": 1, "result": ACCEPT}]


def test_a_question_that_nobody_hears_waits_for_a_subscriber() -> None:
    proxy = Proxy().up()
    owner, late = proxy.client(), proxy.client()
    proxy.thread(owner)
    proxy.core.ask(5, APPROVAL, {"threadId": "t"})
    owner.leave()
    assert len(proxy.hub.board.server_requests) == 1, "a disconnect settles nothing"
    assert subscribe(proxy, late)[1]["id"] == 0
    late.answer(0, ACCEPT)
    assert proxy.core.got() == [{"id": 5, "result": ACCEPT}]


def test_who_has_unsubscribed_may_not_answer() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    proxy.thread(client)
    proxy.core.ask(5, APPROVAL, {"threadId": "t"})
    client.request(1, "thread/unsubscribe", {"threadId": "t"})
    client.answer(0, ACCEPT)
    assert proxy.core.got() == []


def test_a_question_without_a_thread_is_for_everybody_also_for_who_comes_later() -> None:
    proxy = Proxy().up()
    one, stranger = proxy.client(), proxy.connect()
    proxy.core.ask(5, "account/chatgptAuthTokens/refresh", {"reason": "x"})
    assert [each["id"] for each in one.heard()] == [0]
    info = {"clientInfo": {"name": "n", "version": "1"}}
    stranger.request(9, "initialize", info)
    assert [each["id"] for each in stranger.heard()] == [9, 0]
    stranger.answer(0, {"token": "t"})
    assert proxy.core.got() == [{"id": 5, "result": {"token": "t"}}]
    (span,) = [each for each in proxy.spans() if each.kind is Kind.CLIENT]
    assert (span.name, span.parent) == ("account/chatgptAuthTokens/refresh", None)


def test_an_answer_is_bound_to_the_epoch_that_asked() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    proxy.thread(client)
    proxy.core.ask(5, APPROVAL, {"threadId": "t"})
    client.heard()
    proxy.core.die()
    (resolved,) = client.heard()
    assert resolved["method"] == "serverRequest/resolved"
    assert resolved["params"] == {"threadId": "t", "requestId": 0}
    proxy.core.start(greet=False)
    hello = proxy.core.got()[0]["id"]
    proxy.core.answer(hello, {})
    proxy.core.answer(proxy.core.got()[1]["id"], {})
    proxy.core.ask(5, APPROVAL, {"threadId": "t"})
    assert [each["id"] for each in client.heard()] == [1]
    client.answer(0, ACCEPT)
    assert proxy.core.got() == []
    client.answer(1, ACCEPT)
    assert proxy.core.got() == [{"id": 5, "result": ACCEPT}]


def test_a_question_repeated_while_its_answer_travels_is_not_asked_again() -> None:
    proxy = Proxy().up()
    one, two = proxy.client(), proxy.client()
    proxy.thread(one)
    proxy.core.ask(5, APPROVAL, {"threadId": "t"})
    two.request("r", "thread/resume", {"threadId": "t"})
    one.answer(0, ACCEPT)
    one.heard()
    resume = proxy.core.got()[0]["id"]
    proxy.core.answer(resume, {"thread": {"id": "t"}})
    proxy.core.ask(5, APPROVAL, {"threadId": "t"})
    assert (one.heard(), [each["id"] for each in two.heard()]) == ([], ["r"])
    proxy.core.notify("serverRequest/resolved", {"threadId": "t", "requestId": 5})
    proxy.core.ask(5, APPROVAL, {"threadId": "t"})
    assert [each.get("id") for each in one.heard()] == [None, 1], "now it is a new one"


def test_an_answer_that_overtakes_the_repeat_after_a_resume_is_the_last_word() -> None:
    proxy = Proxy().up()
    one, two = proxy.client(), proxy.client()
    proxy.thread(one)
    proxy.core.ask(5, APPROVAL, {"threadId": "t"})
    two.request("r", "thread/resume", {"threadId": "t"})
    proxy.core.answer(proxy.core.got()[0]["id"], {"thread": {"id": "t"}})
    assert [each["id"] for each in two.heard()] == ["r", 0]
    two.answer(0, ACCEPT)
    one.heard()
    proxy.core.ask(5, APPROVAL, {"threadId": "t"})
    assert (one.heard(), two.heard()) == ([], [])
    proxy.core.notify("serverRequest/resolved", {"threadId": "t", "requestId": 5})
    assert [each["params"]["requestId"] for each in (*one.heard(), *two.heard())] == [0, 0]


def test_a_core_that_settles_it_itself_tells_everybody() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    proxy.thread(client)
    proxy.core.ask(5, APPROVAL, {"threadId": "t"})
    client.heard()
    for request_id in (6, "5", None, 5, 5):
        proxy.core.notify("serverRequest/resolved", {"threadId": "t", "requestId": request_id})
    assert [each["params"]["requestId"] for each in client.heard()] == [0]
    client.answer(0, ACCEPT)
    assert proxy.core.got() == []
    assert proxy.spans()[0].attributes["trace_proxy.approval.decision"] == "resolved"


def test_an_approval_is_a_span_below_its_tool_else_its_turn() -> None:
    proxy = Proxy().up()
    one, two = proxy.client(), proxy.client()
    proxy.thread(one)
    proxy.turn(one)
    subscribe(proxy, two)
    proxy.spans()
    turn = proxy.hub.board.turns.get("u")
    assert turn is not None
    item = {"threadId": "t", "turnId": "u", "item": {"type": "commandExecution", "id": "i"}}
    proxy.core.notify("item/started", item)
    proxy.core.ask(1, APPROVAL, {"threadId": "t", "turnId": "u", "itemId": "i"})
    proxy.core.ask(2, "toy/question", {"threadId": "t", "itemId": "other", "secret": "CANARY"})
    two.answer(0, ACCEPT)
    one.raw(b'{"id":1,"error":{"code":1,"message":"CANARY"}}')

    below_tool, below_turn = proxy.spans()
    assert below_tool.parent == turn.tools["i"].context
    wait_s = below_tool.attributes.pop("trace_proxy.approval.wait")
    assert isinstance(wait_s, float)
    assert wait_s >= 0
    assert below_tool.attributes == {
        "jsonrpc.request.id": "1",
        "rpc.system.name": "jsonrpc",
        "rpc.method": APPROVAL,
        "trace_proxy.core.id": 0,
        "trace_proxy.approval.decision": "accept",
        "trace_proxy.approval.asked": 2,
        "trace_proxy.approval.answered_by": str(two.key),
        "gen_ai.conversation.id": "t",
    }
    assert (below_tool.service, below_tool.kind) == (Service.CLIENT, Kind.CLIENT)
    assert (below_tool.name, below_tool.error) == ("approval command", "")
    assert below_turn.parent == turn.context
    assert below_turn.name == "jsonrpc"
    assert below_turn.attributes["rpc.method"] == "_OTHER"
    assert below_turn.attributes["error.type"] == "error"
    assert "CANARY" not in repr((below_tool, below_turn))


@pytest.mark.parametrize(
    ("result", "word"),
    [
        (b'{"decision":"accept"}', "accept"),
        (b'{"decision":"cancel"}', "cancel"),
        (b'{"decision":{"acceptWithExecpolicyAmendment":{}}}', "acceptWithExecpolicyAmendment"),
        (b'{"decision":{"secret":1}}', "other"),
        (b'{"decision":"secret"}', "other"),
        (b'{"decision":5}', "other"),
        (b'{"answer":1}', "other"),
        (b"[1]", "other"),
        (None, "error"),
    ],
)
def test_a_decision_is_one_of_a_few_words(result: bytes | None, word: str) -> None:
    assert decision(result) == word


def test_what_is_remembered_of_answers_is_bounded() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    for number in range(ANSWERED_KEPT + 10):
        proxy.core.ask(number, "item/tool/call", {})
        client.answer(number, {})
    assert len(proxy.hub.board.server_requests._answered) == ANSWERED_KEPT  # noqa: SLF001
    assert len(proxy.hub.board.server_requests) == 0
