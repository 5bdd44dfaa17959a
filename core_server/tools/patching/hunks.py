"""Where the hunks of a patch fit into a file. Pure.

Models copy context inexactly, so a place is looked for thrice: exactly, without
trailing blanks, without any blanks around. Lines of context stay as the file has them.
"""

from collections.abc import Callable, Sequence

from core_server.tools.base import ToolError
from core_server.tools.patching.edits import Edit
from core_server.tools.patching.patch_text import Hunk

_LENIENCE: tuple[Callable[[str], str], ...] = (
    lambda line: line.removesuffix("\n").removesuffix("\r"),
    lambda line: line.rstrip(),
    lambda line: line.strip(),
)


def locate(path: str, old: Sequence[str], hunks: Sequence[Hunk]) -> list[Edit]:
    """Turn hunks into edits of a file's lines, in order.

    New lines end as the file's first line does; a last line without newline gets one.

    Raises:
        ToolError: `context not found in PATH`, with the first line that was looked for.
    """
    newline = "\r\n" if old and old[0].endswith("\r\n") else "\n"
    edits: list[Edit] = []
    at = 0
    for hunk in hunks:
        for header in hunk.headers:
            at = _find(path, old, [header], at) + 1
        wanted = [line for mark, line in hunk.lines if mark != "+"]
        at = _place(path, old, hunk, wanted, at)
        edits += _edits(hunk, at, newline)
        at += len(wanted)
    return _with_final_newline(old, edits, newline)


def _place(path: str, old: Sequence[str], hunk: Hunk, wanted: list[str], at: int) -> int:
    if not wanted:  # only additions: below the header, else at the end
        return at if hunk.headers and not hunk.at_end else len(old)
    if hunk.at_end:
        at = max(at, len(old) - len(wanted))
    return _find(path, old, wanted, at)


def _find(path: str, old: Sequence[str], wanted: Sequence[str], at: int) -> int:
    for clean in _LENIENCE:
        there = [clean(line) for line in old[at:]]
        lines = [clean(line) for line in wanted]
        for start in range(len(there) - len(lines) + 1):
            if there[start] == lines[0] and there[start : start + len(lines)] == lines:
                return at + start
    raise ToolError(f"context not found in {path}: {wanted[0]!r}")


def _edits(hunk: Hunk, at: int, newline: str) -> list[Edit]:
    """Join each run of changed lines to one edit."""
    edits: list[Edit] = []
    new: list[str] = []
    start = at
    for mark, line in (*hunk.lines, (" ", "")):  # the last one only closes a run
        if mark == "+":
            new.append(line + newline)
        elif mark == "-":
            at += 1
        else:
            if new or at > start:
                edits.append(Edit(start, at, tuple(new)))
            new = []
            at += 1
            start = at
    return edits


def _with_final_newline(old: Sequence[str], edits: list[Edit], newline: str) -> list[Edit]:
    last = len(old) - 1
    if not edits or not old or old[-1].endswith("\n"):
        return edits
    if any(edit.start <= last < edit.end for edit in edits):
        return edits
    before = [edit for edit in edits if edit.start <= last]
    after = [edit for edit in edits if edit.start > last]
    return [*before, Edit(last, last + 1, (old[-1] + newline,)), *after]
