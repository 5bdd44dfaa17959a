"""Frames of one client: whatever the pieces, the same messages; and when it has to wait."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_server.jsonrpc.framing import Oversized
from tests.trace_proxy.runtime.clients.slow_peer import Peer
from trace_proxy.queues.client_queue import ClientQueueBounds, TotalOutbound
from trace_proxy.runtime.clients import frame_reader
from trace_proxy.runtime.clients.client import Client
from trace_proxy.runtime.clients.frame_reader import FrameReader
from trace_proxy.runtime.clients.frames import Parsed
from trace_proxy.settings.limits import KIB, Limits

MASK = b"\0\0\0\0"
PING = b"\x89\x80" + MASK


def said(text: bytes) -> bytes:
    """A client's text frame, of less than 64 KiB."""
    assert len(text) < 65_536
    size = len(text)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + MASK + text


class Socket(asyncio.Transport):
    """Remembers whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self._read = asyncio.Event()
        self._read.set()

    @property
    def read(self) -> bool:
        return self._read.is_set()

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        assert self.read, "paused twice"
        self._read.clear()

    def resume_reading(self) -> None:
        assert not self.read, "resumed twice"
        self._read.set()

    async def all_read(self) -> None:
        """Wait until nothing is left to handle."""
        async with asyncio.timeout(10):
            await self._read.wait()


class Heard(Peer):
    """Takes what the client says, and knows of the others."""

    def __init__(self, full: Callable[[], bool] = lambda: False, *, alone: bool = True) -> None:
        super().__init__(TotalOutbound(10**9).open(1, ClientQueueBounds()))
        self.is_alone = alone
        self.texts: list[bytes] = []
        self.pings = 0
        self.at_once: list[int] = []
        self.weighed: list[int] = []
        self.wait_s: list[float] = []
        self.held: list[int] = []
        self._full = full

    def handle(self, parsed: list[Parsed]) -> bool:
        texts = [message for message in parsed if type(message) is bytes]
        self.texts += texts
        self.pings += len(parsed) - len(texts)
        self.at_once.append(len(parsed))
        return self._full()

    def ended(self) -> None:
        raise AssertionError("ended")

    def messages(self, client: Client, texts: list[bytes]) -> bool:
        raise AssertionError((client, texts))

    def oversized(self, client: Client, line: Oversized) -> None:
        raise AssertionError((client, line))

    def alone(self, client: Client) -> bool:
        assert client is self
        return self.is_alone

    def weighs(self, client: Client, cost_bytes: int) -> float:
        assert client is self
        wait_s = self.wait_s.pop() if self.wait_s else 0.0
        if not wait_s:
            self.weighed.append(cost_bytes)
        return wait_s

    def holds(self, client: Client, size: int) -> None:
        assert client is self
        self.held.append(size)


def reading(socket: Socket, heard: Heard, limits: Limits | None = None) -> FrameReader:
    return FrameReader(socket, heard, heard, heard, limits or Limits())


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 125, 126, 1000, 40_000]), max_size=40),
    cuts=st.lists(st.floats(0, 1), max_size=5),
    fulls=st.lists(st.booleans(), max_size=20),
    alone=st.booleans(),
)
def test_whatever_the_pieces_and_the_pauses_the_messages_are_the_same(
    sizes: list[int], cuts: list[float], fulls: list[bool], *, alone: bool
) -> None:
    texts = [f"{number}:".encode().ljust(size, b"x") for number, size in enumerate(sizes)]
    stream = b"".join(map(said, texts))
    ends = [*sorted(int(cut * len(stream)) for cut in cuts), len(stream)]

    async def read() -> Heard:
        heard = Heard(lambda: bool(fulls) and fulls.pop(), alone=alone)
        socket, begin = Socket(), 0
        reader = reading(socket, heard)
        for end in ends:
            reader.feed_data(stream[begin:end])
            begin = end
        await socket.all_read()
        return heard

    assert asyncio.run(read()).texts == texts


async def test_what_came_together_is_handled_a_few_at_a_time() -> None:
    socket, heard = Socket(), Heard()
    reading(socket, heard).feed_data(said(b"x" * 100) * 1000)
    await socket.all_read()
    assert len(heard.texts) == 1000
    assert max(heard.at_once) <= 8


async def test_what_is_not_small_is_seen_wherever_in_the_stream_it_begins() -> None:
    socket, heard = Socket(), Heard()
    reader = reading(socket, heard)
    reader.feed_data((said(b"x" * 65_000) + said(b"x" * 1_000) * 40) * 20)
    await socket.all_read()
    assert len(heard.texts) == 20 * 41
    assert heard.weighed == [65_000] * 20


async def test_a_large_message_waits_and_what_stands_before_it_does_not() -> None:
    socket, heard = Socket(), Heard()
    heard.wait_s = [0.01, 0.01]
    reading(socket, heard).feed_data(said(b"before") + said(b"x" * 40_000) + said(b"behind"))
    assert heard.texts == [b"before"]
    assert heard.paced
    assert not socket.read
    await socket.all_read()
    assert heard.texts == [b"before", b"x" * 40_000, b"behind"]
    assert not heard.paced


async def test_what_is_held_of_a_client_is_told_in_steps_and_its_end_too() -> None:
    socket, heard = Socket(), Heard()
    reader = reading(socket, heard)
    frame = b"\x81\xff" + (300_000).to_bytes(8, "big") + MASK + b"x" * 300_000
    for at in range(0, len(frame), 30_000):
        reader.feed_data(frame[at : at + 30_000])
    assert heard.held[-1] == 0
    assert max(heard.held) == 4 * 64 * KIB
    assert heard.texts == [b"x" * 300_000]
    assert reader.unfinished_since_s is None


async def test_since_when_a_message_is_unfinished_is_known() -> None:
    reader = reading(Socket(), Heard())
    reader.feed_data(said(b"x" * 100)[:-1])
    since_s = reader.unfinished_since_s
    assert since_s is not None
    reader.feed_data(b"x" + said(b"y")[:1])
    assert reader.unfinished_since_s == since_s, "there was no moment without one"
    reader.feed_data(said(b"y")[1:])
    assert reader.unfinished_since_s is None


async def test_a_busy_client_pauses_while_others_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_reader, "FAIR_SHARE_S", 0.0)
    monkeypatch.setattr(frame_reader, "ALONE_SHARE_S", 0.0)
    monkeypatch.setattr(frame_reader, "PAUSE_S", 3600)
    socket, heard = Socket(), Heard(alone=False)
    reading(socket, heard).feed_data(said(b"x") * 1000)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not socket.read
    assert heard.at_once == [8] * frame_reader.SHARES_IN_A_ROW


async def test_a_busy_client_that_is_alone_does_not_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_reader, "FAIR_SHARE_S", 0.0)
    monkeypatch.setattr(frame_reader, "ALONE_SHARE_S", 0.0)
    monkeypatch.setattr(frame_reader, "PAUSE_S", 3600)
    socket, heard = Socket(), Heard()
    reading(socket, heard).feed_data(said(b"x") * 1000)
    await socket.all_read()
    assert len(heard.texts) == 1000


async def test_pings_and_nothing_else_have_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_reader, "PAUSE_S", 3600)
    socket, heard = Socket(), Heard()
    reading(socket, heard).feed_data(PING * 1000)
    assert not socket.read
    assert heard.pings == 8


async def test_a_ping_between_messages_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_reader, "PAUSE_S", 3600)
    socket, heard = Socket(), Heard()
    reading(socket, heard).feed_data((said(b"x") + PING) * 100)
    await socket.all_read()
    assert heard.pings == 100


async def test_some_kib_of_brackets_wait_as_a_large_message_does() -> None:
    socket, heard = Socket(), Heard()
    reader = reading(socket, heard)
    text, brackets = b"x" * 8 * KIB, b"[]," * 2700
    reader.feed_data(said(text) * 10)
    await socket.all_read()
    assert heard.weighed == [len(text)] * 10
    heard.weighed.clear()
    heard.wait_s = [0.01, 0.01]
    reader.feed_data(said(text) + said(brackets) + said(text))
    await socket.all_read()
    assert heard.texts == [text] * 11 + [brackets, text]
    assert heard.wait_s == [], "it waited twice"
    assert heard.weighed[0] == heard.weighed[2] == len(text)
    assert heard.weighed[1] > 40 * KIB


NOTHINGS = {
    "fragments": (b"\x01\x80" + MASK, b"\x00\x80" + MASK),
    "texts": (b"", b"\x81\x80" + MASK),
    "pongs": (b"", b"\x8a\x80" + MASK),
}


@pytest.mark.parametrize("kind", NOTHINGS)
async def test_frames_of_nothing_are_taken_a_little_at_a_time(kind: str) -> None:
    first, frame = NOTHINGS[kind]
    socket, heard = Socket(), Heard(alone=False)
    reader = reading(socket, heard)
    reader.feed_data(first + frame * 5_000)
    assert not socket.read
    turns = 0
    async with asyncio.TaskGroup() as tasks:
        all_read = tasks.create_task(socket.all_read())
        while not all_read.done():
            await asyncio.sleep(0)
            turns += 1
    assert turns > 20
