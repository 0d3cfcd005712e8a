"""An input as lines of JSON, whatever it is: plain or compressed lines, a table, standard input."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from nspjax.errors import BatchFileError
from nspjax.generate.batch import compression, parquet_requests
from nspjax.generate.batch.lines import BatchLine, parse_line

STANDARD_INPUT = "-"

_IN_MEMORY_BYTES = 64 << 20
"""Of standard input. The rest of it lies in a temporary file."""


@dataclasses.dataclass(frozen=True)
class InputLine:
    """A request as it stands in an input. number: from 1, blank lines counted."""

    number: int
    n_bytes: int
    text: bytes | BatchLine

    def parse(self) -> BatchLine:
        """Raises:
        BatchFileError: the line is no request.
        """
        return self.text if isinstance(self.text, BatchLine) else parse_line(self.text)


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A file that can be read from its begin as often as need be. Made by `open_input`.

    path: "-" is standard input, of which there is a copy then.
    """

    path: str
    is_table: bool = False
    copy: BinaryIO | None = None

    @property
    def unit(self) -> str:
        """What the file has of requests, for messages."""
        return "row" if self.is_table else "line"

    def __str__(self) -> str:
        return "standard input" if self.copy is not None else self.path

    def lines(self) -> Iterator[InputLine]:
        """All requests, in their order.

        Raises:
          BatchFileError: the file cannot be read, or not to its end.
        """
        with _readable(self), self.opened() as file:
            if self.is_table:
                for number, text in parquet_requests.lines(file):
                    n_bytes = 0 if isinstance(text, BatchLine) else len(text)
                    yield InputLine(number, n_bytes, text)
            else:
                with compression.damage(str(self)):
                    yield from _text_lines(compression.reader(file))

    def close(self) -> None:
        """Throw the copy away."""
        if self.copy is not None:
            self.copy.close()

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file at its begin, as it is."""
        if self.copy is not None:
            self.copy.seek(0)
            yield self.copy
            return
        _check_regular(self.path)
        with open(self.path, "rb") as file:
            yield file


def open_input(path: str) -> InputFile:
    """The input, whatever it is. Standard input is read to its end now.

    Raises:
      BatchFileError: it cannot be read.
    """
    copy = _copy_of_standard_input() if path == STANDARD_INPUT else None
    file = InputFile(path, copy=copy)
    with _readable(file), file.opened() as content:
        return dataclasses.replace(file, is_table=parquet_requests.is_table(content))


@contextlib.contextmanager
def _readable(path: object) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise BatchFileError(f"cannot read the input {path}: {reason}") from error


def _copy_of_standard_input() -> BinaryIO:
    copy = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, prefix="nspjax-input-")  # noqa: SIM115
    try:
        shutil.copyfileobj(sys.stdin.buffer, copy)
    except OSError as error:
        raise BatchFileError(
            f"cannot keep a copy of standard input in {tempfile.gettempdir()}: {error.strerror}; "
            "set TMPDIR to a directory with room, or give a file"
        ) from error
    return copy  # pyright: ignore[reportReturnType]


def _check_regular(path: str) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise BatchFileError(
            f"the input {path} must be an ordinary file, as it is read twice, to check it first; "
            f"give a pipe as standard input, with {STANDARD_INPUT}"
        )


def _text_lines(file: Iterable[bytes]) -> Iterator[InputLine]:
    """The lines that are not blank."""
    for number, raw in enumerate(file, 1):
        text = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if text.strip():
            yield InputLine(number, len(text), text.rstrip(b"\r\n"))
