"""The ordinary in-memory KV cache of one layer."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from nspjax.errors import InvalidArgumentError
from nspjax.ops.rows import take_rows, taken_lengths


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of one layer for S rows (sequences) of up to C tokens each.

    k, v: [S, C, Hkv, D]; lengths: int32 [S], the tokens each row holds. What lies beyond a row's
    length has no meaning. To restart a row, set its length to 0; to roll it back, to less.
    """

    k: jax.Array
    v: jax.Array
    lengths: jax.Array

    @staticmethod
    def zeros(
        batch: int,
        capacity_tokens: int,
        n_kv_heads: int,
        head_dim: int,
        dtype: DTypeLike = jnp.bfloat16,
    ) -> KVCache:
        """An empty cache."""
        shape = (batch, capacity_tokens, n_kv_heads, head_dim)
        with jax.transfer_guard("allow"):  # a zero to fill them with
            return KVCache(
                jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((batch,), jnp.int32)
            )

    @property
    def batch(self) -> int:
        return self.k.shape[0]

    @property
    def capacity_tokens(self) -> int:
        return self.k.shape[1]

    def with_lengths(self, lengths: ArrayLike) -> KVCache:
        """The same cache with other row lengths, each at most the present one.

        Raises:
          InvalidArgumentError: lengths are not integers [S].
        """
        return dataclasses.replace(self, lengths=row_lengths(lengths, self.batch))

    def cut(self, lengths: ArrayLike) -> KVCache:
        """Rows that keep their first `lengths` tokens: all that they have, where that is fewer.

        Nothing moves, in memory or near storage: attention goes by the lengths, and the next
        tokens are written over what was cut. A store gives the room of a cut row's tiles back when
        the row is next appended to.

        Raises:
          InvalidArgumentError: lengths are not integers [S].
        """
        return self.with_lengths(jnp.minimum(row_lengths(lengths, self.batch), self.lengths))

    def take_rows(self, order: ArrayLike) -> KVCache:
        """The cache in which row i goes on as row order[i] was: for beams, which change places,
        end, and become several.

        In memory this is a gather. Near storage it is one call of the engine: rows share their full
        tiles, nothing of which is copied; each has its own newest tokens.

        order: integers [S]. Values that only a run tells: a row that does not exist is refused by
        a store; in memory attention over the row that goes on from it gives NaN.

        Raises:
          InvalidArgumentError: order are not integers [S].
        """
        rows = row_numbers(order, self.batch)
        k, v = take_rows(self.k, self.v, rows, self.lengths)
        return KVCache(k, v, taken_lengths(rows, self.lengths, self.capacity_tokens))


def row_lengths(lengths: ArrayLike, batch: int) -> jax.Array:
    """int32 [S].

    Raises:
      InvalidArgumentError: they are not integers, or not one for each row.
    """
    return _one_a_row("lengths", lengths, batch)


def row_numbers(order: ArrayLike, batch: int) -> jax.Array:
    """int32 [S]. Raises as `row_lengths`."""
    return _one_a_row("order", order, batch)


def _one_a_row(name: str, values: ArrayLike, batch: int) -> jax.Array:
    integers = as_int32(name, values)
    if integers.shape != (batch,):
        raise InvalidArgumentError(
            f"{name} has shape {integers.shape} for a cache of {batch} rows: give one for each"
        )
    return jax.device_put(integers)


def as_int32(name: str, values: ArrayLike) -> jax.Array | np.ndarray:
    """Integers as int32, on the host if they are there; what does not fit stays out of range.

    Raises:
      InvalidArgumentError: they are not integers.
    """
    if not isinstance(values, jax.Array):
        values = np.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise InvalidArgumentError(f"{name} must be integers, got {values.dtype}")
    if values.dtype == jnp.int32 and isinstance(values, jax.Array):
        return values
    own, wide = jnp.iinfo(values.dtype), jnp.iinfo(jnp.int32)
    xp = jnp if isinstance(values, jax.Array) else np
    return xp.clip(values, max(own.min, wide.min), min(own.max, wide.max)).astype(np.int32)


class CacheArray(jax.ShapeDtypeStruct):
    """Shape and dtype of an argument that is the keys or the values [B, C, Hkv, D] of a cache, in
    a function that does not keep them in a KVCache."""
