"""The output file of a batch job: append-only, so that a kill at any moment loses no answer.

A result is one `write()` of one whole line to a file opened with O_APPEND. What the process wrote
survives its death; against a power cut the file is synced at most once a second, and at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from types import TracebackType

import orjson

from nspjax.errors import BatchFileError
from nspjax.generate.batch.input import BatchInput
from nspjax.generate.batch.lines import shown
from nspjax.generate.batch.results import ID_PREFIX, LINE_BEGIN, result_id

SYNC_SECONDS = 1.0
"""A line is synced to the disk with the first line written this long after the last sync."""


class BatchOutput:
    """The output file, locked for as long as it is open. Made by `open_output`."""

    def __init__(self, path: str, fd: int):
        self.path = path
        self._fd = fd
        self._synced_at = time.monotonic()

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def truncate(self, size: int = 0) -> None:
        """Cut the file after its first `size` bytes."""
        os.ftruncate(self._fd, size)

    def append(self, line: bytes) -> None:
        """Write one result line, all of it or, where that fails, nothing.

        Raises:
          BatchFileError: the write failed, for example because the disk is full.
        """
        start = self.size()
        try:
            written = os.write(self._fd, line)
            while written < len(line):  # the disk is nearly full: the next write says so
                written += os.write(self._fd, line[written:])
            if time.monotonic() - self._synced_at >= SYNC_SECONDS:
                self.sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, start)
            raise BatchFileError(
                f"cannot write the output {self.path}: {error.strerror}"
            ) from error

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        os.fsync(self._fd)
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Sync the file and give up its lock."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.fsync(fd)
            except OSError as error:
                raise BatchFileError(f"cannot sync {self.path}: {error.strerror}") from error
            finally:
                os.close(fd)

    def __enter__(self) -> BatchOutput:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_output(path: str, *, keep: bool, replace: bool) -> BatchOutput:
    """The output file, made if there is none, and locked. Its content is not yet touched.

    keep, replace: which content is welcome: earlier results (--resume), or any (--overwrite).

    Raises:
      BatchFileError: it cannot be written, another job writes it, or it holds something and
        neither `keep` nor `replace` is said.
    """
    try:
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
    return BatchOutput(path, fd)


def _check_fresh(path: str, fd: int, keep: bool, replace: bool) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BatchFileError(f"the output {path} must be an ordinary file")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BatchFileError(f"another job is writing the output {path}") from error
    except OSError as error:
        raise BatchFileError(f"cannot lock the output {path}: {error.strerror}") from error
    if os.fstat(fd).st_size and not (keep or replace):
        raise BatchFileError(
            f"the output {path} exists: --resume answers what is missing in it, "
            "--overwrite begins anew"
        )


def finished_ids(output: BatchOutput, batch: BatchInput, model: str) -> dict[str, bool]:
    """custom_id -> whether it was answered (False: an error line), of the results in `output`.

    A last line that a crash left torn is cut off.

    Raises:
      BatchFileError: the file holds other things than results of this input by this model.
    """
    done: dict[str, bool] = {}
    numbers: dict[str, int] = {}
    offset, total = 0, output.size()
    with open(output.path, "rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"line {number} of the output {output.path}"
            result = _result(raw)
            if result is None:
                if offset + len(raw) < total or not _is_torn(raw):
                    raise BatchFileError(f"{where} is no result line: is this another file?")
                output.truncate(offset)
                break
            custom_id = result["custom_id"]
            if custom_id in numbers:
                raise BatchFileError(
                    f"{where} answers {shown(custom_id)}, as line {numbers[custom_id]} did"
                )
            _check_same_request(result, batch, where)
            _check_same_model(result, model, where)
            numbers[custom_id] = number
            done[custom_id] = result.get("error") is None
            offset += len(raw)
    return done


def _result(raw: bytes) -> dict | None:
    """The result in a line, None where it is no whole result line."""
    if not raw.endswith(b"\n"):
        return None
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    whole = isinstance(value, dict) and isinstance(value.get("custom_id"), str)
    return value if whole and isinstance(value.get("response"), dict) else None


def _is_torn(raw: bytes) -> bool:
    """Whether a crash can have made `raw` of a result line; a stranger's text is left alone."""
    begin = raw.rstrip(b"\0\n")[: len(LINE_BEGIN)]  # a power cut can leave zeros
    return LINE_BEGIN.startswith(begin)


def _check_same_request(result: dict, batch: BatchInput, where: str) -> None:
    custom_id, found = result["custom_id"], result.get("id")
    if custom_id not in batch.by_id:
        raise BatchFileError(
            f"{where} answers {shown(custom_id)}, which the input {batch.path} does not have: "
            "is it the output of another input?"
        )
    entry = batch.by_id[custom_id]
    ours = isinstance(found, str) and found.startswith(ID_PREFIX)
    if ours and found != result_id(entry.digest):
        raise BatchFileError(
            f"{where} answers {shown(custom_id)} as it was before: line {entry.number} of "
            f"{batch.path} has changed since. Give the request another custom_id, delete its "
            "result line, or start again with --overwrite"
        )


def _check_same_model(result: dict, model: str, where: str) -> None:
    body = result["response"].get("body")
    answered_by = body.get("model", model) if isinstance(body, dict) else model
    if answered_by != model:
        raise BatchFileError(
            f"{where} was answered by {shown(answered_by)}, and this job's model is "
            f"{shown(model)}: choose another output, or --overwrite"
        )
