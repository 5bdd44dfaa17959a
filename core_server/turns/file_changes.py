"""File changes of a turn: a patch is shown, put to the policy and the client, applied."""

import asyncio
import os
from typing import Final

import msgspec

from core_server.engines.base import ToolCall
from core_server.outgoing.notifier import now_ms
from core_server.protocol.approvals import FileApproval, FileApprovalParams
from core_server.protocol.items import (
    AddKind,
    DeleteKind,
    FileChangeItem,
    FileUpdate,
    UpdateKind,
)
from core_server.protocol.wire import ExternalSandbox, FullAccess, ReadOnly, WorkspaceWrite
from core_server.session.policy import must_ask
from core_server.session.thread import Settings
from core_server.tools.base import FileChange, ToolError
from core_server.tools.patching import patch
from core_server.turns.approvals import Question
from core_server.turns.tool_context import Bench


class PatchArguments(msgspec.Struct, frozen=True):
    """Arguments of the tool `apply_patch`."""

    patch: str


_ARGUMENTS: Final = msgspec.json.Decoder(PatchArguments)


class PatchRun:
    """One patch from its proposal to its end.

    Args:
        bench: The turn's.
        item_id: Of its item.
        changes: As planned; exactly these are shown and applied.
    """

    def __init__(self, bench: Bench, item_id: str, changes: tuple[FileChange, ...]) -> None:
        self._bench = bench
        self._narrator = bench.narrator
        self._changes = changes
        self._settings = bench.narrator.thread.settings
        self.item = FileChangeItem(item_id, tuple(_update(each) for each in changes), now_ms())

    async def propose(self) -> str:
        """Ask if the policy wants it, apply if it may; returns what the engine is told."""
        self._narrator.started(self.item, keep=True)
        read_only = isinstance(self._settings.sandbox, ReadOnly)
        if not self._must_ask(escalated=read_only):
            if read_only:
                self._complete("declined")
                return "The sandbox is read-only and nobody may be asked; nothing was changed."
            return await self._apply()
        self._bench.waiting(waiting=True)
        verdict = await self._bench.approved(self._question(), self._keys())
        if verdict == "run":
            self._bench.waiting(waiting=False)
            return await self._apply()
        return self._bench.refused(verdict, self._complete)

    def _must_ask(self, *, escalated: bool) -> bool:
        return not self._keys() <= self._narrator.thread.allowed and must_ask(
            self._settings.approval_policy,
            escalated=escalated,
            always=self._bench.always_asks,
            read_only=False,
        )

    def _keys(self) -> frozenset[str]:
        paths = {path for each in self._changes for path in (each.path, each.move_to) if path}
        return frozenset(f"file:{path}" for path in paths)

    def _question(self) -> Question[FileApproval]:
        narrator = self._narrator
        params = FileApprovalParams(narrator.thread.id, narrator.turn.id, self.item.id, now_ms())
        return Question("item/fileChange/requestApproval", params, FileApproval)

    async def _apply(self) -> str:
        roots = roots_of(self._settings)
        await self._narrator.settled()  # no effect before the item is on disk
        try:
            # Shielded: a thread cannot be stopped, so its end is awaited and told truly.
            await _uninterrupted(roots, self._changes)
        except ToolError as error:
            self._complete("failed")
            return f"The patch was not applied: {error}"
        self._complete("completed")
        cwd = self._settings.cwd
        self._narrator.changed("".join(_git_diff(each, cwd) for each in self._changes))
        paths = ", ".join(change.path for change in self._changes)
        return f"Done. Changed: {paths}"

    def _complete(self, status: str) -> None:
        done = msgspec.structs.replace(self.item, status=status, completed_at_ms=now_ms())
        self._narrator.completed(done)


async def apply_patch(bench: Bench, call: ToolCall) -> str:
    """Perform a call of the tool `apply_patch`; returns what the engine is told."""
    settings = bench.narrator.thread.settings
    try:
        arguments = _ARGUMENTS.decode(call.arguments)
        changes = await asyncio.to_thread(
            patch.plan, roots_of(settings), arguments.patch, cwd=settings.cwd
        )
    except msgspec.DecodeError as error:
        return f"invalid arguments: {error}"
    except ToolError as error:
        return f"The patch does not apply: {error}"
    return await PatchRun(bench, call.call_id, changes).propose()


def roots_of(settings: Settings) -> tuple[str, ...]:
    """Where files may change: beneath these."""
    match settings.sandbox:
        case FullAccess() | ExternalSandbox():
            return (settings.cwd, "/")
        case WorkspaceWrite(writable_roots=roots):
            return (settings.cwd, *roots)
        case ReadOnly():
            return (settings.cwd,)


async def _uninterrupted(roots: tuple[str, ...], changes: tuple[FileChange, ...]) -> None:
    work = asyncio.get_running_loop().run_in_executor(None, patch.apply, roots, changes)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def _git_diff(change: FileChange, cwd: str) -> str:
    """A change as git shows it, with paths below the working directory where they are there."""
    old, new = (
        os.path.relpath(path, cwd) if path.startswith(f"{cwd}/") else path
        for path in (change.path, change.move_to or change.path)
    )
    head = f"diff --git a/{old} b/{new}\n"
    lines = change.diff.splitlines()
    match change.kind:
        case "add":
            body = "".join(f"+{line}\n" for line in lines)
            hunk = f"@@ -0,0 +1,{len(lines)} @@\n" if lines else ""
            return f"{head}new file mode 100644\n--- /dev/null\n+++ b/{new}\n{hunk}{body}"
        case "delete":
            body = "".join(f"-{line}\n" for line in lines)
            hunk = f"@@ -1,{len(lines)} +0,0 @@\n" if lines else ""
            return f"{head}deleted file mode 100644\n--- a/{old}\n+++ /dev/null\n{hunk}{body}"
        case "update":
            moved = f"rename from {old}\nrename to {new}\n" if old != new else ""
            body = change.diff if change.diff.endswith("\n") else f"{change.diff}\n"
            return f"{head}{moved}--- a/{old}\n+++ b/{new}\n{body}"


def _update(change: FileChange) -> FileUpdate:
    match change.kind:
        case "add":
            return FileUpdate(change.path, AddKind(), change.diff)
        case "delete":
            return FileUpdate(change.path, DeleteKind(), change.diff)
        case "update":
            return FileUpdate(change.path, UpdateKind(change.move_to), change.diff)
