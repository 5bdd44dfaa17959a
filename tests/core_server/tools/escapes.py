# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH115, PTH119, PTH123, PTH208, PTH211
# ruff: noqa: N818, S103, S108, SIM115, PLW0108
# It does what nobody should, and by the barest means: what is tried is a system call.
"""Run inside the sandbox, by an interpreter without packages: tries to get out.

Reads from stdin, as one line of JSON, what is where outside.
Prints one JSON object: attempt → "held: by what" or "OUT: how". What can only be
seen from outside (a file that changed, a datagram that came) is looked at there.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

Action = Callable[[], object]
T = TypeVar("T")
WORLD: dict[str, Any] = json.loads(sys.stdin.readline())
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
OUTSIDE = WORLD["outside"]  # a directory outside of the writable roots, this user's own
PIDS = WORLD["pids"]  # the core, its reaper, a bystander
ARM = os.uname().machine == "aarch64"


class Held(Exception):
    """It did not work, by another sign than an OSError."""


def call(number: int | tuple[int, int], *arguments: object) -> int:
    x86, arm = number if isinstance(number, tuple) else (number, number)
    result: int = LIBC.syscall(arm if ARM else x86, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def write(path: str, text: str = "x") -> str:
    with open(path, "w") as file:
        file.write(text)
    return f"wrote {path}"


def first(actions: Iterable[Action]) -> object:
    """The first that works gets out; if none does, it was held."""
    error: Exception = Held("nothing to try")
    for action in actions:
        try:
            return action()
        except (OSError, ValueError, Held) as failure:
            error = failure
    raise error


def each(values: Iterable[T], action: Callable[[T], object]) -> object:
    """The first value with which it works gets out."""
    return first([partial(action, value) for value in values])


ATTEMPTS: dict[str, Action] = {}


def attempt(function: Action) -> Action:
    ATTEMPTS[function.__name__] = function
    return function


# --- first, before anything else is opened ---


@attempt
def use_an_inherited_descriptor() -> object:
    found = []
    for fd in range(3, 256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(f"{fd}: {os.readlink(f'/proc/self/fd/{fd}')}")
    if not found:
        raise Held("none")
    return str(found)


# --- files -------------------------------------------------------------------------------


@attempt
def write_a_file_outside() -> object:
    return write(f"{OUTSIDE}/kept")


@attempt
def make_a_file_outside() -> object:
    return write(f"{OUTSIDE}/made")


@attempt
def remove_a_file_outside() -> object:
    os.unlink(f"{OUTSIDE}/kept")
    return "it worked"


@attempt
def rename_a_file_outside() -> object:
    os.rename(f"{OUTSIDE}/kept", f"{OUTSIDE}/renamed")
    return "it worked"


@attempt
def truncate_a_file_outside() -> object:
    os.truncate(f"{OUTSIDE}/kept", 0)
    return "it worked"


@attempt
def make_a_directory_outside() -> object:
    os.mkdir(f"{OUTSIDE}/directory")
    return "it worked"


@attempt
def make_a_symlink_outside() -> object:
    os.symlink("/etc/passwd", f"{OUTSIDE}/link")
    return "it worked"


@attempt
def make_a_fifo_outside() -> object:
    os.mkfifo(f"{OUTSIDE}/fifo")
    return "it worked"


@attempt
def link_a_file_in_and_write_to_it() -> object:
    os.link(f"{OUTSIDE}/kept", "linked")
    return write("linked")


@attempt
def write_through_a_symlink() -> object:
    os.symlink(f"{OUTSIDE}/kept", "soft")
    return write("soft")


@attempt
def write_through_dot_dot() -> object:
    return write(f"../{os.path.basename(OUTSIDE)}/kept")


@attempt
def write_through_the_root_of_another_process() -> object:
    return each(PIDS, lambda p: write(f"/proc/{p}/root{OUTSIDE}/kept"))


@attempt
def write_through_the_cwd_of_another_process() -> object:
    return each(PIDS, lambda p: write(f"/proc/{p}/cwd/{OUTSIDE}/kept"))


@attempt
def write_by_a_shared_mapping() -> object:
    fd = os.open(f"{OUTSIDE}/kept", os.O_RDONLY)
    with mmap.mmap(fd, 1, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        mapped[0] = 0
    return "mapped a read-only descriptor for writing"


@attempt
def reopen_a_descriptor_for_writing() -> object:
    fd = os.open(f"{OUTSIDE}/kept", os.O_RDONLY)
    return write(f"/proc/self/fd/{fd}")


@attempt
def open_by_handle() -> object:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    call((303, 264), -100, f"{OUTSIDE}/kept".encode(), handle, ctypes.byref(mount), 0)
    root = os.open("/", os.O_RDONLY)
    fd = call((304, 265), root, handle, os.O_WRONLY)
    os.write(fd, b"x")
    return "wrote by handle"


@attempt
def change_the_mode_of_a_file_outside() -> object:
    os.chmod(f"{OUTSIDE}/kept", 0o777)
    return "it worked"


@attempt
def change_the_times_of_a_file_outside() -> object:
    os.utime(f"{OUTSIDE}/kept", (1, 1))
    return "it worked"


@attempt
def set_an_attribute_of_a_file_outside() -> object:
    os.setxattr(f"{OUTSIDE}/kept", "user.escape", b"x")
    return "it worked"


@attempt
def write_to_a_pipe_outside() -> object:
    fd = os.open(f"{OUTSIDE}/pipe", os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"escaped")
    return "wrote to a named pipe"


@attempt
def make_a_set_user_id_program() -> object:
    write("program")
    os.chmod("program", 0o4755)
    return "a set-user-id program"


@attempt
def make_a_set_user_id_program_by_open() -> object:
    fd = os.open("program2", os.O_CREAT | os.O_WRONLY, 0o6755)
    if os.fstat(fd).st_mode & 0o6000:
        return "a set-user-id program"
    raise Held("without the bits")


@attempt
def make_a_set_group_id_program_by_the_newest_call() -> object:
    write("program3")
    call(452, -100, b"program3", 0o2755, 0)
    return "a set-group-id program"


@attempt
def make_a_device() -> object:
    os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(254, 0))
    return "a block device"


@attempt
def open_a_disk() -> object:
    disks = [n for n in os.listdir("/dev") if n.startswith(("vd", "sd", "nvme", "loop", "mem"))]
    return each(disks, lambda n: os.open(f"/dev/{n}", os.O_RDONLY))


@attempt
def write_to_the_store_of_the_core() -> object:
    return write(f"{OUTSIDE}/threads.db")


# --- what is the machine's -----------------------------------------------------------------


@attempt
def set_the_core_pattern() -> object:
    path = "/proc/sys/kernel/core_pattern"
    return write(path, open(path).read())


@attempt
def set_another_sysctl() -> object:
    names = ("vm/swappiness", "kernel/hostname", "fs/file-max", "kernel/panic", "kernel/modprobe")
    return each(names, lambda n: write(f"/proc/sys/{n}", open(f"/proc/sys/{n}").read()))


@attempt
def press_a_magic_key() -> object:
    return write("/proc/sysrq-trigger", "0")


@attempt
def write_elsewhere_in_proc() -> object:
    paths = (
        "/proc/irq/default_smp_affinity",
        "/proc/mtrr",
        "/proc/acpi/wakeup",
        "/proc/scsi/scsi",
    )
    return each(paths, lambda p: open(p, "r+").name)


@attempt
def write_in_sys() -> object:
    paths = ("/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/ksm/run")
    return each(paths, lambda p: open(p, "r+").name)


@attempt
def make_a_control_group() -> object:
    roots = [f"/sys/fs/cgroup/{n}" for n in ("", "pids", "memory", "unified")]
    return each(roots, lambda r: os.mkdir(f"{r}/escape"))


@attempt
def load_a_module() -> object:
    return call((175, 105), ctypes.create_string_buffer(16), 16, b"")


@attempt
def set_the_hostname() -> object:
    socket.sethostname("escaped")
    return "it worked"


@attempt
def set_the_clock() -> object:
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return "it worked"


@attempt
def mount_something() -> object:
    return call((165, 40), b"none", b"/tmp", b"tmpfs", 0, None)


@attempt
def mount_by_the_newer_calls() -> object:
    return call(430, b"tmpfs", 0)


@attempt
def detach_what_is_mounted() -> object:
    return call((166, 39), b"/proc", 2)


@attempt
def change_the_root() -> object:
    os.chroot(".")
    return "it worked"


@attempt
def enter_a_new_user_namespace() -> object:
    return call((272, 97), 0x10000000)


@attempt
def clone_into_a_new_user_namespace() -> object:
    child = call((56, 220), 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    return "cloned"


@attempt
def clone_by_the_newer_call() -> object:
    arguments = ctypes.create_string_buffer(struct.pack("8Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0))
    child = call(435, arguments, 64)
    if child == 0:
        os._exit(0)
    return "cloned"


@attempt
def enter_the_namespaces_of_another_process() -> object:
    def enter(pid: int) -> object:
        return call((308, 268), os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY), 0)

    return each(PIDS, lambda p: enter(p))


@attempt
def read_the_kernel_log() -> object:
    return call((103, 116), 3, ctypes.create_string_buffer(100), 100)


@attempt
def load_a_bpf_program() -> object:
    return call((321, 280), 0, ctypes.create_string_buffer(64), 64)


@attempt
def open_a_performance_counter() -> object:
    return call(
        (298, 241),
        ctypes.create_string_buffer(struct.pack("II", 1, 128) + bytes(120)),
        0,
        -1,
        -1,
        0,
    )


@attempt
def make_a_userfault_descriptor() -> object:
    return call((323, 282), 1)


@attempt
def set_up_an_io_ring() -> object:
    return call(425, 1, ctypes.create_string_buffer(120))


# --- other processes -----------------------------------------------------------------------


def each_pid(action: Callable[[int], object]) -> object:
    return each(PIDS, action)


@attempt
def signal_another_process() -> object:
    return each_pid(lambda pid: os.kill(pid, signal.SIGCONT))


@attempt
def signal_a_thread_of_another() -> object:
    return each_pid(lambda pid: call((234, 131), pid, pid, signal.SIGCONT))


@attempt
def signal_by_descriptor() -> object:
    return each_pid(lambda pid: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGCONT))


@attempt
def signal_through_proc() -> object:
    return each_pid(
        lambda pid: signal.pidfd_send_signal(os.open(f"/proc/{pid}", os.O_RDONLY), signal.SIGCONT)
    )


@attempt
def queue_a_signal() -> object:
    information = ctypes.create_string_buffer(
        struct.pack("iii", signal.SIGCONT, 0, -1) + bytes(120)
    )
    return each_pid(lambda pid: call((129, 138), pid, signal.SIGCONT, information))


@attempt
def let_the_kernel_signal_another() -> object:
    # SIGIO of a pipe, sent to another as owner: by SIGCONT it would do no harm.
    def own(pid: int) -> object:
        a, b = os.pipe()
        fcntl.fcntl(a, fcntl.F_SETOWN, pid)
        fcntl.fcntl(a, 10, signal.SIGUSR1)  # F_SETSIG
        fcntl.fcntl(a, fcntl.F_SETFL, fcntl.fcntl(a, fcntl.F_GETFL) | os.O_ASYNC)
        os.write(b, b"x")
        raise Held("see whether the bystander was hit")

    return own(WORLD["bystander"])


@attempt
def take_the_processor_from_another() -> object:
    return each_pid(lambda pid: resource.prlimit(pid, resource.RLIMIT_CPU, (10**6, 10**6)))


@attempt
def change_the_priority_of_another() -> object:
    return each_pid(lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 1))


@attempt
def change_the_priority_of_a_whole_user() -> object:
    os.setpriority(os.PRIO_USER, 0, 1)
    return "it worked"


@attempt
def change_the_scheduling_of_another() -> object:
    return each_pid(lambda pid: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)))


@attempt
def change_the_affinity_of_another() -> object:
    return each_pid(lambda pid: os.sched_setaffinity(pid, {0}))


@attempt
def change_the_disk_priority_of_another() -> object:
    return each_pid(lambda pid: call((251, 30), 1, pid, (2 << 13) | 7))


@attempt
def trace_another() -> object:
    return each_pid(lambda pid: call((101, 117), 0x4206, pid, 0, 0))


@attempt
def write_to_the_memory_of_another() -> object:
    return each_pid(lambda pid: os.open(f"/proc/{pid}/mem", os.O_RDWR))


@attempt
def read_the_memory_of_another() -> object:
    piece = ctypes.create_string_buffer(
        struct.pack("QQ", ctypes.addressof(ctypes.create_string_buffer(8)), 8)
    )
    return each_pid(lambda pid: call((310, 270), pid, piece, 1, piece, 1, 0))


@attempt
def take_a_descriptor_of_another() -> object:
    return each_pid(lambda pid: call(438, os.pidfd_open(pid), 0, 0))


@attempt
def open_a_descriptor_of_another() -> object:
    return each_pid(lambda pid: os.open(f"/proc/{pid}/fd/0", os.O_RDWR))


@attempt
def read_the_environment_of_another() -> object:
    return each_pid(lambda pid: len(open(f"/proc/{pid}/environ", "rb").read()))


@attempt
def sacrifice_another_to_the_oom_killer() -> object:
    return each_pid(lambda pid: write(f"/proc/{pid}/oom_score_adj", "1000"))


@attempt
def move_the_pages_of_another() -> object:
    mask = (ctypes.c_ulong * 1)(1)
    return each_pid(lambda pid: call((256, 238), pid, 64, mask, mask))


@attempt
def save_itself_from_the_oom_killer() -> object:
    return write("/proc/self/oom_score_adj", "-1000")


@attempt
def raise_its_own_limits() -> object:
    return first(
        [
            lambda: resource.setrlimit(resource.RLIMIT_CORE, (10**9, 10**9)),
            lambda: resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6)),
            lambda: resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)),
        ]
    )


# --- sockets, descriptors, keys --------------------------------------------------------------


def connect(family: int, kind: int, address: Any) -> object:
    made = socket.socket(family, kind)
    made.settimeout(2)
    made.connect(address)
    return f"connected to {address}"


@attempt
def connect_to_a_unix_listener() -> object:
    return connect(socket.AF_UNIX, socket.SOCK_STREAM, f"{OUTSIDE}/listener")


@attempt
def connect_to_an_abstract_listener() -> object:
    return connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + WORLD["abstract"])


@attempt
def send_a_datagram_to_a_path() -> object:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", f"{OUTSIDE}/datagrams")


@attempt
def send_a_datagram_from_a_pair() -> object:
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return ours.sendto(b"x", f"{OUTSIDE}/datagrams")


@attempt
def connect_a_pair_anew() -> object:
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.connect(f"{OUTSIDE}/listener")
    return "connected"


@attempt
def send_a_message_from_a_pair_of_packets() -> object:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.sendmsg([b"x"], [], 0, f"{OUTSIDE}/datagrams")
    theirs.settimeout(1)
    if theirs.recv(1) == b"x":
        raise Held("it went to the other end")
    return "sent"


@attempt
def connect_over_ip() -> object:
    return connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", WORLD["port"]))


@attempt
def connect_over_ip_6() -> object:
    return connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", WORLD["port"]))


@attempt
def send_a_datagram_over_ip() -> object:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.sendto(b"x", ("127.0.0.1", WORLD["udp_port"]))
    raise Held("see whether it came")


@attempt
def make_a_raw_socket() -> object:
    return first(
        [
            lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        ]
    )


@attempt
def talk_to_the_machine_below() -> object:
    return connect(socket.AF_VSOCK, socket.SOCK_STREAM, (2, 1))


@attempt
def use_the_kernels_cipher_sockets() -> object:
    return socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)


@attempt
def hear_the_kernels_events() -> object:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)


@attempt
def put_a_key_into_a_keyring() -> object:
    return call((248, 217), b"user", b"escape", b"secret", 6, -4)


@attempt
def look_into_a_keyring() -> object:
    return call((250, 219), 0, -4, 1)


@attempt
def ask_for_a_key() -> object:
    return call((249, 218), b"user", b"escape", None, -4)


@attempt
def type_into_the_terminal() -> object:
    return each(
        ("/dev/tty", "/dev/console"),
        lambda n: fcntl.ioctl(os.open(n, os.O_RDWR), termios.TIOCSTI, b"x"),
    )


@attempt
def see_a_secret_variable() -> object:
    if "CANARY" in str(sorted(os.environ.items())):
        return "CANARY"
    raise Held("none")


@attempt
def leave_shared_memory() -> object:
    call((29, 194), WORLD["key"], 4096, 0o1600)
    raise Held("see whether it stays")


@attempt
def leave_a_message_queue() -> object:
    call((240, 180), b"core-server-escape", os.O_CREAT | os.O_RDWR, 0o600, None)
    raise Held("see whether it stays")


@attempt
def fill_the_memory_by_files() -> object:
    for place in ("/dev/shm", "/tmp", "/run", "/dev"):
        try:
            write(f"{place}/escape")
        except OSError:
            continue
        size = os.statvfs(place)
        if size.f_blocks * size.f_frsize > 1 << 30 and not WORLD["disk"]:
            return f"{place} is unbounded"
    raise Held("bounded, or not writable")


@attempt
def fill_dev() -> object:
    return write("/dev/escape")


@attempt
def have_a_capability() -> object:
    lines = [line for line in open("/proc/self/status") if line.startswith("Cap")]
    if any(int(line.split()[1], 16) for line in lines if not line.startswith("CapBnd")):
        return str(lines)
    raise Held("none")


@attempt
def become_root() -> object:
    os.setuid(0)
    if os.getuid() == 0 and WORLD["user"] != 0:
        return "root"
    raise Held("nothing new")


@attempt
def become_another_user() -> object:
    os.setuid(4321)
    return "it worked"


@attempt
def change_the_owner_of_a_file() -> object:
    write("owned")
    os.chown("owned", 4321, 4321)
    return "it worked"


@attempt
def make_system_calls_of_another_machine() -> object:
    # x32 numbers, which a filter of plain numbers would not know.
    if ARM:
        raise Held("this machine has none")
    return call(0x40000000 | 41, 1, 1, 0)


def tried(action: Action) -> str:
    try:
        result = action()
    except Held as held:
        return f"held: {held}"
    except OSError as error:
        return f"held: {errno.errorcode.get(error.errno or 0, error)}"
    except ValueError as error:
        return f"held: {error}"
    return f"OUT: {result}"


if __name__ == "__main__":
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    json.dump({name: tried(action) for name, action in ATTEMPTS.items()}, sys.stdout)
