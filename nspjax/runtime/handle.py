"""What stands in a program for a KV cache that lives in a store."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jax.typing import ArrayLike

from nspjax.errors import InvalidArgumentError
from nspjax.ops.cache import KVCache, row_lengths

HANDLE_INTEGERS = 4
"""A handle is int32 [4]: store, cache (one layer's KV), version, and a check over these and over
what the handle stands for, keys, values or a weight. Only the engine makes handles, and it refuses
what was computed from them."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("k", "v", "lengths"),
    meta_fields=("shape", "dtype"),
)
@dataclasses.dataclass(frozen=True)
class StoredKVCache:
    """A KVCache whose keys and values are in a Store: pass it to a `near_storage` function.

    It is linear: each call that appends returns the next one, and the one before is stale. Handles
    are opaque: rows are reordered with `Store.take_rows`, not by indexing, and rolled back with
    `cut`, not by going on with an older cache.

    k, v: int32 [4], handles; lengths: int32 [S]; shape: (S, C, Hkv, D); dtype: of the elements.
    """

    k: jax.Array
    v: jax.Array
    lengths: jax.Array
    shape: tuple[int, ...]
    dtype: np.dtype

    @staticmethod
    def new(
        handles: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...], dtype: np.dtype
    ) -> StoredKVCache:
        """An empty cache, from handles that the engine made."""
        k, v, lengths = map(own_buffer, (*handles, np.zeros(shape[0], np.int32)))
        return StoredKVCache(k, v, lengths, shape, dtype)

    @property
    def handle(self) -> jax.Array:
        return self.k

    @property
    def batch(self) -> int:
        return self.shape[0]

    @property
    def capacity_tokens(self) -> int:
        return self.shape[1]

    def with_lengths(self, lengths: ArrayLike) -> StoredKVCache:
        """The same cache with other row lengths, each at most the present one.

        Raises:
          InvalidArgumentError: lengths are not integers [S].
        """
        return dataclasses.replace(self, lengths=row_lengths(lengths, self.batch))

    def cut(self, lengths: ArrayLike) -> StoredKVCache:
        """Rows that keep their first `lengths` tokens: all that they have, where that is fewer.
        What the engine has beyond goes when the row is next appended to.

        Raises:
          InvalidArgumentError: lengths are not integers [S].
        """
        return self.with_lengths(jnp.minimum(row_lengths(lengths, self.batch), self.lengths))

    def with_handles(
        self, handles: tuple[np.ndarray, np.ndarray], lengths: jax.Array | np.ndarray
    ) -> StoredKVCache:
        """The same cache at another version of the engine's, outside any traced function."""
        k, v, lengths = map(own_buffer, (*handles, lengths))
        return dataclasses.replace(self, k=k, v=v, lengths=lengths)

    def spec(self) -> KVCache:
        """The KVCache that this one stands for, as shapes and dtypes."""
        stored = jax.ShapeDtypeStruct(self.shape, self.dtype)
        lengths = jax.ShapeDtypeStruct((self.shape[0],), jnp.int32)
        return KVCache(stored, stored, lengths)  # pyright: ignore[reportArgumentType]


def own_buffer(integers: jax.Array | np.ndarray) -> jax.Array:
    """int32 integers in a buffer of their own, so that a caller may donate it."""
    with jax.transfer_guard("allow"):  # these are ours, not the caller's data
        return jax.device_put(np.asarray(integers, np.int32), may_alias=False)


def check_handle(handle: jax.Array) -> None:
    """Refuse by shape and dtype what cannot be a handle; a tracer has nothing else to go by.

    Raises:
      InvalidArgumentError: it cannot.
    """
    if not isinstance(handle, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        raise InvalidArgumentError(
            f"the handle of a stored KV cache or weight is an array, got {repr(handle)[:80]}: give "
            "the cache as the store or the last call returned it"
        )
    if handle.shape != (HANDLE_INTEGERS,) or handle.dtype != np.int32:
        raise InvalidArgumentError(
            f"the handle of a stored KV cache or weight is int32 [{HANDLE_INTEGERS}], got "
            f"{handle.dtype} {list(handle.shape)}: handles cannot be stacked (lax.scan over "
            "layers), batched (vmap), indexed or cast; keep a list of caches, one a layer, and "
            "loop over it in Python"
        )


def handle_integers(handle: jax.Array) -> np.ndarray:
    """A handle as the engine takes it.

    Raises:
      InvalidArgumentError: its shape or dtype is not a handle's, it was donated, or it is traced.
    """
    check_handle(handle)
    if isinstance(handle, core.Tracer):
        raise InvalidArgumentError(
            "a Store's own methods take caches and weights outside traced functions: call them "
            "before or after jax.jit, lax.scan and the like"
        )
    if handle.is_deleted():
        raise InvalidArgumentError(
            "the handle of a stored KV cache or weight was donated to an earlier call, or deleted: "
            "go on with the cache that the call returned"
        )
    return np.asarray(handle)
