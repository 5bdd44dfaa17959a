"""What clients of a soak were promised, and whether each promise was kept.  Pure.

A `Visit` hears all that goes over one connection: every request must be answered once,
under its own id and about its own thread; nothing may come that was not asked for. A
`History` outlives connections: a turn that was accepted must end in front of its client
or, when the connection was lost, be found ended by whoever reads the thread later.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]

RESTART_CODE: Final = 1012
LATE_S: Final = 5.0
"""A request that waited for so long when a drain closed its connection was forgotten:
one that crossed the Close on its way is milliseconds old, on a busy machine a second."""

PROBLEMS_KEPT: Final = 50
"""Of each kind; the rest is counted."""

ENDED: Final = frozenset({"completed", "interrupted", "failed"})


@dataclass
class Findings:
    """Problems of one kind: all counted, some kept."""

    count: int = 0
    kept: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        """Note one more."""
        self.count += 1
        if len(self.kept) < PROBLEMS_KEPT:
            self.kept.append(what)


@dataclass
class Ledger:
    """What all connections came to.

    Attributes:
        requests: Sent.
        answered: Of those, with a result or a final error.
        refused: Answered with an error that says to try again, by its reason.
        cut: Requests that a closed connection left open; their clients ask again.
        turns: Accepted.
        interrupted: Of those, not completed.
        closed: Connections that ended, by close code; None when we hung up.
        lost: Requests and turns without an end.
        doubled: Said twice.
        strange: Said to somebody who had not asked, or who had asked something else.
        took_s: From each request to its answer, by method.
    """

    requests: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    turns: int = 0
    interrupted: int = 0
    closed: Counter[int | None] = field(default_factory=Counter)
    lost: Findings = field(default_factory=Findings)
    doubled: Findings = field(default_factory=Findings)
    strange: Findings = field(default_factory=Findings)
    took_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def problems(self) -> list[str]:
        """The kept ones of all kinds."""
        kinds = {"lost": self.lost, "doubled": self.doubled, "strange": self.strange}
        return [f"{kind}: {each}" for kind, found in kinds.items() for each in found.kept]


@dataclass
class History:
    """One client's thread, whatever its connection.

    Attributes:
        thread: Its id; "" until there is one.
        turns: Of accepted turns, how each ended as far as the client was told; "" while it runs.
    """

    ledger: Ledger
    thread: str = ""
    turns: dict[str, str] = field(default_factory=dict)

    def accepted(self, turn: str) -> None:
        """A turn has an id: it was promised."""
        if turn not in self.turns:
            self.ledger.turns += 1
            self.turns[turn] = ""

    def ended(self, turn: str, status: str) -> None:
        """A turn is over."""
        self.accepted(turn)
        if not self.turns[turn] and status != "completed":
            self.ledger.interrupted += 1
        self.turns[turn] = self.turns[turn] or status

    def compare(self, thread: Json) -> set[str]:
        """Compare with the stored thread; returns turns that still run there."""
        stored = {each["id"]: each["status"] for each in thread["turns"]}
        running = set()
        for turn, told in self.turns.items():
            status = stored.get(turn, "missing")
            if status in ENDED and (told != "completed" or status == "completed"):
                self.ended(turn, status)
            elif status == "inProgress" and not told:
                running.add(turn)
            else:
                self.ledger.lost.add(f"turn {turn}: was told {told!r}, stored is {status!r}")
        return running

    def renew(self, thread: str) -> None:
        """Go on with a new thread."""
        self.thread = thread
        self.turns = {}


@dataclass(slots=True)
class Asked:
    """A request that was sent."""

    method: str
    thread: str
    at_s: float


class Visit:
    """One connection's promises.

    Args:
        history: Its client's.
        unwanted: Notifications that it opted out of.

    Attributes:
        running: Turns that must end in front of this connection, and how it knows of them.
    """

    def __init__(self, history: History, unwanted: frozenset[str]) -> None:
        self._history = history
        self._ledger = history.ledger
        self._unwanted = unwanted
        self._open: dict[int | str, Asked] = {}
        self._settled: set[int | str] = set()
        self._threads: set[str] = set()
        self._early: set[str] = set()  # of threads whose start is not answered yet
        self._asked_by_core: set[int | str] = set()
        # Not the history's: a resume may see an end that is about to be told.
        self._ended: set[str] = set()
        self.running: dict[str, str] = {}

    def asked(self, request_id: int | str, method: str, thread: str, now_s: float) -> None:
        """A request is about to be sent."""
        self._ledger.requests += 1
        self._open[request_id] = Asked(method, thread, now_s)
        if method == "thread/resume":
            self._threads.add(thread)

    def answered(self, message: Json, now_s: float) -> bool:
        """Take an answer; False when nobody waits for it."""
        request_id = message.get("id")
        asked = self._open.pop(request_id, None) if isinstance(request_id, int | str) else None
        if asked is None or request_id is None:
            known = request_id in self._settled
            (self._ledger.doubled if known else self._ledger.strange).add(str(message)[:300])
            return False
        self._settled.add(request_id)
        self._ledger.took_s[asked.method].append(now_s - asked.at_s)
        if "result" in message:
            self._ledger.answered += 1
            self._result(asked, message["result"])
        else:
            self._error(asked, message["error"])
        return True

    def _result(self, asked: Asked, result: Json) -> None:
        match asked.method:
            case "thread/start":
                self._threads.add(result["thread"]["id"])
            case "thread/read" | "thread/resume" if result["thread"]["id"] != asked.thread:
                self._ledger.strange.add(f"{asked}: {result['thread']['id']}")
            case "thread/resume":  # at once: what is told behind the answer is newer
                self._runs(*self._history.compare(result["thread"]), why="resumed")
            case "thread/unsubscribe":
                self._threads.discard(asked.thread)
            case "turn/start":
                self._runs(result["turn"]["id"], why="started")
            case _:
                pass
        self._judge_early()

    def _error(self, asked: Asked, error: Json) -> None:
        details = error.get("data") or {}
        if details.get("retryable"):
            self._ledger.refused[details["reason"]] += 1
        else:
            self._ledger.answered += 1
            self._ledger.lost.add(f"{asked}: {error}")
        self._judge_early()

    def _judge_early(self) -> None:
        if not any(each.method == "thread/start" for each in self._open.values()):
            for thread in self._early - self._threads:
                self._ledger.strange.add(f"of a thread that it did not ask for: {thread}")
            self._early.clear()

    def _runs(self, *turns: str, why: str) -> None:
        for turn in turns:
            self._history.accepted(turn)
            if not self._history.turns[turn]:
                self.running.setdefault(turn, why)

    def told(self, message: Json) -> None:
        """Take a notification."""
        method, params = message["method"], message.get("params") or {}
        if method in self._unwanted:
            self._ledger.strange.add(f"opted out: {str(message)[:300]}")
        thread = params.get("threadId")
        if isinstance(thread, str) and thread not in self._threads:
            self._early.add(thread)
            self._judge_early()
        if method == "turn/started":
            self._runs(params["turn"]["id"], why="told")
        elif method == "turn/completed":
            self._completed(params["turn"])
        elif method == "thread/closed":
            self._ledger.lost.add(f"the thread: {str(message)[:300]}")

    def _completed(self, turn: Json) -> None:
        if turn["id"] in self._ended:
            self._ledger.doubled.add(f"the end of {turn['id']}: {turn['status']}")
        self._ended.add(turn["id"])
        self.running.pop(turn["id"], None)
        self._history.ended(turn["id"], turn["status"])

    def asked_by_core(self, message: Json) -> None:
        """Take a request of the core."""
        if message["id"] in self._asked_by_core:
            self._ledger.doubled.add(f"asked: {str(message)[:300]}")
        self._asked_by_core.add(message["id"])
        if message["params"]["threadId"] not in self._threads:
            self._ledger.strange.add(f"asked: {str(message)[:300]}")

    def closed(self, code: int | None, now_s: float, *, by_us: bool) -> None:
        """The connection has ended: what a drain owed before its Close is lost."""
        self._ledger.closed[None if by_us else code] += 1
        self._ledger.cut += len(self._open)
        if code == RESTART_CODE and not by_us:
            for turn, why in self.running.items():
                self._ledger.lost.add(f"turn {turn} ({why}) was cut off by a drain")
            for each in self._open.values():
                if now_s - each.at_s > LATE_S:
                    self._ledger.lost.add(f"no answer in {now_s - each.at_s:.1f} s: {each}")
