r"""The `apply_patch` format: text in, what it asks for out. Pure.

    *** Begin Patch
    *** Add File: PATH            each line of content with a + before it
    *** Delete File: PATH
    *** Update File: PATH
    *** Move to: PATH             optional
    @@ a line above the change    optional text; several narrow the place down
     context
    -old
    +new
    *** End of File               optional: the hunk ends where the file ends
    *** End Patch

Where a hunk fits is `hunks`' business, what is allowed `patch`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from core_server.tools.base import ToolError

_BEGIN, _END = "*** Begin Patch", "*** End Patch"
_ADD, _DELETE, _UPDATE = "*** Add File: ", "*** Delete File: ", "*** Update File: "
_MOVE, _END_OF_FILE = "*** Move to: ", "*** End of File"
# A model's patch has some hundred lines; more is a mistake, and a person must approve it.
MAX_PATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines to look for and to change.

    Attributes:
        headers: Lines to find first, in order, above the change.
        lines: A mark (space, `-` or `+`) and the line without its newline.
        at_end: The last of the old lines is the last of the file.
    """

    headers: tuple[str, ...]
    lines: tuple[tuple[str, str], ...]
    at_end: bool = False


@dataclass(frozen=True, slots=True)
class AddFile:
    """Create a file."""

    path: str
    content: str


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """Delete a file."""

    path: str


@dataclass(frozen=True, slots=True)
class UpdateFile:
    """Change a file, move it, or both."""

    path: str
    hunks: tuple[Hunk, ...]
    move_to: str | None = None


Operation: TypeAlias = AddFile | DeleteFile | UpdateFile


def parse(text: str) -> tuple[Operation, ...]:
    """Parse a patch; blank lines around it are ignored.

    Raises:
        ToolError: it is not one; says which line and what is expected.
    """
    if len(text) > MAX_PATCH_BYTES:
        raise ToolError(f"the patch has more than {MAX_PATCH_BYTES} characters; split it")
    return _Parser(text.strip("\r\n\t ").replace("\r\n", "\n").split("\n")).patch()


class _Parser:
    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._at = 0

    def patch(self) -> tuple[Operation, ...]:
        if self._lines[0].strip() != _BEGIN:
            raise ToolError(f"a patch begins with the line `{_BEGIN}`")
        if self._lines[-1].strip() != _END:
            raise ToolError(f"a patch ends with the line `{_END}`")
        self._at = 1
        operations: list[Operation] = []
        while self._at < len(self._lines) - 1:
            if self._lines[self._at].strip():
                operations.append(self._operation())
            else:  # models like to set files apart
                self._at += 1
        if not operations:
            raise ToolError("the patch changes no file")
        return tuple(operations)

    def _operation(self) -> Operation:
        if (path := self._take(_ADD)) is not None:
            lines = self._run("+")
            return AddFile(path, "".join(f"{line[1:]}\n" for line in lines))
        if (path := self._take(_DELETE)) is not None:
            return DeleteFile(path)
        if (path := self._take(_UPDATE)) is not None:
            return self._update(path)
        raise self._error("expected `*** Add File: `, `*** Delete File: ` or `*** Update File: `")

    def _update(self, path: str) -> UpdateFile:
        move_to = self._take(_MOVE)
        hunks: list[Hunk] = []
        while self._at < len(self._lines) - 1 and not self._begins_operation():
            hunks.append(self._hunk(first=not hunks))
        if not hunks and move_to is None:
            raise self._error(f"the update of {path} has no hunk")
        return UpdateFile(path, tuple(hunks), move_to)

    def _hunk(self, *, first: bool) -> Hunk:
        headers = self._run("@@")
        lines = self._run(" ", "-", "+", "")
        while lines and not lines[-1]:  # sets hunks apart; as context it is not missed
            lines.pop()
        if not lines:
            raise self._error("expected a line that begins with a space, `-` or `+`")
        if not headers and not first:
            raise self._error("expected `@@` between two hunks")
        at_end = self._take(_END_OF_FILE) is not None
        named = tuple(header[2:].strip() for header in headers)
        marked = tuple((line[:1] or " ", line[1:]) for line in lines)
        return Hunk(tuple(name for name in named if name), marked, at_end)

    def _run(self, *marks: str) -> list[str]:
        """Take the lines that begin with one of the marks; `""` means an empty line."""
        start = self._at
        while self._at < len(self._lines) - 1 and any(
            self._lines[self._at].startswith(mark) if mark else not self._lines[self._at]
            for mark in marks
        ):
            self._at += 1
        return list(self._lines[start : self._at])

    def _take(self, prefix: str) -> str | None:
        line = self._lines[self._at]
        if not line.startswith(prefix):
            return None
        self._at += 1
        rest = line[len(prefix) :].strip()
        if not rest and prefix.endswith(": "):
            raise self._error("expected a path")
        return rest

    def _begins_operation(self) -> bool:
        return self._lines[self._at].startswith((_ADD, _DELETE, _UPDATE))

    def _error(self, expected: str) -> ToolError:
        found = self._lines[min(self._at, len(self._lines) - 1)][:80]
        return ToolError(f"line {self._at + 1} of the patch, {found!r}: {expected}")
