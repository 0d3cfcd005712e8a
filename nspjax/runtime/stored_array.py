"""What stands in a program for one array of a KV cache, keys or values, that lives in a store."""

from __future__ import annotations

import dataclasses
import functools
from typing import NoReturn

import jax
import numpy as np

from nspjax.errors import InvalidArgumentError
from nspjax.ops.cache import CacheArray


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("handle",), meta_fields=("shape", "dtype")
)
@dataclasses.dataclass(frozen=True)
class StoredArray:
    """Keys or values [B, C, Hkv, D] in a Store, for a model that keeps them as two arrays.

    `Store.kv_pair` makes both; put them where the model has its arrays, and give that to a
    `near_storage` function with `raise-attention` in its pipeline. They are linear: each call
    returns the next ones, and the ones before are stale.

    handle: int32 [4]; shape: (B, C, Hkv, D); dtype: of the elements.
    """

    handle: jax.Array
    shape: tuple[int, ...]
    dtype: np.dtype

    def __jax_array__(self) -> NoReturn:
        raise InvalidArgumentError(
            "a StoredArray stands for the keys or values of a cache in a store, and has no "
            "elements here: give it, as an argument and not closed over, to a near_storage "
            "function with raise-attention in its pipeline"
        )

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def spec(self) -> CacheArray:
        """The array that this one stands for."""
        return CacheArray(self.shape, self.dtype)
