"""`review/start`: a turn in which the engine reviews changes, apart from what was said before."""

import msgspec

from core_server.protocol.turns import Turn
from core_server.protocol.wire import Wire


class UncommittedChanges(Wire, frozen=True, tag="uncommittedChanges"):
    """What is not committed: staged, unstaged and untracked."""


class BaseBranch(Wire, frozen=True, tag="baseBranch"):
    """What a branch would bring into another one."""

    branch: str


class Commit(Wire, frozen=True, tag="commit"):
    """What one commit changes."""

    sha: str
    title: str | None = None


class Custom(Wire, frozen=True, tag="custom"):
    """What the user says."""

    instructions: str


Target = UncommittedChanges | BaseBranch | Commit | Custom


class ReviewStartParams(Wire, frozen=True):
    """`review/start`; `delivery` is `inline` or left out."""

    thread_id: str
    target: Target
    delivery: str | None = None


class ReviewStartResult(Wire, frozen=True):
    """Answer of `review/start`: the turn, in the thread that was named."""

    turn: Turn
    review_thread_id: str


class LineRange(msgspec.Struct, frozen=True):
    """Lines of a file, counted from 1."""

    start: int
    end: int


class Location(msgspec.Struct, frozen=True):
    """Where a finding is (snake case in what the model says)."""

    absolute_file_path: str
    line_range: LineRange


class Finding(msgspec.Struct, frozen=True):
    """One thing that a reviewer found."""

    title: str
    body: str
    code_location: Location


class ReviewOutput(msgspec.Struct, frozen=True):
    """What a model may answer to a review instead of plain text."""

    findings: tuple[Finding, ...]
    overall_explanation: str = ""
