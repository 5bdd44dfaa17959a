"""Plans: the one that the engine proposes in plan mode, and its list of what is to be done.

In plan mode what stands between the lines `<proposed_plan>` and `</proposed_plan>` is an
item of its own; the lines of the tags are in no text. `PlanText` takes an answer apart as
it comes, however it was cut into deltas; `PlanMessage` tells of it.
"""

from typing import Final, Literal

import msgspec

from core_server.outgoing.notifier import now_ms
from core_server.protocol.items import PlanItem
from core_server.protocol.turns import Delta, PlanStep
from core_server.turns.report import Narrator

_OPEN: Final = "<proposed_plan>"
_CLOSE: Final = "</proposed_plan>"
_MAX_TAG_LINE: Final = 64
"""A tag may be indented; a longer line is text, so that nothing is held back for long."""

MAX_STEPS: Final = 200
"""Of a list: what a person can still read."""

NOT_IN_PLAN_MODE: Final = "update_plan is a TODO/checklist tool and is not allowed in Plan mode"

Piece = tuple[Literal["said", "plan", "planned"], str]
"""Text of the message, text of a plan, or the end of a plan (with no text)."""


class PlanText:
    """Takes the text of one message apart.

    OUTSIDE --line `<proposed_plan>`--> INSIDE --line `</proposed_plan>`--> OUTSIDE
    """

    def __init__(self) -> None:
        self._inside = False
        self._in_line = False
        self._held = ""  # the beginning of a line that may yet become a tag

    def __repr__(self) -> str:
        return f"<PlanText inside={self._inside} held={len(self._held)}>"

    def feed(self, text: str) -> list[Piece]:
        """Take more of the message; what may be a tag is held until it is known."""
        pieces: list[Piece] = []
        rest = self._held + text
        self._held = ""
        while rest:
            line, newline, rest = rest.partition("\n")
            if newline:
                pieces += self._line(line + newline)
            elif self._in_line or not self._may_be_tag(line):
                pieces += self._text(line)
                self._in_line = True
            else:
                self._held = line
        return pieces

    def end(self) -> list[Piece]:
        """The message is over, and a plan that was not closed with it."""
        pieces = self._line(self._held) if self._held else []
        self._held = ""
        if self._inside:
            self._inside = False
            pieces.append(("planned", ""))
        return pieces

    def _line(self, line: str) -> list[Piece]:
        """The rest of a line, or all of it."""
        whole, self._in_line = not self._in_line, False
        if not (whole and self._may_be_tag(line.rstrip("\n")) and line.strip() == self._tag):
            return self._text(line)
        self._inside = not self._inside
        return [] if self._inside else [("planned", "")]

    def _text(self, text: str) -> list[Piece]:
        return [("plan" if self._inside else "said", text)]

    @property
    def _tag(self) -> str:
        return _CLOSE if self._inside else _OPEN

    def _may_be_tag(self, line: str) -> bool:
        return len(line) <= _MAX_TAG_LINE and self._tag.startswith(line.strip())


class PlanMessage:
    """Tells one message of plan mode: its own text, and its plans as items.

    Attributes:
        plans: Texts of the plans that are complete.
    """

    def __init__(self, narrator: Narrator, item_id: str) -> None:
        self.plans: list[str] = []
        self._narrator = narrator
        self._item_id = item_id
        self._text = PlanText()
        self._said: list[str] = []
        self._plan: list[str] = []
        self._open: PlanItem | None = None
        self._fed = False

    def __repr__(self) -> str:
        return f"<PlanMessage {self._item_id} plans={len(self.plans)}>"

    def delta(self, text: str) -> None:
        """More of the message came."""
        self._fed = True
        self._tell(self._text.feed(text))

    def done(self, text: str) -> str:
        """The message is complete; returns what of it is no plan."""
        if not self._fed:
            self.delta(text)
        self._tell(self._text.end())
        return "".join(self._said)

    def _tell(self, pieces: list[Piece]) -> None:
        narrator = self._narrator
        for kind, text in pieces:
            if kind == "said":
                self._said.append(text)
                narrator.say("item/agentMessage/delta", self._delta(self._item_id, text))
                continue
            if self._open is None:
                self._open = PlanItem(narrator.new_id(), "", now_ms())
                narrator.started(self._open, keep=False)
            if kind == "plan":
                self._plan.append(text)
                narrator.say("item/plan/delta", self._delta(self._open.id, text))
            else:
                self._complete(self._open)

    def _complete(self, item: PlanItem) -> None:
        text = "".join(self._plan)
        self._open, self._plan = None, []
        self.plans.append(text)
        self._narrator.completed(PlanItem(item.id, text, item.started_at_ms, now_ms()))

    def _delta(self, item_id: str, text: str) -> Delta:
        return Delta(self._narrator.thread.id, self._narrator.turn.id, item_id, text)


class _Step(msgspec.Struct, frozen=True):
    step: str
    status: Literal["pending", "in_progress", "completed"] = "pending"


class _List(msgspec.Struct, frozen=True):
    plan: list[_Step]
    explanation: str | None = None


_arguments: Final = msgspec.json.Decoder(_List).decode


def listed(narrator: Narrator, arguments: str) -> str:
    """Run the tool `update_plan`: tell the list; returns what the engine is told."""
    if narrator.thread.settings.mode == "plan":
        return NOT_IN_PLAN_MODE
    try:
        given = _arguments(arguments)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        return f"failed to parse function arguments: {error}"
    if len(given.plan) > MAX_STEPS:
        return f"a plan has at most {MAX_STEPS} steps"
    steps = tuple(
        PlanStep(each.step, "inProgress" if each.status == "in_progress" else each.status)
        for each in given.plan
    )
    narrator.planned(given.explanation, steps)
    return "Plan updated"
