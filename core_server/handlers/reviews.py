"""`review/start`: what is to be reviewed, in the words of the reference's server.

One turn does it, and has one id in the answer, in its items, at its start and its end.
"""

import msgspec

from core_server.context import Context, Reply, Trace, Work
from core_server.errors import invalid_request
from core_server.handlers.turns import begin
from core_server.protocol.items import TextInput, UserMessageItem
from core_server.protocol.reviews import (
    BaseBranch,
    Commit,
    Custom,
    ReviewStartParams,
    ReviewStartResult,
    Target,
    UncommittedChanges,
)
from core_server.session.thread import ThreadMachine
from core_server.session.turn import TurnMachine


async def start(context: Context, params: ReviewStartParams, trace: Trace) -> Reply:
    """`review/start`: a turn that runs is interrupted first."""
    thread = context.loaded(params.thread_id)
    thread.check_writable()
    if params.delivery not in (None, "inline"):
        raise invalid_request(
            f"Invalid request: unknown variant `{params.delivery[:64]}`, expected `inline`"
        )
    shown, prompt = _words(params.target)
    if thread.turn is not None:
        thread.turn.stop()
        context.turns.wake(thread)
        await context.turns.ended(thread)
    work = Work(
        "review",
        traceparent=trace.traceparent or "",
        tracestate=trace.tracestate or "",
        shown=shown,
        prompt=prompt,
    )
    return begin(context, thread, work, lambda turn: _answer(thread, turn, shown))


def _answer(thread: ThreadMachine, turn: TurnMachine, shown: str) -> ReviewStartResult:
    at_ms = turn.started_at_ms
    asked = UserMessageItem(turn.id, None, (TextInput(shown),), at_ms, at_ms)
    return ReviewStartResult(msgspec.structs.replace(turn.accepted(), items=(asked,)), thread.id)


def _words(target: Target) -> tuple[str, str]:
    """What is reviewed, for people, and what the engine is told."""
    match target:
        case UncommittedChanges():
            return (
                "current changes",
                (
                    "Review the current code changes (staged, unstaged, and untracked files) and"
                    " provide prioritized findings."
                ),
            )
        case BaseBranch(branch=branch):
            if not branch.strip():
                raise invalid_request("branch must not be empty")
            return (
                f"changes against '{branch}'",
                (
                    f"Review the code changes against the base branch '{branch}'. Start by finding"
                    f" the merge base of the current branch and {branch}'s upstream"
                    f' (git merge-base HEAD "$(git rev-parse --abbrev-ref "{branch}@{{upstream}}")",'
                    f" else git merge-base HEAD {branch}), then run git diff against that commit to"
                    " see what would be merged. Provide prioritized, actionable findings."
                ),
            )
        case Commit(sha=sha, title=title):
            named = f"{sha}: {title}" if title else sha
            quoted = f' ("{title}")' if title else ""
            return (
                f"commit {named}",
                (
                    f"Review the code changes introduced by commit {sha}{quoted}."
                    " Provide prioritized, actionable findings."
                ),
            )
        case Custom(instructions=instructions):
            if not instructions.strip():
                raise invalid_request("instructions must not be empty")
            return instructions.strip(), instructions.strip()
