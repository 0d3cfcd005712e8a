"""One file of a checkpoint, which may be anything: it is looked at before it is read."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from nspjax.errors import CheckpointError

MOST_TEXT_BYTES = 256 * 2**20
"""Of a JSON file, a template or a vocabulary. The largest that are published have about 40 MB."""

TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".model")
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class ModelFile:
    """An open plain file. n_bytes: its size when it was opened."""

    def __init__(self, path: Path, descriptor: int, status: os.stat_result):
        self.path = path
        self.n_bytes = status.st_size
        self.version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        """Differs where the file was changed or replaced in between."""
        self._descriptor = descriptor

    @property
    def same_file(self) -> str:
        """A path to what was opened, whatever has its name by now."""
        return f"/proc/self/fd/{self._descriptor}"

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer of bytes from the file's byte `offset` on.

        Raises:
          CheckpointError: the file ends before, or cannot be read.
        """
        done = 0
        while done < len(buffer):
            try:
                n_bytes = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise unreadable(self.path, error) from error
            if n_bytes == 0:
                raise CheckpointError(
                    f"{self.path} ends at byte {offset + done}, but had {self.n_bytes} bytes when "
                    "it was opened: it was cut while it was read"
                )
            done += n_bytes

    def read(self, n_bytes: int, offset: int = 0) -> bytearray:
        """Bytes of the file.

        Raises:
          CheckpointError: as `read_into`.
        """
        data = bytearray(n_bytes)
        self.read_into(memoryview(data), offset)
        return data


@contextlib.contextmanager
def opened(path: Path) -> Iterator[ModelFile]:
    """The plain file at `path`, through links; nothing waits for a FIFO's or a device's other end.

    Raises:
      FileNotFoundError: there is none.
      CheckpointError: it is no plain file, or cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no name of a file at all
        # a socket, and some devices, cannot be opened: say what it is rather than that
        with contextlib.suppress(OSError, ValueError):
            check_kind(path, os.stat(path))
        raise unreadable(path, error) from error
    try:
        status = os.fstat(descriptor)
        check_kind(path, status)
        yield ModelFile(path, descriptor, status)
    finally:
        os.close(descriptor)


def check_kind(path: Path, status: os.stat_result, *, or_directory: bool = False) -> None:
    """Refuse what is no plain file.

    Raises:
      CheckpointError: it is something else; says what.
    """
    if stat.S_ISREG(status.st_mode) or (or_directory and stat.S_ISDIR(status.st_mode)):
        return
    kind = next((name for test, name in _KINDS if test(status.st_mode)), "something else")
    raise CheckpointError(f"{path} is {kind}: a checkpoint consists of plain files")


def check_text_size(path: Path, n_bytes: int) -> None:
    """Refuse a file that is too large to be text of a checkpoint.

    Raises:
      CheckpointError: it is too large.
    """
    if n_bytes > MOST_TEXT_BYTES:
        raise CheckpointError(
            f"{path} has {n_bytes} bytes, and may have {MOST_TEXT_BYTES}: it does not belong to a "
            "checkpoint"
        )


def check_directory(directory: Path) -> None:
    """Refuse a checkpoint in which something is neither a plain file nor a directory, or a text is
    absurdly large, whoever reads it later.

    Raises:
      CheckpointError: it holds such a thing, or cannot be read.
    """
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except OSError:  # a link to nothing: it is missing where it is asked for
                    continue
                _check(directory / entry.name, status, text=entry.name.endswith(TEXT_SUFFIXES))
    except OSError as error:
        raise unreadable(directory, error) from error


def check_texts(paths: Iterable[Path]) -> None:
    """Refuse files that a library is to read as text, whatever their suffix, as `check_directory`
    does: a FIFO would block it.

    Raises:
      CheckpointError: one is neither a plain file nor a directory, is absurdly large, or cannot be
        looked at.
    """
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        _check(path, status, text=True)


def _check(path: Path, status: os.stat_result, *, text: bool) -> None:
    check_kind(path, status, or_directory=True)
    if text and stat.S_ISREG(status.st_mode):
        check_text_size(path, status.st_size)


def unreadable(path: Path, error: OSError | ValueError) -> CheckpointError:
    """The error for a file that the system does not give."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else error
    return CheckpointError(f"{path} cannot be read: {why}")
