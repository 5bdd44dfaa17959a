"""Files beneath a directory, reached through descriptors only.

Every component is opened from the one above it and none may be a symbolic link, so a
link that is swapped in between a check and its use is met by the kernel, not by us, and
leads nowhere. What was opened stays what it is, whatever its name then points to.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from core_server.tools.base import ToolError

# As large as a message may be, which has to carry the diff.
MAX_FILE_BYTES = 16 * 1024 * 1024
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class MissingError(ToolError):
    """A directory on the way to a file is not there."""


@dataclass(frozen=True, slots=True)
class Place:
    """A name in an open directory.

    Attributes:
        directory_fd: The directory; belongs to whoever made the place.
        name: One component.
        path: Absolute, for messages.
    """

    directory_fd: int
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Content:
    """A file as it was read: its bytes, its mode bits and its owner."""

    raw: bytes
    mode: int
    owner: tuple[int, int]


def split(roots: Sequence[str], cwd: str, path: str) -> tuple[str, tuple[str, ...]]:
    """Return the root that holds a path, and the components below it; looks at no file.

    Raises:
        ToolError: `path escapes the workspace`.
    """
    whole = os.path.normpath(os.path.join(cwd, path))  # noqa: PTH118 - pathlib keeps `..`
    if "\0" in path:
        raise ToolError(f"path is not valid: {path!r}")
    for root in roots:
        for spelled in (os.path.normpath(root), os.path.realpath(root)):
            prefix = spelled.rstrip("/") + "/"
            if whole.startswith(prefix):
                return root, tuple(whole[len(prefix) :].split("/"))
    raise ToolError(f"path escapes the workspace: {path}")


@contextlib.contextmanager
def opened(
    root: str,
    parts: Sequence[str],
    *,
    create: bool = False,
    on_made: Callable[[int, str], None] = lambda _directory_fd, _name: None,
) -> Iterator[Place]:
    """Open the directory that holds a file, beneath a root.

    Args:
        root: May itself be reached through links; it is what a person configured.
        parts: Components below it, the last is the file's name.
        create: Make directories that are missing.
        on_made: Told of each one made: the directory it is in (open now), and its name.

    Raises:
        MissingError: a directory is missing.
        ToolError: one is no directory, or is a symbolic link.
    """
    path = os.path.join(root, *parts)  # noqa: PTH118 - text for messages
    fd = _open_root(root)
    try:
        for name in parts[:-1]:
            if create and _make(fd, name):
                on_made(fd, name)
            below_fd = _enter(fd, name, path)
            os.close(fd)
            fd = below_fd
        yield Place(fd, parts[-1], path)
    finally:
        os.close(fd)


def read(place: Place) -> Content | None:
    """Return a regular file's content, or None if nothing is there.

    Raises:
        ToolError: it is a link, no regular file, too large, or cannot be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(place.name, flags, dir_fd=place.directory_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refusal(place.path, error) from None
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ToolError(f"{place.path} is not a regular file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ToolError(f"{place.path} is larger than {MAX_FILE_BYTES} bytes")
        return Content(raw, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))


def stage(place: Place, raw: bytes, like: Content | None) -> str:
    """Write a file beside its place and return its name; `os.rename` then puts it there.

    Args:
        place: Where it shall go.
        raw: All of it; on disk when this returns.
        like: Whose mode and owner it gets; None for those of a new file.
    """
    name = f".{place.name[:100]}.{secrets.token_hex(8)}"
    fd = os.open(name, _NEW_FILE, 0o666, dir_fd=place.directory_fd)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(raw)
            if like is not None:
                with contextlib.suppress(PermissionError):  # only root gives files away
                    os.fchown(fd, *like.owner)
                os.fchmod(fd, like.mode & 0o777)
            file.flush()
            os.fsync(fd)
    except BaseException:
        os.unlink(name, dir_fd=place.directory_fd)
        raise
    return name


def rename(place: Place, staged: str) -> None:
    """Put a staged file in its place; a link that is there is replaced, not followed."""
    os.rename(staged, place.name, src_dir_fd=place.directory_fd, dst_dir_fd=place.directory_fd)


def _open_root(root: str) -> int:
    try:
        return os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ToolError(f"the workspace {root} cannot be opened: {error.strerror}") from None


def _make(directory_fd: int, name: str) -> bool:
    try:
        os.mkdir(name, dir_fd=directory_fd)
    except FileExistsError:  # also a link: `_enter` refuses it
        return False
    except OSError as error:
        raise ToolError(f"directory {name} cannot be made: {error.strerror}") from None
    return True


def _enter(directory_fd: int, name: str, path: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory_fd)
    except OSError as error:
        if error.errno == errno.ENOTDIR and _is_link(directory_fd, name):
            error = OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        raise _refusal(path, error) from None


def _is_link(directory_fd: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        return stat.S_ISLNK(status.st_mode)
    return False


def _refusal(path: str, error: OSError) -> ToolError:
    if error.errno == errno.ELOOP:
        return ToolError(f"path escapes the workspace: {path} leads through a symbolic link")
    kind = MissingError if error.errno == errno.ENOENT else ToolError
    return kind(f"{path}: {error.strerror}")
