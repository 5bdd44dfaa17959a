"""The queue in front of a core: fair, in order, and never over the window."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trace_proxy.protocol.refusal import Refusal
from trace_proxy.queues.core_queue import LONG_BYTES, OUR_LANE, CoreQueue, CoreQueueBounds

ALL = 10**9
KIB = 1024


def full_window(**bounds: int) -> CoreQueue:
    """CoreQueue whose window of one is taken, so that requests wait; nobody counts whose it is."""
    queue = CoreQueue(CoreQueueBounds(window=1, **bounds))
    assert queue.pass_through(True)  # noqa: FBT003 - as declared
    return queue


def one_by_one(queue: CoreQueue) -> Iterator[bytes]:
    """Each line of a full window when the one before is answered; it begins with its key."""
    key = OUR_LANE
    while len(queue):
        queue.answered(key)
        (line,) = queue.take(ALL)
        key = int(line[:1])
        yield line


def test_an_idle_core_is_written_to_at_once() -> None:
    queue = CoreQueue(CoreQueueBounds(window=2))

    assert queue.pass_through(True, 1)  # noqa: FBT003 - as declared
    assert queue.pass_through(True, 2)  # noqa: FBT003 - as declared
    assert not queue.pass_through(True, 3), "the window is full"  # noqa: FBT003 - as declared
    assert queue.pass_through(False), "but not for what does not count"  # noqa: FBT003
    queue.answered(1)
    assert queue.pass_through(True, 3)  # noqa: FBT003 - as declared


def test_nothing_passes_what_already_waits() -> None:
    queue = full_window()
    queue.put(1, b"a", counts=True)

    assert not queue.pass_through(False)  # noqa: FBT003 - as declared


def test_nothing_is_written_to_a_pipe_that_takes_nothing() -> None:
    queue = CoreQueue(CoreQueueBounds())
    queue.writable = False
    assert not queue.pass_through(False)  # noqa: FBT003 - as declared
    queue.put(1, b"a", counts=True)
    queue.put_answer(1, b"b")

    assert queue.take(ALL) == []
    queue.writable = True
    assert queue.take(ALL) == [b"b", b"a"]


def test_the_window_limits_requests_and_nothing_else() -> None:
    queue = CoreQueue(CoreQueueBounds(window=2))
    for key, line in ((7, b"1"), (8, b"2"), (7, b"3"), (8, b"4")):
        queue.put(key, line, counts=True)

    assert queue.take(ALL) == [b"1", b"2"]
    assert queue.take(ALL) == []
    queue.put_answer(8, b"answer")
    queue.put(9, b"notification", counts=False)
    assert queue.take(ALL) == [b"answer", b"notification"]
    queue.answered(7)
    assert queue.take(ALL) == [b"3"]


def test_an_answer_overtakes_and_a_notification_does_not() -> None:
    queue = full_window()
    queue.put(1, b"request 1", counts=True)
    queue.put(1, b"notification", counts=False)
    queue.put(1, b"request 2", counts=True)
    queue.put_answer(1, b"answer")

    assert queue.take(ALL) == [b"answer"]
    queue.answered()
    assert queue.take(ALL) == [b"request 1", b"notification"]
    queue.answered(1)
    assert queue.take(ALL) == [b"request 2"]


def test_a_take_is_bounded_in_bytes_but_gives_at_least_one_line() -> None:
    queue = CoreQueue(CoreQueueBounds())
    for line in (b"a" * 10, b"b" * 10, b"c" * 10):
        queue.put(1, line, counts=True)
    queue.put_answer(1, b"d" * 30)
    queue.put_answer(1, b"e" * 30)

    assert queue.take(1) == [b"d" * 30]
    assert queue.take(31) == [b"e" * 30]
    assert queue.take(20) == [b"a" * 10, b"b" * 10]
    assert queue.take(1) == [b"c" * 10]
    assert len(queue) == 0


def test_a_flood_of_large_messages_delays_a_neighbour_by_one_turn() -> None:
    queue = full_window()
    for _ in range(20):
        queue.put(1, b"1" * 16 * KIB, counts=True)
    queue.put(2, b"2, small", counts=True)

    assert list(one_by_one(queue)).index(b"2, small") <= 1


def test_bytes_are_shared_and_not_messages() -> None:
    queue = full_window(max_messages=10_000)
    for _ in range(40):
        queue.put(1, b"1" * 8 * KIB, counts=True)
    for _ in range(400):
        queue.put(2, b"2" * KIB, counts=True)

    given_bytes: dict[bytes, int] = defaultdict(int)
    for line in islice(one_by_one(queue), 180):
        given_bytes[line[:1]] += len(line)
    assert abs(given_bytes[b"1"] - given_bytes[b"2"]) <= 32 * KIB


def test_a_giant_comes_through_beside_a_stream_of_small_ones() -> None:
    queue = full_window(max_messages=10_000)
    giant = b"1" * 1000 * KIB
    queue.put(1, giant, counts=True)
    for _ in range(2000):
        queue.put(2, b"2" * KIB, counts=True)

    assert giant in islice(one_by_one(queue), 1200)


OVERLOADED = {"reason": "overloaded", "retryable": True}
FULL = Refusal(
    -32001,
    "The queue in front of the core is full; retry when some requests have been answered",
    OVERLOADED,
)


def test_a_full_queue_sheds_requests_and_still_takes_answers() -> None:
    queue = full_window(max_messages=1)
    assert queue.put(1, b"a", counts=True) is None

    assert queue.put(1, b"b", counts=True) == FULL
    assert queue.put(2, b"c", counts=True) is None, "who has none waiting is not shut out"
    assert queue.put_answer(2, b"c") is None
    assert queue.put(1, b"d", counts=False) is None


def test_bytes_fill_a_queue_too_but_one_line_always_fits() -> None:
    queue = full_window(max_bytes=10)

    assert queue.put(1, b"a" * 1000, counts=True) is None
    assert queue.put(1, b"b", counts=True) == FULL


def test_a_connection_may_have_so_many_answers_waiting() -> None:
    queue = full_window(max_answers=2)
    assert queue.put_answer(1, b"a") is None
    assert queue.put(1, b"b", counts=False) is None

    assert isinstance(queue.put_answer(1, b"c"), Refusal)
    assert isinstance(queue.put(1, b"c", counts=False), Refusal)
    assert queue.put_answer(2, b"d") is None
    queue.take(ALL)
    assert queue.put_answer(1, b"c") is None


def test_answers_are_bounded_in_bytes_but_one_of_each_connection_fits() -> None:
    queue = full_window(max_bytes=10)

    assert queue.put_answer(1, b"a" * 1000) is None
    assert isinstance(queue.put_answer(1, b"b"), Refusal)
    assert queue.put_answer(2, b"b") is None


def test_a_connection_that_leaves_takes_its_lines_along() -> None:
    queue = full_window()
    queue.put(1, b"request", counts=True)
    queue.put(1, b"notification", counts=False)
    queue.put(1, b"request 2", counts=True)
    queue.put_answer(1, b"answer")
    queue.put_answer(2, b"other answer")
    queue.put(2, b"other request", counts=True)

    assert queue.drop(1) == [b"request", b"request 2"]
    assert queue.drop(1) == []
    assert queue.drop(99) == []
    queue.answered()
    assert queue.take(ALL) == [b"other answer", b"other request"]
    assert repr(queue) == "<CoreQueue waiting=0 bytes=0 lanes=0 outstanding=1/1>"


def test_a_core_that_died_owes_nothing() -> None:
    queue = full_window()
    queue.put(1, b"request", counts=True)
    queue.put_answer(1, b"answer")
    queue.clear()

    assert repr(queue) == "<CoreQueue waiting=0 bytes=0 lanes=0 outstanding=0/1>"
    assert queue.take(ALL) == []


def give(queue: CoreQueue, key: int, core_id: int, size: int) -> bool:
    """As the hub gives a request to a core; whether it was written at once."""
    line = b"%d " % core_id + b"." * size
    if size < LONG_BYTES:
        passes = queue.pass_through(True, key)  # noqa: FBT003 - as declared
    else:
        passes = queue.pass_long(key, line, core_id)
    if not passes:
        assert queue.put(key, line, counts=True, core_id=core_id) is None
    return passes


def ids(lines: list[bytes]) -> list[int]:
    return [int(line.split(b" ", 1)[0]) for line in lines]


@pytest.mark.parametrize(
    ("size", "alone", "unread"),
    [(31, False, 1), (16, False, 2), (8, False, 4), (2, False, 16), (31, True, 4), (2, True, 64)],
)
def test_a_neighbour_waits_behind_few_long_requests_and_not_behind_all(
    size: int, unread: int, *, alone: bool
) -> None:
    queue = CoreQueue(CoreQueueBounds(window=256))
    queue.tick(alone=alone)
    passed = [give(queue, 1, core_id, size * KIB - 8) for core_id in range(1, 200)]
    assert passed == [True] * unread + [False] * (199 - unread)
    give(queue, 2, 200, 100)
    assert ids(queue.take(ALL)) == [200]


def test_who_sends_one_long_request_waits_for_nobodys_else() -> None:
    queue = CoreQueue(CoreQueueBounds())
    for core_id in range(1, 41):
        give(queue, 1, core_id, 31 * KIB)
    give(queue, 2, 41, 15 * 1024 * KIB)
    assert ids(queue.take(ALL)) == [41]


def test_the_next_long_ones_go_when_one_is_answered() -> None:
    queue = CoreQueue(CoreQueueBounds())
    for core_id in range(1, 11):
        give(queue, 1, core_id, 31 * KIB)
    for core_id in range(1, 9):
        queue.answered(1, core_id)
        assert ids(queue.take(ALL)) == [core_id + 1]


def test_a_long_request_that_stays_open_keeps_nobody_back_once_it_was_read() -> None:
    queue = CoreQueue(CoreQueueBounds())
    give(queue, 1, 1, 100 * KIB)
    give(queue, 1, 2, 100 * KIB)
    give(queue, 2, 3, 10)
    assert ids(queue.take(ALL)) == [3]
    queue.answered(2, 3)  # which was given after it
    assert ids(queue.take(ALL)) == [2]


def test_one_that_stays_open_alone_keeps_back_for_two_ticks() -> None:
    queue = CoreQueue(CoreQueueBounds())
    give(queue, 1, 1, 100 * KIB)
    give(queue, 1, 2, 100 * KIB)
    assert queue.take(ALL) == []
    assert not queue.tick()
    assert queue.tick()
    assert ids(queue.take(ALL)) == [2]


def test_what_a_client_left_unread_does_not_keep_its_lane() -> None:
    queue = CoreQueue(CoreQueueBounds())
    for core_id in (1, 2, 3):
        give(queue, 1, core_id, 100 * KIB)
    assert len(queue.drop(1)) == 2
    queue.answered(1, 1)
    assert queue.take(ALL) == []
    assert repr(queue) == "<CoreQueue waiting=0 bytes=0 lanes=0 outstanding=0/64>"


class LanesLife(RuleBasedStateMachine):
    """Any use of queue whose bounds are small, against lists."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = CoreQueueBounds(
            max_messages=5,
            max_bytes=60 * KIB,
            window=3,
            max_answers=2,
            unread_bytes=30 * KIB,
        )
        self.queue = CoreQueue(self.bounds)
        self.sent: dict[int, list[bytes]] = defaultdict(list)
        self.written: dict[int, list[bytes]] = defaultdict(list)
        self.answers_sent: list[bytes] = []
        self.answers_written: list[bytes] = []
        self.given: list[tuple[int, int]] = []
        self.order: list[int] = []
        self.unread: dict[int, tuple[int, int, int]] = {}
        self.serial = 0
        self.ticks = 0

    def line(self, key: int, kind: bytes, size: int) -> bytes:
        self.serial += 1
        return b"%d %b %d " % (key, kind, self.serial) + b"." * size

    def gave(self, key: int, line: bytes) -> None:
        """A request was written; whether it might be is what the model says of the others."""
        core_id, size = int(line.split(b" ", 3)[2]), len(line)
        self.given.append((key, core_id))
        self.order.append(core_id)
        if size >= LONG_BYTES:
            own = sum(size for owner, size, _ in self.unread.values() if owner == key)
            total = sum(size for _, size, _ in self.unread.values())
            assert not own or own + size <= self.bounds.unread_bytes - total
            self.unread[core_id] = key, size, self.ticks

    @rule(
        key=st.integers(1, 3),
        size=st.sampled_from([0, 3 * KIB, 8 * KIB, 20 * KIB]),
        counts=st.booleans(),
    )
    def put(self, key: int, size: int, counts: bool) -> None:  # noqa: FBT001 - as declared
        line = self.line(key, b"request" if counts else b"notification", size)
        if counts and size:
            passes = self.queue.pass_long(key, line, self.serial)
        else:
            passes = self.queue.pass_through(counts, key)
        if passes:
            self.sent[key].append(line)
            self.written[key].append(line)
            if counts:
                self.gave(key, line)
        elif self.queue.put(key, line, counts=counts, core_id=self.serial) is None:
            self.sent[key].append(line)

    @rule(key=st.integers(1, 3))
    def put_answer(self, key: int) -> None:
        line = self.line(key, b"answer", 0)
        if self.queue.put_answer(key, line) is None:
            self.answers_sent.append(line)

    @rule(max_bytes=st.sampled_from([1, 100, ALL]))
    def take(self, max_bytes: int) -> None:
        lines = self.queue.take(max_bytes)
        assert len(lines) <= 1 or sum(map(len, lines)) <= max_bytes
        for line in lines:
            key, kind, _ = line.split(b" ", 2)
            if kind == b"answer":
                self.answers_written.append(line)
            else:
                self.written[int(key)].append(line)
                if kind == b"request":
                    self.gave(int(key), line)

    @rule(which=st.integers(0, 2))
    @precondition(lambda self: self.given)
    def answer(self, which: int) -> None:
        key, core_id = self.given.pop(min(which, len(self.given) - 1))
        self.queue.answered(key, core_id)
        behind = self.order.index(core_id)
        for read in self.order[: behind + 1]:
            self.unread.pop(read, None)

    @rule()
    def tick(self) -> None:
        self.ticks += 1
        self.queue.tick()
        for core_id, (_, _, since) in list(self.unread.items()):
            if since <= self.ticks - 2:
                del self.unread[core_id]

    @rule(key=st.integers(1, 3))
    def leave(self, key: int) -> None:
        dropped = self.queue.drop(key)
        waiting = self.sent[key][len(self.written[key]) :]
        assert dropped == [line for line in waiting if b"request" in line]
        self.sent[key] = list(self.written[key])
        left = self.answers_sent[len(self.answers_written) :]
        kept = [line for line in left if not line.startswith(b"%d " % key)]
        self.answers_sent = self.answers_written + kept

    @invariant()
    def the_window_holds(self) -> None:
        assert self.queue.outstanding == len(self.given) <= self.bounds.window

    @invariant()
    def each_connection_keeps_its_order(self) -> None:
        for key, lines in self.written.items():
            assert lines == self.sent[key][: len(lines)]
        assert self.answers_written == self.answers_sent[: len(self.answers_written)]

    def teardown(self) -> None:
        for _ in range(100):
            while self.given:
                self.answer(0)
            self.take(ALL)
        assert self.written == self.sent, "nothing is lost"
        assert self.answers_written == self.answers_sent
        while self.given:
            self.answer(0)
        assert repr(self.queue) == "<CoreQueue waiting=0 bytes=0 lanes=0 outstanding=0/3>"


TestLanesLife = LanesLife.TestCase


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 100)), max_size=30))
def test_with_every_bound_at_one_what_is_accepted_comes_through(
    requests: list[tuple[int, int]],
) -> None:
    bounds = CoreQueueBounds(max_messages=1, max_bytes=1, window=1, max_answers=1)
    queue = CoreQueue(bounds)
    holder: int | None = None
    for key, size in requests:
        line = b"x" * size
        if holder is None:
            assert queue.pass_through(True, key)  # noqa: FBT003 - as declared
        else:
            assert queue.put(key, line, counts=True) is None
            assert queue.put_answer(key, b"answer") is None
            assert queue.take(1) == [b"answer"]
            queue.answered(holder)
            assert queue.take(1) == [line]
        holder = key
