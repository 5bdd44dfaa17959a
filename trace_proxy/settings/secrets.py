"""A command as it may be shown: values that may be secret are left out."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

_ASSIGNING: Final = frozenset({"-c", "--config", "-e", "--env"})
"""Options whose value is NAME=VALUE."""

_SECRET_NAME: Final = re.compile(r"(?i)key|token|secret|passw|credential|auth|bearer|cookie")
_USER: Final = re.compile(r"(?<=://)[^/@\s]+@")
_LEFT_OUT: Final = "…"


def shown_command(command: Sequence[str]) -> list[str]:
    """The command for a log line: what an option with a telling name was given is left out."""
    return list(_shown(command))


def _shown(command: Sequence[str]) -> Iterator[str]:
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
