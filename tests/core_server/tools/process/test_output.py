from hypothesis import given
from hypothesis import strategies as st

from core_server.tools.base import Output
from core_server.tools.process.output import MAX_WAITING_BYTES, MAX_WAITING_PIECES, OutputQueue


def drain(queue: OutputQueue) -> list[Output]:
    pieces = []
    while (piece := queue.pop()) is not None:
        pieces.append(piece)
    return pieces


def test_the_piece_that_reaches_the_cap_is_cut_and_says_so() -> None:
    queue = OutputQueue(cap_bytes=5)
    queue.put("stdout", b"abc")
    queue.put("stderr", b"defg")
    queue.put("stdout", b"dropped")
    assert repr(queue) == "<OutputQueue truncated pieces=2 bytes=5>"
    assert drain(queue) == [
        Output("stdout", b"abc"),
        Output("stderr", b"de", cap_reached=True),
    ]


def test_output_of_just_the_cap_is_whole() -> None:
    queue = OutputQueue(cap_bytes=3)
    queue.put("stdout", b"abc")
    assert (drain(queue), queue.truncated) == ([Output("stdout", b"abc")], False)
    queue.put("stdout", b"d")
    assert drain(queue) == [Output("stdout", b"", cap_reached=True)]


def test_a_queue_full_of_bytes_wants_no_more_until_it_is_read() -> None:
    queue = OutputQueue(cap_bytes=None)
    queue.put("stdout", b"x" * MAX_WAITING_BYTES)
    full = queue.wants_more
    queue.pop()
    assert (full, queue.wants_more) == (False, True)


def test_a_queue_full_of_pieces_wants_no_more_until_it_is_cleared() -> None:
    queue = OutputQueue(cap_bytes=None)
    for _ in range(MAX_WAITING_PIECES):
        queue.put("stdout", b"x")
    full = queue.wants_more
    queue.clear()
    assert (full, queue.wants_more) == (False, True)


def test_over_the_cap_more_is_wanted_because_it_is_dropped() -> None:
    queue = OutputQueue(cap_bytes=MAX_WAITING_BYTES)
    queue.put("stdout", b"x" * (MAX_WAITING_BYTES + 1))
    assert queue.wants_more


def test_a_notice_is_not_counted() -> None:
    queue = OutputQueue(cap_bytes=0)
    queue.put_notice("killed")
    assert drain(queue) == [Output("stderr", b"killed")]


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=9))),
    st.integers(0, 60),
)
def test_what_is_kept_is_the_beginning_of_what_was_written(
    pieces: list[tuple[str, bytes]], cap_bytes: int
) -> None:
    queue = OutputQueue(cap_bytes)
    for stream, data in pieces:
        queue.put("stdout" if stream == "stdout" else "stderr", data)
    written = b"".join(data for _, data in pieces)

    kept = drain(queue)

    assert b"".join(output.data for output in kept) == written[:cap_bytes]
    assert queue.truncated == (len(written) > cap_bytes)
    assert [output.cap_reached for output in kept].count(True) == queue.truncated
