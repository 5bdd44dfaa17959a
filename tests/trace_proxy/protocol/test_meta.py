"""`params._meta`: a context goes in and out, and nothing else is touched."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.json_values import JSON_VALUES
from trace_proxy.protocol.meta import meta_of, with_context

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

OBJECTS = st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4)


def pairs(text: bytes) -> Any:
    """JSON_VALUES with the order of its members, and numbers as they are written."""
    return json.loads(text, object_pairs_hook=list, parse_float=str, parse_int=str)


def change(value: object, state: str = "") -> bytes:
    return with_context(json.dumps(value).encode(), PARENT, state)


@given(OBJECTS, OBJECTS, OBJECTS, st.sampled_from(["", "a=1"]))
def test_all_other_members_stay_and_keep_their_order(
    message: dict[str, Any], params: dict[str, Any], meta: dict[str, Any], state: str
) -> None:
    before = {**message, "params": {**params, "_meta": meta}}

    changed = json.loads(change(before, state))

    carried = {"traceparent": PARENT, **({"tracestate": state} if state else {})}
    rest = {name: each for name, each in meta.items() if name != "tracestate" or state}
    after = {**message, "params": {**params, "_meta": {**rest, **carried}}}
    assert changed == after
    assert list(changed) == list(after)
    assert list(changed["params"]) == list(after["params"])
    assert list(changed["params"]["_meta"]) == list(after["params"]["_meta"])


def test_bytes_that_are_not_ours_are_not_rewritten() -> None:
    line = rb'{"id":1e0 ,"params":{"big":12345678901234567890123,"e":"\u0041\/"},"method":"m"}'

    assert with_context(line, PARENT, "") == (
        rb'{"id":1e0,"params":{"big":12345678901234567890123,"e":"\u0041\/",'
        rb'"_meta":{"traceparent":"%b"}},"method":"m"}' % PARENT.encode()
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"method": "m"}, {"method": "m", "params": {"_meta": {"traceparent": PARENT}}}),
        ({"params": {"_meta": None}}, {"params": {"_meta": {"traceparent": PARENT}}}),
        (
            {"params": {"_meta": {"traceparent": "old", "tracestate": "old=1", "baggage": "b"}}},
            {"params": {"_meta": {"traceparent": PARENT, "baggage": "b"}}},
        ),
    ],
)
def test_a_context_is_put_where_there_is_room(before: object, after: object) -> None:
    assert pairs(change(before)) == pairs(json.dumps(after).encode())


@pytest.mark.parametrize("params", [None, [], [1], "x", 5, True, {"_meta": []}, {"_meta": 7}])
def test_where_params_or_meta_are_no_object_nothing_changes(params: object) -> None:
    line = json.dumps({"id": 1, "params": params}).encode()

    assert with_context(line, PARENT, "") == line


@pytest.mark.parametrize(
    ("params", "meta"),
    [
        (None, None),
        (b"{}", None),
        (b'{"_meta":{"a":1}}', b'{"a":1}'),
        (b'{"_meta":null}', b"null"),
        (b'{"deep":{"_meta":{}}}', None),
        (b'["_meta"]', None),
        (b'"_meta"', None),
    ],
)
def test_meta_is_read_from_params_only(params: bytes | None, meta: bytes | None) -> None:
    assert meta_of(params) == meta
