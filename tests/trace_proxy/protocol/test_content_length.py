"""The base protocol of LSP: whatever the chunks, the same messages."""

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core_server.jsonrpc.framing import HEAD_BYTES, Oversized
from trace_proxy.protocol.content_length import (
    MAX_HEADER_BYTES,
    ContentLengthSplitter,
    begins_with_header,
    begins_with_json,
    framed,
)

MOST = 10_000

MESSAGES = st.lists(st.binary(min_size=1, max_size=40), max_size=5)
HEADERS = st.sampled_from(
    [
        b"Content-Length: %d\r\n\r\n",
        b"content-length:%d\r\n\r\n",
        b"CONTENT-LENGTH: \t%d \n\n",
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: %d\r\n\r\n",
        b"Content-Length: %d\r\nContent-Type: x\r\nX-Other: y: z\r\n\r\n",
    ]
)


def feed(chunks: Iterable[bytes], most: int = MOST) -> tuple[list[bytes | Oversized], list[int]]:
    splitter = ContentLengthSplitter(most)
    messages = [each for chunk in chunks for each in splitter.feed(chunk)]
    return messages, splitter.skipped


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[a:b] for a, b in pairwise(ends)]


@given(MESSAGES, HEADERS, st.lists(st.integers(0, 10_000), max_size=12))
def test_any_chunking_yields_the_same_messages(
    messages: list[bytes], header: bytes, places: list[int]
) -> None:
    stream = b"".join(header % len(each) + each for each in messages)

    assert feed(cut(stream, places)) == (messages, [])


@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=8))
@example(b"Content-Length: 99999999999999999999\r\n\r\n", [3])
@example(b"Content-Length: -1\r\n\r\nContent-Length: 1\r\n\r\n{", [])
def test_no_bytes_at_all_break_it_and_chunking_changes_nothing(
    stream: bytes, places: list[int]
) -> None:
    assert feed(cut(stream, places)) == feed([stream])


@given(MESSAGES)
def test_what_is_framed_comes_out_again(messages: list[bytes]) -> None:
    assert feed([b"".join(map(framed, messages))]) == (messages, [])


def test_what_a_server_prints_between_its_messages_is_skipped_and_counted() -> None:
    stream = b"Starting up...\n" + framed(b"{1}") + b"oops\r\nand more\r\n" + framed(b"{2}")

    assert feed([stream]) == ([b"{1}", b"{2}"], [14, 4, 8])


@pytest.mark.parametrize("length", [b"x", b"-5", b"", b"1e3", b"\xb2", b"9" * 16])
def test_a_length_that_is_none_is_as_if_there_were_no_header(length: bytes) -> None:
    stream = b"Content-Length: %b\r\n\r\n" % length + framed(b"{}")

    assert feed([stream])[0] == [b"{}"]


def test_headers_without_a_length_and_empty_messages_are_nothing() -> None:
    stream = b"Content-Type: x\r\n\r\n\r\n\r\nContent-Length: 0\r\n\r\n" + framed(b"[]")

    assert feed([stream]) == ([b"[]"], [0])


def test_a_line_without_end_is_not_kept() -> None:
    splitter = ContentLengthSplitter(MOST)
    for _ in range(1000):
        assert splitter.feed(b"x" * 1000) == []
        assert len(splitter._header) <= MAX_HEADER_BYTES  # noqa: SLF001 - its memory is the point
    assert sum(splitter.skipped) + len(splitter._header) == 1_000_000  # noqa: SLF001


def test_a_message_over_the_limit_leaves_its_size_and_its_head() -> None:
    body = json.dumps({"id": 7, "x": "y" * 20_000}).encode()
    chunks = cut(framed(body) + framed(b"{}"), list(range(0, 20_000, 999)))

    assert feed(chunks) == ([Oversized(len(body), body[:HEAD_BYTES]), b"{}"], [])


@pytest.mark.parametrize(
    ("data", "header", "message"),
    [
        (b"Content-Length: 5\r\n", True, False),
        (b"content-type: a\r\n", True, False),
        (b'{"jsonrpc":"2.0"', False, True),
        (b"[1,2]", False, True),
        (b"Content-Leng", False, False),
        (b"Contents are:", False, False),
        (b"", False, False),
    ],
)
def test_framings_are_told_apart_by_their_first_bytes(
    data: bytes, *, header: bool, message: bool
) -> None:
    assert (begins_with_header(data), begins_with_json(data)) == (header, message)


def test_a_message_says_before_it_comes_that_it_is_too_long() -> None:
    splitter = ContentLengthSplitter(1000)
    assert splitter.feed(b"Content-Length: 1000000\r\n\r\n{") == []
    assert splitter.unfinished_bytes == 1_000_000
