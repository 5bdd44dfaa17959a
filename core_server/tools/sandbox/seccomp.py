"""A seccomp filter that takes the network away, where there is no network namespace.

Denied, with EPERM: every socket but a Unix one, every `connect` (the socket of a
container engine is a Unix one), `sendto` with an address, io_uring (it could do all that
unseen), and any foreign system call table. Left open, because a filter cannot look
behind pointers: `sendmsg` to a Unix *datagram* socket that others have in the file
system. Pairs of sockets, as test runners use them, work.
"""

import ctypes
import errno
import os
import platform
import struct

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_DENY = 0x00050000 | errno.EPERM
_AF_UNIX = 1
_IO_URING_SETUP = 425
_X32_BIT = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCH = 0, 4
_DOMAIN = 16  # the first argument, lower half
_ADDRESS_LOW, _ADDRESS_HIGH = 48, 52  # the fifth argument

# Machine: audit architecture, then the numbers of socket, connect and sendto.
_TABLES = {
    "x86_64": (0xC000003E, 41, 42, 44),
    "aarch64": (0xC00000B7, 198, 203, 206),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def available() -> bool:
    """Whether the system calls of this machine are known here, and Linux is."""
    return platform.system() == "Linux" and platform.machine() in _TABLES


def block_network() -> None:
    """Confine this process and all that it will start; there is no way back.

    Raises:
        OSError: the kernel refused; the process is not confined then.
    """
    code = program(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filter_), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"seccomp: {os.strerror(number)}")


def program(machine: str) -> bytes:
    """Assemble the filter: classic BPF, eight bytes each; jumps are relative."""
    arch, socket, connect, sendto = _TABLES[machine]
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, _ARCH),
            (_EQUAL, 0, 13, arch),  # else deny
            (_LOAD, 0, 0, _NUMBER),
            (_AT_LEAST, 11, 0, _X32_BIT),  # deny
            (_EQUAL, 10, 0, connect),  # deny
            (_EQUAL, 9, 0, _IO_URING_SETUP),  # deny
            (_EQUAL, 2, 0, socket),  # to the domain
            (_EQUAL, 3, 0, sendto),  # to the address
            (_RETURN, 0, 0, _ALLOW),
            (_LOAD, 0, 0, _DOMAIN),
            (_EQUAL, 5, 4, _AF_UNIX),  # allow, else deny
            (_LOAD, 0, 0, _ADDRESS_LOW),
            (_EQUAL, 0, 2, 0),  # else deny
            (_LOAD, 0, 0, _ADDRESS_HIGH),
            (_EQUAL, 1, 0, 0),  # allow, else deny: see below
            (_RETURN, 0, 0, _DENY),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
