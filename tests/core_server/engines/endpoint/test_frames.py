import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.engines.endpoint import frames
from core_server.engines.endpoint.frames import Frame, FrameReader, FrameTooLongError


def read(*chunks: bytes) -> list[Frame]:
    reader = FrameReader()
    return [frame for chunk in chunks for frame in reader.feed(chunk)] + reader.end()


def test_an_event_has_a_name_and_data() -> None:
    assert read(b"event: a\ndata: 1\n\ndata:2\ndata: 3\n\n") == [
        Frame("a", (b"1",)),
        Frame("", (b"2", b"3")),
    ]


@pytest.mark.parametrize(
    "stream",
    [
        b"retry: 5\n\ndata: 1\n\n",
        b"event: ping\n\ndata: 1\n\n",
        b"data:\n\ndata: 1\n\n",
        b"data\n\ndata: 1\n\n",
        b": hello\n\n:\n\ndata: 1\n\n",
        b"id: 7\n\ndata: 1\n\n",
        b"\xef\xbb\xbfdata: 1\n\n",
        b"data: 1\r\n\r\n",
        b"data: 1\r\r",
        b"data: 1\r\n\n",
        b"data: 1\n",
        b"data: 1",
        b"odd: x\ndata: 1\n\n\n\n",
    ],
)
def test_what_is_no_data_is_passed_over(stream: bytes) -> None:
    assert read(stream) == [Frame("", (b"1",))]
    assert read(*[stream[i : i + 1] for i in range(len(stream))]) == [Frame("", (b"1",))]


@given(
    st.lists(st.sampled_from([b"data: x", b"event: y", b"\n", b"\r", b"\r\n", b":", b" ", b"z"])),
    st.lists(st.integers(0, 60)),
)
def test_any_chunking_gives_the_same(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    found = read(*[stream[a:b] for a, b in itertools.pairwise(edges)])

    assert found == read(stream)
    lines = re.split(rb"\r\n|\r|\n", stream)
    values = [line.partition(b":")[2].removeprefix(b" ") for line in lines if line[:5] == b"data:"]
    assert [value for frame in found for value in frame.data if value] == [v for v in values if v]


def test_a_frame_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 20)
    assert read(b"data: 12345678\n\n" * 9) == [Frame("", (b"12345678",))] * 9
    for chunk in (b"data: x", b"data: xx\n", b"x"):
        with pytest.raises(FrameTooLongError):
            read(*[chunk] * 30)
