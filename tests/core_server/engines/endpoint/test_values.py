import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.engines.endpoint.values import (
    decoded,
    encodable,
    is_object,
    member,
    object_text,
    string,
    text_of,
    whole,
    without_last_half,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":1}', {"a": 1}),
        (b'"\\ud83d"', "\ud83d"),
        (b'"\xff"', "\ufffd"),
        (b'"a\x01b"', "a\x01b"),
        (b" [1] ", [1]),
        (b"1e400", float("inf")),
    ],
)
def test_more_is_read_than_the_standard_allows(data: bytes, value: object) -> None:
    assert decoded(data) == value


@pytest.mark.parametrize("data", [b"", b"{", b"{}{}", b"{} x", b"ping", b"[" * 100_000])
def test_what_is_no_json_is_told_so(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decoded(data)


@given(JSON)
def test_whatever_json_says_is_decoded(value: object) -> None:
    text = json.dumps(value)

    assert json.dumps(decoded(text.encode())) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (None, ""),
        ([], ""),
        (["a", None, {"text": "b"}, {"refusal": "c"}, 5], "abc"),
        ({"content": [{"output_text": "a"}]}, "a"),
        ({"text": None, "content": "a"}, "a"),
        ({"text": 5}, None),
        ([5], None),
        ({}, None),
        (5, None),
        (True, None),
        ([[[[[["deep"]]]]]], None),
    ],
)
def test_text_is_found_in_whatever_holds_it(value: object, text: str | None) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (4, 4),
        (4.0, 4),
        ("4", 4),
        (0, 0),
        (4.5, None),
        (True, None),
        (-1, None),
        (10**30, None),
        (float("nan"), None),
        (float("inf"), None),
        ("4.0", None),
        ("9" * 5_000, None),
        (None, None),
        ([4], None),
    ],
)
def test_a_count_is_a_count_in_any_dress(value: object, number: int | None) -> None:
    assert whole(value) == number


@given(JSON)
def test_reading_never_raises_and_gives_what_can_be_encoded(value: object) -> None:
    text_of(value)
    whole(value)
    member(value, "a")
    msgspec.json.encode([string(value), object_text(value)])


@given(st.lists(st.text(st.characters(codec=None, exclude_categories=()), max_size=4)))
def test_text_in_pieces_is_the_text(pieces: list[str]) -> None:
    half, out = "", []
    for piece in pieces:
        text, half = without_last_half(half + piece)
        out.append(encodable(text))

    assert "".join([*out, encodable(half)]) == encodable("".join(pieces))


def test_halves_are_joined_and_lone_ones_replaced() -> None:
    assert encodable("\ud83d\ude80 \ud83d \ude80") == "\U0001f680 \ufffd \ufffd"
    assert without_last_half("a\ud83d") == ("a", "\ud83d")
    assert without_last_half("a\ude80") == ("a\ude80", "")
    assert object_text({"a": "\ud83d"}) == '{"a":"\ufffd"}'


def test_arguments_are_an_object_or_none() -> None:
    assert is_object('{"a": 1}')
    assert not is_object("[1]")
    assert not is_object('{"a"')
    assert object_text([1]) == ""
