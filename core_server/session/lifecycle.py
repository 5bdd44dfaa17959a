"""When may the core exit?

    SERVING --signal--> DRAINING --idle | end of input--> CLOSING
       |----------------- end of input ---------------------^

DRAINING finishes turns and refuses new ones; CLOSING interrupts them. A second TERM or
INT forces; two signals within 100 ms are one (a terminal and a supervisor often send
both). HUP drains and never forces. This module reads no clock: callers pass seconds.
"""

from enum import Enum, auto
from typing import Literal

SAME_SIGNAL_S = 0.1

Signal = Literal["TERM", "INT", "HUP"]
Step = Literal["drain", "force"]


class State(Enum):
    """Where the core is in its life."""

    SERVING = auto()
    DRAINING = auto()
    CLOSING = auto()


class Lifecycle:
    """Signals and the end of input in, what to do out."""

    def __init__(self) -> None:
        self.state = State.SERVING
        self._first_s: float | None = None

    def __repr__(self) -> str:
        return f"<Lifecycle {self.state.name}>"

    def signal(self, which: Signal, *, now_s: float) -> Step | None:
        """Take a signal at a monotonic second."""
        if self._first_s is None:
            self._first_s = now_s
            if self.state is State.SERVING:
                self.state = State.DRAINING
            return "drain"
        if which == "HUP" or now_s - self._first_s < SAME_SIGNAL_S:
            return None
        return "force"

    def input_ended(self) -> None:
        """Stdin is at its end or stdout is closed: nobody is there any more."""
        self.state = State.CLOSING

    def idle(self) -> bool:
        """No turn runs and no request is unanswered; whether that is the end."""
        if self.state is State.DRAINING:
            self.state = State.CLOSING
        return self.state is State.CLOSING

    @property
    def admits_work(self) -> bool:
        """Whether new turns and threads may begin."""
        return self.state is State.SERVING


def waiting_for(turns: int, requests: int) -> str:
    """What a first signal waits for, for whoever pressed Ctrl-C."""
    counts = ((turns, "turn"), (requests, "request"))
    work = " and ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in counts if n)
    if not work:
        return "nothing runs; ending now"
    return f"waiting for {work}, no limit; Ctrl-C (or SIGTERM) again stops now"
