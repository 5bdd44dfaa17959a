"""The queue to a client: whole frames in order, bounded, patient with a slow reader."""

import json
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trace_proxy.queues.client_queue import Outbox, OutboxBounds, TotalOutbound, Verdict

ALL = 10**9


def box(bounds: OutboxBounds | None = None) -> Outbox:
    return TotalOutbound(ALL).open(1, bounds or OutboxBounds())


def text_delta(text: str, item: str = "i") -> bytes:
    params = {"threadId": "t", "itemId": item, "delta": text}
    return json.dumps({"method": "item/agentMessage/delta", "params": params}).encode() + b"\n"


def unwrap(frame: bytes) -> bytes:
    return frame[:-1]


def wrap(message: bytes) -> bytes:
    return message + b"\n"


def test_frames_come_out_as_they_went_in() -> None:
    outbox = box()
    frames = [b"one", b"two", b"three"]
    for frame in frames:
        outbox.append(frame)
    assert (len(outbox), outbox.size_bytes) == (3, 11)

    taken = outbox.take(ALL)
    assert [id(frame) for frame in taken] == [id(frame) for frame in frames]
    assert (len(outbox), outbox.size_bytes) == (0, 0)
    assert outbox.take(ALL) == []


def test_a_take_is_bounded_in_bytes_but_gives_at_least_one_frame() -> None:
    outbox = box()
    for frame in (b"a" * 10, b"b" * 10, b"c" * 10):
        outbox.append(frame)

    assert outbox.take(1) == [b"a" * 10]
    assert outbox.take(19) == [b"b" * 10]
    assert outbox.take(19) == [b"c" * 10]


def test_pongs_and_closes_go_ahead_of_data() -> None:
    outbox = box(OutboxBounds(control_max_frames=2))
    outbox.append(b"data")
    assert outbox.append_control(b"pong 1")
    assert outbox.append_control(b"pong 2")
    assert not outbox.append_control(b"pong 3"), "the caller aborts"

    assert outbox.take(1) == [b"pong 1", b"pong 2"]
    assert outbox.take(1) == [b"data"]
    assert outbox.append_control(b"pong 3")


@pytest.mark.parametrize(
    "bounds", [OutboxBounds(hard_max_messages=2), OutboxBounds(hard_max_bytes=2)]
)
def test_over_a_hard_bound_the_client_is_cut(bounds: OutboxBounds) -> None:
    outbox = box(bounds)
    outbox.append(b"a")
    outbox.append(b"b")
    assert outbox.check(0, 0) is Verdict.OK
    outbox.append(b"c")

    assert outbox.over_hard
    assert outbox.check(1, 1) is Verdict.CUT
    outbox.clear()
    assert (len(outbox), outbox.size_bytes, outbox.over_hard) == (0, 0, False)


def test_one_giant_cuts_nobody_but_a_second_does() -> None:
    outbox = box(OutboxBounds(soft_max_bytes=10, hard_max_bytes=100))
    outbox.append(b"G" * 1000)
    outbox.append(b"small")
    assert outbox.check(0, 0) is Verdict.OK

    outbox.append(b"H" * 1000)
    assert outbox.over_hard
    outbox.take(1)
    assert outbox.over_hard, "the second is not excused when the first is gone"
    outbox.take(1)
    outbox.take(1)
    outbox.append(b"J" * 1000)
    assert outbox.check(0, 0) is Verdict.OK


def test_a_client_that_takes_nothing_for_ten_seconds_is_cut() -> None:
    outbox = box()
    outbox.append(b"a")

    assert outbox.check(100, 5) is Verdict.OK
    assert outbox.check(109.9, 5) is Verdict.OK
    assert outbox.check(110, 5) is Verdict.CUT


def test_progress_starts_the_ten_seconds_anew() -> None:
    outbox = box()
    outbox.append(b"a")
    outbox.check(100, 5)

    assert outbox.check(109, 6) is Verdict.OK
    assert outbox.check(118.9, 6) is Verdict.OK
    assert outbox.check(119, 6) is Verdict.CUT


@pytest.mark.parametrize(
    "bounds", [OutboxBounds(soft_max_messages=1), OutboxBounds(soft_max_bytes=1)]
)
def test_a_client_that_stays_over_the_soft_bound_gets_its_deltas_joined(
    bounds: OutboxBounds,
) -> None:
    outbox = box(bounds)
    for text in ("a", "b", "c"):
        outbox.append(text_delta(text))

    assert outbox.check(0, 0) is Verdict.OK
    assert outbox.check(9.9, 1) is Verdict.OK
    assert outbox.check(10, 2) is Verdict.JOIN
    assert not outbox.join_deltas(unwrap, wrap)
    assert [json.loads(frame) for frame in outbox.take(ALL)] == [json.loads(text_delta("abc"))]
    assert outbox.size_bytes == 0


def test_falling_below_the_soft_bound_starts_the_ten_seconds_anew() -> None:
    outbox = box(OutboxBounds(soft_max_messages=2))
    for frame in (b"a", b"b", b"c"):
        outbox.append(frame)
    outbox.check(0, 0)
    outbox.take(1)
    outbox.append(b"d")

    assert outbox.check(15, 1) is Verdict.OK
    assert outbox.check(24, 2) is Verdict.OK
    assert outbox.check(25, 3) is Verdict.JOIN
    outbox.take(1)
    assert outbox.check(26, 4) is Verdict.OK


def test_what_was_joined_is_not_looked_at_again() -> None:
    outbox = box(OutboxBounds(soft_max_messages=1, soft_s=1))
    for item in ("i", "j"):
        outbox.append(text_delta("a", item))
    outbox.check(0, 0)
    assert outbox.check(1, 1) is Verdict.JOIN
    outbox.join_deltas(unwrap, wrap)

    assert outbox.check(2, 2) is Verdict.OK, "nothing more to gain"
    outbox.append(text_delta("b"))
    assert outbox.check(3, 3) is Verdict.JOIN


def test_a_long_queue_is_joined_in_slices() -> None:
    outbox = box()
    for _ in range(10_000):
        outbox.append(text_delta("x"))

    assert outbox.join_deltas(unwrap, wrap)
    assert outbox.join_deltas(unwrap, wrap)
    assert not outbox.join_deltas(unwrap, wrap)
    texts = [json.loads(frame)["params"]["delta"] for frame in outbox.take(ALL)]
    assert texts == ["x" * 4096, "x" * 4096, "x" * 1808]


def test_joined_frames_go_before_those_that_came_later() -> None:
    outbox = box()
    for frame in (text_delta("a"), text_delta("b"), b"x\n"):
        outbox.append(frame)
    outbox.join_deltas(unwrap, wrap)
    outbox.append(b"y\n")
    outbox.append(b"z\n")

    assert json.loads(outbox.take(1)[0])["params"]["delta"] == "ab"
    assert outbox.take(4) == [b"x\n", b"y\n"]
    assert outbox.take(4) == [b"z\n"]


def test_the_total_knows_who_holds_the_most() -> None:
    total = TotalOutbound(max_bytes=100)
    small, large = (total.open(key, OutboxBounds()) for key in (1, 2))
    small.append(b"s" * 40)
    large.append(b"l" * 30)
    assert (total.size_bytes, total.over) == (70, False)
    large.append(b"l" * 31)

    assert (total.over, total.largest()) == (True, 2)
    large.clear()
    assert (total.size_bytes, total.over) == (40, False)
    assert repr(total) == "<TotalOutbound 40/100 bytes>"
    assert repr(small) == "<Outbox 1 messages, 40 bytes>"


def test_over_the_total_the_largest_queues_go_until_the_rest_fits() -> None:
    total = TotalOutbound(max_bytes=100)
    for key, size in ((1, 60), (2, 90), (3, 30), (4, 50)):
        total.open(key, OutboxBounds()).append(b"x" * size)

    assert total.shed() == [2, 1]
    assert total.size_bytes == 80
    assert total.shed() == []


def test_a_connection_that_is_gone_counts_no_more() -> None:
    total = TotalOutbound(max_bytes=1)
    total.open(1, OutboxBounds()).append(b"abc")
    total.close(1)
    total.close(1)

    assert (total.size_bytes, total.largest()) == (0, None)


def test_a_total_of_one_byte_still_lets_one_frame_wait() -> None:
    total = TotalOutbound(max_bytes=1)
    first, second = (total.open(key, OutboxBounds()) for key in (1, 2))
    first.append(b"abc")
    assert (total.over, total.largest()) == (True, None)

    second.append(b"abcd")
    assert total.shed() == [2]
    assert first.take(ALL) == [b"abc"]


def test_with_every_bound_at_one_frames_still_come_through_one_by_one() -> None:
    outbox = box(
        OutboxBounds(
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
        outbox.append(b"a frame of more than one byte")
        assert not outbox.over_hard
        assert outbox.check(second, second) is not Verdict.CUT
        assert outbox.append_control(b"pong")
        assert outbox.take(1) == [b"pong"]
        assert outbox.take(1) == [b"a frame of more than one byte"]


class OutboxLife(RuleBasedStateMachine):
    """Any use of two outboxes with frames that cannot be joined, against lists."""

    def __init__(self) -> None:
        super().__init__()
        self.total = TotalOutbound(100)
        bounds = OutboxBounds(soft_max_bytes=20, hard_max_bytes=60, hard_max_messages=6)
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
        assert [outbox.size_bytes for outbox in self.boxes] == sizes
        assert [len(outbox) for outbox in self.boxes] == [*map(len, self.expected)]
        assert self.total.size_bytes == sum(sizes)
        if self.total.over and self.total.largest() is not None:
            assert sizes[self.total.largest() or 0] == max(sizes)

    @invariant()
    def what_waits_is_bounded_but_for_one_giant(self) -> None:
        for outbox, frames in zip(self.boxes, self.expected, strict=True):
            if not outbox.over_hard:
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
    outbox = box()
    told = {"i": "", "j": ""}
    for position, (item, text) in enumerate(deltas):
        outbox.append(text_delta(text, item))
        if position % 7 == 3:
            outbox.join_deltas(unwrap, wrap)
        if position % 5 == 4:
            tell(told, outbox.take(max_bytes))
    tell(told, outbox.take(ALL))

    assert told == {name: "".join(text for item, text in deltas if item == name) for name in told}
    assert outbox.size_bytes == 0


def tell(told: dict[str, str], frames: list[bytes]) -> None:
    for frame in frames:
        params = json.loads(frame)["params"]
        told[params["itemId"]] += params["delta"]


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 40))
def test_frames_queued_together_are_queued_like_one_after_the_other(
    sizes: list[int], soft_max_bytes: int
) -> None:
    bounds = OutboxBounds(soft_max_bytes=soft_max_bytes, hard_max_bytes=60, hard_max_messages=6)
    frames = [bytes(size) for size in sizes]
    together, one_by_one = box(bounds), box(bounds)

    together.extend(frames)
    for frame in frames:
        one_by_one.append(frame)

    assert (together.size_bytes, together.messages) == (one_by_one.size_bytes, len(frames))
    assert (together.over_soft, together.over_hard) == (one_by_one.over_soft, one_by_one.over_hard)
    assert together.take(ALL) == frames
