import hashlib

from hypothesis import given
from hypothesis import strategies as st

from tests.door import CANARY, TOKEN
from trace_proxy.access.policy import Denial
from trace_proxy.access.tokens import (
    INVALID,
    INVALID_HEADER,
    MAX_BEFORE,
    MISSING,
    Identity,
    Overlap,
    bearer_of,
    bearer_protocol,
    check_capability,
    digest_of,
    user_name,
)

KNOWN = [digest_of(TOKEN)]

blanks = st.text(" \t", max_size=3)
tokens = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


@given(st.sampled_from(["Bearer", "bearer", "BEARER", "bEaReR"]), blanks, blanks, tokens)
def test_a_token_is_found_behind_the_scheme_in_any_case_and_among_any_blanks(
    scheme: str, before: str, after: str, token: str
) -> None:
    value = f"{before}{scheme} {after}{token}{before}"
    assert bearer_of([value, "Bearer other"], ["bearer.third"]) == token


@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_whatever_is_shown_is_a_token_or_one_of_three_refusals(
    headers: list[str], protocols: list[str]
) -> None:
    shown = bearer_of(headers, protocols)
    if isinstance(shown, Denial):
        assert shown in (MISSING, INVALID, INVALID_HEADER)
    else:
        assert shown
        assert isinstance(check_capability(shown, KNOWN), Denial | Identity)


def test_a_subprotocol_counts_only_without_a_header() -> None:
    assert bearer_of([], ["x", f"bearer.{TOKEN}", "bearer.second"]) == TOKEN
    assert bearer_of([""], [f"bearer.{TOKEN}"]) == INVALID_HEADER
    assert bearer_of([], ["bearer.", "Bearer.x", "bearerx"]) == MISSING
    assert bearer_of([], ["bearer.\udcff"]) == INVALID
    assert bearer_protocol(["x", "bearer.a"]) == "bearer.a"
    assert bearer_protocol([]) is None


def test_only_a_known_token_is_let_in_and_names_nobody() -> None:
    digest = hashlib.sha256(TOKEN.encode()).digest()
    assert check_capability(TOKEN, [digest_of("old"), digest]) == Identity()
    for wrong in (TOKEN[:-1], TOKEN + "x", TOKEN.lower(), digest.hex()):
        assert check_capability(wrong, [digest]) == INVALID
    assert check_capability(TOKEN, []) == INVALID


def test_a_value_from_before_is_good_until_its_time_is_over() -> None:
    overlap = Overlap("one", 60)
    overlap.replace("two", now_s=100)
    overlap.replace("three", now_s=130)
    assert overlap.good(159) == ["three", "two", "one"]
    ends = [overlap.next_end_s]
    assert overlap.good(160) == ["three", "two"]
    ends.append(overlap.next_end_s)
    assert overlap.good(190) == ["three"]
    ends.append(overlap.next_end_s)
    assert ends == [160, 190, None]


def test_without_an_overlap_only_the_newest_is_good() -> None:
    overlap = Overlap("one", 0)
    overlap.replace("two", now_s=1)
    assert overlap.good(1) == ["two"]


def test_a_value_that_comes_back_is_not_from_before() -> None:
    overlap = Overlap("one", 60)
    overlap.replace("two", now_s=1)
    overlap.replace("one", now_s=2)
    assert overlap.good(3) == ["one", "two"]


@given(st.lists(st.integers(), max_size=30))
def test_however_often_it_changes_few_are_kept(values: list[int]) -> None:
    overlap = Overlap(0, 60)
    for now_s, value in enumerate(values):
        overlap.replace(value, now_s)
    assert len(overlap.good(0)) <= 1 + MAX_BEFORE


@given(st.text())
def test_a_name_can_be_shown_anywhere(text: str) -> None:
    shown = user_name(text)
    assert len(shown) <= 256
    assert shown.isprintable() or "\ufffd" in shown
    shown.encode()


def test_nothing_that_is_kept_tells_a_token_when_it_is_shown() -> None:
    assert CANARY not in f"{Overlap(TOKEN, 1)!r} {Identity()!r} {INVALID!r}"
