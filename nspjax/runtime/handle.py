"""What stands in a program for a KV cache that lives in a store."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from nspjax.ops.cache import KVCache

HANDLE_INTEGERS = 3
"""A handle is int32 [3]: store, cache (one layer's KV), version. The engine checks all three."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("k", "v", "lengths"),
    meta_fields=("shape", "dtype"),
)
@dataclasses.dataclass(frozen=True)
class StoredKVCache:
    """A KVCache whose keys and values are in a Store: pass it to a `near_storage` function.

    It is linear: each call that appends returns the next one, and the one before is stale.
    k, v: int32 [3], handles; lengths: int32 [S]; shape: (S, C, Hkv, D); dtype: of the elements.
    """

    k: jax.Array
    v: jax.Array
    lengths: jax.Array
    shape: tuple[int, ...]
    dtype: np.dtype

    @staticmethod
    def new(store_id: int, cache_id: int, shape: tuple[int, ...], dtype: np.dtype) -> StoredKVCache:
        handle = jnp.array([store_id, cache_id, 0], jnp.int32)
        empty = jnp.zeros(shape[0], jnp.int32)
        return StoredKVCache(handle, handle, empty, shape, dtype).at_version(0, empty)

    @property
    def handle(self) -> jax.Array:
        return self.k

    @property
    def batch(self) -> int:
        return self.shape[0]

    @property
    def capacity_tokens(self) -> int:
        return self.shape[1]

    def with_lengths(self, lengths: jax.Array) -> StoredKVCache:
        """The same cache with other row lengths, each at most the present one."""
        return dataclasses.replace(self, lengths=lengths)

    def at_version(self, version: int, lengths: jax.Array) -> StoredKVCache:
        """The same cache at a version of the engine's, outside any traced function."""
        k, v = (handle.at[2].set(version) for handle in (self.k, self.v))
        # two buffers, so that a caller may donate both
        return dataclasses.replace(self, k=k, v=v, lengths=lengths)

    def spec(self) -> KVCache:
        """The KVCache that this one stands for, as shapes and dtypes."""
        stored = jax.ShapeDtypeStruct(self.shape, self.dtype)
        lengths = jax.ShapeDtypeStruct((self.shape[0],), jnp.int32)
        return KVCache(stored, stored, lengths)  # pyright: ignore[reportArgumentType]
