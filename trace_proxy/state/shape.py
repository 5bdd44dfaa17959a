"""Reads a JSON value as the type it must have, or says what is wrong in serde's words.

Clients of the reference server match on its texts, and its parser writes them. Like
it, members are judged in the order in which they came, and missing ones last.
For what the proxy itself answers; params that go to a core are the core's to judge.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

_MAX_ECHO_CHARS: Final = 200
"""How much of a wrong value is quoted back: enough to find it."""

Reader = Callable[[object], object]


class ShapeError(Exception):
    """A value has not the type that it must have; the text is for the client."""


def struct(
    value: object, name: str, readers: Mapping[str, Reader], required: tuple[str, ...] = ()
) -> dict[str, object]:
    """Read an object's known members; unknown ones are ignored.

    Raises:
        ShapeError: It is no object, a member has the wrong type, or one is missing.
    """
    if not isinstance(value, dict):
        raise wrong_type(value, f"struct {name}")
    members = {key: readers[key](member) for key, member in value.items() if key in readers}
    for key in required:
        if key not in members:
            raise ShapeError(f"Invalid request: missing field `{key}`")
    return members


def optional(reader: Reader) -> Reader:
    """The same, or null."""
    return lambda value: None if value is None else reader(value)


def string(value: object, max_chars: int) -> str:
    """Read a string of at most `max_chars`; ours, not the reference's, so that it is bounded.

    Raises:
        ShapeError: It is none, or longer.
    """
    if not isinstance(value, str):
        raise wrong_type(value, "a string")
    if len(value) > max_chars:
        raise ShapeError(
            f"Invalid request: a string has {len(value)} characters, at most {max_chars} are taken"
        )
    return value


def boolean(value: object) -> bool:
    """Read a boolean.

    Raises:
        ShapeError: It is none.
    """
    if not isinstance(value, bool):
        raise wrong_type(value, "a boolean")
    return value


def wrong_type(value: object, expected: str) -> ShapeError:
    """What serde says when it expected something else."""
    return ShapeError(f"Invalid request: invalid type: {_described(value)}, expected {expected}")


def _described(value: object) -> str:
    """What serde calls a value (`serde::de::Unexpected`)."""
    if isinstance(value, str):
        return "string " + msgspec.json.encode(value[:_MAX_ECHO_CHARS]).decode()
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    return {type(None): "null", list: "sequence"}.get(type(value), "map")
