"""The queue to a client: whole frames in order, bounded, patient with a slow reader."""

import json
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trace_proxy.queues.client_queue import ClientQueue, ClientQueueBounds, TotalOutbound, Verdict

ALL = 10**9


def box(bounds: ClientQueueBounds | None = None) -> ClientQueue:
    return TotalOutbound(ALL).open(1, bounds or ClientQueueBounds())


def text_delta(text: str, item: str = "i") -> bytes:
    params = {"threadId": "t", "itemId": item, "delta": text}
    return json.dumps({"method": "item/agentMessage/delta", "params": params}).encode() + b"\n"


def unwrap(frame: bytes) -> bytes:
    return frame[:-1]


def wrap(message: bytes) -> bytes:
    return message + b"\n"


def test_frames_come_out_as_they_went_in() -> None:
    queue = box()
    frames = [b"one", b"two", b"three"]
    for frame in frames:
        queue.append(frame)
    assert (len(queue), queue.size_bytes) == (3, 11)

    taken = queue.take(ALL)
    assert [id(frame) for frame in taken] == [id(frame) for frame in frames]
    assert (len(queue), queue.size_bytes) == (0, 0)
    assert queue.take(ALL) == []


def test_a_take_is_bounded_in_bytes_but_gives_at_least_one_frame() -> None:
    queue = box()
    for frame in (b"a" * 10, b"b" * 10, b"c" * 10):
        queue.append(frame)

    assert queue.take(1) == [b"a" * 10]
    assert queue.take(19) == [b"b" * 10]
    assert queue.take(19) == [b"c" * 10]


def test_pongs_and_closes_go_ahead_of_data() -> None:
    queue = box(ClientQueueBounds(control_max_frames=2))
    queue.append(b"data")
    assert queue.append_control(b"pong 1")
    assert queue.append_control(b"pong 2")
    assert not queue.append_control(b"pong 3"), "the caller aborts"

    assert queue.take(1) == [b"pong 1", b"pong 2"]
    assert queue.take(1) == [b"data"]
    assert queue.append_control(b"pong 3")


@pytest.mark.parametrize(
    "bounds", [ClientQueueBounds(hard_max_messages=2), ClientQueueBounds(hard_max_bytes=2)]
)
def test_over_a_hard_bound_the_client_is_cut(bounds: ClientQueueBounds) -> None:
    queue = box(bounds)
    queue.append(b"a")
    queue.append(b"b")
    assert queue.check(0, 0) is Verdict.OK
    queue.append(b"c")

    assert queue.over_hard
    assert queue.check(1, 1) is Verdict.CUT
    queue.clear()
    assert (len(queue), queue.size_bytes, queue.over_hard) == (0, 0, False)


def test_one_giant_cuts_nobody_but_a_second_does() -> None:
    queue = box(ClientQueueBounds(soft_max_bytes=10, hard_max_bytes=100))
    queue.append(b"G" * 1000)
    queue.append(b"small")
    assert queue.check(0, 0) is Verdict.OK

    queue.append(b"H" * 1000)
    assert queue.over_hard
    queue.take(1)
    assert queue.over_hard, "the second is not excused when the first is gone"
    queue.take(1)
    queue.take(1)
    queue.append(b"J" * 1000)
    assert queue.check(0, 0) is Verdict.OK


def test_a_client_that_takes_nothing_for_ten_seconds_is_cut() -> None:
    queue = box()
    queue.append(b"a")

    assert queue.check(100, 5) is Verdict.OK
    assert queue.check(109.9, 5) is Verdict.OK
    assert queue.check(110, 5) is Verdict.CUT


def test_progress_starts_the_ten_seconds_anew() -> None:
    queue = box()
    queue.append(b"a")
    queue.check(100, 5)

    assert queue.check(109, 6) is Verdict.OK
    assert queue.check(118.9, 6) is Verdict.OK
    assert queue.check(119, 6) is Verdict.CUT


@pytest.mark.parametrize(
    "bounds", [ClientQueueBounds(soft_max_messages=1), ClientQueueBounds(soft_max_bytes=1)]
)
def test_a_client_that_stays_over_the_soft_bound_gets_its_deltas_joined(
    bounds: ClientQueueBounds,
) -> None:
    queue = box(bounds)
    for text in ("a", "b", "c"):
        queue.append(text_delta(text))

    assert queue.check(0, 0) is Verdict.OK
    assert queue.check(9.9, 1) is Verdict.OK
    assert queue.check(10, 2) is Verdict.JOIN
    assert not queue.join_deltas(unwrap, wrap)
    assert [json.loads(frame) for frame in queue.take(ALL)] == [json.loads(text_delta("abc"))]
    assert queue.size_bytes == 0


def test_falling_below_the_soft_bound_starts_the_ten_seconds_anew() -> None:
    queue = box(ClientQueueBounds(soft_max_messages=2))
    for frame in (b"a", b"b", b"c"):
        queue.append(frame)
    queue.check(0, 0)
    queue.take(1)
    queue.append(b"d")

    assert queue.check(15, 1) is Verdict.OK
    assert queue.check(24, 2) is Verdict.OK
    assert queue.check(25, 3) is Verdict.JOIN
    queue.take(1)
    assert queue.check(26, 4) is Verdict.OK


def test_what_was_joined_is_not_looked_at_again() -> None:
    queue = box(ClientQueueBounds(soft_max_messages=1, soft_s=1))
    for item in ("i", "j"):
        queue.append(text_delta("a", item))
    queue.check(0, 0)
    assert queue.check(1, 1) is Verdict.JOIN
    queue.join_deltas(unwrap, wrap)

    assert queue.check(2, 2) is Verdict.OK, "nothing more to gain"
    queue.append(text_delta("b"))
    assert queue.check(3, 3) is Verdict.JOIN


def test_a_long_queue_is_joined_in_slices() -> None:
    queue = box()
    for _ in range(10_000):
        queue.append(text_delta("x"))

    assert queue.join_deltas(unwrap, wrap)
    assert queue.join_deltas(unwrap, wrap)
    assert not queue.join_deltas(unwrap, wrap)
    texts = [json.loads(frame)["params"]["delta"] for frame in queue.take(ALL)]
    assert texts == ["x" * 4096, "x" * 4096, "x" * 1808]


def test_joined_frames_go_before_those_that_came_later() -> None:
    queue = box()
    for frame in (text_delta("a"), text_delta("b"), b"x\n"):
        queue.append(frame)
    queue.join_deltas(unwrap, wrap)
    queue.append(b"y\n")
    queue.append(b"z\n")

    assert json.loads(queue.take(1)[0])["params"]["delta"] == "ab"
    assert queue.take(4) == [b"x\n", b"y\n"]
    assert queue.take(4) == [b"z\n"]


def test_the_total_knows_who_holds_the_most() -> None:
    total = TotalOutbound(max_bytes=100)
    small, large = (total.open(key, ClientQueueBounds()) for key in (1, 2))
    small.append(b"s" * 40)
    large.append(b"l" * 30)
    assert (total.size_bytes, total.over) == (70, False)
    large.append(b"l" * 31)

    assert (total.over, total.largest()) == (True, 2)
    large.clear()
    assert (total.size_bytes, total.over) == (40, False)
    assert repr(total) == "<TotalOutbound 40/100 bytes>"
    assert repr(small) == "<ClientQueue 1 messages, 40 bytes>"


def test_a_connection_that_is_gone_counts_no_more() -> None:
    total = TotalOutbound(max_bytes=1)
    total.open(1, ClientQueueBounds()).append(b"abc")
    total.close(1)
    total.close(1)

    assert (total.size_bytes, total.largest()) == (0, None)


def test_a_total_of_one_byte_still_lets_one_frame_wait() -> None:
    total = TotalOutbound(max_bytes=1)
    first, second = (total.open(key, ClientQueueBounds()) for key in (1, 2))
    first.append(b"abc")
    assert (total.over, total.largest()) == (True, None)

    second.append(b"abcd")
    assert (total.over, total.largest()) == (True, 2)
    total.close(2)
    assert first.take(ALL) == [b"abc"]


def test_with_every_bound_at_one_frames_still_come_through_one_by_one() -> None:
    queue = box(
        ClientQueueBounds(
            soft_max_bytes=1,
            soft_max_messages=1,
            soft_s=1.0,
            hard_max_bytes=1,
            hard_max_messages=1,
            stall_s=1.0,
            control_max_frames=1,
        )
    )
    for second in range(5):
        queue.append(b"a frame of more than one byte")
        assert not queue.over_hard
        assert queue.check(second, second) is not Verdict.CUT
        assert queue.append_control(b"pong")
        assert queue.take(1) == [b"pong"]
        assert queue.take(1) == [b"a frame of more than one byte"]


class OutboxLife(RuleBasedStateMachine):
    """Any use of two queues with frames that cannot be joined, against lists."""

    def __init__(self) -> None:
        super().__init__()
        self.total = TotalOutbound(100)
        bounds = ClientQueueBounds(soft_max_bytes=20, hard_max_bytes=60, hard_max_messages=6)
        self.boxes = [self.total.open(key, bounds) for key in (0, 1)]
        self.expected: list[deque[bytes]] = [deque(), deque()]

    @rule(which=st.integers(0, 1), size=st.integers(0, 40))
    def append(self, which: int, size: int) -> None:
        frame = b"x" * size
        self.boxes[which].append(frame)
        self.expected[which].append(frame)

    @rule(which=st.integers(0, 1), max_bytes=st.sampled_from([1, 25, ALL]))
    def take(self, which: int, max_bytes: int) -> None:
        taken = self.boxes[which].take(max_bytes)
        assert bool(taken) == bool(self.expected[which])
        assert len(taken) <= 1 or sum(map(len, taken)) <= max_bytes
        for frame in taken:
            assert frame is self.expected[which].popleft()

    @rule(which=st.integers(0, 1))
    def join(self, which: int) -> None:
        self.boxes[which].join_deltas(unwrap, wrap)

    @rule(which=st.integers(0, 1))
    def cut(self, which: int) -> None:
        self.boxes[which].clear()
        self.expected[which].clear()

    @invariant()
    def the_counters_are_right(self) -> None:
        sizes = [sum(map(len, frames)) for frames in self.expected]
        assert [queue.size_bytes for queue in self.boxes] == sizes
        assert [len(queue) for queue in self.boxes] == [*map(len, self.expected)]
        assert self.total.size_bytes == sum(sizes)
        if self.total.over and self.total.largest() is not None:
            assert sizes[self.total.largest() or 0] == max(sizes)

    @invariant()
    def what_waits_is_bounded_but_for_one_giant(self) -> None:
        for queue, frames in zip(self.boxes, self.expected, strict=True):
            if not queue.over_hard:
                assert len(frames) <= 6
                assert sum(map(len, frames)) - max(map(len, frames), default=0) <= 60


TestOutboxLife = OutboxLife.TestCase


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ij"), st.text(max_size=5)), max_size=30),
    st.integers(1, 400),
)
def test_whenever_it_is_joined_and_taken_the_text_of_each_item_is_whole(
    deltas: list[tuple[str, str]], max_bytes: int
) -> None:
    queue = box()
    told = {"i": "", "j": ""}
    for position, (item, text) in enumerate(deltas):
        queue.append(text_delta(text, item))
        if position % 7 == 3:
            queue.join_deltas(unwrap, wrap)
        if position % 5 == 4:
            tell(told, queue.take(max_bytes))
    tell(told, queue.take(ALL))

    assert told == {name: "".join(text for item, text in deltas if item == name) for name in told}
    assert queue.size_bytes == 0


def tell(told: dict[str, str], frames: list[bytes]) -> None:
    for frame in frames:
        params = json.loads(frame)["params"]
        told[params["itemId"]] += params["delta"]


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 40))
def test_frames_queued_together_are_queued_like_one_after_the_other(
    sizes: list[int], soft_max_bytes: int
) -> None:
    bounds = ClientQueueBounds(
        soft_max_bytes=soft_max_bytes, hard_max_bytes=60, hard_max_messages=6
    )
    frames = [bytes(size) for size in sizes]
    together, one_by_one = box(bounds), box(bounds)

    together.extend(frames)
    for frame in frames:
        one_by_one.append(frame)

    assert (together.size_bytes, together.messages) == (one_by_one.size_bytes, len(frames))
    assert (together.over_soft, together.over_hard) == (one_by_one.over_soft, one_by_one.over_hard)
    assert together.take(ALL) == frames
