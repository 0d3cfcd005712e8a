"""The input file of a batch job: checked as a whole first, then read line by line.

Long contexts make long lines, so only an index is kept in memory (who, where, digest), never the
requests; a line is read again when its turn comes.
"""

from __future__ import annotations

import codecs
import dataclasses
import os
import stat
from collections.abc import Iterable, Iterator

from nspjax.errors import BatchFileError
from nspjax.generate.batch.lines import BatchLine, parse_line, shown

_MOST_PROBLEMS = 5
"""Bad lines that one message names."""


@dataclasses.dataclass(frozen=True, slots=True)
class InputEntry:
    """Where a request stands in the file, and what it was when the file was checked."""

    custom_id: str
    number: int
    offset: int
    size: int
    digest: str


@dataclasses.dataclass(frozen=True)
class BatchInput:
    """A checked input file. by_id: its entries, in the order of the file."""

    path: str
    by_id: dict[str, InputEntry]

    def read(self, entries: Iterable[InputEntry]) -> Iterator[BatchLine]:
        """The requests of `entries`, each read when it is asked for.

        Raises:
          BatchFileError: the file changed after it was checked.
        """
        with open(self.path, "rb") as file:
            for entry in entries:
                file.seek(entry.offset)
                line = _parse_again(file.read(entry.size))
                if line is None or line.digest != entry.digest:
                    raise BatchFileError(
                        f"{self.path} changed while the job ran: line {entry.number} is another "
                        "than when the job began"
                    )
                yield line


def scan_input(path: str) -> BatchInput:
    """Check every line of the file and index it. Blank lines, CRLF and a BOM are accepted.

    Raises:
      BatchFileError: the file cannot be read, holds no request, or has bad lines or equal
        custom_ids; names up to five lines.
    """
    by_id: dict[str, InputEntry] = {}
    problems: list[str] = []
    try:
        _check_regular(path)
        with open(path, "rb") as file:
            for number, offset, text in _lines(file):
                try:
                    line = parse_line(text)
                    _check_new(line.custom_id, by_id)
                except BatchFileError as error:
                    problems.append(f"line {number}: {error}")
                    continue
                by_id[line.custom_id] = InputEntry(
                    line.custom_id, number, offset, len(text), line.digest
                )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise BatchFileError(f"cannot read the input {path}: {reason}") from error
    if problems:
        raise BatchFileError(f"the input {path} was refused:\n" + _listed(problems))
    if not by_id:
        raise BatchFileError(f"the input {path} holds no request: it is empty")
    return BatchInput(path, by_id)


def _check_regular(path: str) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise BatchFileError(
            f"the input {path} must be an ordinary file: it is read twice, to check it first"
        )


def _lines(file: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """(line number, offset, text) of the lines that are not blank."""
    offset = 0
    for number, raw in enumerate(file, 1):
        start, offset = offset, offset + len(raw)
        if number == 1 and raw.startswith(codecs.BOM_UTF8):
            start, raw = start + len(codecs.BOM_UTF8), raw[len(codecs.BOM_UTF8) :]
        if raw.strip():
            yield number, start, raw.rstrip(b"\r\n")


def _check_new(custom_id: str, by_id: dict[str, InputEntry]) -> None:
    if custom_id in by_id:
        raise BatchFileError(
            f"the custom_id {shown(custom_id)} is that of line {by_id[custom_id].number} too"
        )


def _listed(problems: list[str]) -> str:
    lines = [f"  {problem}" for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"  … and {len(problems) - _MOST_PROBLEMS} more lines")
    return "\n".join(lines)


def _parse_again(text: bytes) -> BatchLine | None:
    try:
        return parse_line(text)
    except BatchFileError:
        return None
