"""What a message costs depends on its bytes and not on its shape.

Measured in CPU time of this thread against a plain text of the same size in the same
moment, the least of several runs: so a busy machine slows down both. The decoder alone
takes twelve times a text's for brackets; a loop of Python over them would take 300 times.
"""

import contextlib
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_server.jsonrpc import codec
from tests.load.shapes import SHAPES, shaped
from trace_proxy.protocol import envelope
from trace_proxy.relay.per_connection.pairs import seen

SIZE = 512 * 1024
MOST = 100
"""Times a plain text, which takes 0.2 to 0.4 ms a MiB where nobody else works. The worst
that was drawn cost some 50 times as much, and 500 where a shape cost more than its bytes."""

RUNS, TRIES = 3, 5

READERS: list[Callable[[bytes], object]] = [codec.decode, envelope.decode_core, seen]
PLAIN = shaped("text", SIZE).encode()


def cost_s(read: Callable[[bytes], object], data: bytes) -> float:
    """CPU time of reading a message, whether it is accepted or not."""
    least = float("inf")
    for _ in range(RUNS):
        began_s = time.thread_time()
        with contextlib.suppress(codec.MalformedError, envelope.GarbageError):
            read(data)
        least = min(least, time.thread_time() - began_s)
    return least


def times_a_text(read: Callable[[bytes], object], data: bytes) -> float:
    """The cost in plain texts of that size; once more where it may have been disturbed."""
    found = float("inf")
    for _ in range(TRIES):
        found = min(found, cost_s(read, data) / cost_s(read, PLAIN[: len(data) - 3] + PLAIN[-3:]))
        if found <= MOST:
            break
    return found


@pytest.fixture(scope="module", autouse=True)
def _ready() -> None:
    """Tables that are made once a process."""
    codec.decode(shaped("deep", 10_000).encode())


@pytest.mark.parametrize("read", READERS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_costs_what_its_bytes_do(name: str, read: Callable[[bytes], object]) -> None:
    assert times_a_text(read, shaped(name, SIZE).encode()) <= MOST


ATOMS = st.sampled_from(
    ["1", "-1.5e-7", "null", '""', '"["', '"\\""', '"\\\\"', '"]{\\u00e4"', "{}", "[]", '"\u00e4"']
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(lambda each: "[" + ",".join(each) + "]"),
        st.tuples(st.sampled_from(['"a"', '"\\""', '"["', '""']), inner).map(
            lambda each: "{" + each[0] + " : " + each[1] + "}"
        ),
        st.tuples(st.integers(1, 60), inner).map(lambda e: "[" * e[0] + e[1] + "]" * e[0]),
    ),
    max_leaves=8,
)
PLACES = st.sampled_from(
    [
        '{"id":1,"method":"m","params":[%s]}',
        '{"id":1,"method":"m","x":[%s]}',
        '{"method":"m","params":[%s],"id":1}',
        '{"id":1,"method":"m","params":[%s],"params":1}',
        '{"id":1,"result":[%s]}',
        '{"id":1, "error":[%s], "result":1}',
        '{"id":[%s],"method":"m"}',
        "[%s]",
    ]
)


@settings(max_examples=60)
@given(VALUES, PLACES, st.sampled_from([",", " , ", ",\n\t"]), st.sampled_from(READERS))
def test_any_shape_costs_what_its_bytes_do(
    value: str, place: str, comma: str, read: Callable[[bytes], object]
) -> None:
    piece = value + comma
    document = place % (piece * (SIZE // len(piece.encode())) + "1")
    assert times_a_text(read, document.encode()) <= MOST
