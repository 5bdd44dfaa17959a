"""What the filter lets pass, on both machines: its code is run here as the kernel would.

So the machine that the tests do not run on is tried, too.
"""

import errno
import struct
from typing import Literal

import pytest

from core_server.tools.sandbox import seccomp

Machine = Literal["x86_64", "aarch64"]
MACHINES: dict[Machine, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED, EPERM, ENOSYS = "allowed", "EPERM", "ENOSYS"
OTHER = 4711  # some process's id


def answer(code: bytes, number: int, arguments: tuple[int, ...], arch: int) -> str:
    """Interpret classic BPF over `struct seccomp_data`."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, arch, 0, *(each & 2**64 - 1 for each in padded))
    place = accumulator = 0
    while True:
        operation, jump_true, jump_false, constant = struct.unpack_from("=HBBI", code, place * 8)
        place += 1
        match operation:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, constant)[0]
            case 0x54:
                accumulator &= constant
            case 0x15:
                place += jump_true if accumulator == constant else jump_false
            case 0x35:
                place += jump_true if accumulator >= constant else jump_false
            case 0x45:
                place += jump_true if accumulator & constant else jump_false
            case _:
                assert operation == 0x06
                return {
                    0x7FFF0000: ALLOWED,
                    0x00050000 | errno.EPERM: EPERM,
                    0x00050000 | errno.ENOSYS: ENOSYS,
                }[constant]


# Call (x86_64, aarch64), arguments, what comes of it when nothing else is allowed.
STRICT: list[tuple[str, tuple[int | None, int | None], tuple[int, ...], str]] = [
    ("read", (0, 63), (0, 0, 0), ALLOWED),
    ("execve", (59, 221), (0, 0, 0), ALLOWED),
    ("ptrace", (101, 117), (0, 0, 0), ALLOWED),
    ("a call that is younger", (470, 470), (), ENOSYS),
    ("clone3", (435, 435), (), ENOSYS),
    ("openat2", (437, 437), (), ENOSYS),
    ("mount", (165, 40), (), EPERM),
    ("io_uring_setup", (425, 425), (), EPERM),
    ("keyctl", (250, 219), (), EPERM),
    ("prlimit64 of oneself", (302, 261), (0, 7, 1), ALLOWED),
    ("prlimit64 of another", (302, 261), (OTHER, 7, 1), EPERM),
    ("sched_setaffinity of another", (203, 122), (OTHER,), EPERM),
    ("sched_setscheduler of oneself", (144, 119), (0, 3), ALLOWED),
    ("setpriority of oneself", (141, 140), (0, 0, 5), ALLOWED),
    ("setpriority of another", (141, 140), (0, OTHER, 5), EPERM),
    ("setpriority of a user", (141, 140), (2, 0, 5), EPERM),
    ("ioprio_set of oneself", (251, 30), (1, 0, 0), ALLOWED),
    ("ioprio_set of a user", (251, 30), (3, 0, 0), EPERM),
    ("kill of the own group", (62, 129), (0, 15), ALLOWED),
    ("kill of another", (62, 129), (OTHER, 9), EPERM),
    ("kill of all", (62, 129), (-1, 9), EPERM),
    ("tgkill", (234, 131), (OTHER, OTHER, 9), EPERM),
    ("pidfd_send_signal", (424, 424), (3, 9), EPERM),
    ("chmod", (90, None), (0, 0o777), ALLOWED),
    ("chmod u+s", (90, None), (0, 0o4755), EPERM),
    ("fchmod g+s", (91, 52), (3, 0o2755), EPERM),
    ("fchmodat", (268, 53), (-100, 0, 0o755), ALLOWED),
    ("fchmodat u+s", (268, 53), (-100, 0, 0o4755), EPERM),
    ("fchmodat2 u+s", (452, 452), (-100, 0, 0o4755, 0), EPERM),
    ("mknodat u+s", (259, 33), (-100, 0, 0o104755, 0), EPERM),
    ("openat, whose mode is not looked at", (257, 56), (-100, 0, 0, 0o4755), ALLOWED),
    ("openat that makes a file", (257, 56), (-100, 0, 0o101, 0o644), ALLOWED),
    ("openat that makes one u+s", (257, 56), (-100, 0, 0o101, 0o4755), EPERM),
    ("openat of a nameless file u+s", (257, 56), (-100, 0, 0o20200001, 0o4755), EPERM),
    ("fork", (56, 220), (17,), ALLOWED),
    ("clone of a thread", (56, 220), (0x3D0F00,), ALLOWED),
    ("clone into a user namespace", (56, 220), (0x10000011,), EPERM),
    ("unshare of files", (272, 97), (0x400,), ALLOWED),
    ("unshare of mounts", (272, 97), (0x20000,), EPERM),
    ("a Unix socket", (41, 198), (1, 1, 0), EPERM),
    ("an IP socket", (41, 198), (2, 1, 0), EPERM),
    ("a pair of streams", (53, 199), (1, 0o2000001, 0), ALLOWED),
    ("a pair of packets", (53, 199), (1, 5, 0), ALLOWED),
    ("a pair of datagrams", (53, 199), (1, 2, 0), EPERM),
    ("a raw pair, which is one of datagrams", (53, 199), (1, 3, 0), EPERM),
    ("ioctl TCGETS", (16, 29), (0, 0x5401), ALLOWED),
    ("ioctl TIOCSTI", (16, 29), (0, 0x5412), EPERM),
    ("ioctl TIOCSTI with more bits", (16, 29), (0, 0x1_0000_5412), EPERM),
    ("ioctl FIOSETOWN", (16, 29), (3, 0x8901), EPERM),
    ("fcntl F_GETFL", (72, 25), (3, 3), ALLOWED),
    ("fcntl F_SETOWN", (72, 25), (3, 8), EPERM),
    ("shmget", (29, 194), (), EPERM),
]
# What is allowed where namespaces, or Landlock, hold it.
FREE = {
    "kill of another", "kill of all", "tgkill", "pidfd_send_signal", "ioctl FIOSETOWN",
    "fcntl F_SETOWN", "shmget", "an IP socket",
}  # fmt: skip
SOCKETS = [
    ((2, 1, 0), ALLOWED),
    ((10, 2, 0), ALLOWED),
    ((16, 3, 0), ALLOWED),
    ((16, 3, 15), EPERM),
    ((1, 1, 0), EPERM),
    ((17, 3, 0), EPERM),
    ((40, 1, 0), EPERM),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("free", [False, True])
def test_each_call_is_answered_as_the_table_says(
    machine: Machine,
    free: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    code = seccomp.program(machine, network=free, own_ipc=free, signals=free)
    column = list(MACHINES).index(machine)
    expected, found = {}, {}
    for name, numbers, arguments, said in STRICT:
        number = numbers[column]
        if number is not None:
            expected[name] = ALLOWED if free and name in FREE else said
            found[name] = answer(code, number, arguments, MACHINES[machine])
    assert found == expected


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("arguments", "said"), SOCKETS)
def test_with_a_network_there_are_ip_sockets_and_routes(
    machine: Machine, arguments: tuple[int, ...], said: str
) -> None:
    code = seccomp.program(machine, network=True, own_ipc=True, signals=True)
    number = (41, 198)[list(MACHINES).index(machine)]
    assert answer(code, number, arguments, MACHINES[machine]) == said


def test_calls_of_another_machine_are_refused() -> None:
    code = seccomp.program("x86_64", network=True, own_ipc=True, signals=True)
    assert answer(code, 0, (), 0x40000003) == EPERM  # 32 bit
    assert answer(code, 0x40000000, (), MACHINES["x86_64"]) == ENOSYS  # x32
