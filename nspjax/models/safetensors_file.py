"""Safetensors files: the tensors that a header names, and their values.

A file is: the header's length (8 bytes, little endian), the header, a JSON object {name: {dtype,
shape, data_offsets}}, and the values, without gaps
(https://github.com/huggingface/safetensors#format). The `safetensors` package maps the file, which
`model_file` does not want; what it checks of a header is checked here.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from nspjax.errors import CheckpointError
from nspjax.models.json_file import parse_json, shown
from nspjax.models.model_file import ModelFile, opened

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F64": np.dtype(np.float64),
}
"""Those whose values are read, by safetensors' names."""

MOST_HEADER_BYTES = 100_000_000  # the format's own limit
MOST_AXES = 16
LENGTH_BYTES = 8


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor of a shard, not read yet. dtype as safetensors spells it, e.g. "BF16".

    offset: of its first byte in the shard, n_bytes: all of them. version: the shard's, when its
    header was read.
    """

    name: str
    shard: Path
    shape: tuple[int, ...]
    dtype: str
    offset: int
    n_bytes: int
    version: tuple[int, ...]

    def read(self) -> np.ndarray:
        """The values, in a buffer of their own.

        Raises:
          CheckpointError: the file cannot be read any more, or is another one by now.
        """
        values = np.empty(self.shape, DTYPES[self.dtype])
        # opened anew for each tensor: a checkpoint can have more shards than a process has files
        try:
            with opened(self.shard) as file:
                if file.version != self.version:
                    raise CheckpointError(
                        f"{self.shard} was changed while it was loaded ({file.n_bytes} bytes now)"
                    )
                file.read_into(values.reshape(-1).view(np.uint8).data, self.offset)
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.shard} was removed while it was loaded") from error
        return values


def shard_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, from its header alone.

    Raises:
      FileNotFoundError: there is no such file.
      CheckpointError: it is truncated or damaged, or no safetensors file.
    """
    with opened(path) as file:
        try:
            return _tensors(file)
        except _DamagedError as error:
            raise CheckpointError(
                f"{path} ({file.n_bytes} bytes) is truncated or damaged, or no safetensors file: "
                f"{error}. Download it again"
            ) from error


class _DamagedError(Exception):
    """What is wrong with a header."""


def _tensors(file: ModelFile) -> dict[str, StoredTensor]:
    if file.n_bytes < LENGTH_BYTES:
        raise _DamagedError("it has no header")
    header_bytes = int.from_bytes(file.read(LENGTH_BYTES), "little")
    begin = LENGTH_BYTES + header_bytes
    if header_bytes > MOST_HEADER_BYTES or begin > file.n_bytes:
        raise _DamagedError(f"its header would have {header_bytes} bytes")
    try:
        header = parse_json(file.read(header_bytes, LENGTH_BYTES), "its header")
    except CheckpointError as error:
        raise _DamagedError(str(error)) from error
    header.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry, begin, file) for name, entry in header.items()}
    end = begin
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.n_bytes)):
        if tensor.offset != end:
            where = "before" if tensor.offset < end else "behind"
            raise _DamagedError(
                f"{shown(tensor.name)} begins {where} the end of the tensor before it"
            )
        end += tensor.n_bytes
    if end != file.n_bytes:
        raise _DamagedError(f"its tensors end at byte {end}")
    return tensors


def _tensor(name: str, entry: Any, begin: int, file: ModelFile) -> StoredTensor:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if (
        not isinstance(dtype, str)
        or not _are_sizes(shape)
        or not _are_sizes(offsets)
        or len(shape) > MOST_AXES
        or len(offsets) != 2
        or offsets[0] > offsets[1]
        or math.prod(size or 1 for size in shape) >= 2**63
    ):
        raise _DamagedError(f"it describes {shown(name)} as {shown(entry)}")
    n_bytes = offsets[1] - offsets[0]
    if dtype in DTYPES and n_bytes != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _DamagedError(f"{shown(name)}, {dtype} {shown(shape)}, has {n_bytes} bytes")
    offset = begin + offsets[0]
    return StoredTensor(name, file.path, tuple(shape), dtype, offset, n_bytes, file.version)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
