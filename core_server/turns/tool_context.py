"""What tools of a turn share: whom to ask, what to tell, what a no means.

How a command runs is in `commands`, how files change in `file_changes`.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from core_server.context import Context, Work
from core_server.outgoing.outbox import Outbox
from core_server.protocol.approvals import CommandApproval, FileApproval
from core_server.session import policy
from core_server.turns.approvals import Approvals, Expired, Question, Unusable
from core_server.turns.report import Narrator

Approval = TypeVar("Approval", CommandApproval, FileApproval)

SAID_NO: Final = {
    "decline": "The user declined it; it was not run.",
    "cancel": "The user cancelled the turn; it was not run.",
    "expired": "Nobody answered the approval request in time; it was not run.",
    "failed": "The approval request failed; it was not run.",
}


class Bench:
    """What a tool works with: the turn it belongs to and whom to ask.

    Args:
        context: The core.
        narrator: The turn's.
        outbox: Makes a fast command wait for a slow client.
        approvals: Whom to ask.
        work: Carries the turn's trace context.
    """

    def __init__(
        self,
        context: Context,
        narrator: Narrator,
        outbox: Outbox,
        approvals: Approvals,
        work: Work,
    ) -> None:
        self.context = context
        self.narrator = narrator
        self.outbox = outbox
        self.work = work
        self._approvals = approvals

    @property
    def always_asks(self) -> bool:
        """The offline engine has no judgement: all that it proposes was typed by somebody."""
        return self.context.engine.provider == "offline"

    def environment(self) -> dict[str, str | None]:
        """The turn's trace context, for commands."""
        work = self.work
        context = {"TRACEPARENT": work.traceparent, "TRACESTATE": work.tracestate}
        return {name: value for name, value in context.items() if value}

    async def approved(self, question: Question[Approval], keys: frozenset[str]) -> str:
        """Ask; `run`, or the reason why not (a key of `SAID_NO`).

        An `acceptForSession` is remembered for these keys until the thread is unloaded.
        """
        thread = self.narrator.thread
        answer = await self._approvals.ask(self.narrator, question)
        if isinstance(answer, Expired):
            return "expired"
        if isinstance(answer, Unusable):
            return "failed"
        verdict, remember = policy.verdict(answer.decision)
        if remember:
            thread.allowed |= keys
        return verdict

    def refused(self, reason: str, complete: Callable[[str], None]) -> str:
        """It is not done: end its item by `complete(status)`; returns what the model is told.

        A cancel ends the turn, and is told in another order.
        """
        status = "failed" if reason == "failed" else "declined"
        if reason == "cancel":
            complete(status)
            self.waiting(waiting=False)
            self.narrator.turn.stop()
        else:
            self.waiting(waiting=False)
            complete(status)
        return SAID_NO[reason]

    def waiting(self, *, waiting: bool) -> None:
        """Tell that an approval is asked for, or settled."""
        self.narrator.thread.wait(waiting=waiting)
        self.narrator.status()
