import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.engines.endpoint.words import said_in, said_in_body


@pytest.mark.parametrize(
    ("body", "words", "code"),
    [
        (b'{"error": {"message": "no", "type": "t", "code": "c"}}', "no", "c"),
        (b'{"error": {"message": "no", "type": "t", "code": null}}', "no", "t"),
        (b'{"error": {"message": "no", "code": 502}}', "no", "502"),
        (b'{"error": "no"}', "no", ""),
        (b'{"error": {"error": {"message": "no"}}}', "no", ""),
        (b'{"object": "error", "message": "no", "type": "NotFound", "code": 404}', "no", "404"),
        (b'{"detail": "no"}', "no", ""),
        (b'{"detail": [{"loc": ["body"], "msg": "no"}, {"msg": "way"}]}', "no; way", ""),
        (b'{"errors": [{"message": "no"}]}', "no", ""),
        (b'[{"error": {"code": 400, "message": "no"}}]', "no", "400"),
        (b'{"error": "invalid_grant", "error_description": "no"}', "no", ""),
        (b'{"title": "Bad", "status": 400}', "Bad", ""),
        (b'"no"', "no", ""),
        (b'{"error": "{\\"error\\": {\\"message\\": \\"no\\"}}"}', "no", ""),
        (b'{"odd": 1}', '{"odd": 1}', ""),
        (b"{}", "", ""),
        (b"null", "", ""),
        (b"", "", ""),
        (b"plain words\n", "plain words", ""),
        (b"\x1b[31mred\x00\xff", "[31mred \ufffd", ""),
        (
            b"<html><title>502 Bad\nGateway</title><body><h1>Oh</h1></body>",
            "502 Bad Gateway: Oh",
            "",
        ),
        (b"<h1>502 &amp; <b>more</b></h1>", "502 & more", ""),
        (b"<p>only <i>text</i></p><script>x()</script>", "only text", ""),
        (b"<title></title>", "", ""),
    ],
)
def test_the_words_of_an_error_are_found(body: bytes, words: str, code: str) -> None:
    said = said_in_body(body)

    assert (said.words, said.code) == (words, code)


def test_a_page_of_any_length_is_read_at_once() -> None:
    """Each of these took ten seconds and more by regular expressions."""
    for piece in (b"<", b"<!--", b"<script", b"<title", b"<title>", b"{", b'{"error":'):
        assert len(said_in_body(piece * (60_000 // len(piece))).words) <= 60_000


NAMES = st.sampled_from(["error", "message", "code", "type", "detail"])


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_error_can_be_told(value: object) -> None:
    said = said_in(value)

    assert (said.words + said.code).encode("utf-8").decode("utf-8") == said.words + said.code
