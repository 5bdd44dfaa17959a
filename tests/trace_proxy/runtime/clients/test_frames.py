from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.runtime.clients.frames import (
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
