"""A file of result lines: append-only, so that a kill at any moment loses no answer.

A result is one `write()` of one whole line to a file opened with O_APPEND. What the process wrote
survives its death; against a power cut the file is synced at most once a second, and at the end.
A sync also checks whether others have removed, replaced or changed the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import BinaryIO

from nspjax.errors import BatchFileError
from nspjax.generate.batch.earlier_result import EarlierResult, result_in
from nspjax.generate.batch.results import LINE_BEGIN
from nspjax.generate.batch.written_lines import WrittenLines
from nspjax.message_text import shortened

SYNC_SECONDS = 1.0
"""A line is synced to the disk with the first line written this long after the last sync."""


class ResultFile:
    """The file, locked for as long as it is open. Made by `open_result_file`."""

    def __init__(self, path: str, fd: int):
        self.path = self.kept_in = path
        self.disturbed = False
        """whether somebody else changed the file, so that it is not what was written"""
        self.lines = WrittenLines()
        """those that were written, and before them those that `earlier` found"""
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._synced_at = time.monotonic()

    def reader(self) -> BinaryIO:
        """The file from its beginning, whatever name it has now."""
        file = os.fdopen(os.dup(self._fd), "rb")
        file.seek(0)
        return file

    def earlier(self) -> Iterator[EarlierResult]:
        """The results in the file, up to a last line that a crash left torn, which is cut off.

        Raises:
          BatchFileError: there are other things than results.
        """
        offset = 0
        with self.reader() as file:
            total = os.fstat(file.fileno()).st_size
            for number, raw in enumerate(file, 1):
                found = result_in(raw)
                if found is None:
                    if offset + len(raw) < total or not _is_torn(raw):
                        raise BatchFileError(
                            f"line {number} of the output {self.path} is no result line: is this "
                            "another file?"
                        )
                    self._truncate(offset)
                    return
                yield EarlierResult(self.path, number, found)
                self.lines.add(raw)
                offset += len(raw)

    def begin(self, *, keep: bool) -> None:
        """Throw the file's content away, unless it is to be kept."""
        if not keep:
            self._truncate(0)

    def append(self, line: bytes) -> None:
        """Write one result line, all of it or, where that fails, nothing.

        Raises:
          BatchFileError: the write failed, for example because the disk is full, or somebody else
            removed, replaced or changed the file.
        """
        self._check_size()
        start = self._size
        try:
            written = os.write(self._fd, line)
            while written < len(line):  # the disk is nearly full: the next write says so
                written += os.write(self._fd, line[written:])
            self._size += written
            self.lines.add(line)
            if time.monotonic() - self._synced_at >= SYNC_SECONDS:
                self.sync()
        except OSError as error:
            self._size = start
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, start)
            raise BatchFileError(
                f"cannot write the output {self.path}: {error.strerror}"
            ) from error

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        os.fsync(self._fd)
        self._synced_at = time.monotonic()
        self._check_name()
        self._check_size()

    def close(self, *, complete: bool = False) -> None:
        """Sync the file and give up its lock. complete: whether all requests have results.

        Raises:
          BatchFileError: it cannot be synced, or is not what was written.
        """
        if self._fd < 0:
            return
        try:
            self.check()
        finally:
            self.release()

    def release(self) -> None:
        """Give up the lock, and look at nothing."""
        os.close(self._fd)
        self._fd = -1

    def check(self) -> None:
        """Sync the file, and compare it with what was written.

        Raises:
          BatchFileError: it cannot be synced, or was changed; that is said once.
        """
        if self.disturbed:
            return
        try:
            self.sync()
            self._check_lines()
        except OSError as error:
            raise BatchFileError(f"cannot sync {self.path}: {error.strerror}") from error

    @property
    def is_empty(self) -> bool:
        return self._size == 0

    def _truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._size = size

    def _check_name(self) -> None:
        """Whether the path still leads to the file that is written."""
        if _is_named(self._fd, self.path):
            return
        self.disturbed = True
        copy = self._copy()
        raise BatchFileError(
            f"the output {self.path} was removed or replaced while the job ran. All results until "
            f"now are in {copy}: give it the output's name, and --resume answers the rest"
        )

    def _check_size(self) -> None:
        found = os.fstat(self._fd).st_size
        if found == self._size:
            return
        self.disturbed = True
        what = (
            f"was cut from {self._size} to {found} bytes while the job ran: the results after that "
            "are lost, and --resume answers them again"
            if found < self._size
            else f"has {found - self._size} bytes that somebody else appended while the job ran: "
            f"cut it to {self._size} bytes, and --resume answers the rest"
        )
        raise BatchFileError(f"the output {self.path} {what}")

    def _check_lines(self) -> None:
        """Whether the file has what was written: somebody may have written over it."""
        if self.lines.n_bytes != self._size:  # of a job that never began: others' content
            return
        with self.reader() as file:
            changed = self.lines.changed(file)
        if changed:
            self.disturbed = True
            numbers = shortened(", ".join(map(str, changed)), 100)
            raise BatchFileError(
                f"somebody else wrote over the output {self.path} while the job ran: of its "
                f"{len(self.lines)} lines, {len(changed)} are not what was written: {numbers}. "
                "Take them out, and --resume answers their requests again"
            )

    def _copy(self) -> str:
        """What was written, in a new file beside the output or, if need be, elsewhere."""
        folder = os.path.dirname(self.path)
        for where in (folder if os.path.isdir(folder) else ".", tempfile.gettempdir()):
            with contextlib.suppress(OSError):
                fd, copy = tempfile.mkstemp(".jsonl", "nspjax-results-", where)
                with os.fdopen(fd, "wb") as file, self.reader() as written:
                    shutil.copyfileobj(written, file)
                    file.flush()
                    os.fsync(fd)
                return copy
        return f"/proc/{os.getpid()}/fd/{self._fd}, until this process ends"


def open_result_file(path: str, *, keep: bool, replace: bool) -> ResultFile:
    """The file, made if there is none, and locked. Its content is not yet touched.

    keep, replace: which content is welcome: earlier results (--resume), or any (--overwrite).

    Raises:
      BatchFileError: it cannot be written, another job writes it, or it holds something and
        neither `keep` nor `replace` is said.
    """
    try:
        check_regular(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        folder = os.path.dirname(path) or "."
        reason = error.strerror
        if not os.path.isdir(folder):
            reason = f"there is no directory {folder}"
        raise BatchFileError(f"cannot write the output {path}: {reason}") from error
    try:
        _check_fresh(path, fd, keep, replace)
    except BaseException:
        os.close(fd)
        raise
    return ResultFile(path, fd)


def check_regular(path: str) -> None:
    """Before it is opened, which by itself affects a FIFO or a device."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise BatchFileError(f"the output {path} must be an ordinary file")


def _check_fresh(path: str, fd: int, keep: bool, replace: bool) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BatchFileError(f"another job is writing the output {path}") from error
    except OSError as error:
        raise BatchFileError(f"cannot lock the output {path}: {error.strerror}") from error
    if not _is_named(fd, path):
        raise BatchFileError(f"another job has just ended the output {path}: try again")
    if os.fstat(fd).st_size and not (keep or replace):
        raise BatchFileError(
            f"the output {path} exists: --resume answers what is missing in it, "
            "--overwrite begins anew"
        )


def _is_named(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _is_torn(raw: bytes) -> bool:
    """Whether a crash can have made `raw` of a result line; a stranger's text is left alone."""
    begin = raw.rstrip(b"\0\n")[: len(LINE_BEGIN)]  # a power cut can leave zeros
    return LINE_BEGIN.startswith(begin)
