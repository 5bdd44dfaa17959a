"""Changes of lines, and unified diffs of them: pure text, no files.

A line keeps its newline, so a last line without one is simply another line. The diff is
what people approve, and what `apply_diff` applies is the diff: strictly, with every
line of it found where it says, so nothing else can happen than was shown.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core_server.tools.base import ToolError

_CONTEXT_LINES = 3
_NO_NEWLINE = "\\ No newline at end of file\n"
_HEADER = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@\n")


@dataclass(frozen=True, slots=True)
class Edit:
    """Lines `start` up to `end` (from 0, `end` excluded) become `new`."""

    start: int
    end: int
    new: tuple[str, ...]


def split_lines(text: str) -> list[str]:
    r"""Split at `\n` only, as patches do; each line keeps it."""
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


def replace_all(old: Sequence[str], new: Sequence[str]) -> list[Edit]:
    """Return the one edit, or none, that makes one text of the other."""
    short = min(len(old), len(new))
    head = next((i for i in range(short) if old[i] != new[i]), short)
    tail = next((i for i in range(short - head) if old[-1 - i] != new[-1 - i]), short - head)
    if head == len(old) == len(new):
        return []
    return [Edit(head, len(old) - tail, tuple(new[head : len(new) - tail]))]


def apply_edits(old: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    """Return the new lines; the edits are in order and do not overlap."""
    result: list[str] = []
    at = 0
    for edit in edits:
        result += old[at : edit.start]
        result += edit.new
        at = edit.end
    return [*result, *old[at:]]


def unified_diff(old: Sequence[str], edits: Sequence[Edit]) -> str:
    """Return the hunks of a unified diff, without file names, as the reference shows it."""
    drift = 0  # how far the new text is ahead of the old one
    parts: list[str] = []
    for group in _groups(edits):
        start = max(group[0].start - _CONTEXT_LINES, 0)
        end = min(group[-1].end + _CONTEXT_LINES, len(old))
        growth = sum(len(edit.new) - (edit.end - edit.start) for edit in group)
        before = _range(start, end - start)
        after = _range(start + drift, end - start + growth)
        parts.append(f"@@ -{before} +{after} @@\n")
        parts += _body(old, group, start, end)
        drift += growth
    return "".join(parts)


def apply_diff(path: str, old: Sequence[str], diff: str) -> list[str]:
    """Apply what `unified_diff` made.

    Raises:
        ToolError: a line is not where the diff has it; the file was changed since.
    """
    edits: list[Edit] = []
    at = 0
    for mark, line in _diff_lines(diff):
        if mark == "@":
            at = int(line)
        elif mark == "+":
            edits.append(Edit(at, at, (line,)))
        else:
            if at >= len(old) or old[at] != line:
                raise ToolError(f"context not found in {path}: it was changed meanwhile")
            if mark == "-":
                edits.append(Edit(at, at + 1, ()))
            at += 1
    return apply_edits(old, edits)


def _groups(edits: Sequence[Edit]) -> Iterator[list[Edit]]:
    group: list[Edit] = []
    for edit in edits:
        if group and edit.start - group[-1].end > 2 * _CONTEXT_LINES:
            yield group
            group = []
        group.append(edit)
    if group:
        yield group


def _range(start: int, length: int) -> str:
    # An empty range names the line before it: that is how the format is.
    return f"{start + 1 if length else start},{length}"


def _body(old: Sequence[str], group: Sequence[Edit], start: int, end: int) -> Iterator[str]:
    at = start
    for edit in group:
        yield from (_line(" ", line) for line in old[at : edit.start])
        yield from (_line("-", line) for line in old[edit.start : edit.end])
        yield from (_line("+", line) for line in edit.new)
        at = edit.end
    yield from (_line(" ", line) for line in old[at:end])


def _line(mark: str, line: str) -> str:
    return mark + line if line.endswith("\n") else f"{mark}{line}\n{_NO_NEWLINE}"


def _diff_lines(diff: str) -> Iterator[tuple[str, str]]:
    lines = split_lines(diff)
    for number, line in enumerate(lines):
        header = _HEADER.fullmatch(line)
        if header is not None:
            first, length = int(header[1]), int(header[2] or 1)
            yield "@", str(first - 1 if length else first)
        elif line != _NO_NEWLINE:
            bare = number + 1 < len(lines) and lines[number + 1] == _NO_NEWLINE
            yield line[0], line[1:-1] if bare else line[1:]
