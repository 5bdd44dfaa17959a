"""From `--store URL` to a store. Nothing is opened or imported for stores not asked for."""

import re
from pathlib import Path

from core_server.storage.base import Store
from core_server.storage.memory import MemoryStore
from core_server.storage.sql.owner import Place
from core_server.storage.sql.store import PostgresStore, SqliteStore

_SQLITE = "sqlite:///"
_POSTGRES = "postgresql://"


def open_store(url: str, place: Place | None = None) -> Store:
    """Make the store that the URL names; its `open` is still to be awaited.

    Args:
        url: `memory`; `sqlite:///PATH`: what follows the third slash is the path,
            relative, absolute (four slashes) or below the home directory (`~/`); or
            `postgresql://USER:PASSWORD@HOST/DB`, as libpq reads it.
        place: This host among those that share a PostgreSQL store.

    Raises:
        ValueError: with one line that says what is wrong and what to write.
    """
    if url == "memory":
        return MemoryStore()
    if url.startswith(_POSTGRES):
        return _postgres(url, place or Place())
    if not url.startswith(_SQLITE):
        shown = re.sub(r"//[^/]*@", "//…@", url)  # there may be a password in it
        raise ValueError(
            f"unknown store {shown!r}: write sqlite:///PATH, postgresql://USER@HOST/DB or memory"
        )
    path = url.removeprefix(_SQLITE)
    if path == ":memory:":
        raise ValueError(f"store {url!r}: for a store in memory write memory")
    if not path or path.endswith("/"):
        raise ValueError(f"store {url!r} names no file: write sqlite:///PATH")
    if "?" in path or "\0" in path:
        raise ValueError(f"store {url!r}: PATH takes no options, '?' or NUL")
    try:
        return SqliteStore(Path(path).expanduser())
    except RuntimeError as error:  # expanduser: no such user
        raise ValueError(f"store {url!r}: {error}") from error


def _postgres(url: str, place: Place) -> Store:
    try:
        from core_server.storage.sql.conninfo import public_name  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ValueError(
            f"store {_POSTGRES}…: {error}: install psycopg 3, as in trace-proxy[postgres]"
        ) from error
    return PostgresStore(url, name=public_name(url), place=place)
