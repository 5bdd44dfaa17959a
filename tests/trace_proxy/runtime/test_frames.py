"""Frames built by hand, read by aiohttp's own parser."""

import asyncio
from typing import Any

import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.runtime.frames import close_frame, message_of, pong_frame, text_frame

LENGTHS = [0, 1, 125, 126, 127, 2047, 2048, 65535, 65536, 70000]
"""Around every place where the header changes, ours (2048) included."""

_TEXTS = st.text().map(str.encode) | st.sampled_from(LENGTHS).map(lambda size: b"x" * size)
_FRAMES = st.lists(
    st.tuples(st.just(WSMsgType.TEXT), _TEXTS)
    | st.tuples(st.just(WSMsgType.PONG), st.binary(max_size=125)),
    max_size=6,
)


def parsed(*pieces: bytes) -> list[tuple[Any, ...]]:
    """What a client makes of these bytes: type, data, and the rest of a Close."""

    async def read() -> list[tuple[Any, ...]]:
        loop = asyncio.get_running_loop()
        queue = WebSocketDataQueue(BaseProtocol(loop), 2**30, loop=loop)
        reader = WebSocketReader(queue, max_msg_size=0, compress=False, decode_text=False)
        for piece in pieces:
            failed, _ = reader.feed_data(piece)
            assert not failed, queue.exception()
        queue.feed_data(END, 0)
        return [tuple(each)[:3] async for each in _all(queue)]

    return asyncio.run(read())


END: Any = (None, None, None)


async def _all(queue: WebSocketDataQueue) -> Any:
    while (message := await queue.read()) != END:
        yield message


@given(_FRAMES, st.integers(1, 5000))
def test_what_was_built_is_read_again_joined_and_in_any_pieces(
    frames: list[tuple[WSMsgType, bytes]], piece_bytes: int
) -> None:
    build = {WSMsgType.TEXT: text_frame, WSMsgType.PONG: pong_frame}
    data = b"".join(build[kind](payload) for kind, payload in frames)
    pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]
    assert [each[:2] for each in parsed(*pieces)] == frames


@pytest.mark.parametrize("size", LENGTHS)
def test_a_frame_gives_its_message_back(size: int) -> None:
    message = b"m" * size
    assert message_of(text_frame(message)) == message


@given(st.sampled_from([1000, 1001, 1008, 1011, 1012, 1013, 3000, 4999]), st.text())
def test_a_close_carries_its_code_and_as_much_of_the_reason_as_fits(
    code: int, reason: str
) -> None:
    ((kind, data, extra),) = parsed(close_frame(code, reason))
    assert (kind, data) == (WSMsgType.CLOSE, code)
    assert reason.startswith(extra)
    assert extra == reason or len(extra.encode()) > 123 - 4


def test_a_long_reason_is_cut_between_characters() -> None:
    ((_, _, extra),) = parsed(close_frame(1008, "ä" * 100))
    assert extra == "ä" * 61
