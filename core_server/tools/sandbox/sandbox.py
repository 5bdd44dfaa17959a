"""How a command is confined on this machine: bubblewrap, else Landlock, else not at all.

Not at all means that it is refused: only sandbox `none`, which a person asked for,
runs unconfined. `read-only` lets a command write to /dev/null and a private /tmp,
`workspace-write` to the writable roots as well; neither has a network unless the command
says so, and a mechanism that cannot take it away is not used. Each gets the filter of
`seccomp`.

| | bubblewrap | Landlock |
|---|---|---|
| files | the rest is mounted read-only | writing is denied; modes and times of own files are not |
| /tmp | an own, empty one | an own directory, named by TMPDIR |
| network | none but an own loopback | no socket |
| processes | an own PID namespace | the same where the machine allows it (`namespaces`), else they are seen, not signalled |

A core that is root runs a command as the owner of its directory, and if that is root
too, as nobody in a user namespace (a name only: it still is the owner of root's files)
without any capability.

Processes and memory are limited by `reaper` and `child`, whatever the mechanism.
"""

import os
import platform
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from core_server.tools.base import Command, SandboxUnavailableError
from core_server.tools.sandbox import bubblewrap, landlock, seccomp, trial
from core_server.tools.sandbox.trial import User

Mechanism = Literal["bubblewrap", "landlock", "unavailable"]

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")
SIGNALS_ABI = 6
"""From here on Landlock holds signals (Linux 6.12)."""

_TRY_NAMESPACES = (
    "import sys; sys.path.append(sys.argv[1]);"
    "from core_server.tools.sandbox.namespaces import enter; enter((65534, 65534))"
)


class Confinement(msgspec.Struct, frozen=True):
    """What `child` has to apply to one command.

    Attributes:
        wrapper: Put before the command's argv.
        writable: Under Landlock what may be written to, else None.
        filter: The seccomp filter; empty for none.
        user: The user and group to become first; None to stay who we are.
        ids: What that user and group are called in a new PID namespace; None for no
            such namespace, or if the wrapper makes it.
        scratch: A directory that was made for this command alone, or empty.
        environment: Variables to set.
    """

    wrapper: tuple[str, ...] = ()
    writable: tuple[str, ...] | None = None
    filter: bytes = b""
    user: User | None = None
    ids: User | None = None
    scratch: str = ""
    environment: dict[str, str] = {}


class Way(msgspec.Struct, frozen=True):
    """How commands are confined here, and why so: for the log."""

    name: Mechanism
    why: str


def detect(user: User | None = None) -> Mechanism:
    """Return the best mechanism that works here; the first call takes up to 10 s.

    Args:
        user: The user and group that commands run as; None for our own.
    """
    if _bubblewrap(user).argv:
        return "bubblewrap"
    return "landlock" if _landlock() else "unavailable"


def look(cwd: str) -> None:
    """Find out once what works for commands in a directory, so that `prepare` need not."""
    user = _owner(cwd)
    if detect(user) == "landlock":
        _namespaces(user)


def describe(cwd: str) -> Way:
    """Say what confines commands in a directory, and why; blocks like `detect`."""
    user = _owner(cwd)
    mechanism = detect(user)
    why = _bubblewrap(user).why
    if mechanism == "landlock":
        own = "with" if _namespaces(user) else "without"
        why += f"; Landlock ABI {landlock.abi()} {own} a PID namespace"
    elif mechanism == "unavailable":
        why += f"; Landlock ABI {landlock.abi()}, {landlock.MIN_ABI} is needed"
    return Way(mechanism, why if user is None else f"{why}; as user {user[0]}")


def prepare(command: Command, mechanism: Mechanism | None = None) -> Confinement:
    """Decide how to confine a command; blocks like `detect`.

    Args:
        command: What shall run.
        mechanism: Use this one; None for the best that works here.

    Raises:
        SandboxUnavailableError: it wants a sandbox and there is none.
    """
    if command.sandbox == "none":
        return Confinement()
    user = _owner(command.cwd)
    mechanism = mechanism or detect(user)
    if mechanism == "unavailable":
        raise SandboxUnavailableError(
            "commands cannot be sandboxed here: install bubblewrap, or use Linux 6.2 or newer"
            " with Landlock, or pass `--sandbox none` to run them without protection"
        )
    roots = command.writable_roots if command.sandbox == "workspace-write" else ()
    writable = tuple(os.path.realpath(root) for root in roots)
    if mechanism == "bubblewrap":
        wrapper = bubblewrap.wrapper(
            _bubblewrap(user).argv,
            cwd=os.path.realpath(command.cwd),
            writable=writable,
            network=command.network,
        )
        return Confinement(
            wrapper=tuple(wrapper),
            filter=_filter(network=True, own_ipc=True, signals=True),
            user=user,
            environment={"TMPDIR": "/tmp"},  # noqa: S108 - a private one
        )
    namespaces = _namespaces(user)
    scratch = tempfile.mkdtemp(prefix="core-server-")
    if user is not None:
        os.chown(scratch, *user)
    return Confinement(
        writable=(*_DEVICES, scratch, *writable),
        filter=_filter(
            network=command.network,
            own_ipc=namespaces,
            signals=namespaces or landlock.abi() >= SIGNALS_ABI,
        ),
        user=user,
        ids=_names(user) if namespaces else None,
        scratch=scratch,
        environment={"TMPDIR": scratch},
    )


def clear() -> None:
    """Forget what was detected; the next call looks again."""
    _bubblewrap.cache_clear()
    _landlock.cache_clear()
    _namespaces.cache_clear()


def _owner(cwd: str) -> User | None:
    """Whom a command becomes if we are root: the owner of its directory; None to stay.

    Not if that user could not get there: root's home with another user's files in it.
    """
    if os.geteuid() != 0:
        return None
    try:
        place = Path(os.path.realpath(cwd))
        found = place.stat()
        for parent in place.parents:
            above = parent.stat()
            passes = stat.S_IXUSR if above.st_uid == found.st_uid else stat.S_IXOTH
            if not above.st_mode & passes:
                return None
    except (OSError, ValueError):  # the command's start will say so
        return None
    return (found.st_uid, found.st_gid) if found.st_uid else None


def _names(user: User | None) -> User:
    if user is None and os.geteuid() == 0:
        return bubblewrap.NOBODY, bubblewrap.NOBODY
    return user or (os.geteuid(), os.getegid())


@cache
def _filter(*, network: bool, own_ipc: bool, signals: bool) -> bytes:
    return seccomp.program(platform.machine(), network=network, own_ipc=own_ipc, signals=signals)


@cache
def _bubblewrap(user: User | None) -> bubblewrap.Probed:
    if not seccomp.available():
        return bubblewrap.Probed((), "no seccomp filter for this machine")
    return bubblewrap.probe(user)


@cache
def _landlock() -> bool:
    return landlock.abi() >= landlock.MIN_ABI and seccomp.available()


@cache
def _namespaces(user: User | None) -> bool:
    """Whether `namespaces.enter` works; 30 ms at the first call."""
    argv = [sys.executable, "-I", "-S", "-c", _TRY_NAMESPACES, str(Path(__file__).parents[3])]
    return not trial.failure(argv, user, timeout_s=bubblewrap.PROBE_TIMEOUT_S)
