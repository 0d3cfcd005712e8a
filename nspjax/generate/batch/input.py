"""The input of a batch job: checked as a whole first, then read request by request.

Long contexts make long lines, so only an index is kept in memory (who, where, digest), never the
requests; they are read again as their turns come.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from nspjax.errors import BatchFileError
from nspjax.generate.batch.input_file import InputFile, InputLine, open_input
from nspjax.generate.batch.lines import BatchLine, shown
from nspjax.generate.batch.work import AskedAnswers, asked_answers

_MOST_PROBLEMS = 5
"""Bad lines that one message names."""


@dataclasses.dataclass(frozen=True, slots=True)
class InputEntry:
    """Where a request stands in the file, and what it was when the file was checked."""

    custom_id: str
    number: int
    n_bytes: int
    digest: str
    asked: AskedAnswers


@dataclasses.dataclass(frozen=True)
class BatchInput:
    """A checked input. by_id: its entries, in the order of the file, as many as were asked for."""

    file: InputFile
    by_id: dict[str, InputEntry]
    limit: int | None = None

    @property
    def among(self) -> str:
        """For messages: what was read of the file, if it is not all."""
        return "" if self.limit is None else f" among its first {self.limit} requests"

    def read(self, entries: Iterable[InputEntry]) -> Iterator[BatchLine]:
        """The requests of `entries`, which are in the order of the file, each read when it is
        asked for.

        Raises:
          BatchFileError: the file changed after it was checked.
        """
        lines = self.file.lines()
        for entry in entries:
            line = next((line for line in lines if line.number >= entry.number), None)
            request = None if line is None or line.number > entry.number else _parse_again(line)
            if request is None or request.digest != entry.digest:
                raise BatchFileError(
                    f"{self.file} changed while the job ran: {self.file.unit} {entry.number} is "
                    "another than when the job began"
                )
            yield request

    def close(self) -> None:
        """Throw the copy of standard input away, if there is one."""
        self.file.close()


def scan_input(path: str, limit: int | None = None) -> BatchInput:
    """Check every line of the file, or as many as have the first `limit` requests, and index it.

    Raises:
      BatchFileError: the file cannot be read, holds no request, or has bad lines or equal
        custom_ids; names up to five lines.
    """
    file = open_input(path)
    try:
        return BatchInput(file, _index(file, limit), limit)
    except BaseException:
        file.close()
        raise


def _index(file: InputFile, limit: int | None) -> dict[str, InputEntry]:
    by_id: dict[str, InputEntry] = {}
    problems: list[str] = []
    for line in file.lines():
        if len(by_id) == limit:
            break
        try:
            request = line.parse()
            _check_new(request.custom_id, by_id, file.unit)
        except BatchFileError as error:
            problems.append(f"{file.unit} {line.number}: {error}")
            continue
        by_id[request.custom_id] = InputEntry(
            request.custom_id,
            line.number,
            line.n_bytes,
            request.digest,
            asked_answers(request),
        )
    if problems:
        raise BatchFileError(f"the input {file} was refused:\n" + _listed(problems, file.unit))
    if not by_id:
        raise BatchFileError(f"the input {file} holds no request: it is empty")
    return by_id


def _check_new(custom_id: str, by_id: dict[str, InputEntry], unit: str) -> None:
    if custom_id in by_id:
        raise BatchFileError(
            f"the custom_id {shown(custom_id)} is that of {unit} {by_id[custom_id].number} too"
        )


def _listed(problems: list[str], unit: str) -> str:
    lines = [f"  {problem}" for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"  … and {len(problems) - _MOST_PROBLEMS} more {unit}s")
    return "\n".join(lines)


def _parse_again(line: InputLine) -> BatchLine | None:
    try:
        return line.parse()
    except BatchFileError:
        return None
