"""Which of the core's variables a command gets to see: a short list, and no secret.

An allow-list, because a deny-list forgets the next `…_TOKEN`.
"""

from collections.abc import Mapping

_NAMES = frozenset(
    {
        "COLORTERM", "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL",
        "TERM", "TMPDIR", "TZ", "USER",
    }
)  # fmt: skip
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def child_environment(
    inherited: Mapping[str, str], changes: Mapping[str, str | None], *, tty: bool
) -> dict[str, str]:
    """Return all variables of a command.

    Args:
        inherited: The core's own.
        changes: Set on top; None unsets.
        tty: Whether it gets a terminal, and so needs a TERM.
    """
    result = {"PATH": _DEFAULT_PATH}
    result |= {k: v for k, v in inherited.items() if k in _NAMES or k.startswith("LC_")}
    if tty:
        result.setdefault("TERM", "xterm-256color")
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = value
    return result
