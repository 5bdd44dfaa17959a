from itertools import product

import pytest

from core_server.protocol.approvals import AcceptWithAmendment, CommandDecision, PolicyAmendment
from core_server.protocol.wire import AskForApproval, GranularFlags, GranularPolicy
from core_server.session.policy import Verdict, must_ask, verdict

YES_NO = (False, True)


@pytest.mark.parametrize(("escalated", "always", "read_only"), [*product(YES_NO, YES_NO, YES_NO)])
def test_who_is_asked(*, escalated: bool, always: bool, read_only: bool) -> None:
    def asked(policy: AskForApproval) -> bool:
        return must_ask(policy, escalated=escalated, always=always, read_only=read_only)

    def granular(*, sandbox: bool) -> GranularPolicy:
        return GranularPolicy(GranularFlags(sandbox, rules=True, mcp_elicitations=True))

    assert not asked("never")
    assert asked("on-request") is (escalated or always)
    assert asked("untrusted") is (not read_only)
    assert asked(granular(sandbox=True)) is (escalated or always)
    assert not asked(granular(sandbox=False))


@pytest.mark.parametrize(
    ("decision", "meaning"),
    [
        ("accept", ("run", False)),
        ("acceptForSession", ("run", True)),
        (AcceptWithAmendment(PolicyAmendment(("ls",))), ("run", True)),
        ("decline", ("decline", False)),
        ("cancel", ("cancel", False)),
    ],
)
def test_what_an_answer_means(decision: CommandDecision, meaning: tuple[Verdict, bool]) -> None:
    assert verdict(decision) == meaning
