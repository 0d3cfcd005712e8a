"""`cached_attention`: append to a KV cache and attend over it, as one marked operation.

The mark is a `jax.lax.composite`: lowering keeps it as one `stablehlo.composite` whose
decomposition is the plain JAX below. Left alone it just runs, on any backend.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from nspjax.ops.attention_arguments import (
    check_arguments,
    scale_setting,
    softcap_setting,
    window_setting,
)
from nspjax.ops.blockwise import blockwise_attention
from nspjax.ops.cache import KVCache, as_int32
from nspjax.ops.transforms import without_transforms

CACHED_ATTENTION = "nspjax.cached_attention"
"""The composite's name. Operands: q, k, v, cache.k, cache.v, rows, start, n_new; attributes:
scale, window, softcap, all_rows; results: out, cache.k, cache.v."""


def cached_attention(
    q: Array,
    k: Array,
    v: Array,
    cache: KVCache,
    *,
    rows: ArrayLike | None = None,
    n_new: ArrayLike | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> tuple[Array, KVCache]:
    """Append k, v to the cache and attend over what it then holds.

    Args:
      q: [B, T, Hq, D], float32, bfloat16 or float16. Hq is a multiple of Hkv; each group of
        Hq / Hkv heads shares one KV head.
      k, v: [B, T, Hkv, D], in the cache's dtype. Row b's tokens go to the positions
        `cache.lengths[rows[b]] ...` of its row, rotated already where the model rotates.
      cache: the layer's cache. It is linear where it lives on storage: use the returned one.
      rows: integers [B], the distinct cache rows of the batch rows. None: all of them, B = S.
      n_new: integers [B], how many of the T tokens of each row count (ragged prompts, idle rows);
        the rest is padding, whose outputs mean nothing. None: all T.
      scale: multiplies q·k; default D ** -0.5.
      window: each query sees at most this many tokens, itself included. None: all.
      softcap: scores become softcap * tanh(scores / softcap). None: as they are.

    Returns:
      out [B, T, Hq, D] in q's dtype (0 for a row with n_new 0 and T 1), and the longer cache.

    Values that only a run tells: a batch row whose tokens do not fit into its cache row (length +
    n_new > C), whose row, length or n_new is out of range, or whose row is given twice, is refused
    by a store. In memory its output is NaN, nothing of it is written, and its length becomes C + 1,
    so that it stays NaN until `with_lengths` restarts it or rolls it back. With n_new 0 a row is
    idle, and nothing else of it matters.

    There is no vmap (rows are the batch) and no gradient.

    Raises:
      InvalidArgumentError: shapes, dtypes or settings do not fit together, or T > C.
    """
    row_numbers = None if rows is None else as_int32("rows", rows)
    counts = None if n_new is None else as_int32("n_new", n_new)
    check_arguments(q, k, v, cache, row_numbers, counts)
    batch, n_tokens, _, head_dim = q.shape
    lengths = jax.device_put(as_int32("cache.lengths", cache.lengths))
    if row_numbers is None:
        at, start = jnp.arange(batch, dtype=jnp.int32), lengths
    else:
        # A row that does not exist gets any start. Written as a model writes it, on the host if
        # rows are there, so that passes see one value.
        with jax.transfer_guard("allow"):
            start = lengths[row_numbers]
        at = jax.device_put(row_numbers)
    new = jnp.full((batch,), n_tokens, jnp.int32) if counts is None else jax.device_put(counts)
    mark = functools.partial(
        lax.composite(append_and_attend, name=CACHED_ATTENTION, version=1),
        scale=head_dim**-0.5 if scale is None else scale_setting(scale),
        window=0 if window is None else window_setting(window),
        softcap=0.0 if softcap is None else softcap_setting(softcap),
        all_rows=row_numbers is None,
    )
    call = without_transforms(mark, "cached_attention", "give it all rows as one batch")
    out, keys, values = call(q, k, v, cache.k, cache.v, at, start, new)
    capacity = cache.capacity_tokens
    after = jnp.where(_fits(start, new, n_tokens, capacity), start + new, capacity + 1)
    if row_numbers is not None:
        # an index past the end is dropped
        changes = (at >= 0) & (at < cache.batch) & (new != 0)
        after = lengths.at[jnp.where(changes, at, cache.batch)].set(after, mode="drop")
    return out, KVCache(keys, values, after)


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
    n_tokens, capacity = q.shape[1], cache_k.shape[1]
    fits = _fits(start, n_new, n_tokens, capacity)
    if not all_rows:
        fits &= _once(rows, n_new, cache_k.shape[0])
    start, n_new = jnp.where(fits, start, 0), jnp.where(fits, n_new, 0)
    offset = jnp.arange(n_tokens, dtype=jnp.int32)[None]  # [1, T]
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
    out = jnp.where(fits[:, None, None, None], out, jnp.nan)
    return out.astype(q.dtype), cache_k, cache_v


def _fits(start: Array, n_new: Array, n_tokens: int, capacity: int) -> Array:
    """bool [B]: whether a store would take a row's tokens, as far as the row alone tells."""
    # in an order in which nothing overflows
    takes = (n_new > 0) & (n_new <= n_tokens) & (start >= 0) & (start <= capacity - n_new)
    return (n_new == 0) | takes


def _once(rows: Array, n_new: Array, n_rows: int) -> Array:
    """bool [B]: whether a row exists and no other batch row has tokens for it; or it is idle."""
    busy = n_new != 0
    others = ~jnp.eye(rows.shape[0], dtype=bool) & busy[None]
    twice = ((rows[:, None] == rows[None]) & others).any(axis=1)
    return ~busy | ((rows >= 0) & (rows < n_rows) & ~twice)


def _put(stored: Array, new: Array, *, rows: Array, token: Array) -> Array:
    return stored.at[rows[:, None], token].set(new, mode="drop")
