# ruff: noqa: PTH110, PTH208 - pathlib costs every command 5 ms to import
"""Landlock: the kernel denies this process, for good, to write but where it is told.

Covers the making, changing, truncating and removing of files, signals and abstract
sockets to processes outside (from ABI 6). Does not cover the metadata of files that the
user owns (chmod, chown, times), reading, or sockets: `seccomp` takes those away.
Before ABI 3 (Linux 6.2) a file outside could be truncated, so older ones do not count.
"""

import contextlib
import ctypes
import os
import platform
import stat

MIN_ABI = 3  # the first that can forbid to truncate
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24
_LAST_CAPABILITY = 63  # the width of the mask; ids that do not exist are refused, harmlessly

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_HANDLED = (1 << 15) - 1
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3

_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_EVERYWHERE = _EXECUTE | _READ_DIR
_READ = _EXECUTE | _READ_FILE | _READ_DIR
# Of /dev only what is no hardware: root's command could read whole disks and the memory.
_READABLE_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm")
# Root could write to a whole disk through a device node of its own making.
_NEVER = _MAKE_CHAR | _MAKE_BLOCK

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """Return the kernel's Landlock version, 0 for none."""
    if platform.system() != "Linux":
        return 0
    version: int = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    return max(version, 0)


def restrict(writable: list[str]) -> None:
    """Confine this process and all that it will start; there is no way back.

    Args:
        writable: Files and directories that may be written to, with all beneath. One
            that does not exist is left out.

    Raises:
        OSError: the kernel refused; the process is not confined then.
    """
    version = abi()
    handled = _HANDLED | (_IOCTL_DEV if version >= 5 else 0)
    attributes = _Ruleset(handled, 0, _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0)
    # An older kernel refuses a structure with fields that it does not know.
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset_fd = _syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), 0)
    try:
        _allow(ruleset_fd, "/", _EVERYWHERE)
        for path in _readable():
            with contextlib.suppress(FileNotFoundError):
                _allow(ruleset_fd, path, _READ)
        for path in writable:
            if os.path.exists(path):
                _allow(ruleset_fd, path, handled & ~_NEVER)
        _drop_capabilities()
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs")
        _syscall(_RESTRICT_SELF, ruleset_fd, 0)
    finally:
        os.close(ruleset_fd)


def _readable() -> list[str]:
    """All but devices: a rule cannot take away what one above it gives."""
    found = [f"/{name}" for name in os.listdir("/") if name != "dev"]
    return found + [f"/dev/{name}" for name in _READABLE_DEVICES]


def _allow(ruleset_fd: int, path: str, access: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= _ON_FILES
        rule = _PathBeneath(access, fd)
        _syscall(_ADD_RULE, ruleset_fd, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(fd)


def _drop_capabilities() -> None:
    """Let no program have any, not even root's; without root there is nothing to drop."""
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _syscall(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
