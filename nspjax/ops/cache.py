"""The ordinary in-memory KV cache of one layer."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


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
        return KVCache(
            jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((batch,), jnp.int32)
        )

    @property
    def batch(self) -> int:
        return self.k.shape[0]

    @property
    def capacity_tokens(self) -> int:
        return self.k.shape[1]

    def with_lengths(self, lengths: jax.Array) -> KVCache:
        """The same cache with other row lengths, each at most the present one."""
        return dataclasses.replace(self, lengths=lengths)


class CacheArray(jax.ShapeDtypeStruct):
    """Shape and dtype of an argument that is the keys or the values [B, C, Hkv, D] of a cache, in
    a function that does not keep them in a KVCache."""
