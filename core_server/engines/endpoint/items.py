"""Messages, reasoning and calls as they arrive in pieces, for both wires. Pure.

A message or reasoning item is told of while it comes: its deltas, then what it is in the
end. What the endpoint says at the end is the truth: pieces may be lost, doubled or out of
order. A message begins with its first text, so an empty one is none.
"""

import re
from collections.abc import Callable, Sequence

import msgspec

from core_server.engines.base import (
    Event,
    MessageDone,
    MessageStarted,
    ReasoningDelta,
    ReasoningDone,
    ReasoningStarted,
    TextDelta,
    ToolCall,
)
from core_server.engines.endpoint.tools import TOOL_NAMES, without_nulls
from core_server.engines.endpoint.values import encodable, is_object, without_last_half

# Which part of an item: what kind of text, and which of several.
PartKey = tuple[str, int]

# What every endpoint takes as the name of a function when the call is sent back to it.
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]+")
_MAX_NAME_CHARS = 64


class _Part(msgspec.Struct):
    pieces: list[str] = []
    half: str = ""
    final: str = ""

    def text(self) -> str:
        return self.final or self.streamed()

    def streamed(self) -> str:
        return "".join(self.pieces)


class Spoken:
    """A message or reasoning item.

    Args:
        item_id: Ours.
        reasoning: Which of the two.
    """

    def __init__(self, item_id: str, *, reasoning: bool) -> None:
        self._id = item_id
        self._reasoning = reasoning
        self._parts: dict[PartKey, _Part] = {}
        self._started = False
        self.text = ""

    def __repr__(self) -> str:
        return f"<Spoken {self._id} parts={len(self._parts)} started={self._started}>"

    @property
    def spoke(self) -> bool:
        """Whether any text came."""
        return bool(self._parts)

    def streamed(self) -> str:
        """Return what was told of it so far."""
        return "".join(part.streamed() for part in self._parts.values())

    def begin(self) -> list[Event]:
        """Tell that it is there; once."""
        if self._started:
            return []
        self._started = True
        return [ReasoningStarted(self._id) if self._reasoning else MessageStarted(self._id)]

    def add(self, key: PartKey, text: str) -> list[Event]:
        """More text of a part; halves of a pair wait for the other."""
        part = self._parts.setdefault(key, _Part())
        text, half = without_last_half(part.half + text)
        part.half = half
        if not text:
            return []
        text = encodable(text)
        part.pieces.append(text)
        return [*self.begin(), self._delta(key, text)]

    def settle(self, key: PartKey, text: str) -> None:
        """The endpoint says what all of a part is."""
        if text:
            self._parts.setdefault(key, _Part()).final = encodable(text)

    def finish(self, finals: dict[PartKey, str]) -> list[Event]:
        """It is complete; `finals` is what the endpoint says that it is, if it does."""
        events: list[Event] = []
        for key, part in self._parts.items():
            if part.half:
                part.half = ""
                events += self.add(key, "\ufffd")
        if self._reasoning:
            return [*events, *self._finish_reasoning(finals)]
        return [*events, *self._finish_message("".join(finals.values()))]

    def _finish_message(self, final: str) -> list[Event]:
        parts = [self._parts[key] for key in sorted(self._parts, key=lambda key: key[1])]
        streamed = "".join(part.streamed() for part in parts)
        self.text = encodable(final) or "".join(part.text() for part in parts)
        events = self._rest(("text", 0), streamed, self.text)
        if not self._started:
            return events
        return [*events, MessageDone(self._id, self.text)]

    def _finish_reasoning(self, finals: dict[PartKey, str]) -> list[Event]:
        # A summary and the reasoning itself may both be given: what was streamed counts.
        kinds = {key[0] for key in self._parts} or ({"summary"} if _has(finals) else {"content"})
        events = self.begin()
        for key, text in finals.items():
            if key[0] in kinds:
                self.settle(key, text)
        for key, part in self._parts.items():
            events += self._rest(key, part.streamed(), part.text())
        texts = tuple(self._parts[key].text() for key in sorted(self._parts))
        self.text = "\n".join(texts)
        return [*events, ReasoningDone(self._id, texts)]

    def _rest(self, key: PartKey, streamed: str, text: str) -> list[Event]:
        """What was not streamed of a text, where it goes on from what was."""
        if len(text) <= len(streamed) or not text.startswith(streamed):
            return []
        return [*self.begin(), self._delta(key, text[len(streamed) :])]

    def _delta(self, key: PartKey, text: str) -> Event:
        if self._reasoning:
            return ReasoningDelta(self._id, list(self._parts).index(key), text)
        return TextDelta(self._id, text)


def _has(finals: dict[PartKey, str]) -> bool:
    return any(key[0] == "summary" and text for key, text in finals.items())


class Asked:
    """A tool call, from whatever says something of it.

    Attributes:
        call_id: The endpoint's; empty while it has said none.
        name: Empty while it has said none.
    """

    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self._pieces: list[str] = []
        self._whole: list[str] = []

    def __repr__(self) -> str:
        return f"<Asked {self.name!r} {self.call_id!r} pieces={len(self._pieces)}>"

    def named(self, name: str, call_id: str) -> None:
        """What it is called; blanks change nothing."""
        # Some models leave the prefix of their own format in the name.
        name = _NOT_IN_NAMES.sub("_", name.strip().removeprefix("functions."))
        if name and self.name + name in TOOL_NAMES:  # in pieces, as arguments are
            name = self.name + name
        self.name = name[:_MAX_NAME_CHARS] or self.name
        self.call_id = call_id.strip() or self.call_id

    def piece(self, text: str) -> None:
        """More of its arguments; behind an empty object it is all of them."""
        if text.strip() and self._pieces and self.said().strip() == "{}":
            self._pieces.clear()
        self._pieces.append(text)

    def all_of_it(self, arguments: str) -> None:
        """The endpoint says what all of the arguments are; later ones count more."""
        if arguments.strip():
            self._whole.append(encodable(arguments))

    def said(self) -> str:
        """Return what the pieces add up to so far."""
        return "".join(self._pieces)

    def arguments(self) -> str:
        """Return the arguments: of what was said the last that is an object, else the last."""
        said = [encodable(self.said()), *self._whole]
        for text in reversed(said):
            if is_object(text):
                return without_nulls(text)
        return next((text for text in reversed(said) if text.strip()), "{}")


def tool_calls(
    asked: Sequence[Asked], taken_call_ids: frozenset[str], new_id: Callable[[str], str]
) -> list[Event]:
    """Return what was asked for, each under a call id that is new in the thread.

    Args:
        asked: All of them named.
        taken_call_ids: Call ids that the thread has already used.
        new_id: Gives a new id for a prefix.
    """
    taken, calls = set(taken_call_ids), list[Event]()
    for one in asked:
        call_id = one.call_id
        if not call_id or call_id in taken:
            call_id = new_id("call")
        taken.add(call_id)
        calls.append(ToolCall(call_id, one.name, one.arguments()))
    return calls
