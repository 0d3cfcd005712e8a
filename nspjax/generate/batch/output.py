"""Where the results of a batch job go: a file of lines, a packed file, or standard output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from nspjax.errors import BatchFileError
from nspjax.generate.batch.earlier_result import EarlierResult
from nspjax.generate.batch.packed_output import open_packed_output
from nspjax.generate.batch.packing import packing_of
from nspjax.generate.batch.result_file import open_result_file
from nspjax.generate.batch.standard_output import StandardOutput

STANDARD_OUTPUT = "-"


class Output(Protocol):
    """An output from its opening on. First `earlier`, if it is resumed; then `begin`; then
    `append`. It may be closed at any time."""

    @property
    def path(self) -> str:
        """As the user names it."""
        ...

    @property
    def kept_in(self) -> str | None:
        """The file that has the results before the output is closed, if there is one."""
        ...

    @property
    def disturbed(self) -> bool:
        """Whether somebody else changed that file."""
        ...

    def earlier(self) -> Iterator[EarlierResult]: ...
    def begin(self, *, keep: bool) -> None: ...
    def append(self, line: bytes) -> None: ...
    def close(self, *, complete: bool = False) -> None: ...


def check_kind(path: str, *, keep: bool) -> None:
    """Refuse what needs no look at the input, which may be long.

    Raises:
      BatchFileError: such an output has no earlier results, or takes an extra that is missing.
    """
    if path == STANDARD_OUTPUT and keep:
        raise BatchFileError("standard output has no earlier results: --resume needs a file")
    packing_of(path)


def open_output(path: str, *, keep: bool, replace: bool) -> Output:
    """The output, made if there is none, and locked. Its content is not yet touched.

    keep, replace: which content is welcome: earlier results (--resume), or any (--overwrite).

    Raises:
      BatchFileError: it cannot be written, another job writes it, or it holds something and
        neither `keep` nor `replace` is said.
    """
    if path == STANDARD_OUTPUT:
        return StandardOutput()
    packing = packing_of(path)
    if packing is None:
        return open_result_file(path, keep=keep, replace=replace)
    return open_packed_output(path, packing, keep=keep, replace=replace)
