"""Bubblewrap: namespaces in which the rest of the machine is read-only or not there.

Read-only is the whole file system; `/tmp` and `/run` are empty and the command's own,
so that no socket of a container engine or a session bus is in sight; other processes and,
without `network`, other interfaces than an own loopback are not there. Whatever the
command starts dies with it, because its PID namespace does.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence

PROBE_TIMEOUT_S = 5.0  # it takes 20 ms; a machine that needs seconds would hang every command
_MAX_TMP_BYTES = 1024 * 1024 * 1024  # a build fits; memory, because a tmpfs is memory
_SIZE_OPTION = ("--size", str(_MAX_TMP_BYTES))
# With /run hidden these are still needed: names are resolved with the first three; the
# last two hold all programs on NixOS.
_RESOLVER_PATHS = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
_SYSTEM_PATHS = ("/run/current-system", "/run/wrappers")


def probe() -> tuple[str, ...]:
    """Find a bubblewrap that works here; blocks for at most ten seconds.

    Returns:
        Its path and, if it knows it, the option that bounds a tmpfs; empty if there is
        none, or namespaces are forbidden (as in most containers).
    """
    program = shutil.which("bwrap")
    if program is None:
        return ()
    for found in ((program, *_SIZE_OPTION), (program,)):
        argv = [*wrapper(found, cwd="/", writable=(), network=False), "/bin/sh", "-c", ":"]
        try:
            done = subprocess.run(  # noqa: S603 - our own fixed command
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=PROBE_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ()
        if done.returncode == 0:
            return found
    return ()


def wrapper(
    found: Sequence[str], *, cwd: str, writable: Sequence[str], network: bool
) -> list[str]:
    """Return what to put before a command.

    Args:
        found: What `probe` returned.
        cwd: Where the command starts; shown, read-only, even beneath /tmp.
        writable: Absolute paths it may write to; what does not exist is left out.
        network: Whether it shares the machine's network.
    """
    program, *tmpfs_options = found
    argv = [program, "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    if not network:
        argv.append("--unshare-net")
    argv += ["--cap-drop", "ALL"]
    if os.geteuid() == 0:
        # A volume in a container often belongs to another user: root could not work in
        # it otherwise. What is not writable is mounted read-only, which binds root too.
        argv += ["--cap-add", "CAP_DAC_OVERRIDE"]
    argv += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    argv += [*tmpfs_options, "--tmpfs", "/tmp", *tmpfs_options, "--tmpfs", "/run"]  # noqa: S108 - a private one
    for path in (*_SYSTEM_PATHS, *(_RESOLVER_PATHS if network else ())):
        argv += ["--ro-bind-try", path, path]
    if cwd.startswith(("/tmp/", "/run/")):  # noqa: S108 - hidden above
        argv += ["--ro-bind-try", cwd, cwd]
    for path in writable:
        argv += ["--bind-try", path, path]
    return [*argv, "--chdir", cwd, "--"]
