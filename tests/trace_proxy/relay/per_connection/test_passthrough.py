import json
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.json_values import JSON_VALUES
from tests.trace_proxy.relay.per_connection.pair_world import Proxy
from trace_proxy.drain import State
from trace_proxy.queues.admission import AdmissionBounds
from trace_proxy.queues.core_queue import CoreQueueBounds
from trace_proxy.relay import board
from trace_proxy.relay.per_connection.pairs import Pair, key_of, seen
from trace_proxy.spans import semconv
from trace_proxy.spans.content import Content
from trace_proxy.state.connection import Peer
from trace_proxy.state.core_session import CoreState

ASK = "item/commandExecution/requestApproval"


def completed(thread: str = "t", turn: str = "u") -> bytes:
    params = {"threadId": thread, "turn": {"id": turn, "status": "completed"}}
    return json.dumps({"method": "turn/completed", "params": params}).encode()


# ---- what goes through


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}',
        b'{"id": "\\u0061", "method": "x", "trace": {"traceparent": "no"}, "more": [1]}',
        b'{"id":null,"method":"x"}',
        b'{"id":1.5,"method":"x"}',
        b'{"id":{"a":1},"method":"x"}',
        b'{"id":1,"id":2,"method":"x","method":"y"}',
        b'{"method":"notifications/progress"}',
        b'{"id":1,"result":{}}',
        b'{"id":1,"result":{},"error":{}}',
        b'[{"id":1,"method":"x"},{"method":"y"},{"id":2,"result":null}]',
        b'{"id":1,"method":5}',
        b"{}",
        b"[]",
        b"17",
        b'"\xc3\xa4"',
    ],
)
def test_what_is_json_reaches_the_other_side_as_it_came(line: bytes) -> None:
    proxy = Proxy()
    client = proxy.client()
    client.raw(line)
    assert client.got() == [line]
    assert client.core_raw(line) == ""
    assert client.heard() == [line]
    client.leave()
    assert proxy.idle


def test_line_breaks_between_tokens_become_blanks_on_the_way_to_the_core() -> None:
    client = Proxy().client()
    client.raw(b'{\r\n  "method":\n"x"}\n')
    assert client.got() == [b'{    "method": "x"} ']


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "Input data was truncated"),
        (b"nope", "JSON is malformed"),
        (b'{"a":1} {"b":2}', "JSON is malformed"),
        (b'{"a":"x\ny"}', "JSON is malformed"),
        (b'["\xff"]', "not UTF-8"),
        (b'{"method":"\xff"}', "not UTF-8"),
        (b"[NaN]", "JSON is malformed"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"params":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_json_is_answered_and_goes_nowhere(line: bytes, why: str) -> None:
    client = Proxy().client()
    client.raw(line)
    assert client.got() == []
    error = client.error()
    assert error["id"] is None
    assert error["error"]["code"] == -32700
    assert error["error"]["message"].startswith(f"Parse error: {why}")

    assert client.core_raw(line).startswith(why)
    assert client.heard() == []


def test_errors_of_ours_speak_the_clients_dialect() -> None:
    client = Proxy().client()
    client.raw(b'{"jsonrpc":"2.0","method":"x"}')
    client.raw(b"nope")
    assert client.error()["jsonrpc"] == "2.0"


def test_a_message_over_the_limit_is_answered_under_its_id() -> None:
    client = Proxy().client()
    client.proxy.machine.board.too_large(
        client.connection, b'{"id":"a","method":"x","params":', 10
    )
    assert client.error() == {
        "id": "a",
        "error": {
            "code": -32600,
            "message": "The message is larger than 10 bytes; send less, or raise the limit",
            "data": {"reason": "messageTooLarge", "limitBytes": 10},
        },
    }


def test_clients_do_not_hear_each_others_cores() -> None:
    proxy = Proxy()
    one, other = proxy.client(), proxy.client()
    one.say(id=1, method="x")
    other.core_says(id=1, result="not yours")
    assert one.heard() == []
    assert other.heard() == [b'{"id": 1, "result": "not yours"}']
    assert proxy.spans() == []


# ---- a core that is slow, absent or gone


def test_what_comes_before_the_core_runs_waits_in_order() -> None:
    proxy = Proxy()
    client = proxy.client(started=False)
    client.say(id=1, method="a")
    client.say(method="b")
    client.say(id=9, result={})
    assert client.got() == []
    client.start()
    assert [json.loads(line) for line in client.got()] == [
        {"id": 1, "method": "a"},
        {"method": "b"},
        {"id": 9, "result": {}},
    ]


def test_a_core_that_does_not_read_gets_the_rest_when_it_does() -> None:
    client = Proxy().client()
    client.proxy.machine.core_writable(client.core, writable=False)
    client.say(method="a")
    client.say(id=1, method="b")
    assert client.got() == []
    client.proxy.machine.core_writable(client.core, writable=True)
    assert client.got() == [b'{"method": "a"}', b'{"id": 1, "method": "b"}']


def test_when_the_queue_is_full_requests_are_shed_and_anything_else_ends_the_connection() -> None:
    proxy = Proxy(queue=CoreQueueBounds(max_answers=2))
    client = proxy.client(started=False)
    client.say(id=1, method="a")
    client.say(method="b")
    client.say(id=2, method="turn/start", params={"threadId": "t"})
    error = client.error()
    assert (error["id"], error["error"]["code"]) == (2, -32001)
    assert proxy.effects.closed == []
    client.say(method="c")
    assert proxy.effects.closed == [(client.key, 1008)]
    client.leave()
    assert proxy.idle


def test_requests_beyond_what_may_be_in_flight_are_shed() -> None:
    proxy = Proxy(admission=AdmissionBounds(connection_max_requests=1))
    client = proxy.client()
    client.say(id=1, method="a")
    client.say(id=2, method="b")
    assert client.error()["error"]["code"] == -32001
    client.core_says(id=1, result={})
    client.say(id=3, method="c")
    assert [json.loads(line)["id"] for line in client.got()] == [1, 3]


@pytest.mark.parametrize(("exit_code", "close"), [(0, 1000), (3, 1011), (-9, 1011)])
def test_a_core_that_exits_takes_its_client_along_and_nobody_else(
    exit_code: int, close: int
) -> None:
    proxy = Proxy()
    client, other = proxy.client(), proxy.client()
    client.say(id="x", method="tools/call")
    other.say(id="x", method="tools/call")
    client.core_dies(exit_code)
    assert client.error() == {
        "id": "x",
        "error": {
            "code": -32003,
            "message": "The core exited before it answered; reconnect to get a new one",
            "data": {"reason": "coreLost", "retryable": True},
        },
    }
    assert proxy.effects.closed == [(client.key, close)]
    assert client.core.state is CoreState.DOWN
    client.leave()
    assert other.heard() == []
    assert proxy.machine.board.in_flight == 1


def test_when_the_client_has_left_its_core_may_say_and_do_what_it_likes() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.leave()
    assert client.core_raw(b"garbage") == ""
    proxy.machine.core_writable(client.core, writable=True)
    client.core_dies(1)
    assert (client.heard(), client.got(), proxy.effects.closed) == ([], [], [])
    assert proxy.machine.board.cores == []
    assert proxy.machine.board.cores == []


# ---- requests, seen


def test_a_request_is_one_span_from_its_arrival_to_its_answer() -> None:
    proxy = Proxy()
    client = proxy.client(peer=Peer("pipe", websocket=False))
    client.say(id="a", method="thread/list", params={"threadId": "t"})
    started_ns = proxy.now_ns
    client.core_says(id="a", result={})
    (span,) = proxy.spans()
    assert (span.name, span.start_ns, span.end_ns) == ("thread/list", started_ns, proxy.now_ns)
    assert span.attributes["jsonrpc.request.id"] == "a"
    assert span.shared["trace_proxy.core.id"] == client.key
    assert proxy.effects.calls == [("thread/list", "")]


def test_an_id_is_found_however_the_answer_spells_it() -> None:
    proxy = Proxy()
    client = proxy.client()
    for sent, answered in ((b'"\\u0061"', b'"a"'), (b"1.0", b"1"), (b"-7", b"-7")):
        client.raw(b'{"id":%b,"method":"x"}' % sent)
        client.core_raw(b'{"id":%b,"error":{"code":-1,"message":"no"}}' % answered)
    assert [span.attributes["error.type"] for span in proxy.spans()] == ["-1", "-1", "-1"]


def test_equal_ids_are_answered_in_the_order_they_were_asked() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.say(id=1, method="model/list")
    client.say(id=1, method="thread/list")
    client.core_says(id=1, result={})
    client.core_says(id=1, result={})
    client.core_says(id=1, result={})
    assert [span.name for span in proxy.spans()] == ["model/list", "thread/list"]
    assert len(client.heard()) == 3


def test_without_an_id_to_follow_nothing_is_in_flight() -> None:
    proxy = Proxy()
    client = proxy.client()
    for line in (b'{"id":null,"method":"x"}', b'[{"id":1,"method":"x"}]'):
        client.raw(line)
    assert proxy.idle


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b"null", None),
        (b"true", None),
        (b"[1]", None),
        (b"1e999", None),
        (b"1" * 64, None),
        (b"007", b"007"),
        (b"1.5", b"1.5"),
        (b"2e0", b"2"),
        (b'"\\u00e4"', '"ä"'.encode()),
    ],
)
def test_an_id_has_one_spelling_or_is_not_followed(raw: bytes, key: bytes | None) -> None:
    message = seen(b'{"id":1}')
    message.id = type(message.id)(raw)
    assert key_of(message) == key


def test_a_client_that_leaves_ends_what_it_asked() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.say(id=1, method="x")
    client.leave()
    (span,) = proxy.spans()
    assert span.attributes["error.type"] == "connection_lost"
    assert proxy.idle


def test_content_is_recorded_when_it_may_be() -> None:
    proxy = Proxy(content=Content(100))
    client = proxy.client()
    client.say(id=1, method="x", params={"a": 1})
    client.core_says(id=1, result={"b": 2})
    (span,) = proxy.spans()
    assert span.shared[semconv.CONTENT_PARAMS] == '{"a": 1}'
    assert span.shared[semconv.CONTENT_RESULT] == '{"b": 2}'


def test_the_content_of_one_request_is_on_no_other_span() -> None:
    proxy = Proxy(content=Content(100))
    client = proxy.client()
    for number in (1, 2):
        client.say(id=number, method="x", params={"a": number})
        client.core_says(id=number, result={"b": number})
    contents = [span.shared[semconv.CONTENT_PARAMS] for span in proxy.spans()]
    assert contents == ['{"a": 1}', '{"a": 2}']


# ---- turns and server requests, seen


def test_a_turn_counts_as_work_until_it_is_completed() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.say(id=0, method="thread/start", params={})
    client.core_says(id=0, result={"thread": {"id": "t"}, "model": "m"})
    client.turn()
    assert len(proxy.machine.board.turns) == 1
    assert list(proxy.machine.board.subscribers.of("t")) == [client.connection]
    delta = {"threadId": "t", "turnId": "u", "itemId": "i", "delta": "hi"}
    client.core_says(method="item/agentMessage/delta", params=delta)
    item = {"type": "commandExecution", "id": "i"}
    for method in ("item/started", "item/completed"):
        client.core_says(method=method, params={"threadId": "t", "turnId": "u", "item": item})
    client.core_raw(completed())
    assert proxy.idle
    spans = proxy.spans()
    assert spans[-1].attributes["gen_ai.request.model"] == "m"
    names = [span.name for span in spans]
    assert names == [
        "thread/start",
        "turn/start",
        "execute_tool shell",
        "invoke_agent core-server",
    ]
    client.core_says(method="thread/closed", params={"threadId": "t"})
    assert client.connection.threads == set()
    assert len(client.heard()) == 5


def test_a_turn_may_be_announced_before_its_request_is_answered() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.say(id=1, method="turn/start", params={"threadId": "t"})
    client.core_says(method="turn/started", params={"threadId": "t", "turn": {"id": "u"}})
    client.core_says(id=1, result={"turn": {"id": "u"}})
    client.core_raw(completed())
    request, turn = proxy.spans()
    assert turn.parent == request.context
    assert proxy.idle


def test_a_turn_that_is_refused_or_not_understood_is_none() -> None:
    proxy = Proxy()
    client = proxy.client()
    for answer in ({"error": {"code": -1, "message": "no"}}, {"result": 5}):
        client.say(id=1, method="turn/start", params={"threadId": "t"})
        client.core_says(id=1, **answer)
    assert proxy.idle
    assert len(proxy.spans()) == 2


def test_a_turn_ends_with_its_core_and_with_its_client() -> None:
    proxy = Proxy()
    one, other = proxy.client(), proxy.client()
    one.turn("t1", "u1")
    other.turn("t2", "u2")
    proxy.spans()
    one.core_dies(1)
    other.leave()
    assert [span.attributes.get("error.type") for span in proxy.spans()] == ["core_lost", None]
    assert [each.status for each in proxy.effects.turns] == ["interrupted", "interrupted"]
    assert proxy.idle


@pytest.mark.parametrize("core_id", ["ask-1", 7, 1.5])
def test_what_a_core_asks_is_a_span_until_the_client_answers(core_id: object) -> None:
    proxy = Proxy()
    client = proxy.client()
    client.turn()
    proxy.spans()
    client.core_says(id=core_id, method=ASK, params={"threadId": "t", "itemId": "i"})
    assert proxy.effects.pending_approvals == 1
    client.say(id=core_id, result={"decision": "accept"})
    (span,) = proxy.spans()
    named = (span.attributes["rpc.method"], span.attributes["trace_proxy.approval.decision"])
    assert named == (ASK, "accept")
    assert span.parent == next(iter(proxy.machine.board.turns)).context
    assert proxy.effects.pending_approvals == 0
    client.say(id=core_id, result={})
    assert len(client.got()) == 2


def test_a_core_asks_below_the_tool_that_needs_it() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.turn()
    item = {"type": "commandExecution", "id": "i"}
    client.core_says(method="item/started", params={"threadId": "t", "turnId": "u", "item": item})
    client.core_says(id=5, method=ASK, params={"threadId": "t", "itemId": "i"})
    client.say(id=5, error={"code": 1, "message": "no"})
    tool = next(iter(proxy.machine.board.turns)).tools["i"]
    assert proxy.spans()[-1].parent == tool.context


def test_a_core_may_ask_outside_of_turns_and_use_an_id_twice() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.core_says(id=1, method="sampling/createMessage")
    client.core_says(id=1, method="roots/list")
    client.say(id=1, result={"roots": []})
    assert [span.attributes["rpc.method_original"] for span in proxy.spans()] == [
        "sampling/createMessage",
        "roots/list",
    ]
    assert proxy.idle


def test_a_core_that_settles_its_own_request_or_leaves_ends_its_span() -> None:
    proxy = Proxy()
    client = proxy.client()
    for name in ("a", "b"):
        client.core_says(id=name, method=ASK, params={"threadId": "t"})
    client.core_says(method="serverRequest/resolved", params={"requestId": "a"})
    client.core_says(method="serverRequest/resolved", params={"requestId": "a"})
    client.core_says(method="serverRequest/resolved", params={"requestId": None})
    client.core_says(method="serverRequest/resolved")
    client.core_dies(0)
    decided = [span.attributes["trace_proxy.approval.decision"] for span in proxy.spans()]
    assert decided == ["resolved", "core_lost"]
    assert proxy.idle


# ---- draining


def test_while_draining_a_turn_is_refused_and_all_else_goes_through() -> None:
    proxy = Proxy()
    client = proxy.client()
    proxy.drain.signal("TERM", 0)
    client.say(id=1, method="turn/start", params={"threadId": "t"})
    assert client.error()["error"]["data"]["reason"] == "draining"
    client.say(id=2, method="tools/call")
    assert client.got() == [b'{"id": 2, "method": "tools/call"}']


@pytest.mark.parametrize("strict", [False, True])
def test_at_the_deadline_a_turn_is_interrupted_and_only_its_answer_is_kept_back(
    *, strict: bool
) -> None:
    proxy = Proxy()
    client = proxy.client()
    if strict:
        client.say(jsonrpc="2.0", method="initialized")
    client.turn()
    (turn,) = proxy.machine.board.turns
    proxy.machine.interrupt(turn)
    (line,) = client.got()
    asked = json.loads(line)
    assert asked.get("jsonrpc") == ("2.0" if strict else None)
    assert (asked["method"], asked["params"]) == (
        "turn/interrupt",
        {"threadId": "t", "turnId": "u"},
    )
    client.core_says(id=asked["id"], result={})
    assert client.heard() == []
    client.core_says(id=asked["id"], result="of somebody else")
    assert len(client.heard()) == 1


def test_what_ends_while_the_proxy_closes_was_ended_by_the_drain() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.turn()
    client.core_says(id=1, method=ASK, params={"threadId": "t"})
    client.say(id=2, method="x")
    proxy.spans()
    proxy.drain.failed()
    assert proxy.drain.state is State.CLOSING
    client.leave()
    ended_by = [span.attributes["trace_proxy.ended_by"] for span in proxy.spans()]
    assert ended_by == ["drain", "drain", "drain"]


def test_everything_says_what_it_is() -> None:
    proxy = Proxy()
    client = proxy.client()
    assert repr(proxy.machine).startswith("<PassThrough <")
    pair: Pair = proxy.machine.pairs[client.key]
    assert repr(pair).startswith("<Pair <Connection 0 not initialized in_flight=0")


# ---- whatever goes in comes out

_IDS = st.sampled_from([1, 2, "1", "a", None, 1.5, -3]) | JSON_VALUES
_METHODS = st.sampled_from(
    "x turn/start turn/started turn/completed item/started item/completed thread/start"
    " thread/closed serverRequest/resolved item/agentMessage/delta".split()
)
_PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "threadId": st.sampled_from(["t", "s", 1]),
        "turnId": st.sampled_from(["u", "v"]),
        "turn": st.fixed_dictionaries({"id": st.sampled_from(["u", "v"])}),
        "thread": st.fixed_dictionaries({"id": st.sampled_from(["t", "s"])}),
        "requestId": _IDS,
        "delta": st.just("hi"),
        "item": JSON_VALUES,
    },
)
_MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "id": _IDS,
        "method": _METHODS,
        "params": _PARAMS | JSON_VALUES,
        "result": _PARAMS | JSON_VALUES,
        "error": JSON_VALUES,
        "trace": JSON_VALUES,
        "jsonrpc": st.just("2.0"),
    },
)
_DOCUMENTS = _MESSAGES | JSON_VALUES | st.lists(_MESSAGES, max_size=3)
_LAYOUTS = st.sampled_from([(",", ":"), (", ", ": "), (",\n  ", ":\r\n"), (" ,\t", " : ")])
_LINES = st.builds(
    lambda document, layout, ascii_only: json.dumps(
        document, separators=layout, ensure_ascii=ascii_only
    ).encode(),
    _DOCUMENTS,
    _LAYOUTS,
    st.booleans(),
)
_STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["client", "core"]), _LINES)
    | st.tuples(st.integers(0, 2), st.sampled_from(["full", "room"]), st.just(b"")),
    max_size=40,
)


def _flat(line: bytes) -> bytes:
    return line.replace(b"\n", b" ").replace(b"\r", b" ")


@given(_STEPS)
def test_whatever_json_goes_in_comes_out_both_ways_in_order_for_each_client(
    steps: list[tuple[int, str, bytes]],
) -> None:
    proxy = Proxy()
    clients = [proxy.client() for _ in range(3)]
    said: dict[tuple[int, str], list[bytes]] = defaultdict(list)
    for who, what, line in steps:
        client = clients[who]
        if what == "client":
            client.raw(line)
            said[who, what].append(_flat(line))
        elif what == "core":
            assert client.core_raw(_flat(line)) == ""
            said[who, what].append(_flat(line))
        else:
            proxy.machine.core_writable(client.core, writable=what == "room")
    for who, client in enumerate(clients):
        proxy.machine.core_writable(client.core, writable=True)
        assert client.got() == said[who, "client"]
        assert client.heard() == said[who, "core"]
        client.leave()
    assert proxy.effects.closed == []
    assert proxy.idle
    assert proxy.machine.board.cores == []


# ---- cores that break the protocol


@pytest.mark.parametrize("request_id", ["1", '"one"', "-7", '"a b\'{}"', '""'])
@pytest.mark.parametrize(
    "answer",
    [
        '{"id":%s,"result":"\udcff"}',
        '{"id":%s,"result":NaN}',
        '{"id":%s,"result":' + "[" * 5_000 + "]" * 5_000 + "}",
        '{"jsonrpc":"2.0","id":%s,"result":{"a":',
        ' { "jsonrpc" : "2.0" , "id" : %s , "error" : nope } ',
        '{"result":"\udced\udca0\udc80","id":%s}',
        '{"jsonrpc":"2.0","error":NaN,"id":%s}',
    ],
)
@pytest.mark.parametrize("method", ["model/list", "turn/start", "session/prompt", "tools/call"])
def test_an_answer_that_cannot_be_read_settles_its_request(
    method: str, answer: str, request_id: str
) -> None:
    proxy = Proxy()
    client = proxy.client()
    params = '{"threadId":"t","sessionId":"t","prompt":[],"name":"x"}'
    client.raw(f'{{"id":{request_id},"method":"{method}","params":{params}}}'.encode())
    assert client.core_raw((answer % request_id).encode(errors="surrogateescape")) != ""
    heard = client.error()
    assert heard["id"] == json.loads(request_id)
    assert (heard["error"]["code"], heard["error"]["data"]) == (-32603, {"reason": "coreAnswer"})
    assert proxy.idle
    assert proxy.machine.board.work == 0


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":1,"method":"x","params":NaN}',
        b'{"id":2,"result":NaN}',
        b'{"id":"1","result":NaN}',
        b'{"params":{"id":1,"result":NaN}}',
    ],
)
def test_garbage_that_is_no_answer_settles_nothing(line: bytes) -> None:
    proxy = Proxy()
    client = proxy.client()
    client.say(id=1, method="model/list")
    client.core_raw(line)
    assert client.heard() == []
    assert proxy.machine.board.in_flight == 1


def test_a_core_that_begins_turns_without_end_is_faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MAX_TURNS", 3)
    proxy = Proxy()
    client = proxy.client()
    for number in range(4):
        turn = {"threadId": f"t{number}", "turn": {"id": f"u{number}"}}
        client.core_says(method="turn/started", params=turn)
    assert proxy.effects.faulty == [client.key]
    assert proxy.machine.board.work == 0


def test_a_core_that_asks_without_end_is_faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MAX_ASKED", 3)
    proxy = Proxy()
    client = proxy.client()
    for number in range(4):
        client.core_says(id=number, method="item/tool/call", params={"threadId": "t"})
    assert proxy.effects.faulty == [client.key]
    assert len(proxy.machine.board.server_requests) == 3


def test_a_thread_that_stays_idle_has_no_running_turn() -> None:
    proxy = Proxy()
    client = proxy.client()
    client.turn()
    client.core_says(
        method="thread/status/changed", params={"threadId": "t", "status": {"type": "idle"}}
    )
    shared = proxy.machine.board
    shared.end_idle_turns(proxy.tick())
    assert len(shared.turns) == 1
    shared.clock_s += 2 * board.IDLE_S
    shared.end_idle_turns(proxy.tick())
    assert len(shared.turns) == 0
