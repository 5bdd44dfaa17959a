"""How a command is confined on this machine: bubblewrap, else Landlock, else not at all.

Not at all means that it is refused: only sandbox `none`, which a person asked for,
runs unconfined. `read-only` lets a command write to /dev/null and a private /tmp,
`workspace-write` to the writable roots as well; neither has a network unless the command
says so, and a mechanism that cannot take it away is not used.

| | bubblewrap | Landlock |
|---|---|---|
| files | the rest is mounted read-only | writing is denied; modes and times of own files are not |
| /tmp | an own, empty one | an own directory, named by TMPDIR |
| network | none but an own loopback | seccomp: Unix socket pairs only, no connect |
| processes | an own PID namespace | cannot signal others (Linux 6.12), but sees them |

Processes and memory are limited by `reaper` and `confinement`, whatever the mechanism.
"""

import os
import tempfile
from functools import cache
from typing import Literal

import msgspec

from core_server.tools.base import Command, SandboxUnavailableError
from core_server.tools.sandbox import bubblewrap, landlock, seccomp

Mechanism = Literal["bubblewrap", "landlock", "unavailable"]

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")


class Confinement(msgspec.Struct, frozen=True):
    """What `reaper` has to apply to one command.

    Attributes:
        wrapper: Put before the command's argv.
        writable: Under Landlock what may be written to, else None.
        block_network: Whether a seccomp filter is needed.
        scratch: A directory that was made for this command alone, or empty.
        environment: Variables to set.
    """

    wrapper: tuple[str, ...] = ()
    writable: tuple[str, ...] | None = None
    block_network: bool = False
    scratch: str = ""
    environment: dict[str, str] = {}


def detect() -> Mechanism:
    """Return the best mechanism that works here; the first call takes up to 10 s."""
    if _bubblewrap():
        return "bubblewrap"
    return "landlock" if _landlock() else "unavailable"


def describe() -> str:
    """Say in a few words what confines commands here; blocks like `detect`."""
    mechanism = detect()
    if mechanism == "bubblewrap":
        return "bubblewrap (namespaces)"
    if mechanism == "landlock":
        return f"Landlock ABI {landlock.abi()} with a seccomp filter against the network"
    return "none: neither bubblewrap nor Landlock works here"


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
    mechanism = mechanism or detect()
    if mechanism == "unavailable":
        raise SandboxUnavailableError(
            "commands cannot be sandboxed here: install bubblewrap, or use Linux 6.2 or newer"
            " with Landlock, or pass `--sandbox none` to run them without protection"
        )
    roots = command.writable_roots if command.sandbox == "workspace-write" else ()
    writable = tuple(os.path.realpath(root) for root in roots)
    if mechanism == "bubblewrap":
        wrapper = bubblewrap.wrapper(
            _bubblewrap(),
            cwd=os.path.realpath(command.cwd),
            writable=writable,
            network=command.network,
        )
        return Confinement(wrapper=tuple(wrapper), environment={"TMPDIR": "/tmp"})  # noqa: S108 - a private one
    scratch = tempfile.mkdtemp(prefix="core-server-")
    return Confinement(
        writable=(*_DEVICES, scratch, *writable),
        block_network=not command.network,
        scratch=scratch,
        environment={"TMPDIR": scratch},
    )


def clear() -> None:
    """Forget what was detected; the next call looks again."""
    _bubblewrap.cache_clear()
    _landlock.cache_clear()


@cache
def _bubblewrap() -> tuple[str, ...]:
    return bubblewrap.probe()


@cache
def _landlock() -> bool:
    return landlock.abi() >= landlock.MIN_ABI and seccomp.available()
