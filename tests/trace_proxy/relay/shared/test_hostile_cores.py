"""Whatever a core says, nobody waits for ever: a table of cores that break the protocol."""

import pytest

from tests.trace_proxy.recording import Proxy
from trace_proxy.relay import board
from trace_proxy.relay.board import IDLE_S

REQUEST = "model/list"

UNUSABLE = [
    b'{"id":%d,"result":"\xff"}',
    b'{"id":%d,"result":NaN}',
    b'{"id":%d,"result":{"a":1},"error":{"code":1,"message":"x"}}',
    b'{"id":%d,"result":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    b'{"id":%d,"result":{"a":',
    b'{"jsonrpc":"2.0","id":%d,"error":{"code":1,"message":"\xed\xa0\x80"}}',
    b' { "id" : %d , "result" : NaN } ',
    b'{"result":"\xff","id":%d}',
    b'{"error":NaN,"id":%d}',
    b'{"jsonrpc":"2.0","result":NaN,"id":%d}',
]


@pytest.mark.parametrize("answer", UNUSABLE)
def test_an_answer_that_cannot_be_read_settles_its_request(answer: bytes) -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.request("a", REQUEST)
    core_id = proxy.core.got()[-1]["id"]
    proxy.core.raw(answer % core_id)
    (heard,) = client.heard()
    assert heard["id"] == "a"
    assert (heard["error"]["code"], heard["error"]["data"]) == (-32603, {"reason": "coreAnswer"})
    assert proxy.hub.board.in_flight == 0
    assert len(proxy.core.session.router) == 0


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":%d,"method":"item/tool/call","params":NaN}',
        b'{"method":"x","params":"\xff","id":%d}',
        b'{"id":%d}',
        b'"id":%d,"result":1',
        b'{"params":{"id":%d,"result":NaN}}',
    ],
)
def test_garbage_that_is_no_answer_settles_nothing(line: bytes) -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.request("a", REQUEST)
    proxy.core.raw(line % proxy.core.got()[-1]["id"])
    assert client.heard() == []
    assert proxy.hub.board.in_flight == 1


def test_what_waited_for_the_place_of_an_unreadable_answer_is_sent() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    for number in range(100):
        client.request(number, REQUEST)
    given = proxy.core.got()
    assert len(given) < 100
    proxy.core.raw(b'{"id":%d,"result":NaN}' % given[0]["id"])
    assert len(proxy.core.got()) == 1


def test_a_core_that_begins_turns_without_end_is_faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MAX_TURNS", 3)
    proxy = Proxy().up()
    for number in range(4):
        turn = {"threadId": f"t{number}", "turn": {"id": f"u{number}"}}
        proxy.core.notify("turn/started", turn)
    assert proxy.effects.faulty == [0]


def test_a_core_that_asks_without_end_is_faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MAX_ASKED", 3)
    proxy = Proxy().up()
    for number in range(4):
        proxy.core.ask(number, "item/tool/call", {"threadId": "t"})
    assert proxy.effects.faulty == [0]
    assert len(proxy.hub.board.server_requests) == 3


def test_a_turn_that_nobody_asked_for_in_a_thread_that_nobody_knows_holds_no_drain() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    thread = proxy.thread(client)
    proxy.core.notify("turn/started", {"threadId": "phantom", "turn": {"id": "p"}})
    assert (len(proxy.hub.board.turns), proxy.hub.board.work) == (1, 0)
    proxy.turn(client, thread)
    assert proxy.hub.board.work == 1


def test_a_turn_of_a_core_that_does_not_answer_is_told_to_be_over() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    proxy.turn(client, proxy.thread(client))
    proxy.hub.end_turns()
    (heard,) = client.heard()
    assert heard["method"] == "turn/completed"
    assert heard["params"]["turn"]["status"] == "interrupted"
    assert len(proxy.hub.board.turns) == 0


def test_a_clients_answer_that_is_none_is_counted_and_not_answered() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.request("a", REQUEST)
    client.raw(b'{"id":"a","result":1,"error":{"code":1,"message":"x"}}')
    assert client.heard() == []
    assert proxy.effects.ignored_answers == 1


def idle(status: str = "idle") -> dict[str, object]:
    return {"threadId": "t", "status": {"type": status}}


@pytest.mark.parametrize(
    ("after", "left"),
    [
        ([("thread/status/changed", idle())], 0),
        ([("thread/status/changed", idle()), ("thread/status/changed", idle("active"))], 1),
        ([("thread/status/changed", idle("active"))], 1),
        ([("thread/status/changed", {"threadId": "other", "status": {"type": "idle"}})], 1),
        ([("thread/status/changed", {"threadId": "t", "status": 5})], 1),
    ],
)
def test_a_thread_that_stays_idle_has_no_running_turn(
    after: list[tuple[str, dict[str, object]]], left: int
) -> None:
    proxy = Proxy().up()
    client = proxy.client()
    proxy.turn(client, proxy.thread(client, "t"))
    for method, params in after:
        proxy.core.notify(method, params)
    shared = proxy.hub.board
    shared.clock_s += IDLE_S - 0.1
    shared.end_idle_turns(proxy.now_ns)
    assert shared.work == 1, "its end may be on its way"
    shared.clock_s += 0.2
    shared.end_idle_turns(proxy.now_ns)
    assert (shared.work, len(shared.turns)) == (left, left)


def test_the_next_turn_of_a_thread_does_not_end_for_the_idleness_before_it() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    thread = proxy.thread(client, "t")
    proxy.turn(client, thread, "u1")
    proxy.core.notify("thread/status/changed", idle())
    proxy.core.notify(
        "turn/completed", {"threadId": "t", "turn": {"id": "u1", "status": "completed"}}
    )
    proxy.turn(client, thread, "u2")
    proxy.hub.board.clock_s += 2 * IDLE_S
    proxy.hub.board.end_idle_turns(proxy.now_ns)
    assert proxy.hub.board.work == 1
