"""Whether a store file can be used, found out before anybody is answered.

Opening it for work imports SQLAlchemy, which takes longer than a client waits for its
first answer; this needs the standard library alone and some milliseconds. It finds what
is wrong with a path, its folder, the file or the disk, and `sqlite_file` says it in the
same words when it only comes up later.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from core_server.storage.base import NewerSchemaError, StorageError

BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for another core's commit: a thousand times what one takes."""

PROBE_TIMEOUT_S: Final = 0.5
"""A file that is locked for longer is in use, so it is usable; opening it waits on."""

NEWEST_VERSION: Final = 2
"""Of the schema; `schema.newest_version()` must say the same."""

APPLICATION_ID: Final = 0x43535256
"""`CSRV`: tells our files from other programs' databases."""

FOREIGN: Final = "it is another program's database: choose another path"

MAGIC: Final = b"SQLite format 3\0"

_EXPLANATIONS: Final = {
    "SQLITE_FULL": "the disk is full: free some space",
    "SQLITE_READONLY": "the file or its folder is read-only: make both writable",
    "SQLITE_CANTOPEN": "the file cannot be opened: check its path, folder and permissions",
    "SQLITE_PERM": "no permission: make the file and its folder writable for this user",
    "SQLITE_BUSY": f"another process has held it locked for {BUSY_TIMEOUT_S:.0f} s: end that one",
    "SQLITE_IOERR": "the disk reports an error or has no space: check disk, quota and file limit",
    "SQLITE_CORRUPT": "the file is damaged: restore it from a copy, or move it away",
    "SQLITE_NOTADB": "the file is not a database: choose another, or move it away",
}


def check(path: Path) -> None:
    """Create the file if it is missing, and write its version over itself.

    Raises:
        StorageError: it cannot be used; NewerSchemaError when a newer version wrote it.
    """
    prepare_file(path)
    try:
        with closing(
            sqlite3.connect(path, timeout=PROBE_TIMEOUT_S, isolation_level=None)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (application_id,) = connection.execute("PRAGMA application_id").fetchone()
            check_versions(path, version, application_id, NEWEST_VERSION)
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and application_id != APPLICATION_ID:
                raise refusal(path, FOREIGN)
            connection.execute(f"PRAGMA user_version={version}")
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") != "SQLITE_BUSY":
            raise explain(path, error) from error


def prepare_file(path: Path) -> None:
    """Create the file (0600) and its folders (0700), or check that it is ours to open.

    SQLite gives its -wal and -shm files the mode of the database file.

    Raises:
        StorageError: the file is something else, or cannot be created; it is untouched.
    """
    try:
        for folder in reversed(path.parents):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
                folder.chmod(0o700)  # whatever the umask says: we must get in ourselves
        if path.exists():
            _check_header(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        why = error.strerror or str(error)
        raise refusal(path, f"{why}: choose a path you can write, by --store") from error


def explain(path: Path, error: Exception) -> StorageError:
    """One line that says what is wrong with the store and what to do.

    Args:
        path: The file.
        error: Of `sqlite3`, or of SQLAlchemy with that one as its `orig`.
    """
    cause = getattr(error, "orig", None) or error
    name = getattr(cause, "sqlite_errorname", "")
    for prefix, explanation in _EXPLANATIONS.items():
        if name.startswith(prefix):
            return refusal(path, explanation)
    return refusal(path, str(cause))


def check_versions(path: Path, version: int, application_id: int, newest: int) -> None:
    """Refuse a file that another program or a newer version of this one wrote.

    Raises:
        StorageError: it is not ours; NewerSchemaError when it is newer.
    """
    if application_id not in (0, APPLICATION_ID):
        raise refusal(path, FOREIGN)
    if version > newest:
        raise NewerSchemaError(
            f"thread store {path}: written by a newer version (schema {version}, this one knows "
            f"{newest}): update this program, or choose another path"
        )


def refusal(path: Path, reason: str) -> StorageError:
    """The error, with the file's name in front."""
    return StorageError(f"thread store {path}: {reason}")


def _check_header(path: Path) -> None:
    """Look before SQLite does: opening a database may already change files beside it."""
    with path.open("rb") as file:
        header = file.read(100)
    if header and header[:16] != MAGIC:
        raise refusal(path, _EXPLANATIONS["SQLITE_NOTADB"])
    version, application_id = (int.from_bytes(header[at : at + 4], "big") for at in (60, 68))
    check_versions(path, version, application_id, NEWEST_VERSION)
