"""`cached_attention`: append to a KV cache and attend over it, as one marked operation.

The mark is a `jax.lax.composite`: lowering keeps it as one `stablehlo.composite` whose
decomposition is the plain JAX below. Left alone it just runs, on any backend.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax

from nspjax.errors import InvalidArgumentError
from nspjax.ops.blockwise import blockwise_attention
from nspjax.ops.cache import KVCache

CACHED_ATTENTION = "nspjax.cached_attention"
"""The composite's name. Operands: q, k, v, cache.k, cache.v, rows, start, n_new; attributes:
scale, window, softcap, all_rows; results: out, cache.k, cache.v."""


def cached_attention(
    q: Array,
    k: Array,
    v: Array,
    cache: KVCache,
    *,
    rows: Array | None = None,
    n_new: Array | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> tuple[Array, KVCache]:
    """Append k, v to the cache and attend over what it then holds.

    Args:
      q: [B, T, Hq, D]. Hq is a multiple of Hkv; each group of Hq / Hkv heads shares one KV head.
      k, v: [B, T, Hkv, D], in the cache's dtype. Row b's tokens go to the positions
        `cache.lengths[rows[b]] ...` of its row, rotated already where the model rotates.
      cache: the layer's cache. It is linear where it lives on storage: use the returned one.
      rows: int32 [B], the distinct cache rows of the batch rows. None: all of them, B = S.
      n_new: int32 [B], how many of the T tokens of each row count (ragged prompts, idle rows);
        the rest is padding, whose outputs mean nothing. None: all T. Values of rows and n_new
        out of range are an error of a store, but in memory nobody looks.
      scale: multiplies q·k; default D ** -0.5.
      window: each query sees at most this many tokens, itself included. None: all.
      softcap: scores become softcap * tanh(scores / softcap). None: as they are.

    Returns:
      out [B, T, Hq, D] in q's dtype (0 for a row with n_new 0 and T 1), and the longer cache.

    Raises:
      InvalidArgumentError: shapes or dtypes do not fit together.
    """
    _check(q, k, v, cache, rows)
    batch, n_tokens, _, head_dim = q.shape
    all_rows = rows is None
    rows = jnp.arange(batch, dtype=jnp.int32) if rows is None else rows.astype(jnp.int32)
    start = cache.lengths if all_rows else cache.lengths[rows]
    n_new = jnp.full((batch,), n_tokens, jnp.int32) if n_new is None else n_new.astype(jnp.int32)
    mark = lax.composite(append_and_attend, name=CACHED_ATTENTION, version=1)
    out, keys, values = mark(
        q,
        k,
        v,
        cache.k,
        cache.v,
        rows,
        start,
        n_new,
        scale=float(head_dim**-0.5 if scale is None else scale),
        window=int(window or 0),
        softcap=float(softcap or 0.0),
        all_rows=all_rows,
    )
    lengths = cache.lengths + n_new if all_rows else cache.lengths.at[rows].add(n_new)
    return out, KVCache(keys, values, lengths)


def append_and_attend(
    q: Array,
    k: Array,
    v: Array,
    cache_k: Array,
    cache_v: Array,
    rows: Array,
    start: Array,
    n_new: Array,
    *,
    scale: float,
    window: int,
    softcap: float,
    all_rows: bool,
) -> tuple[Array, Array, Array]:
    """The reference: what a pass must preserve when it replaces the mark."""
    capacity = cache_k.shape[1]
    offset = jnp.arange(q.shape[1], dtype=jnp.int32)
    # padding goes past the end, where a scatter drops it
    token = jnp.where(offset < n_new[:, None], start[:, None] + offset, capacity)  # [B, T]
    put = functools.partial(_put, rows=rows, token=token)
    cache_k, cache_v = put(cache_k, k), put(cache_v, v)
    out, _ = blockwise_attention(
        q,
        cache_k,
        cache_v,
        None if all_rows else rows,
        start,
        jnp.where(n_new > 0, start + n_new, 0),
        scale=scale,
        window=window,
        softcap=softcap,
    )
    return out.astype(q.dtype), cache_k, cache_v


def _put(stored: Array, new: Array, *, rows: Array, token: Array) -> Array:
    return stored.at[rows[:, None], token].set(new, mode="drop")


def _check(q: Array, k: Array, v: Array, cache: KVCache, rows: Array | None) -> None:
    if not isinstance(cache, KVCache):
        raise InvalidArgumentError(
            f"cached_attention needs a KVCache, got {type(cache).__name__}; a cache that lives in "
            "a Store works only inside a function given to nspjax.near_storage"
        )
    if q.ndim != 4 or k.shape != v.shape or k.ndim != 4 or q.shape[:2] != k.shape[:2]:
        raise InvalidArgumentError(
            "cached_attention needs q [B, T, Hq, D] and k, v [B, T, Hkv, D], got "
            f"q {q.shape}, k {k.shape}, v {v.shape}"
        )
    if k.shape[2:] != cache.k.shape[2:] or q.shape[3] != k.shape[3] or q.shape[2] % k.shape[2]:
        raise InvalidArgumentError(
            f"heads do not fit: q {q.shape}, k {k.shape}, cache {cache.k.shape} (the cache and k "
            "need the same Hkv and D, and Hq must be a multiple of Hkv)"
        )
    if k.dtype != cache.k.dtype or v.dtype != cache.v.dtype:
        raise InvalidArgumentError(
            f"k, v are {k.dtype}, {v.dtype} but the cache is {cache.k.dtype}: cast them first"
        )
    if q.shape[1] == 0:
        raise InvalidArgumentError("cached_attention needs at least one token, got T = 0")
    if rows is not None and rows.shape != q.shape[:1]:
        raise InvalidArgumentError(
            f"rows has shape {rows.shape} for a batch of {q.shape[0]}: give one cache row each"
        )
    if rows is None and q.shape[0] != cache.batch:
        raise InvalidArgumentError(
            f"a batch of {q.shape[0]} rows with a cache of {cache.batch}: say which with rows="
        )
