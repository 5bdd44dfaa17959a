"""One message as a proxy sees it."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from trace_proxy.protocol import envelope
from trace_proxy.protocol.envelope import CoreMessage, GarbageError, Routing


def test_a_line_of_a_core_is_decoded_as_far_as_it_is_routed_by() -> None:
    line = b'{"method":"m","id":"x","params":{"threadId":"t","turnId":"u","delta":"d","z":1}}'
    message = envelope.decode_core(line)
    params = Routing("t", "u", UNSET, "d")
    assert message == CoreMessage("x", "m", params)


@pytest.mark.parametrize("params", ['{"threadId":5}', "[1]", '"x"', "5", '{"delta":{}}'])
def test_params_of_other_types_are_not_understood_but_kept(params: str) -> None:
    message = envelope.decode_core(b'{"method":"m","params":%b}' % params.encode())
    assert message == CoreMessage(UNSET, "m", UNSET)


GARBAGE = [
    *(b"", b"{", b"[]", b"null", b"{}", b'{"id":1}', b'{"id":true,"result":1}'),
    *(b'{"id":1,"result":1,"error":2}', b'{"method":1}', b'{"id":1.5,"result":1}'),
    *(b'{"method":"m","params":"\xff"}', b'{"method":"m","x":' + b"[" * 100_000),
]


@pytest.mark.parametrize("line", GARBAGE)
def test_garbage_is_described_and_not_repeated(line: bytes) -> None:
    with pytest.raises(GarbageError) as refused:
        envelope.decode_core(line)
    assert 0 < len(str(refused.value)) < 120


@given(st.binary())
def test_no_bytes_of_a_core_raise_anything_else(line: bytes) -> None:
    try:
        envelope.decode_core(line)
    except GarbageError:
        return


@pytest.mark.parametrize(
    ("params", "found"),
    [
        (b'{"threadId":"t"}', Routing("t")),
        (b'{"thread\\u0049d":"t","xId":1}', Routing("t")),
        (b'{"threadId":5}', Routing()),
        (b'["Id"]', Routing()),
        (b"{}", Routing()),
        (None, Routing()),
    ],
)
def test_what_a_client_names_is_read_where_it_can_be(params: bytes | None, found: Routing) -> None:
    assert envelope.routing(params) == found


def test_requests_are_built_on_one_line_and_their_ids_found_again() -> None:
    trace = b',"trace":{"traceparent":"x"}'
    built = [
        envelope.request(7, b'"m"', None),
        envelope.request(7, b'"m"', b'{"a":\n1}'),
        envelope.request(7, b'"m\\""', None, trace),
        envelope.request(7, b'"m"', b"[]", trace),
    ]
    assert built == [
        b'{"id":7,"method":"m"}',
        b'{"id":7,"method":"m","params":{"a": 1}}',
        b'{"id":7,"method":"m\\"","trace":{"traceparent":"x"}}',
        b'{"id":7,"method":"m","params":[],"trace":{"traceparent":"x"}}',
    ]
    assert [envelope.request_id(line) for line in built] == [7] * 4
    others = [
        envelope.notification("m", None),
        envelope.notification("m", b"{}"),
        envelope.client_answer(7, b"{}", failed=False),
        envelope.client_answer(',"method":', b"{}", failed=True),
        b"",
    ]
    assert [envelope.request_id(line) for line in others] == [None] * 5


def test_answers_and_questions_are_built_around_what_came() -> None:
    result = envelope.decode_core(b'{"id":1,"result":{"a" : 1}}')
    error = envelope.decode_core(b'{"id":1,"error":{"code":-5}}')
    odd = envelope.decode_core(b'{"id":1,"error":"x"}')
    assert envelope.answer(b'"x"', result) == b'{"id":"x","result":{"a" : 1}}'
    assert envelope.answer(b"2", error) == b'{"error":{"code":-5},"id":2}'
    assert [envelope.error_code(each) for each in (result, error, odd)] == [None, -5, -32603]
    assert envelope.server_request(3, "m", b"{}") == b'{"method":"m","id":3,"params":{}}'
    assert envelope.client_answer("a", b"[\n]", failed=False) == b'{"id":"a","result":[ ]}'
    assert envelope.client_answer(1, b"{}", failed=True) == b'{"id":1,"error":{}}'


def test_one_member_is_replaced_and_the_others_stay() -> None:
    line = b'{"method":"m","params":{"a":1},"emittedAtMs":5,"z":1.0}'
    assert envelope.params_of(line) == b'{"a":1}'
    assert envelope.params_of(b'{"method":"m"}') == b"null"
    replaced = envelope.replace_params(line, b'{"b":2}')
    assert replaced == b'{"method":"m","params":{"b":2},"emittedAtMs":5,"z":1.0}'


def test_our_own_notifications_look_like_a_cores() -> None:
    line = envelope.our_notification("m", {"a": 1}, 5_000_000)
    assert json.loads(line) == {"method": "m", "params": {"a": 1}, "emittedAtMs": 5}


def test_many_methods_do_not_fill_the_memory() -> None:
    for number in range(5_000):
        envelope.notification(f"method/{number}", None)
    envelope.notification("m" * 10_000, None)
    cached = envelope._METHOD_JSON  # noqa: SLF001 - its bound is the point
    assert len(cached) <= envelope._METHOD_JSON_BOUND  # noqa: SLF001
    assert max(map(len, cached.values())) < 128
    assert msgspec.json.decode(envelope.notification("x\u00e9", None))["method"] == "x\u00e9"
