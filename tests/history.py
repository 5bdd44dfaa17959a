"""What a store must have kept, whatever was killed, stopped, cut off or restarted.

Writers tell a journal what they did, each event with a moment of a clock that all share
(`time.monotonic` of one machine). The checker compares all of it with what is stored. It
knows nothing of how leases work: a *tenure* is one writer's time with one thread.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

from core_server.storage.base import ItemRow, TurnRow

Kind = Literal["own", "delta", "item", "turn", "end"]


@dataclass(frozen=True, slots=True)
class Event:
    """What a writer did.

    Attributes:
        kind: It came to own the thread, told of a delta, or was promised an item, the
            beginning or the end of a turn.
        at_s: When it knew; for a delta, the moment before it asked whether it may.
        tenure: Drawn anew at each `own`.
        thread_id: Of which thread.
        what: Item or turn id.
    """

    kind: Kind
    at_s: float
    tenure: str
    thread_id: str
    what: str = ""

    def line(self) -> bytes:
        """For a pipe."""
        return (
            json.dumps([self.kind, self.at_s, self.tenure, self.thread_id, self.what]).encode()
            + b"\n"
        )


def events_of(text: bytes) -> list[Event]:
    """The events of whole lines; a kill may have cut the last one short."""
    whole, _, _ = text.rpartition(b"\n")
    return [Event(*json.loads(line)) for line in whole.splitlines()]


def faults(
    thread_id: str, turns: Sequence[TurnRow], items: Sequence[ItemRow], journal: Iterable[Event]
) -> list[str]:
    """All that is wrong with one thread; the body of an item is the tenure that wrote it."""
    events = [event for event in journal if event.thread_id == thread_id]
    return [
        *_ordinals(thread_id, items),
        *_writers(thread_id, items),
        *_promises(turns, items, events),
        *_ends(turns, events),
        *_deltas(events),
    ]


def _ordinals(thread_id: str, items: Sequence[ItemRow]) -> list[str]:
    given = [item.ordinal for item in items]
    if given == sorted(set(given)):
        return []
    return [f"{thread_id}: ordinals do not rise: {given}"]


def _writers(thread_id: str, items: Sequence[ItemRow]) -> list[str]:
    """One writer at a time: what a tenure wrote stands together."""
    runs = Counter(tenure for tenure, _ in groupby(item.body for item in items))
    return [f"{thread_id}: {t} wrote in {n} places" for t, n in runs.items() if n > 1]


def _promises(
    turns: Sequence[TurnRow], items: Sequence[ItemRow], events: Sequence[Event]
) -> list[str]:
    stored = {("item", item.item_id) for item in items} | {("turn", row.turn_id) for row in turns}
    lost = [e for e in events if e.kind in ("item", "turn") and (e.kind, e.what) not in stored]
    return [f"promised and not stored: {event}" for event in lost]


def _ends(turns: Sequence[TurnRow], events: Sequence[Event]) -> list[str]:
    """Each turn ends once: as its writer was promised, or by whoever took over."""
    promised = Counter(event.what for event in events if event.kind == "end")
    status = {row.turn_id: row.status for row in turns}
    return [
        *(f"turn {turn_id} runs for ever" for turn_id, s in status.items() if s == "inProgress"),
        *(f"turn {turn_id} ended {n} times" for turn_id, n in promised.items() if n > 1),
        *(
            f"turn {turn_id} was said to be completed and is {status.get(turn_id)}"
            for turn_id in promised
            if status.get(turn_id) != "completed"
        ),
    ]


def _deltas(events: Sequence[Event]) -> list[str]:
    """Nobody hears a delta of an owner whose thread another has taken over."""
    began: dict[str, float] = {e.tenure: e.at_s for e in events if e.kind == "own"}
    spoke: dict[str, float] = defaultdict(float)
    for event in events:
        if event.kind == "delta":
            spoke[event.tenure] = max(spoke[event.tenure], event.at_s)
    order = sorted(began, key=lambda tenure: began[tenure])
    return [
        f"{tenure} spoke at {spoke[tenure]}, when {successor} owned the thread"
        for tenure, successor in pairwise(order)
        if spoke[tenure] > began[successor]
    ]
