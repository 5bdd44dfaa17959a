"""The seccomp filter that every confined command gets, whatever else confines it.

It is a list of what no command needs, or needs for itself only; the rest passes, so that
compilers, test runners and shells work. A number that is younger than this list is
answered with ENOSYS, as by an older kernel, and so are `clone3` and `openat2`, whose
arguments a filter cannot read: libraries then take the older call.

| taken away | because |
|---|---|
| Unix sockets; pairs of them stay, of streams and of packets | the socket of a container engine, a session bus, our own listener: a path is enough, and what answers acts outside. A datagram pair could be connected anew |
| other families than IP and routing tables, all of them without a network | vsock and its like know no network namespace |
| limits, priority, affinity of others | a limit on the processor's seconds kills like a signal |
| set-user-id and set-group-id bits | such a program would run outside, as its owner |
| namespaces, mounts, modules, keys, io_uring, BPF, handles to files | ways around a sandbox, or much kernel for no use |
| System V and POSIX queues without an IPC namespace | they are kept when their maker has ended |
| signals by number, where nothing else holds them | see `program` |

What a filter cannot tell is whose file a path names, so it allows `chmod` and times.

Classic BPF (Linux, Documentation/networking/filter.rst); `struct seccomp_data` of
Documentation/userspace-api/seccomp_filter.rst. Numbers: Linux's syscall_64.tbl for
x86_64, asm-generic/unistd.h for aarch64.
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
_EPERM = 0x00050000 | errno.EPERM
_ENOSYS = 0x00050000 | errno.ENOSYS

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

_NEWEST = 469  # the highest number that was looked at for this list (Linux 6.17)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, audit architecture

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE_MASK = 1, 5, 0xF
_SET_ID_BITS = 0o6000
_CREATES = 0o100 | 0o20000000  # O_CREAT, O_TMPFILE: without them the mode is not looked at
_NEW_NAMESPACES = 0x7E020080
_CLONE_SIGNAL = 0xFF  # the lowest byte of clone's flags is a signal, not a flag
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type into a terminal
_IOCTL_OWNERS = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: whom SIGIO, or another signal, hits
_FCNTL_OWNERS = (8, 15)  # F_SETOWN, F_SETOWN_EX
_IOPRIO_WHO_PROCESS = 1

# Each line: (x86_64, aarch64); None where a machine has no such call.
_DENIED: tuple[tuple[int | None, int | None], ...] = (
    (308, 268),  # setns
    *((165, 40), (166, 39), (155, 41), (161, 51)),  # mount, umount2, pivot_root, chroot
    *((428, 428), (429, 429)),  # open_tree, move_mount
    *((430, 430), (431, 431), (432, 432), (433, 433)),  # fsopen, fsconfig, fsmount, fspick
    *((442, 442), (467, 467)),  # mount_setattr, open_tree_attr
    *((248, 217), (249, 218), (250, 219)),  # add_key, request_key, keyctl
    *((425, 425), (426, 426), (427, 427)),  # io_uring_setup, _enter, _register
    *((321, 280), (298, 241), (323, 282)),  # bpf, perf_event_open, userfaultfd
    *((246, 104), (320, 294), (169, 142)),  # kexec_load, kexec_file_load, reboot
    *((175, 105), (313, 273), (176, 106)),  # init_module, finit_module, delete_module
    *((167, 224), (168, 225)),  # swapon, swapoff
    *((170, 161), (171, 162)),  # sethostname, setdomainname
    *((163, 89), (179, 60), (443, 443)),  # acct, quotactl, quotactl_fd
    *((103, 116), (153, 58), (180, 42)),  # syslog, vhangup, nfsservctl
    *((310, 270), (311, 271), (312, 272)),  # process_vm_readv, process_vm_writev, kcmp
    *((438, 438), (440, 440), (448, 448)),  # pidfd_getfd, process_madvise, process_mrelease
    *((279, 239), (256, 238)),  # move_pages, migrate_pages
    *((304, 265), (300, 262), (212, 18)),  # open_by_handle_at, fanotify_init, lookup_dcookie
    *((227, 112), (164, 170)),  # clock_settime, settimeofday
    *((172, None), (173, None), (154, None)),  # iopl, ioperm, modify_ldt
)
_UNREADABLE = ((435, 435), (437, 437))  # clone3, openat2: their arguments are in memory
_LASTING = ((29, 194), (64, 190), (68, 186), (240, 180))  # shmget, semget, msgget, mq_open
_SELF_BY_ZERO = (  # the process is the first argument, 0 is oneself
    (302, 261),  # prlimit64
    (203, 122),  # sched_setaffinity
    (142, 118),  # sched_setparam
    (144, 119),  # sched_setscheduler
    (314, 274),  # sched_setattr
)
_SIGNALS = (  # by 0 kill means the own group; the others know no such number
    *((62, 129), (200, 130), (234, 131)),  # kill, tkill, tgkill
    *((129, 138), (297, 240), (424, 424)),  # rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal
)
_MODES = (  # (number, number, which argument is the mode)
    (90, None, 1),  # chmod
    (91, 52, 1),  # fchmod
    (268, 53, 2),  # fchmodat
    (452, 452, 2),  # fchmodat2
    (85, None, 1),  # creat
    (133, None, 1),  # mknod
    (259, 33, 2),  # mknodat
)
_OPENS = ((2, None, 1), (257, 56, 2))  # open, openat: which argument is the flags
_SETPRIORITY, _IOPRIO_SET = (141, 140), (251, 30)
_CLONE, _UNSHARE = (56, 220), (272, 97)
_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_IOCTL, _FCNTL = (16, 29), (72, 25)

_Instruction = tuple[int, int, int, int]
_DENY: _Instruction = (_RETURN, 0, 0, _EPERM)
_PASS: _Instruction = (_RETURN, 0, 0, _ALLOW)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def available() -> bool:
    """Whether the system calls of this machine are known here, and Linux is."""
    return platform.system() == "Linux" and platform.machine() in _MACHINES


def program(machine: str, *, network: bool, own_ipc: bool, signals: bool) -> bytes:
    """Assemble the filter, as `bwrap --seccomp` and `install` take it.

    Args:
        machine: As `platform.machine` names it.
        network: Whether there may be IP sockets: the command was given the network, or
            has an empty one of its own.
        own_ipc: Whether queues and shared memory end with the command's IPC namespace.
        signals: Whether something else keeps signals from processes outside. If not, the
            command can signal its own group only: a filter cannot tell whose a number is.
    """
    column, arch = _MACHINES[machine]
    blocks: list[tuple[int | None, list[_Instruction]]] = [
        *((call[column], [_DENY]) for call in _DENIED),
        *((call[column], [(_RETURN, 0, 0, _ENOSYS)]) for call in _UNREADABLE),
        *((call[column], [_DENY]) for call in _LASTING if not own_ipc),
        *((call[column], _only(0, 0)) for call in _SELF_BY_ZERO),
        *((call[column], _only(0, 0)) for call in _SIGNALS if not signals),
        (_SETPRIORITY[column], [*_require(0, 0), *_only(1, 0)]),
        (_IOPRIO_SET[column], [*_require(0, _IOPRIO_WHO_PROCESS), *_only(1, 0)]),
        *((call[column], _without(call[2], _SET_ID_BITS)) for call in _MODES),
        *((call[column], _opening(call[2])) for call in _OPENS),
        (_CLONE[column], _without(0, _NEW_NAMESPACES & ~_CLONE_SIGNAL)),
        (_UNSHARE[column], _without(0, _NEW_NAMESPACES)),
        (_SOCKET[column], _ip_socket() if network else [_DENY]),
        (_SOCKETPAIR[column], _pair()),
        (_IOCTL[column], _none_of(1, _TIOCSTI, _TIOCLINUX, *(() if signals else _IOCTL_OWNERS))),
        (_FCNTL[column], _none_of(1, *(() if signals else _FCNTL_OWNERS))),
    ]
    code = [
        *_load(_ARCH),
        *((_EQUAL, 1, 0, arch), _DENY),
        *_load(_NUMBER),
        *((_AT_LEAST, 0, 1, _NEWEST + 1), (_RETURN, 0, 0, _ENOSYS)),  # x32 is beyond it, too
    ]
    for number, body in blocks:
        if number is not None:
            code += [(_EQUAL, 0, len(body), number), *body]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in [*code, _PASS])


def install(code: bytes) -> None:
    """Confine this process and all that it will start; there is no way back.

    Raises:
        OSError: the kernel refused; the process is not confined then.
    """
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


def _load(offset: int) -> list[_Instruction]:
    return [(_LOAD, 0, 0, offset)]


def _argument(index: int) -> list[_Instruction]:
    """The lower half: each argument that is looked at here is an int to the kernel."""
    return _load(_ARGUMENTS + 8 * index)


def _require(index: int, value: int) -> list[_Instruction]:
    """Go on if an argument has a value, deny if not."""
    return [*_argument(index), (_EQUAL, 1, 0, value), _DENY]


def _only(index: int, value: int) -> list[_Instruction]:
    return [*_require(index, value), _PASS]


def _without(index: int, bits: int) -> list[_Instruction]:
    return [*_argument(index), (_ANY_BIT, 0, 1, bits), _DENY, _PASS]


def _opening(flags: int) -> list[_Instruction]:
    creates = [*_argument(flags), (_ANY_BIT, 1, 0, _CREATES), _PASS]
    return [*creates, *_without(flags + 1, _SET_ID_BITS)]


def _none_of(index: int, *values: int) -> list[_Instruction]:
    found: list[_Instruction] = []
    for value in values:
        found += [(_EQUAL, 0, 1, value), _DENY]
    return [*_argument(index), *found, _PASS]


def _ip_socket() -> list[_Instruction]:
    return [
        *_argument(0),
        *((_EQUAL, 0, 1, _AF_INET), _PASS),
        *((_EQUAL, 0, 1, _AF_INET6), _PASS),
        *((_EQUAL, 1, 0, _AF_NETLINK), _DENY),
        *_only(2, _NETLINK_ROUTE),
    ]


def _pair() -> list[_Instruction]:
    return [
        *_require(0, _AF_UNIX),
        *_argument(1),
        (_AND, 0, 0, _SOCK_TYPE_MASK),
        *((_EQUAL, 0, 1, _SOCK_STREAM), _PASS),
        *((_EQUAL, 0, 1, _SOCK_SEQPACKET), _PASS),
        _DENY,
    ]
