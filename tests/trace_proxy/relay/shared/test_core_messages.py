"""Who hears what a core says unasked, method by method."""

import json

import pytest

from tests.trace_proxy.recording import Client, Json, Proxy
from trace_proxy.protocol import envelope, methods


def hears(client: Client) -> list[str]:
    return [each["method"] for each in client.heard()]


def test_thread_events_are_for_subscribers_and_states_for_everybody(proxy: Proxy) -> None:
    subscriber, other, stranger = proxy.client(), proxy.client(), proxy.connect()
    thread = proxy.thread(subscriber)
    of_thread = ["turn/started", "item/started", "item/agentMessage/delta", "warning", "error"]
    for method in [*of_thread, "turn/diff/updated", "thread/tokenUsage/updated"]:
        proxy.core.notify(method, {"threadId": thread})
    assert hears(subscriber) == [*of_thread, "turn/diff/updated", "thread/tokenUsage/updated"]
    assert hears(other) == []

    proxy.core.notify("thread/started", {"thread": {"id": thread}})
    for method in ("thread/status/changed", "thread/name/updated", "thread/goal/cleared"):
        proxy.core.notify(method, {"threadId": thread})
    proxy.core.notify("account/rateLimits/updated", {})
    everybody = ["thread/started", "thread/status/changed", "thread/name/updated"]
    everybody += ["thread/goal/cleared", "account/rateLimits/updated"]
    assert hears(subscriber) == everybody
    assert hears(other) == everybody
    assert hears(stranger) == []


def test_starting_a_turn_does_not_subscribe(proxy: Proxy) -> None:
    owner, other = proxy.client(), proxy.client()
    thread = proxy.thread(owner)
    proxy.turn(other, thread)
    proxy.core.notify("item/started", {"threadId": thread, "turnId": "u", "item": {}})
    assert hears(other) == []
    assert hears(owner) == ["turn/started", "item/started"]


def test_lines_travel_on_as_they_came(proxy: Proxy) -> None:
    client = proxy.client()
    line = b'{"method":"x/y" ,"params":{"a":1.0,"b":"\\u00e9"},"emittedAtMs":5,"z":[]}'
    assert proxy.core.raw(line) == ""
    assert client.heard_raw() == [line]


@pytest.mark.parametrize("params", [{"threadId": 5}, {"turnId": []}, [1], "x", None])
def test_params_of_other_shapes_are_global(proxy: Proxy, params: Json) -> None:
    client = proxy.client()
    proxy.core.notify("x/y", params)
    proxy.core.notify("turn/started", params)
    assert hears(client) == ["x/y", "turn/started"]


def test_opted_out_and_experimental_notifications_are_left_out(proxy: Proxy) -> None:
    experimental = proxy.client(experimental=True)
    plain = proxy.client()
    choosy = proxy.client(experimental=True, opt_out=["turn/started", "thread/settings/updated"])
    thread = proxy.thread(experimental)
    for client in (plain, choosy):
        client.request(1, "thread/resume", {"threadId": thread})
        proxy.core.answer(proxy.core.got()[0]["id"], {"thread": {"id": thread}})
        client.heard()
    for method in ("turn/started", "thread/settings/updated", "thread/readState/changed"):
        proxy.core.notify(method, {"threadId": thread})
    proxy.core.ask(0, "turn/started", {"threadId": thread})

    all_three = ["turn/started", "thread/settings/updated", "thread/readState/changed"]
    assert hears(experimental) == [*all_three, "turn/started"]
    assert hears(plain) == ["turn/started", "turn/started"]
    assert hears(choosy) == ["thread/readState/changed", "turn/started"]


def test_broadcast_tells_everybody_everything_but_handles_and_questions() -> None:
    proxy = Proxy(broadcast=True).up()
    owner, other = proxy.client(), proxy.client()
    thread = proxy.thread(owner)
    owner.request(1, "command/exec", {"processId": "p"})
    proxy.core.notify("item/started", {"threadId": thread})
    proxy.core.notify("command/exec/outputDelta", {"processId": f"{owner.key}/p"})
    proxy.core.ask(0, "item/tool/call", {"threadId": thread})
    assert hears(owner) == ["item/started", "command/exec/outputDelta", "item/tool/call"]
    assert hears(other) == ["item/started"]
    proxy.turn(owner, thread)
    other.heard()
    proxy.core.die()
    assert hears(other) == ["turn/completed"]


def test_a_deprecation_notice_is_for_who_reads_history(proxy: Proxy) -> None:
    reader, other = proxy.client(), proxy.client()
    reader.request(1, "thread/read", {"threadId": "t"})
    proxy.core.notify("deprecationNotice", {"summary": "s"})
    assert (hears(reader), hears(other)) == (["deprecationNotice"], [])
    proxy.core.answer(proxy.core.got()[0]["id"], {})
    reader.heard()
    proxy.core.notify("deprecationNotice", {"summary": "s"})
    assert (hears(reader), hears(other)) == (["deprecationNotice"], ["deprecationNotice"])


def test_usage_repeated_after_a_resume_is_for_who_resumed(proxy: Proxy) -> None:
    first, late = proxy.client(), proxy.client()
    thread = proxy.thread(first)
    usage = {"threadId": thread, "turnId": "old", "tokenUsage": {}}
    late.request(1, "thread/resume", {"threadId": thread})
    proxy.core.answer(proxy.core.got()[0]["id"], {"thread": {"id": thread}})
    proxy.core.notify("thread/tokenUsage/updated", usage)
    assert hears(first) == []
    assert late.heard()[1]["method"] == "thread/tokenUsage/updated"

    proxy.core.notify("thread/tokenUsage/updated", usage)
    assert (hears(first), hears(late)) == (["thread/tokenUsage/updated"],) * 2
    late.request(1, "thread/resume", {"threadId": thread})
    proxy.core.answer(proxy.core.got()[0]["id"], {"thread": {"id": thread}})
    late.leave()
    proxy.core.notify("thread/tokenUsage/updated", usage)
    assert hears(first) == ["thread/tokenUsage/updated"]


@pytest.mark.parametrize("method", sorted(methods.UNLOADING))
def test_a_thread_that_is_unloaded_is_forgotten_with_all_that_hung_on_it(
    proxy: Proxy, method: str
) -> None:
    client = proxy.client()
    thread = proxy.thread(client)
    proxy.turn(client, thread)
    proxy.core.ask(0, "item/tool/call", {"threadId": thread})
    client.heard()
    proxy.core.notify(method, {"threadId": thread})

    assert hears(client) == [method, "serverRequest/resolved"]
    board = proxy.hub.board
    assert (len(board.turns), len(board.server_requests)) == (0, 0)
    assert (board.subscribers.has(thread), board.placement.home(thread)) == (False, None)
    assert (client.connection.threads, proxy.core.session.threads) == (set(), 0)
    assert proxy.core.session.turns == 0
    client.request(1, "thread/unsubscribe", {"threadId": thread})
    assert client.heard() == [{"id": 1, "result": {"status": "notLoaded"}}]


def test_a_status_of_not_loaded_unloads_and_any_other_does_not(proxy: Proxy) -> None:
    client = proxy.client()
    thread = proxy.thread(client)
    for status in ({"type": "idle"}, {"type": 5}, None):
        proxy.core.notify("thread/status/changed", {"threadId": thread, "status": status})
    assert proxy.hub.board.subscribers.has(thread)
    status = {"type": "notLoaded"}
    proxy.core.notify("thread/status/changed", {"threadId": thread, "status": status})
    assert not proxy.hub.board.subscribers.has(thread)


def test_unsubscribing_is_answered_here_and_ends_the_events(proxy: Proxy) -> None:
    client, other = proxy.client(), proxy.client()
    thread = proxy.thread(client)
    for request_id, who in enumerate((other, client, client)):
        who.request(request_id, "thread/unsubscribe", {"threadId": thread})
    proxy.core.notify("item/started", {"threadId": thread})
    statuses = [each["result"]["status"] for each in other.heard() + client.heard()]
    assert statuses == ["notSubscribed", "unsubscribed", "notSubscribed"]
    assert proxy.core.got() == []


def together(proxy: Proxy, *messages: Json) -> None:
    """The core says all of these in one piece of output."""
    lines = [json.dumps(each, separators=(",", ":")).encode() for each in messages]
    rest = envelope.decoded(lines)
    assert proxy.hub.core_lines(proxy.core.session, rest, proxy.tick()) is None


def delta(thread: str, text: str, turn: str = "u") -> Json:
    params = {"threadId": thread, "turnId": turn, "itemId": "i", "delta": text}
    return {"method": "item/agentMessage/delta", "params": params}


def test_what_comes_together_is_heard_in_its_order_by_who_should_hear_it(proxy: Proxy) -> None:
    one, two = proxy.client(), proxy.client()
    first, second = proxy.thread(one, "t1"), proxy.thread(two, "t2")
    for client in (one, two):
        client.heard()
    asked = {"method": "item/commandExecution/requestApproval", "id": 9}

    together(
        proxy,
        delta(first, "a"),
        delta(first, "b"),
        delta(second, "c"),
        delta(first, "d"),
        {"method": "warning", "params": {"threadId": first}},
        {"method": "thread/name/updated", "params": {"threadId": first}},
        delta(first, "e"),
        {**asked, "params": {"threadId": first}},
        delta(first, "f"),
    )

    said = [each.get("params", {}).get("delta", each["method"]) for each in one.heard()]
    question = "item/commandExecution/requestApproval"
    assert said == ["a", "b", "d", "warning", "thread/name/updated", "e", question, "f"]
    assert [each["params"].get("delta") for each in two.heard()] == ["c", None]


@pytest.mark.parametrize("method", ["execCommandApproval", "applyPatchApproval"])
def test_an_approval_of_the_first_version_is_asked_of_who_has_joined_its_conversation(
    proxy: Proxy, method: str
) -> None:
    subscriber, other = proxy.client(), proxy.client()
    thread = proxy.thread(subscriber)
    for client in (subscriber, other):
        client.heard()
    proxy.core.ask(7, method, {"conversationId": thread, "callId": "c"})
    assert [each["method"] for each in subscriber.heard()] == [method]
    assert other.heard() == []


@pytest.mark.parametrize("params", [{"conversationId": 5}, {"callId": []}, [1], "x", None])
def test_a_question_whose_params_name_no_thread_is_put_to_everybody(
    proxy: Proxy, params: Json
) -> None:
    client = proxy.client()
    client.heard()
    proxy.core.ask(7, "execCommandApproval", params)
    assert [each["method"] for each in client.heard()] == ["execCommandApproval"]


def test_an_answer_between_deltas_keeps_its_place(proxy: Proxy) -> None:
    client = proxy.client()
    thread = proxy.thread(client)
    client.heard()
    client.request(77, "echo")
    core_id = proxy.core.got()[-1]["id"]

    together(proxy, delta(thread, "a"), {"id": core_id, "result": {}}, delta(thread, "b"))

    heard = client.heard()
    assert [each.get("id", each.get("params", {}).get("delta")) for each in heard] == [
        "a",
        77,
        "b",
    ]


def test_what_came_before_a_faulty_line_is_delivered(proxy: Proxy) -> None:
    client = proxy.client()
    thread = proxy.thread(client)
    client.heard()
    lines = [
        json.dumps(delta(thread, "a")).encode(),
        b"garbage",
        json.dumps(delta(thread, "b")).encode(),
    ]
    rest = envelope.decoded(lines)

    fault = proxy.hub.core_lines(proxy.core.session, rest, proxy.tick())

    assert fault is not None
    assert fault.size == len(b"garbage")
    assert [each["params"]["delta"] for each in client.heard()] == ["a"]
    assert proxy.hub.core_lines(proxy.core.session, rest, proxy.tick()) is None
    assert [each["params"]["delta"] for each in client.heard()] == ["b"]


def test_each_delta_of_a_run_counts(proxy: Proxy) -> None:
    client = proxy.client()
    thread = proxy.thread(client)
    proxy.turn(client, thread, "u")

    together(proxy, delta(thread, "ab"), delta(thread, "ü"), delta(thread, "c"))

    running = proxy.hub.board.turns.get("u")
    assert running is not None
    assert (running.deltas, running.output_bytes) == (3, 5)
