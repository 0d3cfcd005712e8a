"""Files that are whole or not there: written under another name, synced, renamed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from nspjax import _engine
from nspjax.errors import StoreBusyError, StorePathError
from nspjax.runtime.plain_file import OWNER_ONLY, check_plain, os_errors

TEMPORARY_SUFFIX = ".nspjax-saving"

_MOST_NAME_BYTES = 255


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[tuple[int, Path]]:
    """A descriptor to write to, and its temporary name; it becomes `path` when the block ends well.

    Otherwise nothing is left of it, and what was at `path` stays. Only this user may open it; a
    stricter mode of the file that it replaces is kept. Only a plain file of this user is replaced.
    The temporary file, ".NAME.nspjax-saving" in the same directory, is locked by its process: those
    without a lock were left by a process that was killed, and are removed by the next new file in
    their directory. A forked child that leaves the block does nothing.

    Raises:
      StorePathError, StoreFullError, StorageIOError: the file cannot be made, synced or renamed.
      StoreBusyError: another one is being written for this name.
    """
    if not path.name:
        raise StorePathError(f"{path} is a directory: give the name of a file")
    _mode_for(path)
    _remove_stale(path.parent)
    temporary = path.with_name(_temporary_name(path.name))
    fd, process = _make_locked(temporary), os.getpid()
    try:
        try:
            yield fd, temporary
            if os.getpid() == process:
                _publish(fd, temporary, path)
        except BaseException:
            if os.getpid() == process:
                temporary.unlink(missing_ok=True)
            raise
    finally:
        if os.getpid() == process:  # in a child it is closed already
            _engine.forget_in_children(fd)
            os.close(fd)


def _publish(fd: int, temporary: Path, path: Path) -> None:
    with os_errors(f"sync of {temporary}"):
        os.fchmod(fd, _mode_for(path))
        os.fsync(fd)
    with os_errors(f"renaming {temporary} to {path}"):
        os.rename(temporary, path)
    with os_errors(f"sync of {path.parent}"):
        sync_directory(path.parent)


def _mode_for(path: Path) -> int:
    """What the file at `path` will have."""
    with os_errors(f"stat of {path}"):
        try:
            there = path.lstat()
        except FileNotFoundError:
            return OWNER_ONLY
    check_plain(path, there)
    return there.st_mode & OWNER_ONLY


def _temporary_name(name: str) -> str:
    temporary = f".{name}{TEMPORARY_SUFFIX}"
    if len(os.fsencode(temporary)) <= _MOST_NAME_BYTES:
        return temporary
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}{TEMPORARY_SUFFIX}"


def _make_locked(temporary: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        with os_errors(f"making {temporary}"):
            try:
                fd = os.open(temporary, flags, OWNER_ONLY)
            except FileExistsError:
                check_plain(temporary, temporary.lstat())
                raise StoreBusyError(
                    f"{temporary} is being written, by another thread or process: wait for it, or "
                    "save under another name"
                ) from None
        _engine.close_in_children(fd)  # or a child would hold the lock, too
        try:
            # somebody may have taken it for a stale one in between
            if _lock(fd) and _is_named(fd, temporary):
                return fd
        except BaseException:
            _engine.forget_in_children(fd)
            os.close(fd)
            raise
        _engine.forget_in_children(fd)
        os.close(fd)


def _remove_stale(directory: Path) -> None:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    for stale in directory.glob(f".*{TEMPORARY_SUFFIX}"):
        # another process was quicker, or it is not ours
        with contextlib.suppress(OSError, StorePathError):
            fd = os.open(stale, flags)
            try:
                check_plain(stale, os.fstat(fd))
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
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def sync_directory(directory: Path) -> None:
    """A name that was made, changed or removed there lasts."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
