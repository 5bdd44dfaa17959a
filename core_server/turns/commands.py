"""Commands of a turn: proposed by the engine, or the user's own.

The order of messages is the reference's. With an approval the item begins before it, so
that a client can show what it is about; without one it begins when the process runs, with
its id. The deltas of an item together are its `aggregatedOutput`.
"""

import asyncio
import codecs
import os
from typing import Final

import msgspec

from core_server.engines.base import ToolCall
from core_server.outgoing.notifier import now_ms
from core_server.protocol.approvals import (
    AcceptWithAmendment,
    CommandApproval,
    CommandApprovalParams,
    PolicyAmendment,
)
from core_server.protocol.items import CommandAction, CommandItem
from core_server.protocol.turns import Delta
from core_server.protocol.wire import I64, FullAccess
from core_server.session.policy import confined, must_ask
from core_server.tools.base import Command, Outcome, ToolError
from core_server.tools.process.command import Process, start
from core_server.tools.read_only import known_read_only
from core_server.tools.shell import argv_of, command_actions, display
from core_server.turns.approvals import Question
from core_server.turns.tool_context import Bench

TIMEOUT_S: Final = 120.0
MODEL_OUTPUT_CHARACTERS: Final = 64 * 1024
"""What an engine gets to read of an output: the middle of a longer one is left out."""


class ShellArguments(msgspec.Struct, frozen=True):
    """Arguments of the tool `shell`; see `engines.base.ToolCall`."""

    command: str | tuple[str, ...]
    workdir: str | None = None
    timeout_ms: I64 | None = None
    justification: str | None = None
    escalated: bool | None = None


_ARGUMENTS: Final = msgspec.json.Decoder(ShellArguments)


class CommandRun:
    """One command from its proposal to its end.

    Args:
        bench: The turn's.
        item_id: Of its item.
        arguments: What is to run.
    """

    def __init__(self, bench: Bench, item_id: str, arguments: ShellArguments) -> None:
        self._bench = bench
        self._narrator = bench.narrator
        thread = bench.narrator.thread
        self._settings = thread.settings
        self._arguments = arguments
        self._argv = argv_of(arguments.command)
        self._cwd = os.path.normpath(
            os.path.join(self._settings.cwd, arguments.workdir or "")  # noqa: PTH118 - text
        )
        actions = tuple(CommandAction(each["command"]) for each in command_actions(self._argv))
        self.item = CommandItem(item_id, display(self._argv), self._cwd, now_ms(), actions)
        self._escaped = False
        self._output: list[str] = []

    async def propose(self) -> str:
        """Ask if the policy wants it, run if it may; returns what the engine is told."""
        if not self._must_ask():
            return await self._run(begun=False)
        self._bench.waiting(waiting=True)
        self._narrator.started(self.item, keep=True)
        verdict = await self._bench.approved(self._question(), frozenset({self._key()}))
        if verdict == "run":
            self._escaped = bool(self._arguments.escalated) and not self._bench.always_asks
            self._bench.waiting(waiting=False)
            return await self._run(begun=True)
        return self._bench.refused(verdict, self._complete)

    async def run_for_user(self) -> str:
        """Run a command of the user's own: nobody is asked."""
        self.item = msgspec.structs.replace(self.item, source="userShell")
        self._narrator.started(self.item, keep=True)
        return await self._run(begun=True)

    def _must_ask(self) -> bool:
        return self._key() not in self._narrator.thread.allowed and must_ask(
            self._settings.approval_policy,
            escalated=bool(self._arguments.escalated),
            always=self._bench.always_asks,
            read_only=known_read_only(self._argv),
        )

    def _key(self) -> str:
        return msgspec.json.encode((self._argv, self._cwd)).decode()

    def _question(self) -> Question[CommandApproval]:
        item, thread = self.item, self._narrator.thread
        amendment = AcceptWithAmendment(PolicyAmendment(self._argv))
        params = CommandApprovalParams(
            thread.id,
            self._narrator.turn.id,
            item.id,
            item.started_at_ms,
            item.command,
            item.cwd,
            item.command_actions,
            self._arguments.justification,
            self._argv,
            ("accept", "acceptForSession", amendment, "decline", "cancel"),
        )
        return Question("item/commandExecution/requestApproval", params, CommandApproval)

    async def _run(self, *, begun: bool) -> str:
        outcome: Outcome | None = None
        try:
            await self._narrator.settled()  # no effect before the item is on disk
            async with start(self._command()) as process:
                self._begin(process, begun=begun)
                begun = True
                await self._read(process)
                outcome = await process.wait()
        except ToolError as error:
            if not begun:
                self._narrator.started(self.item, keep=True)
            self._tell(f"{error}\n")
            self._complete("failed")
            return str(error)
        except asyncio.CancelledError:
            if begun:
                self._complete("failed")
            raise
        return self._ended(outcome)

    def _begin(self, process: Process, *, begun: bool) -> None:
        if self.item.source == "userShell":
            return
        self.item = msgspec.structs.replace(
            self.item, process_id=str(process.pid), source="unifiedExecStartup"
        )
        if not begun:
            self.item = msgspec.structs.replace(self.item, started_at_ms=now_ms())
            self._narrator.started(self.item, keep=True)

    async def _read(self, process: Process) -> None:
        """Tell the output as it comes, each stream decoded by itself."""
        utf8 = codecs.getincrementaldecoder("utf-8")
        decoders = {"stdout": utf8("replace"), "stderr": utf8("replace")}
        async for output in process:
            self._tell(decoders[output.stream].decode(output.data))
            await self._bench.outbox.room()
        for decoder in decoders.values():
            self._tell(decoder.decode(b"", final=True))

    def _tell(self, text: str) -> None:
        if not text:
            return
        self._output.append(text)
        told = Delta(self._narrator.thread.id, self._narrator.turn.id, self.item.id, text)
        self._narrator.say("item/commandExecution/outputDelta", told)

    def _ended(self, outcome: Outcome) -> str:
        status = "completed" if outcome.exit_code == 0 else "failed"
        self._complete(status, outcome)
        head = f"exit code {outcome.exit_code}"
        if outcome.timed_out:
            head += ", it was killed because its time was over"
        if outcome.truncated:
            head += ", more output was not kept"
        return f"{head}\n{_shortened(''.join(self._output))}"

    def _complete(self, status: str, outcome: Outcome | None = None) -> None:
        done = msgspec.structs.replace(
            self.item,
            status=status,
            aggregated_output="".join(self._output) if self._output or outcome else None,
            exit_code=None if outcome is None else outcome.exit_code,
            duration_ms=None if outcome is None else round(outcome.duration_s * 1000),
            completed_at_ms=now_ms(),
        )
        self._narrator.completed(done)

    def _command(self) -> Command:
        policy = FullAccess() if self._escaped else self._settings.sandbox
        timeout_ms = self._arguments.timeout_ms
        return Command(
            argv=self._argv,
            cwd=self._cwd,
            **confined(policy, self._settings.cwd),
            environment=self._bench.environment(),
            timeout_s=TIMEOUT_S if timeout_ms is None else max(0, timeout_ms) / 1000,
        )


async def shell(bench: Bench, call: ToolCall) -> str:
    """Perform a call of the tool `shell`; returns what the engine is told."""
    try:
        arguments = _ARGUMENTS.decode(call.arguments)
    except msgspec.DecodeError as error:
        return f"invalid arguments: {error}"
    if not arguments.command:
        return "invalid arguments: the command is empty"
    return await CommandRun(bench, call.call_id, arguments).propose()


def _shortened(text: str) -> str:
    if len(text) <= MODEL_OUTPUT_CHARACTERS:
        return text
    half = MODEL_OUTPUT_CHARACTERS // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[{left_out} characters left out]\n{text[-half:]}"
