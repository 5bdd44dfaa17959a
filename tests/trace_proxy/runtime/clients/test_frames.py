from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.jsonrpc.framing import HEAD_BYTES, Oversized
from trace_proxy.runtime.clients.frames import (
    Close,
    FrameParser,
    Parsed,
    Ping,
    Pong,
    Violation,
    close_frame,
    message_of,
    pong_frame,
    text_frame,
    text_frames,
)


@given(st.binary(max_size=300) | st.integers(0, 70_000).map(bytes))
def test_a_text_frame_holds_its_message_whatever_its_size(message: bytes) -> None:
    frame = text_frame(message)
    assert frame[0] == 0x81
    assert message_of(frame) == message


def test_a_close_frame_is_its_code_and_its_reason() -> None:
    assert close_frame(1012, "restart") == b"\x88\x09\x03\xf4restart"


@given(st.text(max_size=200))
def test_the_reason_of_a_close_fits_a_control_frame_and_stays_text(reason: str) -> None:
    frame = close_frame(1008, reason)
    assert frame[1] == len(frame) - 2 <= 125
    assert reason.startswith(frame[4:].decode())


@given(st.binary(max_size=125))
def test_a_pong_returns_the_payload(payload: bytes) -> None:
    assert pong_frame(payload) == bytes((0x8A, len(payload))) + payload


@given(st.lists(st.integers(0, 70_000).map(bytes), max_size=5))
def test_frames_made_together_are_those_made_one_by_one(messages: list[bytes]) -> None:
    assert text_frames(messages) == list(map(text_frame, messages))


# ---- what a client says

MASK = bytes.fromhex("37fa213d")


def frame(first: int, payload: bytes, mask: bytes = MASK) -> bytes:
    """A client's frame, built from RFC 6455 section 5.2 alone."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    return head + mask + masked


def parsed(data: bytes, ends: list[int] | None = None, limit: int = 1000) -> list[Parsed]:
    """What comes of these bytes, fed in pieces that end there."""
    parser, begin, found = FrameParser(limit, 4 * limit), 0, list[Parsed]()
    for end in [*(ends or ()), len(data)]:
        found += parser.feed(data[begin:end])
        begin = end
        assert parser.unfinished_bytes <= limit + 200, "no more is held than one message"
    return found


TEXTS = st.text(max_size=300).map(str.encode)
MASKS = st.binary(min_size=4, max_size=4)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[Parsed]]:
    """Messages in any fragments, with control frames between them, and what they are."""
    stream, expected = b"", list[Parsed]()
    for text in draw(st.lists(TEXTS, max_size=6)):
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for number, piece in enumerate(pieces):
            first = (0x1 if number == 0 else 0x0) | (0x80 if number == len(pieces) - 1 else 0)
            stream += frame(first, piece, draw(MASKS))
            payload = draw(st.none() | st.binary(max_size=125))
            if payload is not None:
                pings = draw(st.booleans())
                stream += frame(0x89 if pings else 0x8A, payload, draw(MASKS))
                if number < len(pieces) - 1:
                    expected.append(Ping(payload) if pings else Pong(payload))
                    continue
                expected += [text, Ping(payload) if pings else Pong(payload)]
            elif number == len(pieces) - 1:
                expected.append(text)
    return stream, expected


@given(conversations(), st.lists(st.floats(0, 1), max_size=8))
def test_whatever_the_fragments_the_masks_and_the_pieces_the_messages_are_the_same(
    conversation: tuple[bytes, list[Parsed]], cuts: list[float]
) -> None:
    stream, expected = conversation
    assert parsed(stream, sorted(int(cut * len(stream)) for cut in cuts)) == expected


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_any_bytes_are_taken_and_the_pieces_make_no_difference(
    data: bytes, cuts: list[int]
) -> None:
    assert parsed(data, sorted(min(cut, len(data)) for cut in cuts)) == parsed(data)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x01x", 1002),  # not masked
        (b"\x89\x00", 1002),
        *((frame(bits | 0x81, b"x"), 1002) for bits in (0x40, 0x20, 0x10, 0x70)),
        (frame(0xC9, b""), 1002),
        *((frame(0x80 | opcode, b""), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        (frame(0x09, b""), 1002),  # a fragmented ping
        (frame(0x89, b"x" * 126), 1002),
        (frame(0x80, b"x"), 1002),  # continues nothing
        (frame(0x00, b"x"), 1002),
        (frame(0x01, b"x") + frame(0x81, b"y"), 1002),
        (frame(0x01, b"x") + frame(0x01, b"y"), 1002),
        (b"\x81\xff\xff" + bytes(7) + MASK, 1002),  # a length of more than 63 bits
        (frame(0x82, b"x"), 1003),
        (frame(0x81, b"\xff"), 1007),
        (frame(0x01, b"\xe2\x82") + frame(0x80, b"x"), 1007),
        (frame(0x81, b"\xed\xa0\x80"), 1007),  # a surrogate
        (b"\x81\xff" + (4001).to_bytes(8, "big") + MASK, 1009),
        (frame(0x01, b"x" * 3000) + frame(0x80, b"x" * 3000), 1009),
        (frame(0x88, b"x"), 1002),
        *(
            (frame(0x88, code.to_bytes(2, "big")), 1002)
            for code in (0, 999, 1004, 1005, 1006, 1015)
        ),
        (frame(0x88, b"\x03\xe8\xff"), 1007),
    ],
)
def test_what_breaks_the_protocol_is_the_end(data: bytes, code: int) -> None:
    violation = parsed(data + frame(0x81, b"behind"))[-1]
    assert isinstance(violation, Violation)
    assert violation.code == code


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999])
def test_a_close_is_the_last_that_is_heard(code: int) -> None:
    data = frame(0x88, code.to_bytes(2, "big") + b"bye") + frame(0x81, b"behind")
    assert parsed(data) == [Close(code)]
    assert parsed(frame(0x88, b"")) == [Close(0)]


def test_fragments_that_are_utf8_only_together_are_text() -> None:
    euro = "€".encode()
    assert parsed(frame(0x01, euro[:1]) + frame(0x00, b"") + frame(0x80, euro[1:])) == [euro]


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_message_over_the_limit_is_told_of_by_its_head_and_the_next_one_is_heard(
    pieces: int,
) -> None:
    limit = 2 * HEAD_BYTES
    text = bytes(range(32, 127)) * 100
    cuts = [len(text) * number // pieces for number in range(pieces + 1)]
    stream = b"".join(
        frame((0x1 if number == 0 else 0) | (0x80 if number == pieces - 1 else 0), text[a:b])
        for number, (a, b) in enumerate(pairwise(cuts))
    )
    for step in (1, 1000, len(stream)):
        found = parsed(
            stream + frame(0x81, b"behind"), list(range(step, len(stream), step)), limit
        )
        assert found == [Oversized(len(text), text[:HEAD_BYTES]), b"behind"]
