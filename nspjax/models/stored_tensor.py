"""One tensor of a checkpoint, whatever kind of file it is in."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class StoredTensor(abc.ABC):
    """One tensor of a file, not read yet. dtype as the file spells it, e.g. "BF16".

    version: the file's, when its header was read.
    """

    name: str
    shard: Path
    shape: tuple[int, ...]
    dtype: str
    version: tuple[int, ...]

    @property
    @abc.abstractmethod
    def readable(self) -> tuple[str, ...]:
        """The dtypes whose values can be read from files of this kind."""

    @abc.abstractmethod
    def read(self) -> np.ndarray:
        """The values, in a buffer of their own.

        Raises:
          CheckpointError: the file cannot be read any more, or is another one by now.
        """

    def read_as(self, dtype: np.dtype) -> np.ndarray:
        """The values in `dtype` where they are computed as they are read; else as `read`."""
        del dtype
        return self.read()
