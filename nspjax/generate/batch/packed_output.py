"""An output that is written at the end, whole: compressed lines, or a table.

Until then results are lines in a file beside it, whose name ends in ".partial.jsonl": appended and
synced as those of a plain output are, so that a kill loses none. When all requests are finished,
the output is written under a temporary name, synced and renamed; then that file is removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nspjax.errors import BatchFileError
from nspjax.generate.batch.earlier_result import EarlierResult, result_in
from nspjax.generate.batch.packing import Packing
from nspjax.generate.batch.result_file import ResultFile, check_regular, open_result_file
from nspjax.runtime.new_file import sync_directory

PARTIAL_SUFFIX = ".partial.jsonl"


class PackedOutput:
    """The output and its partial file, which is locked. Made by `open_packed_output`."""

    def __init__(self, path: str, packing: Packing, partial: ResultFile):
        self.path, self.kept_in = path, partial.path
        self._packing = packing
        self._partial = partial
        self._target = os.path.realpath(path)  # a link stays one
        self._begun = self._unpacked = self._closed = False
        self._in_partial: set[str] = set()

    @property
    def disturbed(self) -> bool:
        return self._partial.disturbed

    def earlier(self) -> Iterator[EarlierResult]:
        """The results in the partial file, and those that only the output has.

        Raises:
          BatchFileError: one of them holds other things, or is damaged.
        """
        for found in self._partial.earlier():
            self._in_partial.add(found.custom_id)
            yield found
        for found, _ in self._only_in_output():
            yield found

    def begin(self, *, keep: bool) -> None:
        """Make the partial file what all results are added to."""
        self._begun = True
        if keep:
            self._unpack()
        else:
            self._partial.begin(keep=False)
            self._unpacked = True
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._target)

    def append(self, line: bytes) -> None:
        """Write one result line, see `ResultFile.append`."""
        self._partial.append(line)

    def close(self, *, complete: bool = False) -> None:
        """Write the output, if it is complete, and give up the lock.

        Raises:
          BatchFileError: it cannot be written, or the partial file is not what was written.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._partial.check()
            has_news = self._begun or not self._partial.is_empty
            if complete and has_news and not self.disturbed:
                self._unpack()
                self._pack()
            elif self._partial.is_empty:
                os.unlink(self._partial.path)
        finally:
            self._partial.release()

    def _unpack(self) -> None:
        """Copy to the partial file what only the output has. Cut short, it can be done again."""
        if not self._unpacked:
            for _, line in self._only_in_output():
                self._partial.append(line)
            self._unpacked = True

    def _only_in_output(self) -> Iterator[tuple[EarlierResult, bytes]]:
        if not _size(self._target):
            return
        with open(self._target, "rb") as file:
            for number, line in enumerate(self._packing.read(file, self.path), 1):
                found = result_in(line)
                if found is None:
                    raise BatchFileError(
                        f"line {number} of the output {self.path} is no result line: is this "
                        "another file?"
                    )
                if found["custom_id"] not in self._in_partial:
                    yield EarlierResult(self.path, number, found), line

    def _pack(self) -> None:
        temporary = f"{self._target}.partial"
        try:
            with self._partial.reader() as lines, open(temporary, "wb") as file:
                self._packing.write(file, lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._target)
            sync_directory(Path(self._target).parent)
            os.unlink(self._partial.path)
        except OSError as error:
            raise BatchFileError(
                f"cannot write the output {self.path}: {error.strerror}; its results are in "
                f"{self.kept_in}, and --resume writes it"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def open_packed_output(path: str, packing: Packing, *, keep: bool, replace: bool) -> PackedOutput:
    """The output, if it may be written, and its partial file, made if there is none, and locked.

    Raises:
      BatchFileError: see `open_result_file`.
    """
    try:
        check_regular(path)
        size = _size(path)
    except OSError as error:
        raise BatchFileError(f"cannot write the output {path}: {error.strerror}") from error
    if os.path.isdir(path):
        raise BatchFileError(f"cannot write the output {path}: Is a directory")
    if size and not (keep or replace):
        raise BatchFileError(
            f"the output {path} exists: --resume answers what is missing in it, "
            "--overwrite begins anew"
        )
    partial = open_result_file(path + PARTIAL_SUFFIX, keep=keep, replace=replace)
    return PackedOutput(path, packing, partial)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
