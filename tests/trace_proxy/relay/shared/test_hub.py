"""The hub end to end, without a socket: what clients say, what cores hear, and back."""

import json

import pytest

from tests.trace_proxy.recording import Client, Proxy
from trace_proxy.drain import Drain
from trace_proxy.queues.admission import AdmissionBounds
from trace_proxy.queues.core_queue import CoreQueueBounds
from trace_proxy.relay.shared.requests import OVERTAKING_PER_CONNECTION


def test_equal_ids_of_two_clients_never_meet() -> None:
    proxy = Proxy().up()
    one, two = proxy.client(), proxy.client()
    one.request(1, "thread/read", {"n": 1})
    two.request(1, "thread/read", {"n": 2})
    two.request("1", "thread/read", {"n": 3})

    asked = proxy.core.got()
    assert [(each["method"], each["params"]) for each in asked] == [
        ("thread/read", {"n": 1}),
        ("thread/read", {"n": 2}),
        ("thread/read", {"n": 3}),
    ]
    assert len({each["id"] for each in asked}) == 3
    for each in reversed(asked):
        proxy.core.answer(each["id"], each["params"])

    assert one.heard() == [{"id": 1, "result": {"n": 1}}]
    assert two.heard() == [{"id": "1", "result": {"n": 3}}, {"id": 1, "result": {"n": 2}}]


@pytest.mark.parametrize(
    "request_id",
    [b"0", b"-0", b"-5", b"9223372036854775807", b"-9223372036854775808", b'""', b'"\\u0061"'],
)
def test_an_id_comes_back_byte_for_byte(request_id: bytes) -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.raw(b'{"id":%b,"method":"model/list"}' % request_id)
    proxy.core.answer(proxy.core.got()[0]["id"], {})

    assert client.heard_raw() == [b'{"id":%b,"result":{}}' % request_id]


def test_a_core_gets_the_params_as_they_were_and_our_trace() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.raw(b'{"jsonrpc":"2.0","id":1,"params":{"a" : 1e2,\n"b":"\\u00e9"},"method":"x","y":1}')

    (line,) = proxy.core.got_raw()
    message = json.loads(line)
    span = f"{message['trace']['traceparent'].split('-')[2]}"
    assert line.startswith(
        b'{"id":%d,"method":"x","params":{"a" : 1e2, "b":"\\u00e9"},"trace"' % 2
    )
    assert int(span, 16) != 0


def test_late_doubled_and_unknown_answers_reach_nobody() -> None:
    proxy = Proxy().up()
    client, other = proxy.client(), proxy.client()
    client.request(1, "model/list")
    (asked,) = proxy.core.got()
    proxy.core.answer(asked["id"], {})
    client.heard()

    for unknown in (asked["id"], asked["id"] + 1, str(asked["id"]), -1, 0):
        fault = proxy.core.say({"id": unknown, "result": {}})
        assert fault == "an answer to no request in flight"
    other.request(1, "model/list")
    late = proxy.core.got()[0]["id"]
    other.leave()
    proxy.core.answer(late, {})
    assert proxy.effects.sent == {}


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"x", b"[]", b"1", b"{}", b"\xff{}", b"[" * 10_000, b'{"method":"\xff"}'),
        *(b'{"id":1}', b'{"id":1,"result":1,"error":{}}', b'{"id":null,"result":1}'),
        *(b'{"id":1.5,"method":"x"}', b'{"method":5}', b'{"id":1,"method":null}'),
    ],
)
def test_garbage_of_a_core_goes_nowhere(line: bytes) -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.request(1, "model/list")

    assert proxy.core.raw(line) != ""
    assert client.heard() == []


def test_a_client_that_says_jsonrpc_hears_it_everywhere() -> None:
    proxy = Proxy().up()
    strict, plain = proxy.client(strict=True), proxy.client()
    thread = proxy.thread(strict)
    strict.request(5, "thread/resume", {"threadId": thread})
    plain.request(6, "thread/resume", {"threadId": thread})
    for asked in proxy.core.got():
        proxy.core.answer(asked["id"], {"thread": {"id": thread}})
    proxy.core.ask(0, "item/tool/call", {"threadId": thread})
    proxy.core.notify("item/started", {"threadId": thread})
    strict.raw(b"{")

    version = {"jsonrpc": "2.0"}
    result = {"result": {"thread": {"id": "t"}}}
    request = {"method": "item/tool/call", "id": 0, "params": {"threadId": "t"}}
    started = {"method": "item/started", "params": {"threadId": "t"}, "emittedAtMs": 5}
    heard = strict.heard()
    assert heard[:-1] == [
        {**version, "id": 5, **result},
        {**version, **request},
        {**version, **started},
    ]
    assert heard[-1]["jsonrpc"] == "2.0"
    assert plain.heard() == [{"id": 6, **result}, request, started]


def test_bad_input_is_answered_and_harms_nobody() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    for text in (b"", b"{", b"[]", b'{"id":7}', b'{"id":1.5,"method":"x"}', b"\xff"):
        client.raw(text)
    client.request(8, "model/list")
    proxy.core.answer(proxy.core.got()[0]["id"], {})

    heard = client.heard()
    errors = [(each["id"], each["error"]["code"]) for each in heard[:-1]]
    assert errors == [
        (None, -32700),
        (None, -32700),
        (None, -32600),
        (7, -32600),
        (None, -32600),
        (None, -32700),
    ]
    assert heard[-1] == {"id": 8, "result": {}}


def test_a_message_over_the_limit_is_answered_under_its_id() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    proxy.hub.board.too_large(client.connection, b'{"id":"x","method":"y","params":{"z"', 100)

    (answer,) = client.heard()
    assert answer["id"] == "x"
    assert answer["error"]["code"] == -32600
    assert answer["error"]["data"] == {"reason": "messageTooLarge", "limitBytes": 100}


def test_the_bounds_of_all_are_shared_while_there_are_others() -> None:
    proxy = Proxy(admission=AdmissionBounds(proxy_max_requests=4)).up()
    one = proxy.client()
    assert shed_of(one, 5) == 1
    for asked in proxy.core.got():
        proxy.core.answer(asked["id"], {})
    one.heard()
    other = proxy.client()
    assert (shed_of(one, 5), shed_of(other, 2)) == (3, 1)
    one.leave()
    assert shed_of(other, 5) == 2


def shed_of(client: Client, requests: int) -> int:
    """How many of its requests are not admitted."""
    for each in range(requests):
        client.request(f"{requests}.{each}", "thread/list")
    return sum("error" in answer for answer in client.heard())


def test_what_is_over_a_bound_is_shed_at_once_and_later_ones_pass() -> None:
    proxy = Proxy(admission=AdmissionBounds(connection_max_requests=1)).up()
    client, other = proxy.client(), proxy.client()
    client.request(1, "model/list")
    client.request(2, "model/list")
    other.request(3, "model/list")

    (shed,) = client.heard()
    assert (shed["id"], shed["error"]["code"]) == (2, -32001)
    assert shed["error"]["data"] == {"reason": "overloaded", "retryable": True}
    first, second = proxy.core.got()
    proxy.core.answer(first["id"], {})
    proxy.core.answer(second["id"], {})
    client.request(4, "model/list")
    assert len(proxy.core.got()) == 1
    assert proxy.hub.board.in_flight == 1


def test_an_answer_to_a_core_passes_a_full_window() -> None:
    proxy = Proxy(queue=CoreQueueBounds(window=1)).up()
    client = proxy.client()
    thread = proxy.thread(client)
    client.request(1, "thread/shellCommand", {"threadId": thread})
    client.request(2, "model/list")
    client.request(3, "turn/interrupt", {"threadId": thread})
    proxy.core.ask(9, "item/tool/call", {"threadId": thread})
    client.answer(0, {"ok": True})
    client.say({"method": "note"})

    got = proxy.core.got()
    assert [each.get("method") for each in got[:2]] == ["thread/shellCommand", "turn/interrupt"]
    assert got[2] == {"id": 9, "result": {"ok": True}}
    proxy.core.answer(got[0]["id"], {})
    assert [each["method"] for each in proxy.core.got()] == ["model/list", "note"]


def test_an_answer_to_a_request_that_still_waits_is_a_fault() -> None:
    proxy = Proxy(queue=CoreQueueBounds(window=1)).up()
    client = proxy.client()
    client.request(1, "model/list")
    client.request(2, "model/list")
    (first,) = proxy.core.got()

    assert proxy.core.say({"id": first["id"] + 1, "result": {}}) != ""
    proxy.core.answer(first["id"], {})
    (second,) = proxy.core.got()
    proxy.core.answer(second["id"], {})
    assert [each["id"] for each in client.heard()] == [1, 2]


def test_what_a_client_left_waiting_is_never_sent_but_its_decisions_are() -> None:
    proxy = Proxy(queue=CoreQueueBounds(window=1)).up()
    client, other = proxy.client(), proxy.client()
    thread = proxy.thread(client)
    proxy.core.ask(9, "item/tool/call", {"threadId": thread})
    other.request(1, "model/list")
    proxy.hub.core_writable(proxy.core.session, writable=False)
    client.request(2, "turn/start", {"threadId": thread})
    client.say({"method": "note"})
    client.request(3, "turn/interrupt", {"threadId": thread})
    client.answer(0, {"ok": True})
    (asked,) = proxy.core.got()
    client.leave()
    proxy.hub.core_writable(proxy.core.session, writable=True)

    interrupt, answer = proxy.core.got()
    assert interrupt["method"] == "turn/interrupt"
    assert answer == {"id": 9, "result": {"ok": True}}
    proxy.core.answer(asked["id"], {})
    proxy.core.answer(interrupt["id"], {})
    assert proxy.core.got() == []
    assert len(proxy.core.session.router) == 0
    assert len(proxy.core.session.queue) == 0


def test_new_work_is_refused_while_draining_and_the_rest_goes_on() -> None:
    drain = Drain(timeout_s=0)
    proxy = Proxy(drain=drain).up()
    client = proxy.client()
    thread = proxy.thread(client)
    proxy.turn(client, thread)
    drain.signal("TERM", 0)
    for request_id, method in enumerate(("turn/start", "thread/start", "thread/read")):
        client.request(request_id, method, {"threadId": thread})

    refused = client.heard()
    assert [each["id"] for each in refused] == [0, 1]
    assert {each["error"]["code"] for each in refused} == {-32001}
    assert {each["error"]["data"]["reason"] for each in refused} == {"draining"}
    assert [each["method"] for each in proxy.core.got()] == ["thread/read"]
    proxy.core.notify("turn/completed", {"threadId": thread, "turn": {"id": "u"}})
    assert len(proxy.hub.board.turns) == 0


def test_notifications_of_clients_reach_every_core_but_initialized_is_ours() -> None:
    proxy = Proxy(cores=3, most_restarts=0).up()
    client, stranger = proxy.client(), proxy.connect()
    assert proxy.cores[2].die() is None
    for core in proxy.cores:
        core.got_raw()
    client.say({"method": "initialized"})
    client.say({"method": "note", "params": {"a": 1}})
    stranger.say({"method": "note"})

    assert proxy.cores[0].got_raw() == [b'{"method":"note","params":{"a":1}}']
    assert proxy.cores[1].got_raw() == [b'{"method":"note","params":{"a":1}}']
    assert proxy.cores[2].got_raw() == []
    assert len(proxy.cores[2].session.queue) == 0


def test_a_neighbour_waits_behind_one_long_request_of_a_client() -> None:
    proxy = Proxy().up()
    client, neighbour = proxy.client(), proxy.client()
    for number in range(40):
        client.request(number, "model/list", {"text": "x" * 31_000})
    neighbour.request("n", "model/list")
    got = proxy.core.got()
    assert [len(each["params"]) for each in got] == [1, 0]
    served = 0
    while got:
        served += len(got)
        for each in got:
            proxy.core.answer(each["id"], {})
        got = proxy.core.got()
    assert served == 41
    assert proxy.hub.board.in_flight == 0


def test_a_long_request_that_stays_open_keeps_the_next_one_back_for_two_ticks() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    proxy.client()
    for number in range(3):
        client.request(number, "command/exec", {"command": ["x" * 100_000]})
    assert len(proxy.core.got()) == 1
    for _ in range(3):
        proxy.hub.tick(0.0, proxy.tick())
    assert len(proxy.core.got()) == 1


def test_who_interrupts_without_end_passes_the_window_a_few_times_only() -> None:
    proxy = Proxy(queue=CoreQueueBounds(window=1)).up()
    client, neighbour = proxy.client(), proxy.client()
    thread = proxy.thread(client)
    neighbour.request(1, "model/list")
    for number in range(100):
        client.request(number, "turn/interrupt", {"threadId": thread})
    waiting = proxy.core.got()
    assert 1 < len(waiting) <= OVERTAKING_PER_CONNECTION + 2
    answered = 0
    while waiting:
        proxy.core.answer(waiting.pop(0)["id"], {})
        answered += 1
        waiting += proxy.core.got()
    assert answered == 101


def test_who_notifies_without_end_is_closed_unless_it_is_alone() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    for _ in range(1000):
        client.say({"method": "note"})
    assert len(proxy.core.got()) == 1000
    neighbour, flooder = proxy.client(), proxy.client()
    for _ in range(1000):
        flooder.say({"method": "note"})
    neighbour.say({"method": "note"})
    assert 100 < len(proxy.core.got()) < 400
    assert {key for key, *_ in proxy.effects.closed} == {flooder.key}
