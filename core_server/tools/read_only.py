"""Which commands only read, so that policy `untrusted` need not ask.

A short list, and a doubt means no: a person who is asked once too often loses a second,
one who is asked once too little a repository. Not a parser of the shell: a line with
anything in it that a shell would act upon is not known.
"""

import shlex
from collections.abc import Sequence

from core_server.tools.shell import script_of

# What a shell acts upon: operators, expansions, globs, comments, escapes, new lines.
_ACTIVE = frozenset("|&;<>()$`\\\n\r*?[]{}~!#^=%")
_PLAIN = frozenset(
    {
        "basename", "cat", "cut", "dirname", "echo", "false", "grep", "head", "id", "ls",
        "nl", "pwd", "readlink", "realpath", "stat", "tail", "true", "uname", "wc",
        "whoami", "which",
    }
)  # fmt: skip
_GIT = frozenset({"diff", "log", "rev-parse", "show", "status"})
# Other options could run programs (a pager, a diff driver) or write a file, and git takes
# any unambiguous beginning of them.
_GIT_OPTIONS = frozenset(
    {
        "--", "--all", "--branch", "--cached", "--graph", "--name-only", "--name-status",
        "--oneline", "--patch", "--porcelain", "--short", "--show-toplevel", "--staged",
        "--stat", "-b", "-p", "-s", "-1", "-2", "-3", "-5", "-10", "-20",
    }
)  # fmt: skip
_RG_DENIED = ("--pre", "--hostname-bin", "--search-zip")
_SED_LINES = frozenset("0123456789,$p")


def known_read_only(argv: Sequence[str]) -> bool:
    """Whether a command surely changes nothing; False means only that we do not know.

    Args:
        argv: A command, or a shell with one line, which must be a single plain command.
    """
    script = script_of(argv)
    if script is not None:
        if _ACTIVE & set(script):
            return False
        try:
            argv = shlex.split(script)
        except ValueError:  # an open quote
            return False
    if not argv or "/" in argv[0]:  # ./ls may be anything
        return False
    return _known(argv[0], argv[1:])


def _known(name: str, arguments: Sequence[str]) -> bool:
    if name in _PLAIN:
        return True
    if name == "git":
        return _git(arguments)
    if name == "rg":
        return not any(a.startswith(_RG_DENIED) or _short_flag(a, "z") for a in arguments)
    return name == "sed" and _sed(arguments)


def _git(arguments: Sequence[str]) -> bool:
    # Options before the subcommand (-c, -C, --git-dir) could bring a configuration that
    # runs programs, so there may be none.
    if not arguments or arguments[0] not in _GIT:
        return False
    return all(a in _GIT_OPTIONS or not a.startswith("-") for a in arguments[1:])


def _sed(arguments: Sequence[str]) -> bool:
    """`sed -n 10,20p FILE`, and nothing else: sed can write files and run programs."""
    if len(arguments) != 3 or arguments[0] != "-n" or arguments[2].startswith("-"):
        return False
    return set(arguments[1]) <= _SED_LINES


def _short_flag(argument: str, letter: str) -> bool:
    return argument.startswith("-") and not argument.startswith("--") and letter in argument
