"""A narrow window divided: room for everybody, and no more hurt than that takes."""

from collections import Counter, defaultdict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trace_proxy.queues.core_queue import CoreQueue, CoreQueueBounds
from trace_proxy.queues.shares import Shares

ALL = 10**9
WINDOW = 64


def greedy(clients: int, window: int = WINDOW) -> list[int]:
    """How many places each gets when all take in turn whatever they may, for ever."""
    queue = CoreQueue(CoreQueueBounds(window=window))
    held = [0] * clients
    for _ in range(window):
        for key in range(clients):
            held[key] += queue.pass_through(True, key)  # noqa: FBT003 - as declared
    return held


def stuck(queue: CoreQueue, key: int, requests: int) -> int:
    """Ask so often without ever an answer; returns how many the core was given."""
    for _ in range(requests):
        queue.put(key, b"%d" % key, counts=True)
    return len(queue.take(ALL))


@pytest.mark.parametrize(
    ("clients", "each"), [(1, [32]), (2, [20, 19]), (3, [14, 14, 14]), (5, [9, 9, 9, 9, 8])]
)
def test_who_is_alone_gets_half_and_several_get_the_same(clients: int, each: list[int]) -> None:
    assert greedy(clients) == each


def test_it_takes_twenty_clients_without_an_answer_to_fill_a_window_of_64() -> None:
    queue = CoreQueue(CoreQueueBounds(window=WINDOW))
    given_each = [stuck(queue, key, 100) for key in range(20)]

    assert given_each == [32, 11, 4, *[1] * 17]
    assert queue.outstanding == WINDOW


def test_a_neighbour_is_served_beside_a_client_that_never_gets_an_answer() -> None:
    queue = CoreQueue(CoreQueueBounds(window=WINDOW))
    stuck(queue, 1, 200)

    for number in range(1000):
        queue.put(2, b"neighbour", counts=True)
        assert queue.take(ALL) == [b"neighbour"], number
        queue.answered(2)
    assert (queue.outstanding, len(queue)) == (32, 168)


def test_a_client_at_its_share_goes_on_with_its_first_answer() -> None:
    queue = CoreQueue(CoreQueueBounds(window=WINDOW))
    assert stuck(queue, 1, 40) == 32

    queue.answered(1)
    assert queue.take(ALL) == [b"1"]


def test_a_client_at_its_share_goes_on_when_others_need_less() -> None:
    queue = CoreQueue(CoreQueueBounds(window=WINDOW))
    assert stuck(queue, 1, 20) == 20
    assert stuck(queue, 2, 19) == 19
    assert stuck(queue, 1, 20) == 0

    for _ in range(19):
        queue.answered(2)
    assert queue.take(ALL) == [b"1"] * 12


def test_who_has_left_keeps_its_places_until_the_core_answers() -> None:
    queue = CoreQueue(CoreQueueBounds(window=4))
    assert stuck(queue, 1, 5) == 2
    assert len(queue.drop(1)) == 3
    assert stuck(queue, 2, 5) == 1

    queue.answered(1)
    assert queue.take(ALL) == [b"2"]
    queue.answered(1)
    assert queue.take(ALL) == [], "half of the window is its own share"


def test_notifications_keep_their_place_behind_requests_that_wait_for_a_share() -> None:
    queue = CoreQueue(CoreQueueBounds(window=4))
    stuck(queue, 1, 2)
    queue.put(1, b"request", counts=True)
    queue.put(1, b"notification", counts=False)
    queue.put(2, b"other notification", counts=False)

    assert queue.take(ALL) == [b"other notification"]
    queue.answered(1)
    assert queue.take(ALL) == [b"request", b"notification"]


def test_one_client_has_no_more_than_its_most_in_a_window_that_is_free() -> None:
    queue = CoreQueue(CoreQueueBounds(window=2048, window_of_one=5))
    assert stuck(queue, 1, 9) == 5
    assert stuck(queue, 2, 9) == 5

    queue.answered(1)
    assert queue.take(ALL) == [b"1"]
    assert queue.take(ALL) == []


def test_a_core_that_died_has_no_shares_either() -> None:
    queue = CoreQueue(CoreQueueBounds(window=4))
    stuck(queue, 1, 9)
    queue.clear()

    assert stuck(queue, 1, 9) == 2


def test_its_state_can_be_read() -> None:
    shares = Shares(4, most=4)
    assert shares.take(1, 4)
    assert shares.take(1, 3)
    assert not shares.take(1, 2)
    shares.park(1)

    assert repr(shares) == "<Shares held=2 by=1 parked=1>"
    assert shares.unpark(1)
    assert not shares.unpark(1)


def test_a_thousand_lanes_at_their_share_cost_an_answer_nothing() -> None:
    queue = CoreQueue(CoreQueueBounds(window=1024))
    asked = Counter[int]()

    class Counting(Shares):
        def allows(self, key: int, free: int) -> bool:
            asked[key] += 1
            return super().allows(key, free)

    queue._shares = Counting(1024, most=128)  # noqa: SLF001 - what it is asked is what it costs
    for key in range(1000):
        queue.put(key, b"first", counts=True)
        queue.put(key, b"second", counts=True)
    queue.take(ALL)
    asked.clear()
    for key in range(100):
        queue.answered(key)
        assert len(queue.take(ALL)) == 1
    assert asked.total() <= 400


class SharedLife(RuleBasedStateMachine):
    """Clients of a narrow window, some of whose requests are never answered."""

    WINDOW = 9
    MOST = 4

    def __init__(self) -> None:
        super().__init__()
        bounds = CoreQueueBounds(window=self.WINDOW, window_of_one=self.MOST, max_messages=10_000)
        self.queue = CoreQueue(bounds)
        self.held: Counter[int] = Counter()
        self.waiting: dict[int, deque[bytes]] = defaultdict(deque)
        self.serial = 0

    @property
    def free(self) -> int:
        return self.WINDOW - self.held.total()

    def may(self, key: int) -> bool:
        """The rule in a line: whether this client may be given one more request now."""
        free = self.free
        held = self.held[key]
        return free > 0 and (not held or (held < self.MOST and held < 2 * (free - 3)))

    def pump(self, max_bytes: int = ALL) -> None:
        """Take what may go; each is the next of its client, and was allowed when it went."""
        for line in self.queue.take(max_bytes):
            key = int(line.split()[0])
            assert self.may(key)
            assert self.waiting[key].popleft() == line
            self.held[key] += 1

    @rule(key=st.integers(1, 6), size=st.sampled_from([0, 40_000]), times=st.integers(1, 5))
    def ask(self, key: int, size: int, times: int) -> None:
        for _ in range(times):
            self.serial += 1
            line = b"%d %d " % (key, self.serial) + b"." * size
            if self.queue.pass_through(True, key):  # noqa: FBT003 - as declared
                assert self.may(key)
                self.held[key] += 1
            else:
                newcomer = not self.held[key] and not self.waiting[key]
                self.waiting[key].append(line)
                assert self.queue.put(key, line, counts=True) is None
                free = self.free
                self.pump()
                room = self.queue.writable and newcomer and free
                assert self.held[key] or not room, "a newcomer finds a place"

    @rule(key=st.integers(1, 6), pump=st.booleans(), max_bytes=st.sampled_from([1, 50_000]))
    @precondition(lambda self: self.held.total())
    def answer(self, key: int, pump: bool, max_bytes: int) -> None:  # noqa: FBT001 - drawn
        if self.held[key]:
            self.held[key] -= 1
            self.queue.answered(key)
            if not pump:
                self.pump(max_bytes)  # as much as the pipe takes
            self.pump()

    @rule(key=st.integers(1, 6))
    def leave(self, key: int) -> None:
        assert self.queue.drop(key) == list(self.waiting.pop(key, []))
        self.pump()

    @rule()
    def stall(self) -> None:
        self.queue.writable = not self.queue.writable
        self.pump()

    @invariant()
    def the_window_holds(self) -> None:
        assert self.queue.outstanding == self.held.total() <= self.WINDOW

    @invariant()
    def nobody_waits_who_may_go_on(self) -> None:
        if self.queue.writable:
            for key, lines in self.waiting.items():
                assert not (lines and self.may(key))

    def teardown(self) -> None:
        self.queue.writable = True
        self.pump()
        while any(self.waiting.values()):
            key = max(self.held, key=lambda each: self.held[each])
            self.held[key] -= 1
            self.queue.answered(key)
            self.pump()


TestSharedLife = SharedLife.TestCase


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12), st.integers(1, 40))
def test_nobody_starves_in_a_slow_pipe(waiting: list[int], window: int) -> None:
    """One line at a time, answered at once; one client never gets an answer."""
    queue = CoreQueue(CoreQueueBounds(window=window, max_messages=10_000))
    held = stuck(queue, 0, window) if window > 1 else 0
    for key, count in enumerate(waiting, 1):
        for _ in range(count):
            queue.put(key, b"%d" % key, counts=True)
    for _ in range(sum(waiting)):
        (line,) = queue.take(1)
        queue.answered(int(line))
    assert queue.outstanding == held
