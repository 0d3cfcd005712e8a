"""One tensor of a GGUF file, decoded a few rows at a time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from nspjax.errors import CheckpointError
from nspjax.models.gguf.blocks import block_types, decoded
from nspjax.models.model_file import opened
from nspjax.models.stored_tensor import StoredTensor

_CHUNK_VALUES = 1 << 20
"""Decoded together: the package's intermediates are several times as large."""


@dataclasses.dataclass(frozen=True)
class GgufTensor(StoredTensor):
    """begin: its first byte in the file.

    n_interleaved_heads: its rows are of so many heads, and those of each head lie as llama.cpp
    rotates them, in pairs (2 i, 2 i + 1); they are read in the order of pairs (i, i + D / 2). 0:
    rows are read as they lie.
    """

    begin: int
    n_interleaved_heads: int = 0

    @property
    def readable(self) -> tuple[str, ...]:
        return tuple(block_types())

    def read(self) -> np.ndarray:
        return self.read_as(np.dtype(np.float32))

    def read_as(self, dtype: np.dtype) -> np.ndarray:
        """The values, decoded to float32 and cast."""
        kind = block_types()[self.dtype]
        row_values = self.shape[-1] if self.shape else 1
        n_rows = math.prod(self.shape[:-1])
        row_bytes = row_values * kind.n_bytes // kind.n_values
        values = np.empty((n_rows, row_values), dtype)
        place = self._places(n_rows) if len(self.shape) > 1 else np.arange(n_rows)
        step = max(1, _CHUNK_VALUES // max(1, row_values))
        try:
            with opened(self.shard) as file:
                if file.version != self.version:
                    raise CheckpointError(
                        f"{self.shard} was changed while it was loaded ({file.n_bytes} bytes now)"
                    )
                for first in range(0, n_rows, step):
                    rows = min(step, n_rows - first)
                    data = file.read(rows * row_bytes, self.begin + first * row_bytes)
                    blocks = np.frombuffer(data, np.uint8).reshape(rows, row_bytes)
                    values[place[first : first + rows]] = decoded(blocks, kind)
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.shard} was removed while it was loaded") from error
        if len(self.shape) == 1:
            values[0, self._places(row_values)] = values[0].copy()
        return values.reshape(self.shape)

    def _places(self, n_rows: int) -> np.ndarray:
        """Where the rows of the file go: a vector's values are as many rows."""
        rows = np.arange(n_rows)
        if not self.n_interleaved_heads:
            return rows
        return rows.reshape(self.n_interleaved_heads, 2, -1).swapaxes(1, 2).reshape(-1)
