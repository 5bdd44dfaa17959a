"""From `--store URL` to a store. Nothing is opened or imported for stores not asked for."""

from pathlib import Path

from core_server.storage.base import Store
from core_server.storage.memory import MemoryStore
from core_server.storage.sql.store import SqliteStore

_SQLITE = "sqlite:///"


def open_store(url: str) -> Store:
    """Make the store that the URL names; its `open` is still to be awaited.

    Args:
        url: `memory`, or `sqlite:///PATH`: what follows the third slash is the path,
            relative, absolute (four slashes) or below the home directory (`~/`).

    Raises:
        ValueError: with one line that says what is wrong and what to write.
    """
    if url == "memory":
        return MemoryStore()
    if not url.startswith(_SQLITE):
        raise ValueError(f"unknown store {url!r}: write sqlite:///PATH or memory")
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
