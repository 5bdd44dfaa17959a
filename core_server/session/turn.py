"""One running turn: what joined it, whether it shall stop, how it ended.

    RUNNING --interrupt--> STOPPING --finish--> ENDED
       |------------------- finish ---------------^

Input that joins (a steer, or a second `turn/start`) waits here until the runner takes
it; as long as input waits, the turn does not complete. Samples and tools are the
runner's; this machine decides what they add up to.
"""

from enum import Enum, auto

from core_server.protocol.items import AgentMessageItem, InputItem
from core_server.protocol.turns import Turn, TurnError, TurnStatus


class State(Enum):
    """Where the turn is."""

    RUNNING = auto()
    STOPPING = auto()
    ENDED = auto()


class TurnMachine:
    """A turn from its acceptance to its end.

    Args:
        turn_id: UUIDv7.
        ordinal: Its place in the thread.
        started_at_ms: Unix milliseconds.
        entries: What it begins with; empty for a compaction or a shell command.

    Attributes:
        is_review: It takes no more input.
    """

    def __init__(
        self,
        turn_id: str,
        ordinal: int,
        started_at_ms: int,
        entries: tuple[InputItem, ...] = (),
    ) -> None:
        self.id = turn_id
        self.ordinal = ordinal
        self.started_at_ms = started_at_ms
        self.state = State.RUNNING
        self.error: TurnError | None = None
        self.is_review = False
        self._waiting = list(entries)
        self._said: list[AgentMessageItem] = []

    def __repr__(self) -> str:
        return f"<TurnMachine {self.id} {self.state.name} waiting={len(self._waiting)}>"

    @property
    def stopping(self) -> bool:
        """Whether the runner shall come to an end."""
        return self.state is not State.RUNNING

    @property
    def has_input(self) -> bool:
        """Whether input waits to be taken."""
        return bool(self._waiting)

    def join(self, entry: InputItem) -> None:
        """More input for the running turn."""
        assert self.state is not State.ENDED, "an ended turn takes no input"
        self._waiting.append(entry)

    def take_input(self) -> tuple[InputItem, ...]:
        """All that waits, in order."""
        taken, self._waiting = tuple(self._waiting), []
        return taken

    def said(self, message: AgentMessageItem) -> None:
        """An agent message is complete; the last one is the turn's summary."""
        self._said = [message]

    def stop(self, error: TurnError | None = None) -> None:
        """End early: as failed when there is an error, else as interrupted."""
        if self.state is State.RUNNING:
            self.state = State.STOPPING
            self.error = error

    def accepted(self) -> Turn:
        """The turn as `turn/start` answers it."""
        return Turn(self.id, self.id)

    def running(self) -> Turn:
        """The turn as `turn/started` tells it."""
        return Turn(self.id, self.id, started_at=self.started_at_ms // 1000)

    def finish(self, now_ms: int) -> Turn:
        """The turn as `turn/completed` tells it; failed and interrupted ones show no items."""
        status = self._status()
        self.state = State.ENDED
        items = tuple(self._said) if status == "completed" else ()
        return Turn(
            self.id,
            self.id,
            items,
            "summary" if items else "notLoaded",
            status,
            self.error,
            self.started_at_ms // 1000,
            now_ms // 1000,
            max(0, now_ms - self.started_at_ms),
        )

    def _status(self) -> TurnStatus:
        if self.error is not None:
            return "failed"
        return "interrupted" if self.state is State.STOPPING else "completed"
