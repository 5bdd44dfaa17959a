"""Bytes to messages: strict where parsers disagree, exact in what is echoed."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.jsonrpc import codec
from core_server.jsonrpc.depth import has_more, is_deeper
from core_server.jsonrpc.messages import Kind
from tests.json_values import JSON_VALUES

PARSE, INVALID = -32700, -32600

DEEP = codec.MAX_DEPTH
DIGITS = b"9" * 5_000
PADDING = b'"' + b"x" * 600 + b'"'

HOSTILE = [
    # not JSON
    (b"", PARSE, b"null"),
    (b"   ", PARSE, b"null"),
    (b"{", PARSE, b"null"),
    (b'{"id":1,"method":"a"', PARSE, b"null"),
    (b'{"id":1,"method":"a",}', PARSE, b"null"),
    (b"{'id':1,'method':'a'}", PARSE, b"null"),
    (b'{"id":1,"method":"a"}{"id":2,"method":"b"}', PARSE, b"null"),
    (b'{"id":1,"method":"a"}\n{"id":2,"method":"b"}', PARSE, b"null"),
    (b'{"id":1,"method":"a"} // no', PARSE, b"null"),
    (b'\xef\xbb\xbf{"id":1,"method":"a"}', PARSE, b"null"),
    ('{"id":1,"method":"a"}'.encode("utf-16"), PARSE, b"null"),
    (b'{"id":1,"method":"a","params":NaN}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":Infinity}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":-Infinity}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":01}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":+1}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":.5}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":0x10}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":tru}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":undefined}', PARSE, b"null"),
    # strings
    (b'{"id":1,"method":"a","params":"\x00"}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":"\n"}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":"\\x41"}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":"\\u12"}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":"\\ud800"}', PARSE, b"1"),
    (b'{"id":1,"method":"a","params":"\\ud800\\u0041"}', PARSE, b"1"),
    (b'{"id":1,"method":"a","params":"\\udc00\\ud800"}', PARSE, b"1"),
    (b'{"id":"\\ud800","method":"a"}', PARSE, b"null"),
    (b'{"id":1,"method":"\\ud800"}', PARSE, b"1"),
    (b'{"id":1,"method":"a","params":"\xff"}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":"\xc0\x80"}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":"\xed\xa0\x80"}', PARSE, b"null"),
    (b'{"id":1,"method":"a","params":"\xf5\x80\x80\x80"}', PARSE, b"null"),
    # JSON, but no message
    (b"null", INVALID, b"null"),
    (b"1", INVALID, b"null"),
    (b'"x"', INVALID, b"null"),
    (b"[]", INVALID, b"null"),
    (b'[{"id":1,"method":"a"}]', INVALID, b"null"),
    (b"{}", INVALID, b"null"),
    (b'{"id":7}', INVALID, b"7"),
    (b'{"id":7,"params":{}}', INVALID, b"7"),
    (b'{"id":7,"method":5}', INVALID, b"7"),
    (b'{"id":7,"method":null}', INVALID, b"7"),
    (b'{"id":"x","method":["a"]}', INVALID, b'"x"'),
    (b'{"id":7,"result":1,"error":{}}', INVALID, b"7"),
    (b'{"result":1}', INVALID, b"null"),
    (b'{"jsonrpc":"1.0","id":7,"method":"a"}', INVALID, b"7"),
    (b'{"jsonrpc":2.0,"id":7,"method":"a"}', INVALID, b"7"),
    # members that came twice
    (b'{"id":1,"id":2,"method":"a"}', INVALID, b"null"),
    (b'{"id":1,"\\u0069d":2,"method":"a"}', INVALID, b"null"),
    (b'{"id":1,"method":"a","method":"b"}', INVALID, b"1"),
    (b'{"id":1,"method":"a","params":1,"par\\u0061ms":2}', INVALID, b"1"),
    (b'{"id":1,"method":"a","x":1,"x":2}', INVALID, b"1"),
    (b'{ "id" : 1 , "method" : "a" , "method" : "b" }', INVALID, b"1"),
    # too deep
    (b'{"id":1,"method":"a","params":' + b"[" * DEEP + b"]" * DEEP + b"}", INVALID, b"1"),
    (
        b'{"id":1,"method":"a","params":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
        INVALID,
        b"1",
    ),
    (b'{"id":1,"method":"a","x":' + b"[" * DEEP + b"]" * DEEP + b"}", INVALID, b"1"),
    (b"[" * 100_000, INVALID, b"null"),
    (b'{"a":' * 100_000, INVALID, b"null"),
]


@pytest.mark.parametrize(("document", "code", "request_id"), HOSTILE)
def test_a_hostile_document_is_refused_with_an_error_of_its_own(
    document: bytes, code: int, request_id: bytes
) -> None:
    with pytest.raises(codec.MalformedError) as refused:
        codec.decode(document)
    assert (refused.value.code, refused.value.id) == (code, request_id)
    assert len(str(refused.value)) < 200


ODD_IDS = [
    *(b"null", b"true", b"1.5", b"1.0", b"1e3", b"{}", b"[]", b'{"a":1}'),
    *(b"9223372036854775808", b"-9223372036854775809", DIGITS, b"-" + DIGITS),
]


@pytest.mark.parametrize("request_id", ODD_IDS)
def test_an_id_that_is_none_is_refused_when_it_is_asked_for(request_id: bytes) -> None:
    message = codec.decode(b'{"id":%b,"method":"a"}' % request_id)
    with pytest.raises(codec.MalformedError) as refused:
        codec.request_id(message)
    assert (refused.value.code, refused.value.id) == (INVALID, b"null")


ODD_BUT_FINE = [
    b'{"id":1,"method":"a"}',
    b' \t\r\n{ "id" : 1 ,\n"method" : "a" }\r\n',
    b'{"method":"a","id":1,"unknown":{"id":2}}',
    b'{"id":1,"method":"a","params":{"a":1,"a":2}}',
    b'{"id":1,"method":"a","params":[%b]}' % DIGITS,
    b'{"id":1,"method":"a","params":1e999999}',
    b'{"id":1,"method":"a","params":null,"trace":null}',
    b'{"jsonrpc":"2.0","id":1,"method":"a"}',
    b'{"id":1,"method":"a","params":"\\ud83d\\ude00"}',
    b'{"id":1,"method":"a","x":"[[[[{{{{","params":%b}' % PADDING,
    b'{"id":1,"method":"a","params":[%b]}' % b",".join([b"[]"] * 500),
    b'{"id":1,"method":"a","x":%b}' % DIGITS,
    b'{"id":1,"method":"a","params":' + b"[" * (DEEP - 1) + b"]" * (DEEP - 1) + b"}",
    b'{"id":1,"method":"a","params":"' + b'[\\\\\\"' * 500 + b'"}',
]


@pytest.mark.parametrize("document", ODD_BUT_FINE)
def test_what_json_allows_passes(document: bytes) -> None:
    message = codec.decode(document)
    assert (codec.request_id(message), message.method, message.kind) == (b"1", "a", Kind.REQUEST)


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (b'{"id":1,"method":"a"}', Kind.REQUEST),
        (b'{"id":1,"method":"a","result":2}', Kind.REQUEST),
        (b'{"method":"a"}', Kind.NOTIFICATION),
        (b'{"id":1,"result":null}', Kind.RESPONSE),
        (b'{"id":1,"error":{}}', Kind.RESPONSE),
    ],
)
def test_members_say_what_a_message_is(document: bytes, kind: Kind) -> None:
    assert codec.decode(document).kind is kind


INT64 = st.integers(-(2**63), 2**63 - 1)


@given(INT64 | st.text(), st.text(), JSON_VALUES, st.booleans())
def test_values_and_ids_are_kept_byte_for_byte(
    request_id: int | str,
    method: str,
    params: Any,
    compact: bool,  # noqa: FBT001 - drawn
) -> None:
    separators = (",", ":") if compact else (", ", ": ")
    parts = [json.dumps(each, separators=separators) for each in (request_id, method, params)]
    text = '{"id":%s,"method":%s,"params":%s}' % tuple(parts)  # noqa: UP031 - braces abound
    try:
        text.encode()
        message = codec.decode(text.encode())
    except codec.MalformedError:
        assert re.search("ud[89a-f]", text), "only a lone surrogate is no text"
        return
    assert codec.request_id(message) == parts[0].encode()
    assert message.method == method
    assert bytes(message.params or b"") == parts[2].encode()


@given(st.binary() | st.text().map(str.encode) | JSON_VALUES.map(msgspec.json.encode))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        message = codec.decode(data)
        codec.request_id(message)
    except codec.MalformedError:
        return
    assert message.kind in Kind


@pytest.mark.parametrize(
    ("head", "request_id"),
    [
        (b'{"id":5,"method":"a","params":{"x', b"5"),
        (b'{"jsonrpc":"2.0", "method" : "a", "id": "x", "params":', b'"x"'),
        (b' {"id":-5}', b"-5"),
        (b' {"jsonrpc":"2.0", "id" : "a\\"b" ,', b'"a\\"b"'),
        (b'{"method":"x","id":-1,"params":"aaa', b"-1"),
        (b'{"id":99999999999999999999999,"method"', b"null"),
        (b'{"id":1.5,"method"', b"null"),
        (b'{"params":{"id":5},"id":6', b"null"),
        (b'{"id":"a\\u0062","method"', b"null"),
        (b'{"id":"a\nb","method"', b"null"),
        (b'{"id":12', b"null"),
        (b"", b"null"),
    ],
)
def test_the_id_of_a_giant_is_read_from_its_head(head: bytes, request_id: bytes) -> None:
    assert codec.id_in_head(head) == request_id


def test_answers_are_built_around_the_id_as_it_came() -> None:
    assert codec.result(b'"x"', b'{"a":1}') == b'{"id":"x","result":{"a":1}}'
    assert codec.error(b"1", -1, "no") == b'{"error":{"code":-1,"message":"no"},"id":1}'
    assert codec.error(b"null", -1, 'a"b', {"c": 1}) == (
        b'{"error":{"code":-1,"message":"a\\"b","data":{"c":1}},"id":null}'
    )
    assert codec.with_version(b'{"id":1}') == b'{"jsonrpc":"2.0","id":1}'


def test_line_breaks_between_tokens_become_blanks() -> None:
    assert codec.one_line(b'{"a":1}') == b'{"a":1}'
    assert codec.one_line(b'{\r\n"a":\n"\\n"}') == b'{  "a": "\\n"}'


def depth_of(value: Any) -> int:
    """The oracle: levels of lists and objects."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


TREES = st.recursive(
    st.sampled_from(["", "[", "]]", '"', "\\", '\\"[', '"}', "x" * 200, 7, None]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["[", '"', "}\\"]), inner)
    ),
    max_leaves=30,
)


WRAPS: list[Callable[[Any], Any]] = [
    lambda tree: {"k": tree},
    lambda tree: [tree, [], "]"],
    lambda tree: [{}, {"}": tree}],
]


@given(TREES, st.lists(st.sampled_from(WRAPS), min_size=codec.MAX_DEPTH // 2 - 6, max_size=130))
def test_a_message_is_refused_for_its_depth_when_it_has_more_levels_than_allowed(
    tree: Any, wraps: list[Callable[[Any], Any]]
) -> None:
    for wrap in wraps:
        tree = wrap(tree)
    document = {"id": 1, "method": "m", "params": tree}
    data = json.dumps(document, ensure_ascii=False).encode()
    if depth_of(document) <= codec.MAX_DEPTH:
        assert codec.decode(data).method == "m"
    else:
        with pytest.raises(codec.MalformedError, match="nested deeper than 128 levels"):
            codec.decode(data)


def meant_as_an_answer(document: bytes) -> bool:
    try:
        codec.decode(document)
    except codec.MalformedError as error:
        return error.is_response
    return False


@given(st.binary(max_size=60))
def test_whatever_the_bytes_what_has_a_method_is_not_taken_for_an_answer(data: bytes) -> None:
    for document in (data, b'{"id":1,"method":"' + data + b'"}'):
        assert not meant_as_an_answer(document) or b'"method"' not in document


BAD_ANSWERS = [
    b'{"id":1,"result":1,"error":{}}',
    b'{"id":1,"result":"\xff"}',
    b'{"id":1,"result":1,"result":2}',
    b'{"id":1,"error":' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"jsonrpc":"1.0","id":1,"result":1}',
    b'{"result":1}',
    b'{"id":"\\"","result":[' + b"[]," * codec.MAX_OPENINGS + b"1]}",
]


@pytest.mark.parametrize("document", BAD_ANSWERS, ids=lambda each: each[:40])
def test_what_was_meant_as_an_answer_is_known_as_one(document: bytes) -> None:
    with pytest.raises(codec.MalformedError) as refused:
        codec.decode(document)
    assert refused.value.is_response


TOO_MUCH = [
    (b'{"id":7,"method":"m","params":[' + b"[]," * codec.MAX_OPENINGS + b"1]}", "arrays and"),
    (b'{"id":7,"method":"m","x":"' + b"x" * codec.MAX_UNKNOWN_BYTES + b'"}', "mean nothing"),
    (b'{"id":7,' + b" " * (codec.MAX_UNKNOWN_BYTES + 1) + b'"method":"m"}', "mean nothing"),
    (
        b'{"id":7,"method":"m"'
        + b"".join(b',"%d":[]' % each for each in range(codec.MAX_MEMBERS))
        + b"}",
        "members",
    ),
]


@pytest.mark.parametrize(("document", "why"), TOO_MUCH, ids=lambda each: each[:20])
def test_what_would_cost_more_than_its_bytes_is_refused_under_its_id(
    document: bytes, why: str
) -> None:
    with pytest.raises(codec.MalformedError, match=why) as refused:
        codec.decode(document)
    assert (refused.value.code, refused.value.id) == (INVALID, b"7")
    assert not refused.value.is_response


def test_as_much_as_may_be_is_taken() -> None:
    head = b'{"id":7,"method":"m","params":'
    brackets = (codec.MAX_OPENINGS - 2) * b"[],"
    assert codec.decode(head + b"[" + brackets + b"1]}").method == "m"
    members = b"".join(b',"%d":[]' % each for each in range(codec.MAX_MEMBERS - 3))
    assert codec.decode(head + b"1" + members + b"}").method == "m"
    quoted = b'"' + codec.MAX_OPENINGS * rb"{\"[]\\" + b'"'
    assert codec.decode(head + quoted + b"}").method == "m"
    unknown = b'"' + b"x" * (codec.MAX_UNKNOWN_BYTES - 40) + b'"'
    assert codec.decode(head + b'1,"x":' + unknown + b"}").method == "m"


def depth_in_text(document: str) -> tuple[int, int]:
    """The oracle for long documents, one character after the other: depth, and how many open."""
    level = deepest = opened = 0
    inside = escaped = False
    for char in document:
        if escaped:
            escaped = False
        elif inside:
            escaped, inside = char == "\\", char != '"'
        elif char == '"':
            inside = True
        elif char in "[{":
            level, opened = level + 1, opened + 1
            deepest = max(deepest, level)
        elif char in "]}":
            level -= 1
    return deepest, opened


@given(st.integers(0, 2**32), st.integers(1, 10), st.integers(2_000, 9_000))
def test_the_depth_of_long_documents_is_known_exactly(seed: int, bias: int, steps: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - to be repeated
    text, level = ["["], 1
    for _ in range(steps):
        kind = dice.random() * 12
        if kind < bias and level > 1:
            text.append("],1,")
            level -= 1
        elif kind < 10:
            text.append("[")
            level += 1
        else:
            text.append(dice.choice(['"[",', '"",', '"\\"]",', '"\\\\",', '"]{}[",']))
    document = "".join(text) + "1" + "]" * level
    deepest, opened = depth_in_text(document)
    assert not has_more(document.encode(), opened)
    assert has_more(document.encode(), opened - 1)
    assert not is_deeper(document.encode(), deepest)
    assert is_deeper(document.encode(), deepest - 1)
