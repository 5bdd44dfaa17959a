"""A real PostgreSQL for tests: a given one, or one that is started here as an ordinary user.

`TRACE_PROXY_TEST_POSTGRES_URL` names a running one. Else, where its binaries are found, one
is started in a temporary folder, on a port of the kernel's choice, and ended with the tests.
Each store of a test gets a schema of its own in it, so tests do not see each other.
"""

import atexit
import contextlib
import ctypes
import functools
import itertools
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

import pytest

URL, REQUIRE = "TRACE_PROXY_TEST_POSTGRES_URL", "TRACE_PROXY_REQUIRE_POSTGRES"
_START_TIMEOUT_S = 60
_numbers = itertools.count()


_BESIDE = """
exec 3<&0
"$@" </dev/null >&2 3<&- &
echo $!
{ cat <&3; kill -INT $!; } >/dev/null 2>&1 &
"""
"""A command that goes on alone, until nobody holds the other end of this stdin any more."""


class _Stranger:
    """A process that is nobody's child here, although it was started here.

    Tests run cores in this process, which is then the parent of all that loses its own: they
    look at its children, and end those that they take for theirs. It ends with this process
    all the same: somebody waits at a pipe for that.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, command: Sequence[str], log: IO[bytes]) -> None:
        their_end, self._life = os.pipe()
        with _no_subreaper(), os.fdopen(their_end) as life:
            started = subprocess.run(
                ["sh", "-c", _BESIDE, "sh", *command],
                stdin=life,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                check=True,
            )
        self.pid = int(started.stdout)
        self._descriptor = os.pidfd_open(self.pid)

    def ended(self, within_s: float = 0) -> bool:
        """Whether it has ended; waits so long for that."""
        return bool(select.select([self._descriptor], [], [], within_s)[0])

    def end(self, how: signal.Signals) -> None:
        """Send it a signal, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, how)
        ended = self.ended(within_s=30)
        os.close(self._descriptor)
        os.close(self._life)
        assert ended, f"PostgreSQL does not end by {how.name}"


@contextlib.contextmanager
def _no_subreaper() -> Iterator[None]:
    """Orphans fall to whoever is above this process, while the block runs; see prctl(2)."""
    set_subreaper, get_subreaper = 36, 37
    prctl = ctypes.CDLL(None).prctl
    before = ctypes.c_int()
    prctl(get_subreaper, ctypes.byref(before), 0, 0, 0)
    prctl(set_subreaper, 0, 0, 0, 0)
    try:
        yield
    finally:
        prctl(set_subreaper, before.value, 0, 0, 0)


class Server:
    """A PostgreSQL server in a folder of its own. Ended by `stop`, at the latest at exit.

    Args:
        folder: Where its data lies; belongs to the user that it runs as.
        options: Settings, `name=value`.
    """

    def __init__(self, folder: Path, options: Sequence[str] = ("fsync=off",)) -> None:
        self.folder = folder
        self.port = _free_port()
        self._options = options
        self._process: _Stranger | None = None
        atexit.register(self.stop)

    @property
    def url(self) -> str:
        """Of its first database, for the superuser."""
        return f"postgresql://tests@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        """Make a new, empty cluster."""
        _run(
            "initdb",
            "-D",
            str(self.folder),
            "-U",
            "tests",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
        )

    def copy_from(self, primary: "Server") -> None:
        """Become a standby of another server, which runs."""
        _run(
            "pg_basebackup", "-D", str(self.folder), "-R", "-X", "stream", "-c", "fast",
            "--no-sync", "-d", primary.url,
        )  # fmt: skip

    def start(self) -> None:
        """Run, and wait until it takes connections."""
        settings = [
            f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=",
            *self._options,
        ]  # fmt: skip
        command = [_binary("postgres"), "-D", str(self.folder)]
        for setting in settings:
            command += ["-c", setting]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self._process = _Stranger([*_as_ordinary_user(), *command], log)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        ready = [_binary("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            assert not self._process.ended(), "PostgreSQL ended at its start"
            assert time.monotonic() < deadline_s, "PostgreSQL does not start"
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        assert self._process is not None
        return self._process.pid

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it; SIGQUIT is an immediate end, as a crash, SIGINT a fast and orderly one."""
        if self._process is not None:
            process, self._process = self._process, None
            process.end(how)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """All its processes are stopped, while the block runs; TCP goes on, as on a hung disk."""
        stopped = [self.pid]
        os.kill(self.pid, signal.SIGSTOP)  # first, or it has more children
        stopped += map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())
        for pid in stopped[1:]:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(stopped):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def promote(self) -> None:
        """Make a standby the primary; waits until it is."""
        _run("pg_ctl", "promote", "-w", "-D", str(self.folder))

    def execute(self, sql: str) -> str:
        """What `psql` says to one statement."""
        return psql(self.url, sql)


@contextlib.contextmanager
def transaction_pooler(server: Server) -> Iterator[str]:
    """A pgbouncer in front of a server, in transaction mode; the URL of the server's first database.

    Skips the calling test where it is not installed, as Debian's package `pgbouncer`.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer")
    port = _free_port()
    settings = new_folder().with_name("pgbouncer.ini")
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=tests\n"
        f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nauth_type=any\n"
        "pool_mode=transaction\ndefault_pool_size=2\nunix_socket_dir=\n"
    )
    with (settings.with_suffix(".log")).open("ab") as log:
        process = _Stranger([*_as_ordinary_user(), program, str(settings)], log)
    try:
        url = f"postgresql://tests@127.0.0.1:{port}/postgres"
        ready = [_binary("pg_isready"), "-q", "-d", url]
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while subprocess.run(ready, check=False).returncode:
            assert not process.ended(), "pgbouncer ended at its start"
            assert time.monotonic() < deadline_s, "pgbouncer does not start"
            time.sleep(0.05)
        yield url
    finally:
        process.end(signal.SIGINT)


def psql(url: str, sql: str) -> str:
    """What `psql` says to one statement."""
    command = [_binary("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@functools.cache
def why_none() -> str:
    """Why no PostgreSQL can be had; empty when one can."""
    if os.environ.get(URL) or _binaries():
        return ""
    return f"no PostgreSQL: {URL} is not set, and /usr/lib/postgresql has no server"


def needed() -> None:
    """Skip the calling test where none can be had, or fail it where one is required."""
    if reason := why_none():
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@functools.cache
def shared_url() -> str:
    """A database for all tests of this process; it runs from the first call on."""
    if given := os.environ.get(URL):
        return given
    server = Server(new_folder())
    server.create()
    server.start()
    return server.url


def new_store_url() -> str:
    """A store that nobody has used, in the shared database: a schema of its own."""
    needed()
    name = f"t{os.getpid()}_{next(_numbers)}_{time.time_ns()}"
    return in_schema(shared_url(), name)


def in_schema(url: str, name: str) -> str:
    """The URL with a schema of this name, which is created."""
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    separator = "&" if "?" in url else "?"
    return f"{url}{separator}options={quote(f'-csearch_path={name}')}"


def new_folder() -> Path:
    """A folder that an ordinary user may use, gone at exit."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if os.getuid() == 0:
        user = _user()
        for path in (folder, data):
            os.chown(path, user.pw_uid, user.pw_gid)
    return data


def _user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _as_ordinary_user() -> list[str]:
    if os.getuid() != 0:  # the server itself refuses to be run by root
        return []
    user = _user()
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _run(program: str, *arguments: str) -> None:
    command = [*_as_ordinary_user(), _binary(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr


@functools.cache
def _binaries() -> str:
    """The folder of the newest server."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    return next((str(folder) for folder in folders if (folder / "postgres").exists()), "")


def _binary(name: str) -> str:
    return f"{_binaries()}/{name}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
