# ruff: noqa: ASYNC240 - nothing else runs on the loop of a test
"""A hundred ways out, tried from inside, in every combination that this machine allows.

A combination is a way (bubblewrap, Landlock), a user (root, an ordinary one) and whether
there are user namespaces. What a way is known not to hold is in `KNOWN`, with the words
of README's table, and nothing else may get out. The combinations that could not be tried
are skipped, and a skip says why.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import pytest

from core_server.tools.base import Command
from tests.core_server.tools.processes import PATIENCE_S

HERE = Path(__file__).parents[1]
ROOT = HERE.parents[2]
ORDINARY = 12345
LIBC = ctypes.CDLL(None, use_errno=True)

Way = Literal["bubblewrap", "landlock"]


class Combination(NamedTuple):
    """Where a command runs."""

    way: Way
    user: Literal["root", "ordinary"]
    namespaces: bool

    def __str__(self) -> str:
        return f"{self.way}-{self.user}-{'with' if self.namespaces else 'without'}-user-namespaces"


COMBINATIONS = [
    Combination(way, user, namespaces)
    for way in ("bubblewrap", "landlock")
    for user in ("root", "ordinary")
    for namespaces in (True, False)
]

TITLES: dict[Way, str] = {"bubblewrap": "bubblewrap", "landlock": "Landlock"}
METADATA = "change modes, times and attributes of files that its user owns"
PIPES = "write to named pipes that its user may write to"
# Attempts that are known to get out, by way; README's table has the words.
KNOWN: dict[Way, dict[str, str]] = {
    "landlock": {
        "change_the_mode_of_a_file_outside": METADATA,
        "change_the_times_of_a_file_outside": METADATA,
        "set_an_attribute_of_a_file_outside": METADATA,
    },
    "bubblewrap": {"write_to_a_pipe_outside": PIPES},
}


@pytest.fixture(params=COMBINATIONS, ids=str)
def combination(request: pytest.FixtureRequest) -> Combination:
    chosen: Combination = request.param
    if chosen.user == "root" and os.geteuid() != 0:
        pytest.skip("untried: only root can be root")
    if chosen == Combination("bubblewrap", "ordinary", namespaces=False):
        pytest.skip("bubblewrap needs user namespaces for an ordinary user: Landlock is used")
    if chosen.user == "ordinary" and os.geteuid() == 0 and not interpreter():
        pytest.skip("untried: no interpreter that an ordinary user may run has our packages")
    return chosen


def interpreter() -> str:
    """A Python that the ordinary user can run, with what the core needs; empty if none."""
    for program in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [program, "-c", "import core_server.tools.process.command"],
                user=ORDINARY,
                group=ORDINARY,
                extra_groups=(),
                env=environment(),
                check=True,
                capture_output=True,
                timeout=PATIENCE_S,
            )
            return program
    return ""


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *(part for part in sys.path if "site-packages" in part)])
    return {"PATH": os.environ["PATH"], "PYTHONPATH": path, "LANG": "C.UTF-8", "CANARY": "1"}


class Outside:
    """What lies and listens around the sandbox, and tells whether it was reached."""

    def __init__(self, folder: Path, uid: int) -> None:
        self.workspace = folder / "workspace"
        self.directory = folder / "outside"
        self.uid = uid
        self.abstract = f"core-server-escape-{os.getpid()}"
        self._stack = contextlib.ExitStack()
        for place in (self.workspace, self.directory):
            place.mkdir()
        shutil.copy(HERE / "escapes.py", self.workspace)
        (self.directory / "kept").write_text("kept")
        (self.directory / "threads.db").write_text("store")
        os.mkfifo(self.directory / "pipe")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, uid)
        self.before = self.state()
        self.pipe_fd = os.open(self.directory / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        self._stack.callback(os.close, self.pipe_fd)
        self.listeners = {
            "unix": self._socket(socket.AF_UNIX, str(self.directory / "listener")),
            "abstract": self._socket(socket.AF_UNIX, "\0" + self.abstract),
            "ip": self._socket(socket.AF_INET, ("127.0.0.1", 0)),
        }
        self.mailboxes = {
            "unix": self._socket(
                socket.AF_UNIX, str(self.directory / "datagrams"), socket.SOCK_DGRAM
            ),
            "ip": self._socket(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM),
        }
        for name in ("listener", "datagrams"):
            os.chown(self.directory / name, uid, uid)
        self.bystander = subprocess.Popen(
            ["sleep", "600"],
            user=uid if os.geteuid() == 0 else None,
            stdin=subprocess.DEVNULL,
        )

    def close(self) -> None:
        self.bystander.kill()
        self.bystander.wait()
        self._stack.close()

    def world(self) -> dict[str, Any]:
        return {
            "outside": str(self.directory),
            "pids": [self.bystander.pid],
            "bystander": self.bystander.pid,
            "abstract": self.abstract,
            "port": self.listeners["ip"].getsockname()[1],
            "udp_port": self.mailboxes["ip"].getsockname()[1],
            "key": self.key,
            "user": self.uid,
        }

    @property
    def key(self) -> int:
        return 0x1000000 + os.getpid()

    def state(self) -> dict[str, tuple[object, ...]]:
        """Names, contents, modes and times of what lies outside."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.directory.iterdir()):
            if path.name not in {"listener", "datagrams"}:
                status = path.lstat()
                content = path.read_text() if path.is_file() else ""
                found[path.name] = (content, status.st_mode, status.st_uid, status.st_mtime_ns)
        return found

    def reached(self) -> set[str]:
        """What was seen from outside."""
        found = set()
        for kind, listener in self.listeners.items():
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                found.add(f"a connection came to the {kind} listener")
        for kind, mailbox in self.mailboxes.items():
            with contextlib.suppress(BlockingIOError):
                mailbox.recv(100)
                found.add(f"a datagram came to the {kind} mailbox")
        with contextlib.suppress(BlockingIOError):
            if os.read(self.pipe_fd, 100):
                found.add("the named pipe was written to")
        if self.bystander.poll() is not None:
            found.add(f"the bystander ended: {self.bystander.returncode}")
        if f" {self.key} " in Path("/proc/sysvipc/shm").read_text():
            found.add("shared memory stayed")
        if LIBC.mq_open(b"/core-server-escape", os.O_RDONLY) >= 0:
            LIBC.mq_unlink(b"/core-server-escape")
            found.add("a message queue stayed")
        return found

    def _socket(self, family: int, address: Any, kind: int = socket.SOCK_STREAM) -> socket.socket:
        made = self._stack.enter_context(socket.socket(family, kind))
        made.bind(address)
        made.setblocking(False)  # noqa: FBT003 - its only spelling
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made


@pytest.fixture
def outside(combination: Combination) -> Iterator[Outside]:
    # Not beneath /tmp, which is not there under bubblewrap: there would be nothing to reach.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="core-server-escape-") as folder:
        Path(folder).chmod(0o755)
        uid = ORDINARY if combination.user == "ordinary" and os.geteuid() == 0 else os.geteuid()
        made = Outside(Path(folder), uid)
        try:
            yield made
        finally:
            made.close()


async def test_nothing_gets_out_but_what_the_readme_says(
    combination: Combination, outside: Outside
) -> None:
    tried = await attempts(combination, outside)

    known = KNOWN[combination.way]
    got_out = {name: how for name, how in tried.items() if how.startswith("OUT")}
    assert set(got_out) - set(known) == set(), got_out
    assert len(tried) > 80
    reached = outside.reached()
    if "write_to_a_pipe_outside" in known:
        reached -= {"the named pipe was written to"}
    assert reached == set()
    state = outside.state()
    if "change_the_mode_of_a_file_outside" in known:
        assert {name: each[0] for name, each in state.items()} == {
            name: each[0] for name, each in outside.before.items()
        }
    else:
        assert state == outside.before


@pytest.mark.parametrize("way", ["bubblewrap", "landlock"])
def test_what_is_known_to_get_out_is_in_the_readme(way: Way) -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("|")
    ]
    head = next(row for row in rows if row[0] == "a command can")
    said = {row[0]: row[head.index(TITLES[way])] for row in rows if len(row) == len(head)}
    for words in {METADATA, PIPES}:
        assert said[words] == ("yes" if words in KNOWN[way].values() else "no")


async def attempts(combination: Combination, outside: Outside) -> dict[str, str]:
    """Let the attempts be made; returns what each says of itself."""
    ordinary = combination.user == "ordinary" and os.geteuid() == 0
    program = interpreter() if ordinary else os.path.realpath(sys.executable)
    inside = program if program.startswith("/usr") or not ordinary else "/usr/bin/python3"
    what = Command(
        argv=(inside, "-I", "-S", "escapes.py"),
        cwd=str(outside.workspace),
        sandbox="workspace-write",
        writable_roots=(str(outside.workspace),),
        timeout_s=PATIENCE_S,
        stdin=True,
    )
    asked = {
        "command": msgspec.to_builtins(what),
        "mechanism": combination.way,
        "world": {**outside.world(), "disk": combination.way == "landlock"},
        "no_user_namespaces": not combination.namespaces,
    }
    core = await asyncio.create_subprocess_exec(
        *(program, "-m", "tests.core_server.tools.confined"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
        user=ORDINARY if ordinary else None,
        group=ORDINARY if ordinary else None,
        extra_groups=() if ordinary else None,
    )
    async with asyncio.timeout(2 * PATIENCE_S):
        out, err = await core.communicate(json.dumps(asked).encode() + b"\n")
    assert core.returncode == 0, err.decode()
    found: dict[str, str] = json.loads(out)
    return found
