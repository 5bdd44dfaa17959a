"""A byte stream into lines, whatever the chunks."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from core_server.jsonrpc.framing import HEAD_BYTES, LineSplitter, Oversized

BOUND = 16


def split(chunks: list[bytes], bound: int = BOUND) -> list[bytes | Oversized]:
    splitter = LineSplitter(bound)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines + splitter.close()


def expected(line: bytes, bound: int = BOUND) -> bytes | Oversized:
    return line if len(line) <= bound else Oversized(len(line), line[:HEAD_BYTES])


@st.composite
def chunked(draw: st.DrawFn) -> tuple[list[bytes], list[bytes], bool]:
    """Lines short and long, whether the last one is ended, and their bytes cut anywhere."""
    line = st.binary(max_size=2 * BOUND).map(lambda each: each.replace(b"\n", b"-"))
    lines = draw(st.lists(line, max_size=8))
    ended = draw(st.booleans())
    stream = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    return lines, [stream[a:b] for a, b in pairwise(edges)], ended


@given(chunked())
def test_any_chunking_yields_the_same_lines(case: tuple[list[bytes], list[bytes], bool]) -> None:
    lines, chunks, ended = case
    if not ended and lines and not lines[-1]:
        lines = lines[:-1]  # nothing behind the last newline is no line
    assert split(chunks) == [expected(line) for line in lines]


@given(chunked())
def test_memory_stays_below_the_bound_and_a_chunk(
    case: tuple[list[bytes], list[bytes], bool],
) -> None:
    splitter = LineSplitter(BOUND)
    for chunk in case[1]:
        splitter.feed(chunk)
        kept = sum(map(len, splitter._parts)) + len(splitter._head)  # noqa: SLF001 - what it keeps
        assert kept <= BOUND + max(len(chunk), BOUND)


def test_a_giant_in_any_position_leaves_its_neighbours_whole() -> None:
    giant = b"g" * (3 * HEAD_BYTES)
    mark = Oversized(len(giant), giant[:HEAD_BYTES])
    for position in range(4):
        lines = [b"a", b"", b"c"]
        lines.insert(position, giant)
        whole = [mark if line is giant else line for line in lines]
        stream = b"\n".join(lines) + b"\n"
        assert split([stream]) == whole
        assert split([stream[i : i + 1] for i in range(len(stream))]) == whole


def test_a_line_as_long_as_the_bound_is_kept() -> None:
    assert split([b"x" * BOUND + b"\n" + b"y" * (BOUND + 1) + b"\n"]) == [
        b"x" * BOUND,
        Oversized(BOUND + 1, b"y" * (BOUND + 1)),
    ]


def test_carriage_returns_stay_where_they_are() -> None:
    assert split([b"a\r\nb\r", b"\n"]) == [b"a\r", b"b\r"]


def test_an_unfinished_line_is_seen_in_its_repr_and_given_at_the_end() -> None:
    splitter = LineSplitter(BOUND)
    assert splitter.feed(b"abc") == []
    assert repr(splitter) == "<LineSplitter 3 bytes of an unfinished line>"
    assert splitter.close() == [b"abc"]
    assert splitter.close() == []


def test_an_unfinished_line_is_known_to_be_too_long_before_it_ends() -> None:
    splitter = LineSplitter(BOUND)
    for _ in range(3):
        assert splitter.feed(b"x" * BOUND) == []
    assert splitter.unfinished_bytes == 3 * BOUND
    splitter.feed(b"\nyz")
    assert splitter.unfinished_bytes == 2
