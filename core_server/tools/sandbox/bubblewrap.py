"""Bubblewrap: namespaces in which the rest of the machine is read-only or not there.

Read-only is the whole file system; `/tmp`, `/run` and `/dev/shm` are empty, bounded and
the command's own; other processes and, without `network`, other interfaces than an own
loopback are not there. Whatever the command starts dies with it, because its PID
namespace does. It has no capability, and root is nobody inside.

What mounts cannot do, `seccomp` does: a socket in a read-only directory can be connected
to all the same.
"""

import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

from core_server.tools.sandbox import trial
from core_server.tools.sandbox.trial import User

PROBE_TIMEOUT_S = 5.0  # it takes 20 ms; a machine that needs seconds would hang every command
FILTER_FD = 3
"""Where the command's child process has the filter that bwrap shall apply last."""

NOBODY = 65534
"""What the owner of all that is not mapped is called in a user namespace, by default."""

_MAX_TMP_BYTES = 1024 * 1024 * 1024  # a build fits; memory, because a tmpfs is memory
# Root could write to them, capabilities or not: the kernel asks for the user only. Some
# set what the machine runs as root (sys/kernel/core_pattern). bwrap hides those that it
# finds writable, and does not look beneath a directory that is not.
_MACHINE_WIDE = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi", "mtrr")
# With /run hidden these are still needed: names are resolved with the first three; the
# last two hold all programs on NixOS.
_RESOLVER_PATHS = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
_SYSTEM_PATHS = ("/run/current-system", "/run/wrappers")


class Probed(NamedTuple):
    """Whether bubblewrap works.

    Attributes:
        argv: The program, with the options that its user namespace needs; empty if it
            does not work.
        why: Of that, in a few words.
    """

    argv: tuple[str, ...]
    why: str


def probe(user: User | None = None) -> Probed:
    """Find a bubblewrap that works here; blocks for at most ten seconds.

    Args:
        user: The user and group that commands run as; None for our own.
    """
    program = shutil.which("bwrap")
    if program is None:
        return Probed((), "bwrap is not installed")
    candidates = [Probed((program,), "bwrap works here")]
    if user is None and os.geteuid() == 0:
        nobody = (program, "--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY))
        candidates.insert(0, Probed(nobody, "bwrap works here, and root is nobody inside"))
        candidates[1] = Probed((program,), "bwrap works here, without a user namespace")
    failure = ""
    for candidate in candidates:
        options = _options(candidate.argv, cwd="/", writable=(), network=False)
        argv = [*options, "--", "/bin/sh", "-c", ":"]
        failure = trial.failure(argv, user, timeout_s=PROBE_TIMEOUT_S)
        if not failure:
            return candidate
    return Probed((), f"bwrap does not work here: {failure.removeprefix('bwrap: ')}")


def wrapper(
    found: Sequence[str], *, cwd: str, writable: Sequence[str], network: bool
) -> list[str]:
    """Return what to put before a command; it reads the filter from `FILTER_FD`.

    Args:
        found: What `probe` returned.
        cwd: Where the command starts; shown, read-only, even beneath /tmp.
        writable: Absolute paths it may write to; what does not exist is left out.
        network: Whether it shares the machine's network.
    """
    options = _options(found, cwd=cwd, writable=writable, network=network)
    return [*options, "--seccomp", str(FILTER_FD), "--"]


def _options(
    found: Sequence[str], *, cwd: str, writable: Sequence[str], network: bool
) -> list[str]:
    argv = [*found, "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    if not network:
        argv.append("--unshare-net")
    argv += ["--cap-drop", "ALL", "--ro-bind", "/", "/", "--proc", "/proc"]
    for name in _MACHINE_WIDE:
        argv += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    argv += ["--dev", "/dev", *_tmpfs("/dev/shm"), "--remount-ro", "/dev"]  # noqa: S108 - a private one
    argv += [*_tmpfs("/tmp"), *_tmpfs("/run")]  # noqa: S108 - a private one
    for path in (*_SYSTEM_PATHS, *(_RESOLVER_PATHS if network else ())):
        argv += ["--ro-bind-try", path, path]
    if cwd.startswith(("/tmp/", "/run/")):  # noqa: S108 - hidden above
        argv += ["--ro-bind-try", cwd, cwd]
    for path in writable:
        argv += ["--bind-try", path, path]
    return [*argv, "--chdir", cwd]


def _tmpfs(path: str) -> list[str]:
    return ["--size", str(_MAX_TMP_BYTES), "--perms", "1777", "--tmpfs", path]
