"""Small files that hold secrets, read at start and again when they change.

    WatchedFiles({"--ws-token-file": path}, take)     calls take([content])

Files that only make sense together, as a certificate and its key, are one group. They are
compared by what they hold, so that it does not matter how they are replaced: written
over, renamed, or by the links of a mounted Kubernetes secret. A change counts when two
looks in a row find the same: half a file is no token.
What cannot be used any more is told in the log once, and what was before stays.
"""

import asyncio
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from trace_proxy.errors import ConfigurationError

LOOK_S: Final = 0.5
"""Between two looks: a change is heard of after a second."""

MAX_BYTES: Final = 1024 * 1024
"""The authorities that a system trusts are a quarter of it."""

_log = structlog.get_logger("trace_proxy.files")


class WatchedFiles:
    """Files that are used together.

    Args:
        paths: By option, in the order in which `take` wants what they hold.
        take: Uses what they hold; raises ConfigurationError when it cannot.
        secret: The options whose files nobody else should be able to read.

    Raises:
        ConfigurationError: A file cannot be read, or `take` refuses what they hold.
    """

    def __init__(
        self,
        paths: Mapping[str, str],
        take: Callable[[Sequence[bytes]], None],
        *,
        secret: Sequence[str] = (),
    ) -> None:
        self._paths = paths
        self._take = take
        self._secret = secret
        self._used = self._seen = [_read(flag, path) for flag, path in paths.items()]
        take(self._used)
        # A pipe (`<(...)` of a shell) can be read once.
        self._watched = all(Path(path).is_file() for path in paths.values())

    def __repr__(self) -> str:
        return f"<WatchedFiles {' '.join(self._paths)}>"

    def warn(self) -> None:
        """Say which secret others on this machine may read; Kubernetes mounts them so."""
        for flag in self._secret:
            path = self._paths[flag]
            if Path(path).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
                _log.warning("file.readable_by_others", option=flag, path=path)

    async def look(self) -> None:
        """Read them, in a thread: a file may lie on a slow disk. Use them if they changed."""
        if not self._watched:
            return
        try:
            found = await asyncio.to_thread(self._read_all)
        except ConfigurationError as error:
            self._tell_once([], str(error))
            return
        settled, self._seen = found == self._seen, found
        if not settled or found == self._used:
            return
        self._used = found
        try:
            self._take(found)
        except ConfigurationError as error:
            _log.warning("file.not_used", reason=str(error))
        else:
            _log.info("file.changed", options=list(self._paths))

    def _read_all(self) -> list[bytes]:
        return [_read(flag, path) for flag, path in self._paths.items()]

    def _tell_once(self, found: list[bytes], reason: str) -> None:
        if self._seen != found:
            self._seen = found
            _log.warning("file.not_used", reason=reason)


def _read(flag: str, path: str) -> bytes:
    shown = f"{flag} {path[:200]!r}"
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConfigurationError(f"{shown} cannot be read: {reason}; name a file") from None
    if len(content) > MAX_BYTES:
        raise ConfigurationError(f"{shown} is larger than {MAX_BYTES} bytes: name another file")
    if not content.strip():
        raise ConfigurationError(f"{shown} is empty: put in what the option says")
    return content
