"""What the offline engine is asked to do: text in, one directive out.

Pure. It decides what a text means and whether its arguments make sense; performing it
is `offline`'s part. A text that is wrong becomes a `Say` which tells how to do it right,
so a mistake is answered like any other input.
"""

import math
import re

import msgspec

# An hour: longer than any test or demonstration, shorter than a forgotten terminal.
MAX_SLOW_S = 3600.0

# A million deltas are about 100 MB on the wire and 4 MB as one message: far more than a
# load test needs, and the finished message still fits the 16 MiB limit.
MAX_TOKENS = 1_000_000


class Say(msgspec.Struct, frozen=True):
    """Stream this text back."""

    text: str


class Run(msgspec.Struct, frozen=True):
    """Propose a command line."""

    command: str


class Write(msgspec.Struct, frozen=True):
    """Propose a file with this text."""

    path: str
    text: str


class Slow(msgspec.Struct, frozen=True):
    """Stream deltas for so long."""

    seconds: float


class Think(msgspec.Struct, frozen=True):
    """Reason about this, then answer."""

    text: str


class Tokens(msgspec.Struct, frozen=True):
    """Stream so many deltas as fast as possible."""

    count: int


class Fail(msgspec.Struct, frozen=True):
    """End the turn as failed."""

    message: str


Directive = Say | Run | Write | Slow | Think | Tokens | Fail

HELP = f"""\
I am the offline engine: no network, no model. Plain text is streamed back word by word.
/run CMD            propose the command CMD, and run it once it is approved
/write PATH TEXT    propose a file PATH that holds TEXT
/slow SECONDS       stream a delta every 0.2 s for SECONDS (more than 0, at most {MAX_SLOW_S:.0f})
/think TEXT         reason about TEXT, then answer
/tokens N           stream N deltas at full speed (1 to {MAX_TOKENS})
/fail MESSAGE       fail the turn with MESSAGE
/help               list these"""

# `/etc/passwd is a file` is text, `/frobnicate now` is a mistake.
_DIRECTIVE = re.compile(r"/([A-Za-z][A-Za-z_-]*)(?:\s+(.*))?", re.DOTALL)


def read_directive(text: str) -> Directive:
    """Tell what `text` asks for; never raises."""
    match = _DIRECTIVE.fullmatch(text)
    if match is None:
        return Say(text)
    name, rest = match[1], (match[2] or "").rstrip()
    reader = _READERS.get(name)
    if reader is None:
        return Say(f"There is no directive /{name[:64]}.\n{HELP}")
    return reader(rest)


def _run(rest: str) -> Directive:
    return Run(rest) if rest else Say("/run needs a command: /run CMD, for example /run ls -l")


def _write(rest: str) -> Directive:
    path, *text = rest.split(maxsplit=1)[:2] or [""]
    if not text:
        return Say("/write needs a path and a text: /write PATH TEXT, for example /write a.txt hi")
    return Write(path, text[0])


def _slow(rest: str) -> Directive:
    try:
        seconds = float(rest)
    except ValueError:
        seconds = math.nan
    if 0 < seconds <= MAX_SLOW_S:
        return Slow(seconds)
    return Say(
        "/slow needs a number of seconds, more than 0 and at most "
        f"{MAX_SLOW_S:.0f}{_but_got(rest)}: /slow SECONDS, for example /slow 3"
    )


def _think(rest: str) -> Directive:
    if rest:
        return Think(rest)
    return Say("/think needs something to think about: /think TEXT, for example /think of a name")


def _tokens(rest: str) -> Directive:
    # Seven digits hold the limit; a longer number is not worth converting.
    if re.fullmatch(r"[0-9]{1,7}", rest) and 1 <= int(rest) <= MAX_TOKENS:
        return Tokens(int(rest))
    return Say(
        f"/tokens needs a whole number from 1 to {MAX_TOKENS}{_but_got(rest)}: "
        "/tokens N, for example /tokens 100"
    )


def _fail(rest: str) -> Directive:
    return (
        Fail(rest) if rest else Say("/fail needs a message: /fail MESSAGE, for example /fail no")
    )


def _help(_rest: str) -> Directive:
    return Say(HELP)


def _but_got(rest: str) -> str:
    return f", not {rest[:64]!r}" if rest else ""


_READERS = {
    "run": _run,
    "write": _write,
    "slow": _slow,
    "think": _think,
    "tokens": _tokens,
    "fail": _fail,
    "help": _help,
}
