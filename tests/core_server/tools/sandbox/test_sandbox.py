# ruff: noqa: ASYNC240 - nothing else runs on the loop of a test
import asyncio
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from core_server.tools.base import Command, SandboxUnavailableError
from core_server.tools.sandbox import bubblewrap, landlock, sandbox, seccomp
from core_server.tools.sandbox.sandbox import Mechanism
from tests.core_server.tools.processes import (
    MECHANISMS,
    PATIENCE_S,
    PYTHON,
    command,
    finish,
    missing,
    stops_a_fork_bomb,
    text,
)


@pytest.fixture(params=MECHANISMS)
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    chosen: Mechanism = request.param
    reason = missing(chosen)
    if reason:
        pytest.skip(reason)
    return chosen


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    made = tmp_path / "workspace"
    made.mkdir()
    (made / "there.txt").write_text("before\n")
    return made


def shell(script: str, workspace: Path, *, writes: bool, network: bool = False) -> Command:
    return Command(
        argv=("/bin/sh", "-c", script),
        cwd=str(workspace),
        sandbox="workspace-write" if writes else "read-only",
        writable_roots=(str(workspace),),
        timeout_s=20,
        network=network,
    )


async def test_workspace_write_may_write_to_its_roots(
    mechanism: Mechanism, workspace: Path
) -> None:
    script = "echo new > new.txt && mkdir d && mv there.txt d/ && rm new.txt && echo x > y"
    outcome, outputs = await finish(shell(script, workspace, writes=True), mechanism)
    assert (outcome.exit_code, text(outputs, "stderr")) == (0, "")
    assert sorted(p.name for p in workspace.rglob("*")) == ["d", "there.txt", "y"]


@pytest.mark.parametrize(
    "attempt",
    [
        "echo x > ../escaped",
        "rm {outside}",
        "mv {outside} .",
        "ln {outside} hard && echo x > hard",
        "ln -s {outside} soft; echo x > soft",
        "truncate -s 0 {outside}",
        "mkdir ../escaped",
        "cd .. && echo x > escaped",
        "echo x > /proc/1/root{outside}",
        "mknod ../escaped p",
        "mount --bind . / && echo x > {outside}",
    ],
)
async def test_nothing_outside_can_be_written_to(
    mechanism: Mechanism, workspace: Path, attempt: str
) -> None:
    outside = workspace.parent / "outside.txt"
    outside.write_text("keep")

    outcome, _ = await finish(
        shell(attempt.format(outside=outside), workspace, writes=True), mechanism
    )

    assert outside.read_text() == "keep"
    if mechanism == "landlock":  # bubblewrap has an own /tmp, in which this may succeed
        assert outcome.exit_code != 0
    assert not (workspace.parent / "escaped").exists()


async def test_the_home_directory_cannot_be_written_to(
    mechanism: Mechanism, workspace: Path
) -> None:
    name = Path.home() / f"core-server-test-{os.getpid()}"
    outcome, _ = await finish(shell(f"echo x > {name}", workspace, writes=True), mechanism)
    assert outcome.exit_code != 0
    assert not name.exists()


async def test_read_only_cannot_write_to_its_workspace(
    mechanism: Mechanism, workspace: Path
) -> None:
    script = "cat there.txt; echo x > there.txt; echo x > new; rm there.txt; chmod +x /; true"
    _, outputs = await finish(shell(script, workspace, writes=False), mechanism)
    assert text(outputs) == "before\n"
    assert [(p.name, p.read_text()) for p in workspace.iterdir()] == [("there.txt", "before\n")]


async def test_both_modes_may_write_to_null_and_to_a_private_tmp(
    mechanism: Mechanism, workspace: Path
) -> None:
    script = 'echo x > /dev/null && echo private > "$TMPDIR/f" && cat "$TMPDIR/f" && echo $TMPDIR'
    outcome, outputs = await finish(shell(script, workspace, writes=False), mechanism)
    content, directory = text(outputs).splitlines()
    assert (outcome.exit_code, content) == (0, "private")
    assert not Path(directory, "f").exists()


async def test_the_working_directory_may_be_any(mechanism: Mechanism) -> None:
    what = msgspec.structs.replace(command("pwd", sandbox="read-only"), cwd="/tmp")  # noqa: S108 - the very case
    outcome, outputs = await finish(what, mechanism)
    assert (outcome.exit_code, text(outputs).strip()) == (0, what.cwd)


async def test_a_missing_program_has_the_text_of_the_reference(mechanism: Mechanism) -> None:
    with pytest.raises(
        Exception, match=r"^failed to spawn command: No such file .* \(os error 2\)"
    ):
        await finish(command("/nonexistent", sandbox="read-only"), mechanism)


async def test_a_root_that_is_not_there_is_left_out(mechanism: Mechanism, workspace: Path) -> None:
    what = shell("true", workspace, writes=True)
    what = msgspec.structs.replace(what, writable_roots=(str(workspace / "none"),))
    outcome, _ = await finish(what, mechanism)
    assert outcome.exit_code == 0


CONNECT = """
import socket, sys
family = getattr(socket, sys.argv[1])
try:
    s = socket.socket(family, socket.SOCK_STREAM)
    s.connect(("127.0.0.1", int(sys.argv[2])) if family == socket.AF_INET else sys.argv[2])
except OSError as error:
    print("refused")
else:
    print("connected")
"""


def connect(family: str, address: str, workspace: Path, *, network: bool) -> Command:
    what = shell("", workspace, writes=False, network=network)
    return msgspec.structs.replace(what, argv=(PYTHON, "-c", CONNECT, family, address))


@pytest.mark.parametrize(("network", "expected"), [(False, "refused\n"), (True, "connected\n")])
async def test_the_network_is_there_only_if_it_was_asked_for(
    mechanism: Mechanism,
    workspace: Path,
    network: bool,  # noqa: FBT001 - a parameter of the table
    expected: str,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        what = connect("AF_INET", port, workspace, network=network)
        outcome, outputs = await finish(what, mechanism)
    assert (outcome.exit_code, text(outputs)) == (0, expected)


async def test_an_engines_socket_in_tmp_cannot_be_reached(
    mechanism: Mechanism, tmp_path: Path, workspace: Path
) -> None:
    path = str(tmp_path / "engine.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        what = connect("AF_UNIX", path, workspace, network=False)
        _, outputs = await finish(what, mechanism)
    assert text(outputs) == "refused\n"


SEND = """
import os, socket, ctypes
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
    try:
        a, b = socket.socketpair(socket.AF_UNIX, kind)
        a.send(b"pair works"); print(b.recv(20).decode())
    except PermissionError:
        print("denied")
for family in (socket.AF_UNIX, socket.AF_PACKET, socket.AF_VSOCK, socket.AF_ALG):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        try:
            socket.socket(family, kind); print("open")
        except PermissionError:
            print("denied")
ring = ctypes.CDLL(None, use_errno=True).syscall(425, 1, ctypes.create_string_buffer(120))
print("ring" if ring >= 0 else "denied")
"""


async def test_the_filter_leaves_pairs_of_streams_and_no_other_socket_but_of_ip(
    mechanism: Mechanism, workspace: Path
) -> None:
    what = msgspec.structs.replace(shell("", workspace, writes=False), argv=(PYTHON, "-c", SEND))
    _, outputs = await finish(what, mechanism)
    assert text(outputs).splitlines() == ["pair works", "pair works", *["denied"] * 14]


async def test_processes_outside_cannot_be_signalled(
    mechanism: Mechanism, workspace: Path
) -> None:
    if mechanism == "landlock" and landlock.abi() < 6:
        pytest.skip("this kernel's Landlock does not cover signals")
    process = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        what = shell(f"kill -9 {process.pid}", workspace, writes=True)
        outcome, _ = await finish(what, mechanism)
        assert (outcome.exit_code, process.returncode) == (1, None)
    finally:
        process.kill()
        await process.wait()


async def test_a_fork_bomb_is_stopped(mechanism: Mechanism) -> None:
    await stops_a_fork_bomb(command("true", sandbox="read-only", timeout_s=10), mechanism)


async def test_one_process_cannot_take_the_machines_memory(
    mechanism: Mechanism, workspace: Path
) -> None:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    script = f"b = bytearray({total_bytes * 3 // 4})"
    what = shell("", workspace, writes=False)
    what = msgspec.structs.replace(what, argv=(PYTHON, "-c", script))
    outcome, outputs = await finish(what, mechanism)
    assert outcome.exit_code == 1
    assert "MemoryError" in text(outputs, "stderr")


async def test_nobody_has_any_capability(mechanism: Mechanism, workspace: Path) -> None:
    what = shell("grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status", workspace, writes=False)
    _, outputs = await finish(what, mechanism)
    assert [int(line.split()[1], 16) for line in text(outputs).splitlines()] == [0] * 4


async def test_a_timeout_is_heard_inside(mechanism: Mechanism, workspace: Path) -> None:
    script = "trap 'echo bye; exit 7' TERM; while :; do sleep 0.05; done"
    what = msgspec.structs.replace(shell(script, workspace, writes=False), timeout_s=0.5)
    outcome, outputs = await finish(what, mechanism)
    assert (outcome.exit_code, outcome.timed_out, text(outputs)) == (124, True, "bye\n")


async def test_a_scratch_directory_is_removed(workspace: Path) -> None:
    if missing("landlock"):
        pytest.skip(missing("landlock"))
    what = shell(
        "echo $TMPDIR; mkdir -p $TMPDIR/a/b; echo x > $TMPDIR/a/b/c", workspace, writes=False
    )
    _, outputs = await finish(what, "landlock")
    assert not Path(text(outputs).strip()).exists()


CONFINED = """
import os, socket, stat
from core_server.tools.sandbox import landlock, seccomp
landlock.restrict(["/", "/dev/null", "/nonexistent"])
seccomp.install(
    seccomp.program(os.uname().machine, network=False, own_ipc=False, signals=False)
)
try:
    os.mknod("node", stat.S_IFBLK | 0o600, os.makedev(7, 99)); print("a disk")
except PermissionError:
    print("denied")
try:
    socket.socket(); print("a network")
except PermissionError:
    print("denied")
open("/dev/null", "w").write("x"); open("file", "w").write("x"); print("written")
"""


def test_even_where_all_may_be_written_to_there_is_no_device_and_no_network(
    workspace: Path,
) -> None:
    if missing("landlock"):
        pytest.skip(missing("landlock"))
    done = subprocess.run(
        [sys.executable, "-c", CONFINED],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout.decode().split() == ["denied", "denied", "written"]


SIGNALS = """
import ctypes, fcntl, os, signal, sys
from core_server.tools.sandbox import seccomp
parent = os.getppid()
seccomp.install(
    seccomp.program(os.uname().machine, network=True, own_ipc=True, signals=False)
)
read_fd, _ = os.pipe()
libc = ctypes.CDLL(None, use_errno=True)
def syscall(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
tgkill = 131 if os.uname().machine == "aarch64" else 234
for action in (
    lambda: os.kill(parent, 0),
    lambda: os.kill(-1, 0),
    lambda: os.kill(-parent, 0),
    lambda: syscall(tgkill, parent, parent, 0),
    lambda: signal.pidfd_send_signal(os.pidfd_open(parent), 0),
    lambda: fcntl.fcntl(read_fd, fcntl.F_SETOWN, parent),
    lambda: fcntl.ioctl(read_fd, 0x8901, b"\\0" * 4),
):
    try:
        action(); print("out")
    except PermissionError:
        print("held")
os.kill(0, signal.SIGCONT); print("own group")
"""


def test_where_nothing_else_holds_signals_the_filter_leaves_the_own_group() -> None:
    if not seccomp.available():
        pytest.skip("no filter for this machine")
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])},
        capture_output=True,
        check=True,
        timeout=PATIENCE_S,
        process_group=0,
    )
    assert done.stdout.decode().splitlines() == ["held"] * 7 + ["own group"]


async def test_root_lets_the_owner_of_the_directory_run_what_runs_there(
    mechanism: Mechanism,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("untried: only root can become another user")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # /tmp is hidden
        Path(folder).chmod(0o755)
        workspace = Path(folder, "workspace")
        workspace.mkdir()
        secret = Path(folder, "secret")
        secret.write_text("root's own")
        secret.chmod(0o600)
        os.chown(workspace, 12345, 12345)
        script = "id -u; id -G; cat ../secret; echo x > made; echo y > /dev/stdout"
        _, outputs = await finish(shell(script, workspace, writes=True), mechanism)
        made = (workspace / "made").stat()
    assert text(outputs).splitlines() == ["12345", "12345", "y"]
    assert (made.st_uid, made.st_gid) == (12345, 12345)


async def test_a_terminal_is_its_new_owners(mechanism: Mechanism) -> None:
    if os.geteuid() != 0:
        pytest.skip("untried: only root can become another user")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        os.chown(folder, 12345, 12345)
        what = shell("echo hi > /dev/tty; stty size", Path(folder), writes=True)
        what = msgspec.structs.replace(what, tty=(100, 40))
        _, outputs = await finish(what, mechanism)
    assert text(outputs).split() == ["hi", "40", "100"]


async def test_root_itself_is_nobody_inside(mechanism: Mechanism, workspace: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("untried: only root can be root")
    if not sandbox._namespaces(None):  # noqa: SLF001 - what the machine allows
        pytest.skip("untried: this machine has no user namespaces")
    what = shell("id -u; echo x > made; stat -c %u made", workspace, writes=True)
    _, outputs = await finish(what, mechanism)
    assert text(outputs).split() == ["65534", "65534"]
    assert (workspace / "made").stat().st_uid == 0


@pytest.mark.parametrize("closed", [0o700, 0o755])
def test_an_owner_who_cannot_get_there_is_not_become(closed: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("untried: only root can become another user")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(closed)
        workspace = Path(folder, "workspace")
        workspace.mkdir()
        os.chown(workspace, 12345, 12345)
        what = command("true", cwd=str(workspace), sandbox="read-only")
        found = sandbox.prepare(what, "landlock" if not missing("landlock") else None)
        shutil.rmtree(found.scratch, ignore_errors=True)
    assert found.user == ((12345, 12345) if closed == 0o755 else None)


def test_no_mechanism_means_refused_and_says_what_to_do() -> None:
    with pytest.raises(SandboxUnavailableError) as refused:
        sandbox.prepare(command("true", sandbox="read-only"), "unavailable")
    assert str(refused.value) == (
        "commands cannot be sandboxed here: install bubblewrap, or use Linux 6.2 or newer"
        " with Landlock, or pass `--sandbox none` to run them without protection"
    )


def test_sandbox_none_needs_no_mechanism() -> None:
    assert sandbox.prepare(command("true"), "unavailable") == sandbox.Confinement()


def test_a_bubblewrap_that_fails_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bwrap"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bubblewrap.probe().argv == ()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    assert bubblewrap.probe().argv == ()
    program.write_text("not a program")
    assert bubblewrap.probe().argv == ()


def test_a_bubblewrap_that_hangs_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(bubblewrap, "PROBE_TIMEOUT_S", 0.1)
    assert bubblewrap.probe().argv == ()


def test_the_best_mechanism_is_chosen_and_the_choice_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    way = sandbox.describe("/")
    assert way.name == sandbox.detect()
    if not missing("bubblewrap"):
        assert way.name == "bubblewrap"
        assert way.why.startswith("bwrap works here")

    monkeypatch.setenv("PATH", str(tmp_path))  # no bwrap there
    forget()
    way = sandbox.describe("/")
    assert way.name == ("unavailable" if missing("landlock") else "landlock")
    assert way.why.startswith(f"bwrap is not installed; Landlock ABI {landlock.abi()}")

    monkeypatch.setattr(landlock, "MIN_ABI", landlock.abi() + 1)
    forget()
    abi = landlock.abi()
    assert sandbox.describe("/") == sandbox.Way(
        "unavailable", f"bwrap is not installed; Landlock ABI {abi}, {abi + 1} is needed"
    )

    monkeypatch.setattr(seccomp, "available", lambda: False)
    forget()
    assert sandbox.describe("/").why.startswith("no seccomp filter for this machine")
    forget()


def forget() -> None:
    """Let the next call probe again."""
    sandbox.clear()


def test_other_machines_have_no_landlock_and_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert (landlock.abi(), seccomp.available()) == (0, False)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("freedom", [True, False])
def test_the_filter_is_whole_instructions_and_its_jumps_stay_inside(
    machine: str,
    freedom: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    code = seccomp.program(machine, network=freedom, own_ipc=freedom, signals=freedom)
    count = len(code) // 8
    assert len(code) % 8 == 0
    assert count < 4096  # BPF_MAXINSNS
    for index in range(count):
        operation, jump_true, jump_false, _ = struct.unpack_from("=HBBI", code, index * 8)
        assert index + 1 + max(jump_true, jump_false) < count or operation == 0x06
