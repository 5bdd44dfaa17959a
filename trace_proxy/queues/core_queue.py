"""The queue in front of one core's stdin: a lane for each connection, served fairly.

    put ──> lane of its connection ──┐ deficit round robin by bytes
    put_answer ──> answers, first ───┴──> take ──> stdin,   window of unanswered requests

A connection that sends megabytes delays its neighbour by one turn, not by megabytes,
and one that asks without end, or never gets an answer, does not fill the window: it is
divided by `shares`, and a lane at its share is out of the round until it may go on. So is
one whose long requests the core has not read yet (`unread`).
Within a connection requests and notifications keep their order; answers to server
requests overtake, because a turn waits for them. It writes nothing itself, and what
is in flight it only counts: whose request it is the router knows.
"""

from collections import OrderedDict, deque
from typing import Final

import msgspec

from trace_proxy.protocol.refusal import Refusal, overloaded
from trace_proxy.queues.pace import cost_of
from trace_proxy.queues.shares import Shares
from trace_proxy.queues.unread import Unread

OUR_LANE: Final = -1
"""The lane of the proxy's own requests; connections count from 0."""

_FULL: Final = overloaded("The queue in front of the core is full")
_TOO_MANY_ANSWERS: Final = overloaded("Too many answers and notifications wait for the core")

_QUANTUM_BYTES: Final = 16 * 1024
"""One turn's worth: a hundred small requests, a quarter of what a pipe holds."""

LONG_BYTES: Final = 1024
"""From here on a request is long: to read it may take a core more time than to serve it."""

_LONG_ANYWAY_BYTES: Final = 16 * 1024
"""A few of these are all that one connection may have unread: what they say does not matter."""

_FREE: Final = -1
"""Instead of the id of a request: a notification."""

_Line = tuple[bytes, int, int]
"""By which number the core knows the request, and what it costs to read it; 0: it is short."""


class CoreQueueBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of `CoreQueue`, each at least 1; the defaults are argued in `limits`.

    Attributes:
        max_messages: Requests that wait; who has none waiting may always have one.
        max_bytes: And their bytes; answers and notifications have as much again.
        window: Requests that the core may have unanswered.
        window_of_one: Of those, requests of one connection.
        max_answers: Answers and notifications of one connection that wait.
        unread_bytes: Of long requests that the core may not have read yet, as `pace.cost_of`
            counts. One connection gets half: one of 31 KiB, two of 16 or sixty short ones.
    """

    max_messages: int = 2048
    max_bytes: int = 16 * 1024 * 1024
    window: int = 64
    window_of_one: int = 64
    max_answers: int = 256
    unread_bytes: int = 64 * 1024


class _Lane:
    """What one connection has waiting; its first line always is a request."""

    __slots__ = ("deficit_bytes", "lines")

    def __init__(self) -> None:
        self.lines: deque[_Line] = deque()
        self.deficit_bytes = _QUANTUM_BYTES


class CoreQueue:
    """The lines that wait for one core, and how many more requests it may be given.

    Attributes:
        writable: Set by the shell: whether stdin takes more now.
        outstanding: Requests given to the core and not answered yet.
    """

    def __init__(self, bounds: CoreQueueBounds) -> None:
        self._bounds = bounds
        self._window = bounds.window
        self.writable = True
        self.clear()

    def __repr__(self) -> str:
        return (
            f"<CoreQueue waiting={self._waiting} bytes={self._request_bytes + self._free_bytes}"
            f" lanes={len(self._lanes)} outstanding={self.outstanding}/{self._window}>"
        )

    def __len__(self) -> int:
        return self._waiting

    def narrow(self, window: int) -> None:
        """Never have more than so many requests unanswered, whatever the bound allows.

        Only before the first of them: a core is greeted before others may ask.
        """
        assert self.outstanding == 0, "narrow() with requests outstanding"
        self._window = min(self._bounds.window, window)
        self._shares = Shares(self._window, self._bounds.window_of_one)

    def clear(self) -> None:
        """Forget everything: the core died, and the router settles what it had."""
        self._shares = Shares(self._window, self._bounds.window_of_one)
        self._unread = Unread(self._bounds.unread_bytes)
        self._latest_id = 0
        self.outstanding: int = 0
        self._first: deque[tuple[int, bytes]] = deque()
        self._lanes: dict[int, _Lane] = {}
        self._round: OrderedDict[int, _Lane] = OrderedDict()  # of them, those that are not parked
        self._free: dict[int, int] = {}
        self._waiting = 0
        self._requests = 0
        self._request_bytes = 0
        self._free_bytes = 0

    def pass_through(self, counts: bool, key: int = OUR_LANE) -> bool:  # noqa: FBT001 - the hottest call there is
        """Whether the caller may write its line now, past the queue; counts it if so.

        Args:
            counts: True for a request, which takes a place in the window until `answered`.
            key: Whose place that is; needed with `counts` only.
        """
        if self._waiting or not self.writable:
            return False
        if counts:
            free = self._window - self.outstanding
            if free <= 0 or not self._shares.take(key, free):
                return False
            self.outstanding += 1
        return True

    def pass_long(self, key: int, line: bytes, core_id: int) -> bool:
        """`pass_through` for a request of `LONG_BYTES` or more, known by this number."""
        if self._waiting:
            return False
        cost = _cost_of(line)
        if not self._unread.allows(key, cost) or not self.pass_through(True, key):  # noqa: FBT003 - as declared
            return False
        self._unread.give(key, cost, core_id, core_id)
        return True

    def put(self, key: int, line: bytes, *, counts: bool, core_id: int = 0) -> Refusal | None:
        """Queue a request, or (without `counts`) a notification behind its connection's requests.

        Args:
            key: Whose it is.
            line: What will be written.
            counts: Whether it is a request.
            core_id: By which number the core will know it; they grow. 0: it is never long.

        Returns:
            None, or why it was not queued. A notification cannot be answered: Close 1008.
        """
        lane = self._lanes.get(key)
        if not counts:
            return self._put_free(key, line, lane)
        size = len(line)
        if lane is None:
            # Whatever others have waiting: it is one, and `Admission` bounds them all.
            lane = self._lanes[key] = self._round[key] = _Lane()
        elif (
            self._requests >= self._bounds.max_messages
            or self._request_bytes + size > self._bounds.max_bytes
        ):
            return _FULL
        cost = _cost_of(line) if core_id and size >= LONG_BYTES else 0
        lane.lines.append((line, core_id, cost))
        self._latest_id = max(self._latest_id, core_id)
        self._waiting += 1
        self._requests += 1
        self._request_bytes += size
        return None

    def put_answer(self, key: int, line: bytes) -> Refusal | None:
        """Queue a line ahead of all requests, free of the window: an answer to a server request.

        Also for a request that may overtake and frees others (`turn/interrupt`); then
        `answered` must not be called for it.

        Returns:
            None, or why it was not queued. An answer cannot be answered: Close 1008.
        """
        return self._put_free(key, line, None)

    def _put_free(self, key: int, line: bytes, lane: _Lane | None) -> Refusal | None:
        count = self._free.get(key, 0)
        too_many = count >= self._bounds.max_answers
        if too_many or (count and self._free_bytes + len(line) > self._bounds.max_bytes):
            return _TOO_MANY_ANSWERS
        if lane is None:
            self._first.append((key, line))
        else:
            lane.lines.append((line, _FREE, 0))
        self._free[key] = count + 1
        self._waiting += 1
        self._free_bytes += len(line)
        return None

    def take(self, max_bytes: int) -> list[bytes]:
        """The next lines to write: at least one if any may go, together at most `max_bytes`."""
        taken: list[bytes] = []
        left = max_bytes
        while self.writable:
            if self._first:
                line = self._first[0][1]
                if taken and len(line) > left:
                    break
                self._free_gone(*self._first.popleft())
            elif (turn := self._turn()) is not None:
                key, lane = turn
                line = lane.lines[0][0]
                if taken and len(line) > left:
                    break
                self._serve(key, lane)
            else:
                break
            taken.append(line)
            left -= len(line)
        return taken

    def _turn(self) -> tuple[int, _Lane] | None:
        """The lane whose turn it is: each turn is worth `_QUANTUM_BYTES`, saved until they do.

        None when no lane may go on. One that is at its share is parked on the way, once: it
        comes back by an answer, or as the next who is allowed when the round is empty.
        """
        free = self._window - self.outstanding
        while free > 0 and (self._round or self._next_to_round(free)):
            key, lane = next(iter(self._round.items()))
            if not self._shares.allows(key, free):
                self._shares.park(key)
                del self._round[key]
            elif (cost := lane.lines[0][2]) and not self._unread.allows(key, cost):
                self._unread.parked.add(key)
                del self._round[key]
            elif len(lane.lines[0][0]) <= lane.deficit_bytes or len(self._round) == 1:
                return key, lane
            else:
                lane.deficit_bytes += _QUANTUM_BYTES
                self._round.move_to_end(key)
        return None

    def _next_to_round(self, free: int) -> bool:
        """Let one parked lane that may go on do so; False when there is none."""
        key = self._shares.unpark_next(free)
        if key is None:
            return False
        self._round[key] = self._lanes[key]
        return True

    def _serve(self, key: int, lane: _Lane) -> None:
        """Count a request out; the notifications behind it are next, before all requests."""
        line, core_id, cost = lane.lines.popleft()
        self._shares.take(key, self._window - self.outstanding)
        if cost:
            self._unread.give(key, cost, core_id, self._latest_id)
        self.outstanding += 1
        self._waiting -= 1
        self._requests -= 1
        self._request_bytes -= len(line)
        lane.deficit_bytes = max(0, lane.deficit_bytes - len(line))
        while lane.lines and lane.lines[0][1] == _FREE:
            self._first.append((key, lane.lines.popleft()[0]))
        if not lane.lines:
            del self._lanes[key], self._round[key]

    def _free_gone(self, key: int, line: bytes) -> None:
        self._waiting -= 1
        self._free_bytes -= len(line)
        left = self._free[key] - 1
        if left:
            self._free[key] = left
        else:
            del self._free[key]

    def tick(self, *, alone: bool = False) -> bool:
        """Some time has passed; returns whether there may be something to take.

        Args:
            alone: Whether one connection is all there is.
        """
        self._unread.alone = alone
        if not self._unread:
            return False
        self._back_to_round(self._unread.tick())
        return bool(self._round)

    def _back_to_round(self, keys: list[int]) -> None:
        for key in keys:
            self._round[key] = self._lanes[key]

    def answered(self, key: int = OUR_LANE, core_id: int = 0) -> None:
        """A request that counted was answered: its place in the window is free.

        Args:
            key: As it was counted with, whether its connection is still there or not.
            core_id: By which number the core knew it.
        """
        assert self.outstanding > 0, "answered() without a request outstanding"
        self.outstanding -= 1
        if self._unread:
            self._back_to_round(self._unread.answered(core_id))
        shares = self._shares
        if not shares.parked:
            shares.give_back(key)
            return
        if shares.unpark(key):
            self._round[key] = self._lanes[key]
        shares.give_back(key)
        if shares.parked:  # one for each answer, so that nobody stands beside the round for ever
            self._next_to_round(self._window - self.outstanding)

    def drop(self, key: int) -> list[bytes]:
        """Forget the lines of a connection that left.

        Returns:
            Its requests that will never be sent, so that they can be settled.
        """
        lane = self._lanes.pop(key, None)
        if self._round.pop(key, None) is None:
            self._shares.unpark(key)
            self._unread.parked.discard(key)
        lines = list(lane.lines) if lane is not None else []
        requests = [line for line, core_id, _ in lines if core_id != _FREE]
        free = [line for line, core_id, _ in lines if core_id == _FREE]
        if len(free) < self._free.get(key, 0):
            free += [line for owner, line in self._first if owner == key]
            self._first = deque(entry for entry in self._first if entry[0] != key)
        for line in free:
            self._free_gone(key, line)
        self._waiting -= len(requests)
        self._requests -= len(requests)
        self._request_bytes -= sum(map(len, requests))
        return requests


def _cost_of(line: bytes) -> int:
    """What a long request costs the core that reads it."""
    return len(line) if len(line) >= _LONG_ANYWAY_BYTES else cost_of(line)
