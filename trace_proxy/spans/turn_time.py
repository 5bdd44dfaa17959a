"""Where a turn's time goes: the model, a tool, or a human who is asked.

    model --tool started--> tool --asked--> human --answered--> tool --tool ended--> model

A human counts before a tool, since the tool that asks runs as well; whatever is neither
is the model's. Three sums and two counters, however long a turn is.
"""

from typing import Final

MODEL, TOOL, HUMAN = "model", "tool", "human"

_KINDS: Final = (MODEL, TOOL, HUMAN)


class TurnTime:
    """The split of one turn.

    Args:
        start_ns: When it began, Unix nanoseconds.

    Attributes:
        since_ns: When something began or ended in it last.
    """

    __slots__ = ("_asked", "_sums_ns", "_tools", "since_ns")

    def __init__(self, start_ns: int) -> None:
        self.since_ns = start_ns
        self._sums_ns = [0, 0, 0]
        self._tools = 0
        self._asked = 0

    def __repr__(self) -> str:
        return f"<TurnTime {self.now} {self._sums_ns}>"

    @property
    def now(self) -> str:
        """What it spends its time on at the moment."""
        return HUMAN if self._asked else TOOL if self._tools else MODEL

    def tools(self, change: int, now_ns: int) -> None:
        """So many tools more (or less) run."""
        self._until(now_ns)
        self._tools = max(0, self._tools + change)

    def asked(self, change: int, now_ns: int) -> None:
        """So many questions more (or less) wait for a human."""
        self._until(now_ns)
        self._asked = max(0, self._asked + change)

    def split_ms(self, now_ns: int) -> tuple[int, int, int]:
        """Milliseconds of the model, of tools and of humans, until now."""
        sums = list(self._sums_ns)
        sums[_KINDS.index(self.now)] += max(0, now_ns - self.since_ns)
        model, tool, human = (each // 1_000_000 for each in sums)
        return model, tool, human

    def _until(self, now_ns: int) -> None:
        """Account for what went by; a core's clock may go back, and then nothing did."""
        if now_ns > self.since_ns:
            self._sums_ns[_KINDS.index(self.now)] += now_ns - self.since_ns
            self.since_ns = now_ns
