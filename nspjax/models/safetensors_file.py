"""Safetensors files: the tensors that a header names and their values, read by `safetensors`.

The package maps the file. So the file is checked first, and again before each tensor: to read
the mapping of a file that was cut is a SIGBUS.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from nspjax.errors import CheckpointError
from nspjax.models.model_file import ModelFile, opened
from nspjax.models.stored_tensor import StoredTensor

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F64": np.dtype(np.float64),
}
"""Those whose values are read, by safetensors' names."""
_MOST_SHOWN = 300
"""Characters of the package's message that ours repeats: it may name a tensor at any length."""


@dataclasses.dataclass(frozen=True)
class SafetensorsTensor(StoredTensor):
    """One tensor of a shard. dtype as safetensors spells it."""

    @property
    def readable(self) -> tuple[str, ...]:
        return tuple(DTYPES)

    def read(self) -> np.ndarray:
        # The shard is opened anew for each tensor, so that its pages are given back with it.
        try:
            with opened(self.shard) as file:
                if file.version != self.version:
                    raise CheckpointError(
                        f"{self.shard} was changed while it was loaded ({file.n_bytes} bytes now)"
                    )
                with _mapped(file) as tensors:
                    return tensors.get_tensor(self.name)
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.shard} was removed while it was loaded") from error


def shard_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, from its header alone.

    Raises:
      FileNotFoundError: there is no such file.
      CheckpointError: it is truncated or damaged, or no safetensors file.
    """
    found: dict[str, StoredTensor] = {}
    with opened(path) as file, _mapped(file) as tensors:
        for name in tensors.keys():  # noqa: SIM118 (it is no dict)
            view = tensors.get_slice(name)
            shape, dtype = tuple(view.get_shape()), str(view.get_dtype())
            found[name] = SafetensorsTensor(name, path, shape, dtype, file.version)
    return found


@contextlib.contextmanager
def _mapped(file: ModelFile) -> Iterator[Any]:
    """The file as `safetensors.safe_open` gives it; what it complains about, in our words."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise CheckpointError(
            "reading a checkpoint needs safetensors: pip install 'nspjax[hf]'"
        ) from error
    try:
        with safe_open(file.same_file, framework="numpy") as tensors:
            yield tensors
    except SafetensorError as error:
        raise CheckpointError(
            f"{file.path} ({file.n_bytes} bytes) is truncated or damaged, or no safetensors file: "
            f"{str(error)[:_MOST_SHOWN]}. Download it again"
        ) from error
