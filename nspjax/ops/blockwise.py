"""Attention over blocks of queries and keys: memory does not grow with T x C.

Online softmax as in FlashAttention (arXiv 2205.14135), and the log-sum-exp merge of partial
results. Everything is accumulated in float32. What is not finite goes where softmax's plain
arithmetic takes it, and what a query does not see adds nothing, even if it is NaN.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

QUERY_BLOCK_TOKENS = 128
KV_BLOCK_TOKENS = 512


def blockwise_attention(
    q: Array,
    k: Array,
    v: Array,
    rows: Array | None,
    position: Array,
    length: Array,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> tuple[Array, Array]:
    """Attention of new queries over stored tokens, causal by absolute position.

    q: [B, T, Hq, D]; k, v: [S, C, Hkv, D]; rows: int32 [B], the row of k and v that each batch row
    reads (None: row b reads row b, and B = S); position: int32 [B], the place of q[:, 0];
    length: int32 [B], the stored tokens that may be seen. Query t sees token j where
    j < length, j <= position + t, and, with a window, j > position + t - window.

    Returns out, float32 [B, T, Hq, D], and lse, float32 [B, T, Hq], the log of the sum of the
    exponentials of the scores. A query that sees nothing gets 0 and -inf; one of which all scores
    are -inf, NaN and -inf, or NaN and NaN where a value that is not finite must not be forgotten.
    """
    b, t, hq, d = q.shape
    block = min(t, QUERY_BLOCK_TOKENS)
    n_blocks = -(-t // block)
    # [n_blocks, B, block, Hq, D]; the padding queries are dropped at the end
    padded = jnp.pad(q, ((0, 0), (0, n_blocks * block - t), (0, 0), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(b, n_blocks, block, hq, d), 1, 0)

    def one(args: tuple[Array, Array]) -> tuple[Array, Array]:
        index, q_block = args
        return _query_block(
            q_block,
            k,
            v,
            rows,
            position + index * block,
            length,
            scale=scale,
            window=window,
            softcap=softcap,
        )

    if n_blocks == 1:
        return one((jnp.int32(0), q))
    out, lse = lax.map(one, (jnp.arange(n_blocks, dtype=jnp.int32), blocks))
    out = jnp.moveaxis(out, 0, 1).reshape(b, n_blocks * block, hq, d)[:, :t]
    lse = jnp.moveaxis(lse, 0, 1).reshape(b, n_blocks * block, hq)[:, :t]
    return out, lse


def _query_block(
    q: Array,
    k: Array,
    v: Array,
    rows: Array | None,
    position: Array,
    length: Array,
    *,
    scale: float,
    window: int,
    softcap: float,
) -> tuple[Array, Array]:
    b, t, hq, d = q.shape
    capacity, hkv = k.shape[1], k.shape[2]
    kv_block = min(capacity, KV_BLOCK_TOKENS)
    # [B, Hkv, G, T, D]
    queries = jnp.moveaxis(q.astype(jnp.float32).reshape(b, t, hkv, hq // hkv, d), 1, 3) * scale
    at = position[:, None] + jnp.arange(t, dtype=jnp.int32)[None]  # [B, T]
    end = jnp.minimum(length, position + t)  # one past the last token that any query sees
    begin = jnp.maximum(position - window + 1, 0) if window else jnp.zeros_like(position)
    begin = jnp.where(begin < end, begin, capacity)
    first = jnp.maximum(at - window + 1, 0) if window else jnp.zeros_like(at)  # [B, T]
    last = jnp.minimum(at + 1, length[:, None])

    def step(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        acc, top, total = carry
        # the last block is moved back to fit; tokens that an earlier block served are masked
        origin = jnp.minimum(index * kv_block, capacity - kv_block)
        token = (origin + jnp.arange(kv_block, dtype=jnp.int32))[None, None]  # [1, 1, K]
        keys = _block(k, rows, origin, kv_block)
        values = _block(v, rows, origin, kv_block)
        scores = jnp.einsum("bhgtd,bkhd->bhgtk", queries, keys)
        if softcap:
            scores = softcap * jnp.tanh(scores / softcap)
        seen = (token >= first[..., None]) & (token < last[..., None])  # [B, T, K]
        seen &= token >= index * kv_block
        scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
        new_top = jnp.maximum(top, scores.max(-1))
        weights = jnp.exp(scores - new_top[..., None])
        fade = jnp.exp(top - new_top)
        total = total * fade + weights.sum(-1)
        acc = acc * fade[..., None] + _weighted(weights, values, seen)
        return acc, new_top, total

    shape = (b, hkv, hq // hkv, t)
    carry = (
        jnp.zeros((*shape, d), jnp.float32),
        jnp.full(shape, jnp.finfo(jnp.float32).min, jnp.float32),  # finite: a score can be -inf
        jnp.zeros(shape, jnp.float32),
    )
    lower = begin.min() // kv_block
    upper = (end.max() + kv_block - 1) // kv_block
    acc, top, total = lax.fori_loop(lower, upper, step, carry)
    sees = (first < last)[:, None, None]
    out = jnp.where(sees[..., None], acc / total[..., None], 0.0)
    lse = jnp.where(sees, top + jnp.log(total), -jnp.inf)
    lse = jnp.where((total == 0) & jnp.isnan(acc).any(-1), jnp.nan, lse)
    return jnp.moveaxis(out, 3, 1).reshape(b, t, hq, d), jnp.moveaxis(lse, 3, 1).reshape(b, t, hq)


def _block(stored: Array, rows: Array | None, first: Array, size: int) -> Array:
    """Tokens first..first+size of the rows, float32 [B, size, Hkv, D]."""
    block = lax.dynamic_slice_in_dim(stored, first, size, axis=1)
    return (block if rows is None else block[rows]).astype(jnp.float32)


def _weighted(weights: Array, values: Array, seen: Array) -> Array:
    """The sums of the values that are seen. weights [B, Hkv, G, T, K], 0 for those that are not;
    values [B, K, Hkv, D]; seen [B, T, K]. Returns [B, Hkv, G, T, D].
    """

    def sums(weights: Array, values: Array) -> Array:
        return jnp.einsum("bhgtk,bkhd->bhgtd", weights, values)

    values = jnp.where(seen.any(1)[..., None, None], values, 0.0)
    if seen.shape[1] == 1:
        return sums(weights, values)

    def not_finite() -> Array:
        # 0 times such a value is NaN, but for a query that does not see it nothing
        def any_of(weights: Array, values: Array) -> Array:
            return sums(weights.astype(jnp.float32), values.astype(jnp.float32)) > 0

        sees = jnp.broadcast_to(seen[:, None, None], weights.shape)
        out = sums(weights, jnp.where(jnp.isfinite(values), values, 0.0))
        out += jnp.where(any_of(weights > 0, values == jnp.inf), jnp.inf, 0.0)
        out -= jnp.where(any_of(weights > 0, values == -jnp.inf), jnp.inf, 0.0)
        nan = any_of(sees, jnp.isnan(values)) | any_of(sees & (weights == 0), jnp.isinf(values))
        return jnp.where(nan, jnp.nan, out)

    finite = jnp.isfinite(values).all()
    return lax.cond(finite, lambda: sums(weights, values), not_finite)


def merge_partials(out_a: Array, lse_a: Array, out_b: Array, lse_b: Array) -> tuple[Array, Array]:
    """One attention result from two over disjoint tokens, weighted by their log-sum-exp.

    out: float32 [..., D]; lse: float32 [...]. A partial of -inf adds nothing, whatever its out is:
    0 if it saw nothing, NaN if all its scores were -inf. Two of them give -inf, and 0 if both are.
    """
    nothing = jnp.maximum(lse_a, lse_b) == -jnp.inf
    base = jnp.where(nothing, 0.0, jnp.maximum(lse_a, lse_b))

    def weighted(out: Array, lse: Array) -> tuple[Array, Array]:
        weight = jnp.exp(lse - base)
        return jnp.where((lse == -jnp.inf)[..., None], 0.0, out * weight[..., None]), weight

    (sum_a, weight_a), (sum_b, weight_b) = weighted(out_a, lse_a), weighted(out_b, lse_b)
    total = weight_a + weight_b
    out = jnp.where(nothing[..., None], out_a + out_b, (sum_a + sum_b) / total[..., None])
    return out, jnp.where(nothing, -jnp.inf, base + jnp.log(total))
