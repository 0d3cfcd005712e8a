"""Weights are checked once, as they will be used: a NaN among them would be in every answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nspjax.errors import CheckpointError
from nspjax.models.stored_tensor import StoredTensor
from nspjax.models.weight_table import Source

CHUNK_VALUES = 256 * 1024  # and their bits with them stay in a core's cache
_EXPONENTS = {"float32": 0x7F800000, "bfloat16": 0x7F80, "float16": 0x7C00}


def all_finite(values: np.ndarray) -> bool:
    """Whether a float32, bfloat16 or float16 array has neither NaN nor infinity.

    Those are the values whose exponent is all ones; looking at bits takes bfloat16, which NumPy has
    no fast functions for, at the speed of memory.
    """
    mask = _EXPONENTS[values.dtype.name]
    bits = values.reshape(-1).view(f"u{values.dtype.itemsize}")
    exponents = np.empty(min(bits.size, CHUNK_VALUES), bits.dtype)
    for begin in range(0, bits.size, CHUNK_VALUES):
        chunk = bits[begin : begin + CHUNK_VALUES]
        if np.bitwise_and(chunk, mask, out=exponents[: chunk.size]).max() == mask:
            return False
    return True


def check_finite(values: np.ndarray, sources: Sequence[Source]) -> None:
    """Refuse a weight with NaN or infinity, by the tensor that it is from.

    values: the weight, contiguous, in the dtype that it is used in. sources: what filled it.

    Raises:
      CheckpointError: which values of which tensor, and whether the cast made them so.
    """
    if all_finite(values):
        return
    for source in sources:
        bad = ~np.isfinite(source.of_weight(values))
        if bad.any():
            raise CheckpointError(_message(source, bad, values.dtype))
    raise AssertionError("sources fill the whole weight")


def _message(source: Source, bad: np.ndarray, dtype: np.dtype) -> str:
    tensor = source.tensor
    stored = tensor.read()
    damaged = ~np.isfinite(stored)
    if damaged.any():
        return (
            f"{_counted(damaged, tensor, stored)}. The checkpoint is damaged: download it again, "
            "or write it again where it was made"
        )
    wider = {"float16": "load it with dtype bfloat16 or float32 (--dtype)"}
    return (
        f"{_counted(bad, tensor, stored)} in the file ({tensor.dtype}) and overflows in the cast "
        f"to {dtype.name}: {wider.get(dtype.name, 'no dtype that nspjax has holds it')}"
    )


def _counted(bad: np.ndarray, tensor: StoredTensor, stored: np.ndarray) -> str:
    first = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
    return (
        f"{np.count_nonzero(bad)} of {bad.size} values of {tensor.name} in {tensor.shard} are not "
        f"finite: the first, at {list(first)}, is {stored[first]}"
    )
