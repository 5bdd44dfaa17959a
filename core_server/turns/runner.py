"""Runs one turn: samples the engine, does what it proposes, until nothing is left.

`session.turn` decides whether to stop and what the turn adds up to; this acts. Whatever
takes time is a step, and a step can be cut: when the turn shall stop, or, while the
engine is sampled, when input joined (the reference re-asks then; the piece of a message
that was streamed so far gets no `item/completed`). A step is cut through an
`asyncio.timeout` without a deadline that is made to expire, so no second task is needed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

import msgspec

from core_server.context import Work
from core_server.engines.base import (
    AgentMessage,
    CompactedHistory,
    EngineError,
    HistoryEntry,
    Prompt,
    ToolCall,
    ToolOutput,
    codex_error_info,
)
from core_server.logs import logger
from core_server.outgoing.notifier import now_ms
from core_server.protocol.account import RateLimitsUpdated
from core_server.protocol.items import (
    AgentMessageItem,
    CompactionItem,
    EnteredReviewItem,
    ExitedReviewItem,
    TextInput,
    UserMessageItem,
)
from core_server.protocol.reviews import Finding, ReviewOutput
from core_server.protocol.turns import TokenUsageUpdated, TurnError
from core_server.records import closed, local_images, message_of, user_shell
from core_server.session.thread import Settings, ThreadMachine
from core_server.session.turn import TurnMachine
from core_server.storage.base import StorageError
from core_server.turns import plan
from core_server.turns.commands import CommandRun, ShellArguments, shell
from core_server.turns.file_changes import apply_patch
from core_server.turns.sample import Sample
from core_server.turns.tool_context import Bench

INTERNAL: Final = "Internal error; see the server's log"

MAX_SAMPLES: Final = 200
"""An engine that proposes tools without end is stopped here; long tasks need some 50."""


class TurnRunner:
    """One turn at work.

    Args:
        bench: The turn, its work, and whom to ask.
        read_history: What was said in the thread before; the list grows as the turn goes on.
    """

    def __init__(
        self, bench: Bench, read_history: Callable[[], Awaitable[list[HistoryEntry]]]
    ) -> None:
        self._context = bench.context
        self._bench = bench
        self._outbox = bench.outbox
        self._narrator = bench.narrator
        self._thread: ThreadMachine = bench.narrator.thread
        self._turn: TurnMachine = bench.narrator.turn
        self._read_history = read_history
        self._history: list[HistoryEntry] = []
        self._work = bench.work
        self._scope: asyncio.Timeout | None = None
        self._sampling = False

    def __repr__(self) -> str:
        return f"<TurnRunner {self._turn!r} sampling={self._sampling}>"

    def wake(self) -> None:
        """Cut the running step if the turn shall stop, or a sample if input joined."""
        if self._scope is None or self._scope.expired():
            return
        if self._turn.stopping or (self._sampling and self._turn.has_input):
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Run to the end.

        Nothing is done for a turn whose beginning is not on disk: it was refused. Raises
        for cancellation, which interrupts, and when the end itself cannot be told.
        """
        try:
            self._narrator.begin()
            await self._narrator.settled()
            if not self._turn.stopping:
                self._history = await self._read_history()
            await self._begin_with()
            await self._narrator.settled()
            # No await between this look and the end: whoever joins later finds no turn.
            while self._turn.has_input and not self._turn.stopping:
                await self._converse()
        except EngineError as error:
            info = codex_error_info(error.info, error.http_status)
            self._turn.stop(TurnError(str(error), info, error.details))
        except StorageError as error:
            self._turn.stop(TurnError(f"storage failed: {error}", "other"))
        except asyncio.CancelledError:
            self._turn.stop()
            raise
        except Exception as error:  # noqa: BLE001 - our own fault ends the turn, not the core
            logger().error("core.turn_failed", turn=self._turn.id, exc_info=error)
            self._turn.stop(TurnError(INTERNAL, "internalServerError"))
        finally:
            self._narrator.end()

    async def _begin_with(self) -> None:
        """What stands before the conversation, or in its place."""
        match self._work.kind:
            case "compact":
                await self._compact()
            case "review":
                await self._review()
            case "shell":
                await self._step(self._shell())
            case _:
                pass

    async def _converse(self, *, hidden: bool = False) -> str:
        """Sample and do what is proposed, until nothing is; returns what was said last.

        `hidden`: what the engine says is not told as it comes.
        """
        said = ""
        for _ in range(MAX_SAMPLES):
            for entry in self._turn.take_input():
                self._narrator.heard(entry)
                for path in local_images(entry):
                    self._narrator.warn(f"The image {path} is not shown to the model, only named.")
                self._history.append(message_of(entry))
            sample = Sample(self._narrator, self._outbox, self._history, hidden=hidden)
            done = await self._step(sample.take(self._context.engine, self._prompt()), cut=True)
            said = sample.text or said
            if done:
                for call in sample.calls:
                    await self._step(self._perform(call))
            self._count(sample)
            if done and not sample.calls and not self._turn.has_input:
                return said  # what was said last and the end of the turn are one commit
            await self._narrator.settled()
            if self._turn.stopping:
                return said
        raise EngineError(f"the turn was ended after {MAX_SAMPLES} samples")

    async def _review(self) -> None:
        """Let the engine look at changes, with nothing of what was said before in its way."""
        at_ms, new_id = now_ms(), self._context.new_id
        for item in (
            EnteredReviewItem(new_id(), self._work.shown, at_ms, at_ms),
            asked := UserMessageItem(
                new_id(), None, (TextInput(self._work.prompt),), at_ms, at_ms
            ),
        ):
            self._narrator.started(msgspec.structs.replace(item, completed_at_ms=None), keep=False)
            self._narrator.completed(item)
        before, self._history = self._history, [message_of(asked)]
        text = ""
        try:
            text = await self._converse(hidden=True)
        finally:
            self._history = before
            ended = bool(text) and not self._turn.stopping
            shown = review_text(text) if ended else NO_OUTPUT
            self._say(ExitedReviewItem(new_id(), shown, now_ms(), now_ms()))
            self._say(
                AgentMessageItem(new_id(), shown if ended else INTERRUPTED, now_ms(), now_ms())
            )
            if not self._thread.broken:
                before += [message_of(asked), AgentMessage(shown if ended else INTERRUPTED)]

    def _say(self, item: ExitedReviewItem | AgentMessageItem) -> None:
        self._narrator.started(msgspec.structs.replace(item, completed_at_ms=None), keep=False)
        self._narrator.completed(item)

    async def _compact(self) -> None:
        started_at_ms = now_ms()
        item = CompactionItem(self._context.new_id(), started_at_ms)
        self._narrator.started(item, keep=False)
        sample = Sample(None, self._outbox, [])
        done = await self._step(sample.take(self._context.engine, self._prompt(compact=True)))
        self._count(sample)
        if done:
            entry = CompactedHistory(sample.text)
            self._narrator.remember(entry)
            self._history[:] = [entry]
            self._narrator.completed(CompactionItem(item.id, started_at_ms, now_ms()))

    async def _perform(self, call: ToolCall) -> None:
        """Do what the engine proposes; what came of it goes into the history."""
        self._narrator.remember(call)
        self._history.append(call)
        match call.name:
            case "shell":
                output = await shell(self._bench, call)
            case "apply_patch":
                output = await apply_patch(self._bench, call)
            case "update_plan":
                output = plan.listed(self._narrator, call.arguments)
            case _:
                output = f"there is no tool named {call.name[:64]}"
        entry = ToolOutput(call.call_id, output)
        self._narrator.remember(entry)
        self._history.append(entry)

    async def _shell(self) -> None:
        timeout_s = self._work.timeout_s
        arguments = ShellArguments(
            self._work.command,
            timeout_ms=None if timeout_s is None else round(timeout_s * 1000),
        )
        run = CommandRun(self._bench, self._context.new_id(), arguments)
        output = await run.run_for_user()
        self._history.append(user_shell(run.item.command, output))

    async def _step(self, work: Coroutine[None, None, None], *, cut: bool = False) -> bool:
        """Do the work; whether it came to its own end."""
        if self._turn.stopping or (cut and self._turn.has_input):
            work.close()
            return False
        self._sampling = cut
        self._scope = scope = asyncio.timeout(None)
        try:
            async with scope:
                await work
        except TimeoutError:
            if not scope.expired():
                raise
            return False
        finally:
            self._scope, self._sampling = None, False
        return True

    def _prompt(self, *, compact: bool = False) -> Prompt:
        return prompt_of(self._thread.settings, self._history, self._work, compact=compact)

    def _count(self, sample: Sample) -> None:
        if sample.usage is None:
            return
        models = {model.id: model.context_window for model in self._context.engine.models}
        usage = self._thread.count_tokens(
            self._turn.id, sample.usage, models.get(self._thread.settings.model)
        )
        if self._turn.stopping:  # the reference does not tell of it then
            return
        told = TokenUsageUpdated(self._thread.id, self._turn.id, usage)
        self._narrator.say("thread/tokenUsage/updated", told)
        self._narrator.say("account/rateLimits/updated", RateLimitsUpdated())


NO_OUTPUT: Final = "Reviewer failed to output a response."
INTERRUPTED: Final = "Review was interrupted. Please re-run /review and wait for it to complete."

REVIEW_INSTRUCTIONS: Final = """\
You review a code change. Look at it with the tools you have, change nothing, and report
only what its author would want to mend: bugs, regressions, risks, with the file and the
lines. Most important first; if there is nothing, say so."""

_output: Final = msgspec.json.Decoder(ReviewOutput).decode


def review_text(text: str) -> str:
    """A reviewer's answer for people: findings as a list; any other text as it is."""
    try:
        output = _output(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text
    parts = [output.overall_explanation.strip()] if output.overall_explanation.strip() else []
    if output.findings:
        title = "Review comment" if len(output.findings) == 1 else "Full review comments"
        parts += [f"{title}:", *map(_finding, output.findings)]
    return "\n\n".join(parts) or NO_OUTPUT


def _finding(finding: Finding) -> str:
    place, lines = finding.code_location, finding.code_location.line_range
    where = f"{place.absolute_file_path}:{lines.start}-{lines.end}"
    body = "\n".join(f"  {line}" for line in finding.body.splitlines())
    return f"- {finding.title} — {where}\n{body}"


def prompt_of(
    settings: Settings, history: list[HistoryEntry], work: Work, *, compact: bool = False
) -> Prompt:
    """What the engine is asked in a thread with these settings."""
    texts = [settings.base_instructions, settings.developer_instructions]
    if work.kind == "review":
        texts.append(REVIEW_INSTRUCTIONS)
    elif settings.mode_instructions:
        texts.append(settings.mode_instructions)
    return Prompt(
        history=tuple(closed(history)),
        model=settings.model,
        effort=settings.effort,
        instructions="\n\n".join(text for text in texts if text),
        cwd=settings.cwd,
        output_schema=work.output_schema,
        traceparent=work.traceparent,
        tracestate=work.tracestate,
        compact=compact,
    )
