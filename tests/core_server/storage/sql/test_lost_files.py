# ruff: noqa: ASYNC240 - nothing else runs on the loop of a test
"""The file is deleted, moved, replaced or cut while it is in use: noticed, said, nothing promised."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import structlog
from sqlalchemy import Connection

from core_server.storage.base import DiskError, Operation, PutThread, PutTurn, StorageError
from core_server.storage.sql import rows
from core_server.storage.sql.sqlite_file import FileWatch
from core_server.storage.sql.store import SqliteStore
from tests.core_server.storage.samples import thread_row, turn_row

PATIENCE_S = 20.0


def delete(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def move_its_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    shutil.copy(path, other)
    other.replace(path)


def delete_and_make_anew(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE t (x)")


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"something else" * 1000)


def delete_its_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def replace_its_index(path: Path) -> None:
    index = Path(f"{path}-shm")
    content = index.read_bytes()
    index.unlink()
    index.write_bytes(content)


ACCIDENTS = [
    (delete, "it was deleted"),
    (move, "it was moved away"),
    (move_its_folder, "it was moved away"),
    (replace, "it was "),
    (delete_and_make_anew, "it was "),
    (empty, "it was truncated or overwritten"),
    (cut, "it was truncated"),
    (overwrite, "it was truncated or overwritten"),
    (delete_its_log, "its -wal file was deleted"),
    (replace_its_index, "its -shm file was replaced"),
]
table = pytest.mark.parametrize(
    ("accident", "said"), ACCIDENTS, ids=[each.__name__ for each, _ in ACCIDENTS]
)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "threads.db"


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.open()
    await store.write([PutThread(thread_row("t")), PutTurn(turn_row("t", "u"))])
    # All in the file itself: what follows is about that one.
    with closing(sqlite3.connect(path)) as beside:
        beside.execute("PRAGMA wal_checkpoint(FULL)")
    return store


def test_a_file_that_a_checkpoint_is_making_longer_is_not_truncated(tmp_path: Path) -> None:
    """SQLite writes page 1, and in it how many pages there are, before the pages themselves."""
    path = tmp_path / "threads.db"
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE t (x)")
    watch = FileWatch(path)
    whole_bytes = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(28)
        file.write((whole_bytes // 4096 + 3).to_bytes(4, "big"))
    grown = threading.Timer(0.05, os.truncate, (path, whole_bytes + 3 * 4096))
    grown.start()

    watch.check()

    assert path.stat().st_size == whole_bytes + 3 * 4096  # it has waited for that
    grown.join()
    watch.close()


def test_another_process_may_checkpoint_for_as_long_as_it_likes(tmp_path: Path) -> None:
    """It may be stopped, or starved, between page 1 and the pages that make the file longer."""
    path = tmp_path / "threads.db"
    with closing(sqlite3.connect(path)) as made:
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("CREATE TABLE t (x)")
        made.execute("PRAGMA wal_checkpoint(FULL)")
        watch = FileWatch(path, patience_s=0)
        with path.open("r+b") as file:
            file.seek(28)
            file.write((99).to_bytes(4, "big"))
        other = (
            "import fcntl, sys; shm = open(sys.argv[1], 'r+b');"
            "fcntl.lockf(shm, fcntl.LOCK_EX, 1, 121); print(); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", other, f"{path}-shm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as checkpointing:
            assert checkpointing.stdout is not None
            checkpointing.stdout.readline()
            watch.check()
            checkpointing.communicate()
        with pytest.raises(DiskError, match="it was truncated"):
            watch.check()
    watch.close()


def test_looking_beside_checkpoints_never_finds_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    with closing(sqlite3.connect(path)) as made:
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("CREATE TABLE t (x)")

    def grow() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as writing:
            writing.execute("PRAGMA synchronous=OFF")
            writing.execute("PRAGMA wal_autocheckpoint=1")
            for _ in range(500):
                writing.execute("INSERT INTO t VALUES (zeroblob(200000))")

    with closing(sqlite3.connect(path)) as held:
        held.execute("SELECT 1 FROM t").fetchall()  # keeps the log from being removed
        watch = FileWatch(path)
        writer = threading.Thread(target=grow)
        writer.start()
        while writer.is_alive():
            watch.check()
        watch.close()
        assert path.stat().st_size > 500 * 200_000  # it has grown meanwhile


@table
async def test_nothing_is_acknowledged_afterwards(
    path: Path, accident: Callable[[Path], None], said: str
) -> None:
    store = await opened(path)
    accident(path)

    for _ in range(2):
        with pytest.raises(DiskError, match=said):
            await store.write([PutThread(thread_row("another"))])
        with pytest.raises(DiskError, match=said):
            await store.turns("t")
        with pytest.raises(StorageError, match=said):
            await store.acquire("t")
    with pytest.raises(StorageError, match=said):
        await store.close()


@table
async def test_it_is_said_though_nobody_asks(
    path: Path, accident: Callable[[Path], None], said: str
) -> None:
    store = await opened(path)
    with structlog.testing.capture_logs() as logs:
        accident(path)
        async with asyncio.timeout(PATIENCE_S):
            while not any(log["event"] == "storage.lost" for log in logs):  # noqa: ASYNC110 - a thread's log
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.2)  # two more looks
    events = [log["error"] for log in logs if log["event"] == "storage.lost"]
    assert len(events) == 1
    assert said in events[0]
    with pytest.raises(StorageError):
        await store.close()


async def test_a_file_that_goes_while_it_is_written_to_is_noticed_before_the_answer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(path)
    apply = rows.Rows.apply

    def apply_and_delete(
        self: rows.Rows, connection: Connection, operations: Sequence[Operation]
    ) -> None:
        apply(self, connection, operations)
        path.unlink(missing_ok=True)

    monkeypatch.setattr(rows.Rows, "apply", apply_and_delete)
    with pytest.raises(DiskError, match="it was deleted"):
        await store.write([PutThread(thread_row("another"))])
    with pytest.raises(StorageError):
        await store.close()


async def test_a_file_that_is_put_back_is_used_again(path: Path) -> None:
    store = await opened(path)
    path.rename(path.with_name("elsewhere.db"))
    with pytest.raises(DiskError):
        await store.write([PutThread(thread_row("t2"))])
    path.with_name("elsewhere.db").rename(path)

    await store.write([PutThread(thread_row("t3"))])
    await store.close()


async def test_what_other_cores_and_tools_do_to_the_file_is_no_loss(path: Path) -> None:
    store = await opened(path)
    other = await opened(path)
    await other.close()
    with closing(sqlite3.connect(path)) as tool:
        tool.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        tool.execute("CREATE TABLE large (x)")
        tool.executemany("INSERT INTO large VALUES (?)", [("x" * 1000,)] * 1000)
        tool.commit()
        await store.write([PutThread(thread_row("t2"))])
        tool.execute("DROP TABLE large")
        tool.execute("VACUUM")
        tool.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    await store.write([PutThread(thread_row("t3"))])
    assert await store.thread("t2") is not None
    await store.close()
