"""What the table of `tests/compat/test_door.py` does not ask: times, rotation, odd input."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.door import HEADER, SECRET, base64url, signed
from trace_proxy.access.policy import Denial
from trace_proxy.access.signed_tokens import (
    EXPIRED,
    INVALID,
    MAX_KNOWN,
    MAX_TOKEN_CHARS,
    NOT_YET,
    SignedTokens,
    refuses_secret,
)
from trace_proxy.access.tokens import Identity

NOW_S = 1_800_000_000
ANY = SignedTokens(issuer=None, audience=None, skew_s=30)


def check(claims: object, header: object = HEADER, now_s: float = NOW_S) -> Identity | Denial:
    return ANY.check(signed(claims, header), [SECRET], now_s)


@pytest.mark.parametrize(
    ("exp", "nbf", "told"),
    [
        (NOW_S - 30, None, None),
        (NOW_S - 31, None, EXPIRED),
        (NOW_S + 1, NOW_S + 30, None),
        (NOW_S + 1, NOW_S + 31, NOT_YET),
        (NOW_S - 31, NOW_S + 31, EXPIRED),
    ],
)
def test_both_times_are_read_with_the_skew(exp: int, nbf: int | None, told: Denial | None) -> None:
    assert check({"exp": exp, "nbf": nbf}) == (told or Identity("", exp))


def test_the_subject_is_the_user_when_it_is_a_text() -> None:
    assert check({"exp": NOW_S, "sub": "alice"}) == Identity("alice", NOW_S)
    for odd in (5, None, ["alice"], {"name": "alice"}, ""):
        assert check({"exp": NOW_S, "sub": odd}) == Identity("", NOW_S)
    shown = check({"exp": NOW_S, "sub": "a\n\ud800b" + "x" * 1000})
    assert isinstance(shown, Identity)
    assert shown.user == "a\ufffd\ufffdb" + "x" * 252


def test_a_token_of_any_secret_that_is_good_is_let_in() -> None:
    token = signed({"exp": NOW_S})
    assert ANY.check(token, [b"y" * 40, SECRET], NOW_S) == Identity("", NOW_S)
    assert ANY.check(token, [b"y" * 40], NOW_S) == INVALID
    assert ANY.check(token, [], NOW_S) == INVALID


def test_a_token_that_is_known_is_judged_by_its_times_and_its_secret_again() -> None:
    judge = SignedTokens(issuer=None, audience=None, skew_s=30)
    token = signed({"exp": NOW_S, "sub": "alice"})
    for _ in range(2):
        assert judge.check(token, [SECRET], NOW_S) == Identity("alice", NOW_S)
    assert judge.check(token, [SECRET], NOW_S + 31) == EXPIRED
    assert judge.check(token, [b"y" * 40], NOW_S) == INVALID
    for number in range(MAX_KNOWN + 10):
        judge.check(signed({"exp": NOW_S, "x": number}), [SECRET], NOW_S)
    assert judge.check(token, [SECRET], NOW_S) == Identity("alice", NOW_S)


def test_no_public_key_can_be_mistaken_for_a_secret() -> None:
    pem = b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----"
    assert refuses_secret(pem)
    assert refuses_secret(b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ")
    assert not refuses_secret(SECRET)


def test_a_token_without_end_is_not_even_read() -> None:
    assert check({"exp": NOW_S, "x": "x" * MAX_TOKEN_CHARS}) == INVALID


@pytest.mark.parametrize("depth", [300, 5000])
def test_nesting_costs_nobody_his_stack(depth: int) -> None:
    payload = f'{{"exp":{NOW_S},"x":{"[" * depth}{"]" * depth}}}'.encode()
    assert isinstance(check(payload), Identity | Denial)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
names = st.sampled_from(["exp", "nbf", "iss", "aud", "sub", "iat", "jti", "x"])


@given(st.dictionaries(names, values))
def test_any_claims_that_are_signed_are_let_in_or_refused(members: dict[str, Any]) -> None:
    told = check(json.dumps(members).encode())
    assert isinstance(told, Identity | Denial)
    if type(members.get("exp")) is not int:
        assert told == INVALID


@given(st.text() | st.from_regex(r"[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*"))
def test_any_text_is_refused_unless_it_was_signed(text: str) -> None:
    assert ANY.check(text, [SECRET], NOW_S) == INVALID


@given(st.integers(min_value=0), st.characters(categories=("L", "N"), codec="ascii"))
def test_no_character_of_a_token_can_be_changed(at: int, char: str) -> None:
    token = signed({"exp": NOW_S, "sub": "alice"})
    at %= len(token)
    changed = token[:at] + char + token[at + 1 :]
    told = ANY.check(changed, [SECRET], NOW_S)
    assert told == (Identity("alice", NOW_S) if changed == token else INVALID)


def test_a_header_is_read_once() -> None:
    head = b'{"alg":"HS256","kid":"a","kid":"b"}'
    assert check({"exp": NOW_S}, head) == INVALID
    assert check({"exp": NOW_S}, b'{"alg":"HS256","x":1,"x":2}') == Identity("", NOW_S)
    assert base64url(b"\xff\xfe") == "__4"
