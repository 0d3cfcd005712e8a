"""Results on standard output, and nothing else there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from nspjax.errors import BatchFileError
from nspjax.generate.batch.earlier_result import EarlierResult

_STDOUT, _STDERR = 1, 2


class StandardOutput:
    """Takes the place of standard output: until it is closed, what others write there goes to
    standard error."""

    path = "standard output"
    kept_in = None
    disturbed = False

    def __init__(self) -> None:
        sys.stdout.flush()
        self._fd = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)

    def earlier(self) -> Iterator[EarlierResult]:
        return iter(())

    def begin(self, *, keep: bool) -> None:
        pass

    def append(self, line: bytes) -> None:
        """Write one result line.

        Raises:
          BatchFileError: nobody reads it any more, or it is a file on a full disk.
        """
        try:
            written = 0
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError as error:
            raise BatchFileError(f"cannot write to {self.path}: {error.strerror}") from error

    def close(self, *, complete: bool = False) -> None:
        """Give standard output back."""
        if self._fd < 0:
            return
        sys.stdout.flush()
        os.dup2(self._fd, _STDOUT)
        os.close(self._fd)
        self._fd = -1
