"""When may the proxy exit?  The drain state machine.

                         1st signal,             deadline, output_ended,
              serving    input_ended             signal and input_ended
    STARTING ────────> SERVING ────────> DRAINING ────────> INTERRUPTING
       │                                    │ no work left       │ no work left, 2 s
       │ signal                             v                    v
       │          failed, from all four: CLOSING <───────────────┘
       v                                    │ closed
     FORCED <── 2nd signal, from            v
                DRAINING to CLOSING      STOPPED

Work is a running turn, an admitted request, or a byte on its way to a client:
`turn/start` is answered at once, so an empty request table does not mean an idle
proxy, and a turn that ended is not over before the client has been told.
One clock, started by the first signal and never extended; a second TERM or INT
forces from wherever the first has led.
This module decides; `trace_proxy.runtime` acts: what it is asked to do are the commands
below, each one thing, named by what it achieves, carried out in order. It reads no clock: callers pass
monotonic seconds.
"""

from enum import Enum
from typing import Final, Literal

import msgspec

from trace_proxy.protocol.refusal import Refusal, draining

RESTART_CODE = 1012
"""Close code "service restart" (IANA WebSocket registry): come back to my successor."""

CORE_LOST_CODE = 1011
"""Close code "internal error": no core is left."""


class AnnounceDraining(msgspec.Struct, frozen=True):
    """Send `server/draining` to the connections that opted in by `experimentalApi`.

    The shell adds a random `reconnectAfterMs`, against a herd.

    Attributes:
        reason: Why, for people: a signal's name or the end of input.
        deadline_s: When the rest is interrupted, monotonic; None: no deadline.
    """

    reason: str
    deadline_s: float | None


class CloseIdleConnections(msgspec.Struct, frozen=True):
    """Close the connections without work of theirs, in batches, and go on without waiting.

    Attributes:
        code: The close code.
    """

    code: int = RESTART_CODE


class InterruptTurn(msgspec.Struct, frozen=True):
    """Send `turn/interrupt` for one turn; what it wants approved is not run."""

    thread_id: str
    turn_id: str


class InterruptTurns(msgspec.Struct, frozen=True):
    """Send `turn/interrupt` for every running turn."""


class CloseConnections(msgspec.Struct, frozen=True):
    """Close all connections in parallel; abort those whose peer has not closed in time.

    Attributes:
        code: The close code.
        peer_s: Seconds for the peer's Close.
    """

    code: int
    peer_s: float = 1.0


class StopCores(msgspec.Struct, frozen=True):
    """Close each core's stdin; then TERM to its group; then KILL.

    Attributes:
        eof_s: Seconds to exit after the end of input.
        term_s: And after TERM.
    """

    eof_s: float = 1.5
    term_s: float = 0.5


class FlushSpans(msgspec.Struct, frozen=True):
    """Export the spans that wait.

    Attributes:
        within_s: Then give up.
    """

    within_s: float = 2.0


class EndWithin(msgspec.Struct, frozen=True):
    """Arm a plain thread that ends the process if the event loop hangs while closing.

    Attributes:
        within_s: Seconds from now.
        code: The exit code.
    """

    within_s: float
    code: int


class Exit(msgspec.Struct, frozen=True):
    """End the process; nothing is left to do."""

    code: int


class Force(msgspec.Struct, frozen=True):
    """Kill all descendants within 2 s and end the process, whatever is still going on."""

    code: int


AtOnce = (
    AnnounceDraining
    | CloseIdleConnections
    | InterruptTurn
    | InterruptTurns
    | EndWithin
    | Exit
    | Force
)
"""Done where they are commanded."""

Closing = CloseConnections | StopCores | FlushSpans
"""Take their time, one after the other."""

Command = AtOnce | Closing


SignalName = Literal["TERM", "INT", "HUP", "QUIT"]

SAME_SIGNAL_S: Final = 0.1
"""A terminal and a supervisor may both deliver one Ctrl-C; nobody types twice so fast."""

INTERRUPT_S: Final = 2.0
"""For the cores to end their interrupted turns, and the clients to hear of it."""

LEFT_S: Final = 0.5
"""The same once nobody listens: the official client ends its input, sends TERM and kills
2 s later, and closing takes its time of that too."""

CLOSING_S: Final = 8.0
"""What Close, the cores' end and the last spans take at most is 5 s; the rest is slack."""

_RETRY_AFTER_MS: Final = (1_000, 5_000)

_FORCED_CODE: Final[dict[SignalName, int]] = {
    "TERM": 143,
    "INT": 130,
    "HUP": 143,
    "QUIT": 131,
}


class State(Enum):
    """Where the proxy is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    INTERRUPTING = "interrupting"
    CLOSING = "closing"
    STOPPED = "stopped"
    FORCED = "forced"


_WAITING: Final = (State.DRAINING, State.INTERRUPTING)
_ENDING: Final = (*_WAITING, State.CLOSING)

ENDING: Final = (State.CLOSING, State.STOPPED, State.FORCED)
"""Connections and cores are being closed: what ends now was ended by us."""


class Drain:
    """Decides when to stop; every event returns what is to be done, in order.

    Args:
        timeout_s: Seconds that work gets after the first signal, 0: as long as it takes.
            Keep it below the orchestrator's own kill timeout.

    Attributes:
        state: Where the proxy is in its life.
        exit_code: What the process exits with if it stops from here on.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._signalled_at_s: float | None = None
        self._deadline_s: float | None = None
        self._wake_at_s: float | None = None
        self._input_ended = False
        self._turns = 0
        self._requests = 0
        self.state = State.STARTING
        self.exit_code = 0

    def __repr__(self) -> str:
        return (
            f"<Drain {self.state.name} turns={self._turns} requests={self._requests}"
            f" exit_code={self.exit_code}>"
        )

    @property
    def accepts_new_work(self) -> bool:
        """Whether a request in `methods.NEW_WORK` may come in.

        Before it serves, too: the client of `stdio://` is there first, and what it asks
        waits for the core.
        """
        return self.state in (State.STARTING, State.SERVING)

    @property
    def ready(self) -> bool:
        """Whether the drain has nothing against `/readyz` saying 200."""
        return self.state is State.SERVING

    def serving(self) -> None:
        """The first core is up and the listeners are open.

        Raises:
            RuntimeError: It was serving before.
        """
        if self.state is State.STARTING:
            self.state = State.SERVING
        elif self.state is State.SERVING:
            raise RuntimeError("serving() was called twice")

    def signal(self, name: SignalName, now_s: float) -> list[Command]:
        """Take a signal; then call `work` with the counts of the moment, without an await."""
        first_at_s = self._signalled_at_s
        if first_at_s is None:
            self._signalled_at_s = now_s
        if self.state is State.SERVING:
            return self._start_draining(f"SIG{name}", now_s)
        if self.state is State.DRAINING and first_at_s is None and self._input_ended:
            return self._interrupt(now_s + LEFT_S)
        if self.state is State.STARTING:
            return self._force(name)
        if first_at_s is None or now_s - first_at_s < SAME_SIGNAL_S or name in ("HUP", "QUIT"):
            return []
        return self._force(name) if self.state in _ENDING else []

    def input_ended(self, now_s: float) -> list[Command]:
        """The client of `stdio://` says no more: drains like a signal, then call `work`.

        It may still listen, as in a shell's pipeline. With a signal as well, before or
        after, it does not: then nothing is worth waiting for.
        """
        self._input_ended = True
        if self.state is State.SERVING:
            return self._start_draining("end of input", now_s)
        if self.state is State.DRAINING and self._signalled_at_s is not None:
            return self._interrupt(now_s + LEFT_S)
        return []

    def output_ended(self, now_s: float) -> list[Command]:
        """After `input_ended`: the client of `stdio://` listens no more, and nobody else can."""
        return self._interrupt(now_s + LEFT_S) if self.state is State.DRAINING else []

    def failed(self) -> list[Command]:
        """No core is left and none will be: everything ends, with exit code 1."""
        if self.state in (State.CLOSING, State.STOPPED, State.FORCED):
            return []
        self.exit_code = 1
        return self._close(CORE_LOST_CODE)

    def work(self, turns: int, requests: int, unflushed: int) -> list[Command]:
        """Tell how much is left to do. Needed only while draining, cheap always.

        Args:
            turns: Running turns.
            requests: Admitted requests that are not settled.
            unflushed: Bytes (or messages) that wait for clients.
        """
        if self.state not in _WAITING:
            return []
        self._turns, self._requests = turns, requests
        if turns or requests or unflushed:
            return []
        return self._close(RESTART_CODE)

    def approval_orphaned(self, thread_id: str, turn_id: str) -> list[Command]:
        """A turn waits for an approval and no client is left that could answer.

        While serving somebody may come back for it; while draining nobody can.
        """
        if self.state is not State.DRAINING:
            return []
        self.exit_code = 3
        return [InterruptTurn(thread_id, turn_id)]

    def tick(self, now_s: float) -> list[Command]:
        """Notice that time has passed; to be called every 50 ms or so while draining."""
        if self._wake_at_s is None or now_s < self._wake_at_s:
            return []
        if self.state is State.DRAINING:
            return self._interrupt(now_s + INTERRUPT_S)
        return self._close(RESTART_CODE)

    def closed(self) -> list[Command]:
        """All that CLOSING asked for is done."""
        if self.state is not State.CLOSING:
            return []
        self.state = State.STOPPED
        return [Exit(self.exit_code)]

    def refusal(self, now_s: float) -> Refusal:
        """The answer to new work while draining, with a guess when the successor is there."""
        least_ms, most_ms = _RETRY_AFTER_MS
        if self._deadline_s is None:
            return draining(most_ms)
        left_ms = int(1000 * (self._deadline_s - now_s))
        return draining(min(max(left_ms, least_ms), most_ms))

    def details(self, now_s: float) -> dict[str, object]:
        """For `/readyz`; the shell adds the number of connections.

        `deadline` is in seconds from now, None when there is none.
        """
        left_s = None if self._deadline_s is None else round(max(0, self._deadline_s - now_s), 3)
        return {
            "state": self.state.value,
            "turns": self._turns,
            "requests": self._requests,
            "deadline": left_s,
        }

    def _start_draining(self, reason: str, now_s: float) -> list[Command]:
        self.state = State.DRAINING
        if self._timeout_s:
            self._deadline_s = self._wake_at_s = now_s + self._timeout_s
        return [AnnounceDraining(reason, self._deadline_s), CloseIdleConnections()]

    def _interrupt(self, until_s: float) -> list[Command]:
        self.state, self.exit_code = State.INTERRUPTING, 3
        self._wake_at_s = until_s
        return [InterruptTurns()]

    def _close(self, code: int) -> list[Command]:
        self.state, self._wake_at_s = State.CLOSING, None
        return [
            EndWithin(CLOSING_S, self.exit_code),
            CloseConnections(code),
            StopCores(),
            FlushSpans(),
        ]

    def _force(self, name: SignalName) -> list[Command]:
        self.state, self._wake_at_s = State.FORCED, None
        self.exit_code = _FORCED_CODE[name]
        return [Force(self.exit_code)]


def waiting_for(turns: int, requests: int, left_s: float | None) -> str:
    """What a drain waits for and how long, for whoever pressed Ctrl-C."""
    counts = ((turns, "turn"), (requests, "request"))
    work = " and ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in counts if n)
    if not work:
        return "nothing runs; ending now"
    limit = "no limit" if left_s is None else f"at most {max(0, left_s):.0f} s"
    return f"waiting for {work}, {limit}; Ctrl-C (or SIGTERM) again stops now"
