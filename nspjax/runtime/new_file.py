"""Files that are whole or not there: written under another name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from nspjax.errors import StorageIOError, StoreBusyError, StoreFullError, StorePathError

TEMPORARY_SUFFIX = ".nspjax-saving"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PATH = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY,
)  # fmt: skip


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[tuple[int, Path]]:
    """A descriptor to write to, and its name as yet; it becomes `path` when the block ends well.

    Otherwise nothing is left, and what was at `path` stays. The temporary file,
    ".NAME.nspjax-saving" in the same directory, is locked by its process: those without a lock were
    left by a process that was killed, and are removed by the next new file in their directory.

    Raises:
      StorePathError, StoreFullError, StorageIOError: the file cannot be made, synced or renamed.
      StoreBusyError: another one is being written for this name.
    """
    if not path.name or path.is_dir():
        raise StorePathError(f"{path} is a directory: give the name of a file")
    _remove_stale(path.parent)
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    fd = _open_locked(temporary)
    try:
        try:
            yield fd, temporary
            with os_errors(f"sync of {temporary}"):
                os.fsync(fd)
            with os_errors(f"renaming {temporary} to {path}"):
                os.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        with os_errors(f"sync of {path.parent}"):
            _sync_directory(path.parent)
    finally:
        os.close(fd)


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


def _open_locked(temporary: Path) -> int:
    while True:
        with os_errors(f"making {temporary}"):
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not _lock(fd):
                raise StoreBusyError(
                    f"{temporary} is being written, by another thread or process: wait for it, or "
                    "save under another name"
                )
            if _is_named(fd, temporary):  # nobody took it for a stale one in between
                with os_errors(f"emptying {temporary}"):
                    os.ftruncate(fd, 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _remove_stale(directory: Path) -> None:
    for stale in directory.glob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):  # another process was quicker, or it is not ours
            fd = os.open(stale, os.O_RDWR | os.O_CLOEXEC)
            try:
                if _lock(fd) and _is_named(fd, stale):
                    stale.unlink()
            finally:
                os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
