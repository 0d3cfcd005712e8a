"""What lines a file should have: enough of each to tell whether the file still has it."""

from __future__ import annotations

import hashlib
from array import array
from typing import BinaryIO

_DIGEST_BYTES = 8


class WrittenLines:
    """The lines of a file from its begin on, in 16 bytes each."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self._sizes = array("Q")
        self._digests = bytearray()

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, line: bytes) -> None:
        """A line that was written, or found there, after those before."""
        self.n_bytes += len(line)
        self._sizes.append(len(line))
        self._digests += _digest(line)

    def changed(self, file: BinaryIO) -> list[int]:
        """The numbers of those lines, from 1, that the file has no longer at their places."""
        numbers = []
        for index, size in enumerate(self._sizes):
            begin = index * _DIGEST_BYTES
            if _digest(file.read(size)) != self._digests[begin : begin + _DIGEST_BYTES]:
                numbers.append(index + 1)
        return numbers


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=_DIGEST_BYTES).digest()
