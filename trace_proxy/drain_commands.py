"""Everything that the drain may ask the runtime to do.

Each command is one thing, named by what it achieves; the shell knows how. A list of
commands is carried out in order, one finished before the next begins.
"""

import msgspec

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
