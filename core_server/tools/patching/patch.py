"""File changes: what a patch would do, shown first; then exactly that, or nothing.

`plan` reads and promises nothing; `apply` takes what `plan` returned and a person saw,
checks that the files still are as shown, writes every new file beside its place and only
then renames them in. If a rename fails, those before it are undone. Plain blocking
functions: call them in a thread. Who may is decided in `session`.
"""

import contextlib
import os
from collections.abc import Callable, Sequence

from core_server.tools.base import FileChange, ToolError
from core_server.tools.patching import beneath
from core_server.tools.patching.beneath import Content, Place
from core_server.tools.patching.edits import apply_diff, replace_all, split_lines, unified_diff
from core_server.tools.patching.hunks import locate
from core_server.tools.patching.patch_text import AddFile, DeleteFile, Operation, UpdateFile, parse


def plan(
    workspace_roots: Sequence[str], patch_text: str, *, cwd: str | None = None
) -> tuple[FileChange, ...]:
    """Resolve a patch against the files as they are; changes nothing.

    An `Add File` for a file that is there becomes an update, so that its loss is shown.

    Args:
        workspace_roots: Absolute; changes stay beneath them.
        patch_text: See `patch_text`.
        cwd: What relative paths are relative to; None for the first root.

    Raises:
        ToolError: it is no patch, does not fit, or would leave the workspace.
    """
    base = cwd or workspace_roots[0]
    changes = [_plan(workspace_roots, base, each) for each in parse(patch_text)]
    touched = [p for change in changes for p in (change.path, change.move_to) if p]
    if len(touched) != len(set(touched)):
        raise ToolError("the patch names a file twice; join its hunks under one header")
    return tuple(changes)


def apply(workspace_roots: Sequence[str], changes: Sequence[FileChange]) -> None:
    """Make the changes, all or none.

    Raises:
        ToolError: a file is not as it was shown, or could not be written.
    """
    with contextlib.ExitStack() as stack:
        transaction = _Transaction(workspace_roots, stack)
        try:
            for change in changes:
                transaction.prepare(change)
            transaction.commit()
        except OSError as error:
            transaction.roll_back()
            name = error.filename or "a file could not be written"
            raise ToolError(f"{name}: {error.strerror}") from None
        except BaseException:
            transaction.roll_back()
            raise


def _plan(roots: Sequence[str], cwd: str, operation: Operation) -> FileChange:
    root, parts = beneath.split(roots, cwd, operation.path)
    path = os.path.join(root, *parts)  # noqa: PTH118 - the wire has text
    text = _current_text(root, parts)
    if isinstance(operation, AddFile):
        if text is None:
            return FileChange(path=path, kind="add", diff=operation.content)
        old = split_lines(text)
        edits = replace_all(old, split_lines(operation.content))
        return FileChange(path=path, kind="update", diff=unified_diff(old, edits))
    if text is None:
        raise ToolError(f"file not found: {path}")
    if isinstance(operation, DeleteFile):
        return FileChange(path=path, kind="delete", diff=text)
    return _plan_update(roots, cwd, operation, path, text)


def _plan_update(
    roots: Sequence[str], cwd: str, operation: UpdateFile, path: str, text: str
) -> FileChange:
    old = split_lines(text)
    diff = unified_diff(old, locate(path, old, operation.hunks))
    move_to = None
    if operation.move_to is not None:
        root, parts = beneath.split(roots, cwd, operation.move_to)
        move_to = os.path.join(root, *parts)  # noqa: PTH118 - the wire has text
        if move_to != path and _current_text(root, parts) is not None:
            raise ToolError(f"{move_to} exists already; delete it first")
        if move_to == path:
            move_to = None
    return FileChange(path=path, kind="update", diff=diff, move_to=move_to)


def _current_text(root: str, parts: Sequence[str]) -> str | None:
    """Return a file's text, or None if it or a directory above it is missing."""
    try:
        with beneath.opened(root, parts) as place:
            content = beneath.read(place)
    except beneath.MissingError:
        return None
    return None if content is None else _decode(place.path, content.raw)


def _decode(path: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ToolError(f"{path} is not UTF-8 text") from None


class _Transaction:
    """Changes that are staged, then made in order, and can be undone in reverse."""

    def __init__(self, roots: Sequence[str], stack: contextlib.ExitStack) -> None:
        self._roots = roots
        self._stack = stack  # holds the directories open
        self._steps: list[Callable[[], None]] = []
        self._undo: list[Callable[[], None]] = []

    def prepare(self, change: FileChange) -> None:
        """Check that a file is as it was shown, and stage what becomes of it."""
        place = self._open(change.path, create=change.kind == "add")
        now = beneath.read(place)
        if change.kind == "add":
            if now is not None:
                raise ToolError(f"{change.path} exists already")
            self._put(place, change.diff.encode(), None)
            return
        if now is None:
            raise ToolError(f"file not found: {change.path}")
        text = _decode(change.path, now.raw)
        if change.kind == "delete":
            if text != change.diff:
                raise ToolError(f"{change.path} was changed meanwhile")
            self._remove(place, now)
            return
        raw = "".join(apply_diff(change.path, split_lines(text), change.diff)).encode()
        if change.move_to is None:
            self._put(place, raw, now, replaced=now)
            return
        target = self._open(change.move_to, create=True)
        if beneath.read(target) is not None:
            raise ToolError(f"{change.move_to} exists already")
        self._put(target, raw, now)
        self._remove(place, now)

    def commit(self) -> None:
        """Make the staged changes visible."""
        for step in self._steps:
            step()

    def roll_back(self) -> None:
        """Undo what was done; what cannot be undone is left, the first error is told."""
        for undo in reversed(self._undo):
            with contextlib.suppress(OSError):
                undo()

    def _open(self, path: str, *, create: bool) -> Place:
        root, parts = beneath.split(self._roots, "/", path)
        return self._stack.enter_context(
            beneath.opened(root, parts, create=create, on_made=self._undo_directory)
        )

    def _undo_directory(self, directory_fd: int, name: str) -> None:
        kept_fd = os.dup(directory_fd)
        self._stack.callback(os.close, kept_fd)
        self._undo.append(lambda: os.rmdir(name, dir_fd=kept_fd))

    def _put(
        self, place: Place, raw: bytes, like: Content | None, replaced: Content | None = None
    ) -> None:
        staged = beneath.stage(place, raw, like)
        self._undo.append(lambda: os.unlink(staged, dir_fd=place.directory_fd))

        def step() -> None:
            beneath.rename(place, staged)
            if replaced is None:
                self._undo.append(lambda: os.unlink(place.name, dir_fd=place.directory_fd))
            else:
                self._undo.append(lambda: _restore(place, replaced))

        self._steps.append(step)

    def _remove(self, place: Place, content: Content) -> None:
        def step() -> None:
            os.unlink(place.name, dir_fd=place.directory_fd)
            self._undo.append(lambda: _restore(place, content))

        self._steps.append(step)


def _restore(place: Place, content: Content) -> None:
    beneath.rename(place, beneath.stage(place, content.raw, content))
