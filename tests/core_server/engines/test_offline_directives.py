import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.engines.offline_directives import (
    HELP,
    Directive,
    Fail,
    Run,
    Say,
    Slow,
    Think,
    Tokens,
    Write,
    read_directive,
)


@pytest.mark.parametrize(
    ("text", "directive"),
    [
        ("hello there", Say("hello there")),
        (" /run ls", Say(" /run ls")),
        ("/etc/passwd is a file", Say("/etc/passwd is a file")),
        ("/", Say("/")),
        ("/run ls -l | wc -l", Run("ls -l | wc -l")),
        ("/run\nset -e\nls\n", Run("set -e\nls")),
        ("/write a/b.txt two  words", Write("a/b.txt", "two  words")),
        ("/write a.txt one\ntwo\n", Write("a.txt", "one\ntwo")),
        ("/slow 1.5", Slow(1.5)),
        ("/slow 3600", Slow(3600)),
        ("/think of a name", Think("of a name")),
        ("/tokens 1", Tokens(1)),
        ("/tokens 1000000", Tokens(1_000_000)),
        ("/fail on purpose", Fail("on purpose")),
        ("/help", Say(HELP)),
        ("/help me", Say(HELP)),
    ],
)
def test_a_text_is_what_it_begins_with(text: str, directive: Directive) -> None:
    assert read_directive(text) == directive


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("/run", "/run needs a command: /run CMD, for example /run ls -l"),
        ("/run  \n", "/run needs a command: /run CMD, for example /run ls -l"),
        (
            "/write",
            "/write needs a path and a text: /write PATH TEXT, for example /write a.txt hi",
        ),
        (
            "/write a.txt ",
            "/write needs a path and a text: /write PATH TEXT, for example /write a.txt hi",
        ),
        (
            "/slow abc",
            (
                "/slow needs a number of seconds, more than 0 and at most 3600, not 'abc': "
                "/slow SECONDS, for example /slow 3"
            ),
        ),
        (
            "/slow",
            (
                "/slow needs a number of seconds, more than 0 and at most 3600: "
                "/slow SECONDS, for example /slow 3"
            ),
        ),
        (
            "/tokens -1",
            (
                "/tokens needs a whole number from 1 to 1000000, not '-1': "
                "/tokens N, for example /tokens 100"
            ),
        ),
        (
            "/think",
            "/think needs something to think about: /think TEXT, for example /think of a name",
        ),
        ("/fail", "/fail needs a message: /fail MESSAGE, for example /fail no"),
        ("/frobnicate it", f"There is no directive /frobnicate.\n{HELP}"),
    ],
)
def test_a_mistake_is_answered_with_how_to_do_it(text: str, answer: str) -> None:
    assert read_directive(text) == Say(answer)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "3600.1", "1e99", "1 2"])
def test_slow_stays_in_its_bounds(seconds: str) -> None:
    assert isinstance(read_directive(f"/slow {seconds}"), Say)


@pytest.mark.parametrize("count", ["0", "1000001", "9" * 5000, "1.5", "٣", "1e3", "many"])
def test_tokens_stays_in_its_bounds(count: str) -> None:
    assert isinstance(read_directive(f"/tokens {count}"), Say)


def test_help_names_every_directive() -> None:
    for name in (
        "/run CMD",
        "/write PATH TEXT",
        "/slow SECONDS",
        "/think TEXT",
        "/tokens N",
        "/fail MESSAGE",
    ):
        assert name in HELP


@given(st.text())
def test_any_text_means_something(text: str) -> None:
    read_directive(text)
    read_directive(f"/{text}")
    read_directive(f"/write {text}")
