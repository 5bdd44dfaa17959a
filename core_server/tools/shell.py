"""How a line becomes a command, and how a command is shown to people."""

import os
import shlex
from collections.abc import Sequence

_BASH, _SH = "/bin/bash", "/bin/sh"
_SHELLS = frozenset({"bash", "sh", "zsh", "dash"})


def argv_of(command: str | Sequence[str]) -> tuple[str, ...]:
    """Return what to execute: a line goes to a login shell, an argv stays as it is."""
    if isinstance(command, str):
        return (*_shell(), command)
    return tuple(command)


def display(argv: Sequence[str]) -> str:
    """Return the command as one line, quoted for a shell, as items show it."""
    return shlex.join(argv)


def script_of(argv: Sequence[str]) -> str | None:
    """Return the line that a shell is given by `-c` or `-lc`; None for other commands."""
    if len(argv) == 3 and os.path.basename(argv[0]) in _SHELLS and argv[1] in {"-c", "-lc"}:  # noqa: PTH119 - text
        return argv[2]
    return None


def command_actions(argv: Sequence[str]) -> list[dict[str, str]]:
    """Return `commandActions`: the command without the shell around it, of unknown kind."""
    script = script_of(argv)
    return [{"type": "unknown", "command": display(argv) if script is None else script}]


def _shell() -> tuple[str, ...]:
    if os.access(_BASH, os.X_OK):
        return (_BASH, "-lc")
    return (_SH, "-c")  # not every sh knows -l
