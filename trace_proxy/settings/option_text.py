"""The text of an option → its value, whether it came as a flag or from the environment.

Strict, so that a slip is an error and not another value. Ranges are `config`'s business.
"""

import re
from collections.abc import Callable
from enum import Enum

from trace_proxy.errors import ConfigurationError

Read = Callable[[str, str], object]
"""(option as the user writes it, text) → value. Raises ConfigurationError."""


def read_text(flag: str, text: str) -> str:
    """Any text but none."""
    if not text:
        raise ConfigurationError(f"{flag} is empty: give a value or leave it out")
    return text


def read_count(flag: str, text: str) -> int:
    """A whole number in plain digits."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ConfigurationError(f"{flag} {text[:80]!r}: give a whole number in plain digits")
    return int(text)


def read_seconds(flag: str, text: str) -> float:
    """Seconds, with or without a fraction."""
    if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", text):
        raise ConfigurationError(f"{flag} {text[:80]!r}: give seconds as a number, 30 or 0.5")
    return float(text)


def read_switch(flag: str, text: str) -> bool:
    """Yes or no, as containers write them."""
    match text.lower():
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off":
            return False
        case _:
            raise ConfigurationError(f"{flag} {text[:80]!r}: give true or false")


def read_member(kind: type[Enum]) -> Read:
    """One of the values of `kind`, in any case."""

    def read(flag: str, text: str) -> Enum:
        try:
            return kind(text.lower())
        except ValueError:
            known = ", ".join(member.value for member in kind)
            raise ConfigurationError(f"{flag} {text[:80]!r}: give one of {known}") from None

    return read
