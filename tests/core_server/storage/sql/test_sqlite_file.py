"""The file itself: who may read it, what it must be, and what is left untouched."""

import hashlib
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from sqlalchemy import Connection, event

from core_server.storage import paging
from core_server.storage.base import NewerSchemaError, PutThread, StorageError, ThreadQuery
from core_server.storage.sql import rows, schema, sqlite_file
from core_server.storage.sql.database import Database
from core_server.storage.sql.owner import this_process
from core_server.storage.sql.store import SqliteStore
from tests.core_server.storage.samples import thread_row


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _state(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        file.name: (_mode(file), hashlib.sha256(file.read_bytes()).hexdigest())
        for file in folder.iterdir()
    }


async def _refusal(path: Path) -> StorageError:
    """Open a store that cannot be opened, and see that nothing was changed."""
    before = _state(path.parent)
    with pytest.raises(StorageError) as caught:
        await SqliteStore(path).open()
    assert _state(path.parent) == before
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


async def test_all_files_are_private_and_so_are_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "threads.db"
    before = os.umask(0)
    try:
        store = SqliteStore(path)
        await store.open()
        await store.write([PutThread(thread_row("t"))])
        modes = {file.name: _mode(file) for file in path.parent.iterdir()}
        await store.close()
    finally:
        os.umask(before)

    assert modes == {"threads.db": 0o600, "threads.db-wal": 0o600, "threads.db-shm": 0o600}
    assert [_mode(folder) for folder in (path.parent, path.parent.parent)] == [0o700, 0o700]


async def test_a_file_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    path.touch(mode=0o644)
    store = SqliteStore(path)

    await store.open()

    assert _mode(path) == 0o600
    await store.close()


async def test_commits_are_synced_and_the_log_is_written_ahead(tmp_path: Path) -> None:
    sqlite_file.prepare_file(tmp_path / "x.db")
    engine, connection = sqlite_file.connect(tmp_path / "x.db")
    sqlite_file.migrate(connection, tmp_path / "x.db")
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)

    pragmas = {
        name: driver.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "user_version")
    }

    connection.close()
    engine.dispose()
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
        "user_version": 2,
    }


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database at all\n" * 300)

    assert "not a database" in str(await _refusal(path))


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=7")

    refusal = await _refusal(path)

    assert isinstance(refusal, NewerSchemaError)
    assert str(refusal) == (
        f"thread store {path}: written by a newer version (schema 7, this one knows 2): "
        "update this program, or choose another path"
    )


@pytest.mark.parametrize("pragma", ["user_version=1", "application_id=77"])
async def test_another_programs_database_is_refused(tmp_path: Path, pragma: str) -> None:
    path = tmp_path / "browser.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE history (url TEXT)")
        connection.execute(f"PRAGMA {pragma}")

    assert "another program's database" in str(await _refusal(path))


async def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "threads.db").mkdir()

    with pytest.raises(StorageError, match="Is a directory: choose a path you can write"):
        await SqliteStore(tmp_path / "threads.db").open()


async def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="choose a path you can write"):
        await SqliteStore(tmp_path / "file" / "threads.db").open()


async def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 8_000)

    with pytest.raises(StorageError, match="the file is damaged: restore it"):
        await SqliteStore(path).open()


async def test_a_store_can_be_opened_after_it_could_not(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    path.write_text("in the way" * 100)
    store = SqliteStore(path)
    with pytest.raises(StorageError):
        await store.open()

    path.unlink()
    await store.open()

    await store.write([PutThread(thread_row("t"))])
    await store.close()


async def test_an_older_schema_is_taken_up_version_by_version(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    store = SqliteStore(path)
    await store.open()
    await store.write([PutThread(thread_row("t"))])
    await store.close()

    def add_colour(connection: Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE threads ADD COLUMN colour TEXT DEFAULT 'red'")

    def paint(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE threads SET colour = 'blue'")

    upgrades: tuple[schema.Upgrade, ...] = (*schema.UPGRADES, add_colour, paint)
    for _ in range(2):
        engine, connection = sqlite_file.connect(path)
        sqlite_file.migrate(connection, path, upgrades)
        connection.close()
        engine.dispose()

    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT thread_id, colour FROM threads").fetchall() == [("t", "blue")]
        assert raw.execute("PRAGMA user_version").fetchone() == (4,)


async def test_a_file_of_the_first_version_becomes_like_a_new_one(tmp_path: Path) -> None:
    path, new = tmp_path / "threads.db", tmp_path / "new.db"
    for each in (path, new):
        store = SqliteStore(each)
        await store.open()
        await store.write([PutThread(thread_row("t"))])
        await store.close()
    with closing(sqlite3.connect(path)) as raw:
        for name in ("host_id", "url", "draining", "load"):
            raw.execute(f"ALTER TABLE cores DROP COLUMN {name}")
        raw.execute("PRAGMA user_version=1")
        raw.commit()

    store = SqliteStore(path)
    await store.open()

    assert await store.thread("t") == thread_row("t")
    await store.close()
    assert _columns(path) == _columns(new)


def _columns(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as raw:
        return raw.execute("PRAGMA table_info(cores)").fetchall()


async def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    store = SqliteStore(path)
    await store.open()
    await store.close()

    def half(connection: Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE threads ADD COLUMN colour TEXT")
        raise StorageError("interrupted")

    engine, connection = sqlite_file.connect(path)
    with pytest.raises(StorageError, match="interrupted"):
        sqlite_file.migrate(connection, path, (*schema.UPGRADES, half))
    connection.close()
    engine.dispose()

    with closing(sqlite3.connect(path)) as raw:
        names = [row[1] for row in raw.execute("PRAGMA table_info(threads)")]
        assert raw.execute("PRAGMA user_version").fetchone() == (2,)
    assert "colour" not in names


async def test_going_to_wal_waits_for_readers_and_then_says_who_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "threads.db"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("PRAGMA journal_mode=DELETE")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM threads").fetchone()

        with pytest.raises(StorageError, match="another process has held it locked"):
            await store.open()

    await store.open()
    await store.close()


@pytest.mark.parametrize("sort_key", ["created_at", "updated_at", "recency_at"])
@pytest.mark.parametrize("descending", [True, False])
def test_a_page_is_a_walk_along_an_index(
    tmp_path: Path,
    sort_key: Literal["created_at", "updated_at", "recency_at"],
    *,
    descending: bool,
) -> None:
    """So a page of 10,000 threads costs what one of 100 does."""
    path = tmp_path / "threads.db"
    database = Database(sqlite_file.SqliteFile(path), this_process())
    database.write([PutThread(thread_row(f"t{number}")) for number in range(3)])
    query = ThreadQuery(limit=2, sort_key=sort_key, descending=descending, cwds=("/w",))
    cursor = database.page(query, None).next_cursor
    database.close()
    start = paging.start_of(msgspec.structs.replace(query, cursor=cursor))
    engine, connection = sqlite_file.connect(path)
    plans: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _explain(_connection: object, _cursor: object, sql: str, *rest: Any) -> None:
        if sql.startswith("SELECT"):
            with closing(sqlite3.connect(path)) as raw:
                plan = raw.execute(f"EXPLAIN QUERY PLAN {sql}", rest[0]).fetchall()
            plans.extend(row[3] for row in plan)

    with connection.begin():
        rows.page(connection, query, start)
    connection.close()
    engine.dispose()

    beyond = f"({sort_key}_s,thread_id){'<' if descending else '>'}(?,?)"
    walk = f"USING INDEX threads_by_{sort_key} (listed=? AND archived=? AND {beyond})"
    assert plans == [f"SEARCH threads {walk}"]
