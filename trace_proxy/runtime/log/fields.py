"""What may stand in a log line: values cut, escaped and bounded, exceptions without their text.

Whatever comes in, something that JSON can hold comes out, and no terminal obeys it. An
exception's message is left out unless content is recorded: `KeyError('...')` and its kind
quote what a client sent.
"""

import errno
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

MAX_VALUE_CHARACTERS: Final = 256
"""Enough for an id, a path or a reason, too little for a page of somebody's text."""

MAX_ITEMS: Final = 32
"""Of a list or mapping: every listener and core of a large setup."""

MAX_DEPTH: Final = 3
"""Of nested lists and mappings; a field that needs more is not a field."""

MAX_NUMBER: Final = 2**128
"""The largest honest number is a trace id."""

MAX_FRAMES: Final = 20
"""Of an exception's way: from the task to the line, with room for libraries between."""

MAX_EXCEPTIONS: Final = 8
"""An exception, its causes and, of a group, its members."""

Clean = None | bool | int | float | str | list["Clean"] | dict[str, "Clean"]
"""What JSON can hold."""


def clean(value: object, *, depth: int = 0) -> Clean:
    """`value` as a log line may show it."""
    match value:
        case None | bool():
            return value
        case int() | float() if abs(value) < MAX_NUMBER:  # neither infinite nor NaN
            return value
        case Mapping() if depth < MAX_DEPTH:
            pairs = islice(value.items(), MAX_ITEMS)
            return {clean_text(_shown(key)): clean(item, depth=depth + 1) for key, item in pairs}
        case list() | tuple() | set() | frozenset() if depth < MAX_DEPTH:
            return [clean(item, depth=depth + 1) for item in islice(value, MAX_ITEMS)]
        case _:
            return clean_text(_shown(value))


def clean_text(text: str) -> str:
    """`text` cut at 256 characters with a mark, all that a terminal would obey made visible."""
    if len(text) > MAX_VALUE_CHARACTERS:
        text = text[:MAX_VALUE_CHARACTERS] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def describe_exception(error: BaseException, *, with_message: bool = False) -> str:
    """Type and way of `error`, of its causes and of a group's members, on one line."""
    known = islice(_related(error), MAX_EXCEPTIONS)
    return "; ".join(_described(one, with_message=with_message) for one in known)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and abs(value) >= MAX_NUMBER:
        return f"<integer of {value.bit_length()} bits>"  # its digits are quadratic to make
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a repr of anybody's may raise anything
        return f"<{type(value).__name__} without repr>"


def _related(error: BaseException) -> Iterator[BaseException]:
    """`error`, then causes and members; a ring of causes is walked once."""
    waiting = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        cause = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        if cause is not None:
            waiting.append(cause)


def _described(error: BaseException, *, with_message: bool) -> str:
    name = type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        name += f"({errno.errorcode.get(error.errno, error.errno)})"
    if with_message:
        name += f": {clean_text(_shown(str(error)))}"
    way = " < ".join(_frames(error))
    return f"{name} at {way}" if way else name


def _frames(error: BaseException) -> Iterable[str]:
    """Where it was raised first, then who called: `hub.py:12 route`."""
    frames = []
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{step.tb_lineno} {code.co_qualname}")
        step = step.tb_next
    return reversed(frames[-MAX_FRAMES:])


_ASSIGNING: Final = frozenset({"-c", "--config", "-e", "--env"})
"""Options whose value is NAME=VALUE."""

_SECRET_NAME: Final = re.compile(r"(?i)key|token|secret|passw|credential|auth|bearer|cookie")
_USER: Final = re.compile(r"(?<=://)[^/@\s]+@")
_LEFT_OUT: Final = "…"


def shown_command(command: Sequence[str]) -> list[str]:
    """The command for a log line: what an option with a telling name was given is left out."""
    return list(_arguments(command))


def _arguments(command: Sequence[str]) -> Iterator[str]:
    before = ""
    for argument in command:
        name, is_pair, _ = argument.partition("=")
        if before in _ASSIGNING and is_pair:
            yield f"{name}={_LEFT_OUT}"
        elif name in _ASSIGNING and is_pair:
            inner = argument.removeprefix(f"{name}=").partition("=")[0]
            yield f"{name}={inner}={_LEFT_OUT}"
        elif is_pair and _SECRET_NAME.search(name):
            yield f"{name}={_LEFT_OUT}"
        elif before.startswith("-") and "=" not in before and _SECRET_NAME.search(before):
            yield argument if argument.startswith("-") else _LEFT_OUT
        else:
            yield _USER.sub(f"{_LEFT_OUT}@", argument)
        before = argument
