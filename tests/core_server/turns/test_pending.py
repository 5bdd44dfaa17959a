from hypothesis import given
from hypothesis import strategies as st

from core_server.turns.approvals import Pending


def test_ids_count_from_zero_and_keep_their_type() -> None:
    pending: Pending[str] = Pending()
    assert (pending.ask("a"), pending.ask("b")) == (0, 1)
    assert pending.settle(b'"1"') is None
    assert pending.settle(b"1") == "b"
    assert repr(pending) == "<Pending open=[0] next=2>"


def test_only_the_first_answer_counts() -> None:
    pending: Pending[str] = Pending()
    request_id = pending.ask("a")
    assert pending.settle(b"0") == "a"
    assert pending.settle(b"0") is None
    assert not pending.withdraw(request_id)


def test_an_answer_to_nothing_we_asked_is_nobodys() -> None:
    pending: Pending[str] = Pending()
    pending.ask("a")
    for raw in (b"5", b"-0", b"null", b"1" * 400):
        assert pending.settle(raw) is None
    assert len(pending) == 1


@given(st.lists(st.tuples(st.sampled_from(["ask", "settle", "withdraw"]), st.integers(0, 9))))
def test_every_question_is_settled_at_most_once(steps: list[tuple[str, int]]) -> None:
    pending: Pending[int] = Pending()
    asked = 0
    settled: list[int] = []
    for step, number in steps:
        if step == "ask":
            assert pending.ask(asked) == asked
            asked += 1
        elif step == "settle":
            found = pending.settle(b"%d" % number)
            settled += [] if found is None else [found]
        elif pending.withdraw(number):
            settled.append(number)
    assert len(set(settled)) == len(settled)
    assert len(settled) + len(pending) == asked
