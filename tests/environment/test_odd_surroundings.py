"""Both programs where the surroundings are odd: one line or plain service, never a traceback.

What a surrounding is made of (a missing HOME, a closed descriptor, a low limit) is set in
the child between fork and exec, so each is the real thing.
"""

import dataclasses
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = (sys.executable, "-m", "core_server")
PROXY = (sys.executable, "-m", "trace_proxy")
WAIT_S = 60.0

HELLO = (
    '{"id":1,"method":"initialize","params":{"clientInfo":{"name":"f","version":"1"}}}\n'
    '{"id":2,"method":"thread/start","params":{}}\n'
)

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """What came of a program."""

    code: int
    out: bytes
    err: str

    @property
    def answers(self) -> list[object]:
        """Ids of the requests that were answered with a result."""
        messages = [json.loads(line) for line in self.out.splitlines()]
        return [message["id"] for message in messages if "result" in message]


def run(
    *argv: str,
    env: dict[str, str | None] | None = None,
    cwd: str | Path = ROOT,
    text: str = "",
    before: Callable[[], object] | None = None,
    stdout: int = subprocess.PIPE,
) -> Ended:
    """Run a program to its end. A variable of None is unset; `before` runs in the child."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    done = subprocess.run(
        argv,
        input=text.encode(),
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={name: value for name, value in surroundings.items() if value is not None},
        preexec_fn=before,
        check=False,
        timeout=WAIT_S,
    )
    return Ended(done.returncode, done.stdout or b"", done.stderr.decode(errors="replace"))


def one_line(ended: Ended, code: int, *words: str) -> None:
    """It ended with the code and one line with these words."""
    assert "Traceback" not in ended.err, ended.err
    assert ended.code == code, ended
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith(("core-server: ", "trace-proxy: ")), ended.err
    for word in words:
        assert word in ended.err, ended.err


def become_nobody() -> None:
    """A user that no database knows, as containers are given."""
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)


def limited(kind: int, value: int) -> Callable[[], object]:
    """A limit of the process."""
    return lambda: resource.setrlimit(kind, (value, value))


def unknown_user() -> tuple[str, ...]:
    """A program in which this user has no entry, whoever runs the test."""
    code = "import pwd;pwd.getpwuid=lambda uid:{}[uid];from core_server.cli import main;raise SystemExit(main())"
    return (sys.executable, "-c", code)


def test_without_any_home_a_store_must_be_named() -> None:
    bare: dict[str, str | None] = {"HOME": None, "XDG_STATE_HOME": None}
    ended = run(*unknown_user(), env=bare, text=HELLO)
    one_line(ended, 2, "set HOME or XDG_STATE_HOME", "--store memory")
    served = run(*unknown_user(), "--store", "memory", env=bare, text=HELLO)
    assert (served.code, served.answers) == (0, [1, 2]), served


def test_a_home_that_takes_no_files_is_said_before_anybody_is_answered() -> None:
    ended = run(*CORE, env={"HOME": "/proc", "XDG_STATE_HOME": None}, text=HELLO)
    one_line(ended, 1, "/proc/.local", "--store")
    assert ended.out == b""


@pytest.mark.parametrize("content", [b"not a database, but long enough" * 9, b"SQLite format 3\0"])
def test_an_unusable_store_is_known_before_initialize_is_answered(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "threads.db").write_bytes(content)
    ended = run(*CORE, "--store", f"sqlite:///{tmp_path}/threads.db", text=HELLO)
    one_line(ended, 1, "threads.db")
    assert ended.out == b""
    assert (tmp_path / "threads.db").read_bytes() == content


def test_a_directory_in_place_of_the_store_is_said(tmp_path: Path) -> None:
    (tmp_path / "threads.db").mkdir()
    ended = run(*CORE, "--store", f"sqlite:///{tmp_path}/threads.db", text=HELLO)
    one_line(ended, 1, "threads.db")


def test_a_disk_that_takes_no_byte_is_said(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/threads.db"
    ended = run(*CORE, "--store", store, text=HELLO, before=limited(resource.RLIMIT_FSIZE, 0))
    one_line(ended, 1, "disk")
    assert ended.out == b""


def test_no_umask_locks_us_out_of_our_own_store(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/new/folder/threads.db"
    ended = run(*CORE, "--store", store, text=HELLO, before=lambda: os.umask(0o777))
    assert (ended.code, ended.answers) == (0, [1, 2]), ended
    assert (tmp_path / "new" / "folder" / "threads.db").stat().st_mode & 0o777 == 0o600


def test_a_current_directory_that_is_gone_needs_a_workspace(tmp_path: Path) -> None:
    def vanish() -> None:
        gone = tmp_path / f"gone-{os.getpid()}"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    one_line(run(*CORE, "--store", "memory", before=vanish, text=HELLO), 2, "--workspace DIR")
    options = ("--store", "memory", "--workspace", str(tmp_path))
    served = run(*CORE, *options, before=vanish, text=HELLO)
    assert (served.code, served.answers) == (0, [1, 2]), served


def test_a_current_directory_that_is_not_utf_8_needs_a_workspace(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(odd)  # noqa: PTH102 - bytes
    ended = run(*CORE, "--store", "memory", cwd=os.fsdecode(odd), text=HELLO)
    one_line(ended, 2, "not UTF-8", "--workspace DIR")


def test_a_home_that_is_not_utf_8_works(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(odd)  # noqa: PTH102 - bytes
    env: dict[str, str | None] = {"HOME": os.fsdecode(odd), "XDG_STATE_HOME": None}
    served = run(*CORE, env=env, text=HELLO)
    assert (served.code, served.answers) == (0, [1, 2]), served


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("options", [(), ("--help",), ("--store", "x")])
def test_closed_descriptors_are_the_null_device(
    closed: tuple[int, ...], options: tuple[str, ...]
) -> None:
    def close() -> None:
        for fd in closed:
            os.close(fd)

    ended = run(*CORE, *(options or ("--store", "memory")), before=close)
    assert "Traceback" not in ended.err
    assert ended.code == (2 if "x" in options else 0), ended


@pytest.mark.parametrize("program", [CORE, PROXY])
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_full_disk_behind_stdout_is_an_error_of_one_line(
    program: tuple[str, ...], option: str
) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = run(*program, option, stdout=full.fileno())
    one_line(ended, 1, "No space left on device", "stdout")


@pytest.mark.parametrize("program", [CORE, PROXY])
@pytest.mark.parametrize("locale", ["C", "POSIX", "xx_YY.KOI8-R", "tr_TR.UTF-8", ""])
def test_any_locale_will_do(program: tuple[str, ...], locale: str) -> None:
    env: dict[str, str | None] = {"LC_ALL": locale, "LANG": locale, "PYTHONUTF8": None}
    ended = run(*program, "--no-such-option-ü", env=env)
    one_line(ended, 2, "unknown option")


@pytest.mark.parametrize("path", [None, "", "/nonexistent"])
def test_the_core_needs_no_path(path: str | None) -> None:
    served = run(*CORE, "--store", "memory", env={"PATH": path}, text=HELLO)
    assert (served.code, served.answers) == (0, [1, 2]), served


@pytest.mark.parametrize("program", [CORE, PROXY])
@pytest.mark.parametrize("count", [5, 6, 8, 10, 16, 24, 40, 64])
def test_too_few_descriptors_end_in_a_line_or_are_enough(
    program: tuple[str, ...], count: int
) -> None:
    own = ("--store", "memory") if program is CORE else ("--listen", "stdio://")
    ended = run(*program, *own, text=HELLO, before=limited(resource.RLIMIT_NOFILE, count))
    assert "Traceback" not in ended.err, ended.err
    if ended.code:
        assert ended.code == 1, ended
        last = ended.err.splitlines()[-1]
        assert last.startswith(("core-server: ", "trace-proxy: ")), ended.err
    else:
        assert 1 in ended.answers, ended


def test_too_little_memory_ends_in_a_line() -> None:
    for mib in (40, 80, 120, 160):
        limit = limited(resource.RLIMIT_AS, mib * 1024 * 1024)
        ended = run(*CORE, "--store", "memory", text=HELLO, before=limit)
        assert ended.code in (0, 1), (mib, ended)
        if ended.code and ended.err.startswith("core-server: "):
            one_line(ended, 1)


@needs_root
def test_a_file_of_another_user_is_refused_in_a_line(tmp_path: Path) -> None:
    """The interpreter may be in a folder that others cannot read: fork, do not exec."""
    (tmp_path / "threads.db").touch(mode=0o600)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        from core_server.storage.base import StorageError  # noqa: PLC0415 - in the child
        from core_server.storage.sql import sqlite_probe  # noqa: PLC0415

        try:
            become_nobody()
            sqlite_probe.check(tmp_path / "threads.db")
        except StorageError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    said = os.read(read, 4096).decode()
    os.close(read)
    assert "Permission denied" in said


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("program", [CORE, PROXY])
def test_a_signal_that_the_parent_ignores_stays_ignored(
    program: tuple[str, ...], number: signal.Signals, tmp_path: Path
) -> None:
    """`nohup` and a script's `&` say so; the program then ends by the end of its input."""
    own = ("--listen", "stdio://", "--", *CORE) if program is PROXY else ()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            (*program, *own, "--store", "memory"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),  # noqa: PLW1509
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(HELLO.encode())
        process.stdin.flush()
        assert b'"result"' in _line(process.stdout.fileno())
        for _ in range(2):
            process.send_signal(number)
            time.sleep(0.05)  # two signals at once are one
        process.stdin.write(b'{"id":3,"method":"thread/start","params":{}}\n')
        process.stdin.close()
        rest = process.stdout.read()
        assert process.wait(WAIT_S) == 0
    assert b'"id":3' in rest
    assert b"draining" not in rest


def _line(fd: int) -> bytes:
    ready, _, _ = select.select([fd], [], [], WAIT_S)
    assert ready, "no answer"
    return os.read(fd, 65536)
