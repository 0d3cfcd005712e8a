"""Files of this user's, where others may have put something in their place."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from nspjax.errors import InvalidArgumentError, StorageIOError, StoreFullError, StorePathError

OWNER_ONLY = 0o600
"""The mode of a file that holds prompts, or what prompts can be told from."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PATH = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY, errno.ENXIO,
)  # fmt: skip


@contextlib.contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Operating system errors as ours: what was done, and why it failed."""
    try:
        yield
    except OSError as error:
        cls = (
            StoreFullError if error.errno in _FULL
            else StorePathError if error.errno in _PATH
            else StorageIOError
        )  # fmt: skip
        raise cls(f"{what} failed: {os.strerror(error.errno or 0)}") from error


def as_path(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> Path:
    """Raises:
    InvalidArgumentError: it can be the name of no file.
    """
    try:
        name = os.fsencode(path)
    except (TypeError, ValueError) as error:  # of another type, or characters without bytes
        raise InvalidArgumentError(f"{path!r} is no path: {error}") from error
    if b"\0" in name:
        raise InvalidArgumentError(f"{path!r} is no path: it has a NUL")
    return Path(os.fsdecode(name))


def check_plain(path: Path, info: os.stat_result) -> None:
    """Raises:
    StorePathError: what is there is no plain file of this user; says what it is.
    """
    what = _KINDS.get(stat.S_IFMT(info.st_mode), "is a device node")
    if not what and info.st_uid != os.geteuid():
        what = f"belongs to user {info.st_uid}, not to {os.geteuid()}"
    if what:
        raise StorePathError(f"{path} {what}: give the name of a plain file of this user")


def open_plain(path: Path, flags: int) -> int:
    """A descriptor of a plain file of this user that is there. Links are not followed, and
    nothing is waited for. Where possible, other users lose their permissions on it.

    Raises:
      StorePathError, StorageIOError: it cannot be opened, or is something else.
    """
    with os_errors(f"opening {path}"):
        try:
            fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EACCES):
                check_plain(path, path.lstat())  # says more
            raise
    try:
        info = os.fstat(fd)
        check_plain(path, info)
        if info.st_mode & ~OWNER_ONLY & 0o777:
            with contextlib.suppress(OSError):  # of a file system that cannot be written
                os.fchmod(fd, info.st_mode & OWNER_ONLY)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_plain(path: str | os.PathLike[str], content: bytes) -> None:
    """Overwrite a file that is no secret; it may be a link, or belong to another user.

    Raises:
      StorePathError, StoreFullError, StorageIOError: it cannot be written, or is no file.
    """
    path = as_path(path)
    check_writable(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with os_errors(f"writing {path}"):
        fd = os.open(path, flags, 0o666)
        with open(fd, "wb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StorePathError(f"{path} is no file: give the name of one")
            file.truncate(0)
            file.write(content)


def check_writable(path: Path) -> None:
    """Raises:
    StorePathError: `write_plain` would not write there, as far as can be told without doing it.
    """
    folder = path.parent
    if not folder.is_dir():
        raise StorePathError(f"{path} has no directory {folder}: give a file to write")
    if path.exists() and not path.is_file():
        what = _KINDS.get(stat.S_IFMT(path.stat().st_mode)) or "is a device node"
        raise StorePathError(f"{path} {what}: give a file to write")


_KINDS = {
    stat.S_IFREG: "",
    stat.S_IFLNK: "is a symbolic link",
    stat.S_IFDIR: "is a directory",
    stat.S_IFIFO: "is a FIFO",
    stat.S_IFSOCK: "is a socket",
}
