"""Attention over blocks of queries and keys: memory does not grow with T x C.

Online softmax as in FlashAttention (arXiv 2205.14135), and the log-sum-exp merge of partial
results. Everything is accumulated in float32.
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
    exponentials of the scores. A query that sees nothing gets 0 and -inf.
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

    def step(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        acc, top, total = carry
        # the last block is moved back to fit; tokens that an earlier block served are masked
        first = jnp.minimum(index * kv_block, capacity - kv_block)
        token = (first + jnp.arange(kv_block, dtype=jnp.int32))[None]  # [1, K]
        keys = _block(k, rows, first, kv_block)
        values = _block(v, rows, first, kv_block)
        scores = jnp.einsum("bhgtd,bkhd->bhgtk", queries, keys)
        if softcap:
            scores = softcap * jnp.tanh(scores / softcap)
        seen = (token >= index * kv_block) & (token < length[:, None])  # [B, K]
        seen = seen[:, None, :] & (token[None] <= at[..., None])  # [B, T, K]
        if window:
            seen &= token[None] > at[..., None] - window
        scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
        new_top = jnp.maximum(top, scores.max(-1))
        base = jnp.where(jnp.isfinite(new_top), new_top, 0.0)
        weights = jnp.exp(scores - base[..., None])
        fade = jnp.exp(top - base)
        total = total * fade + weights.sum(-1)
        acc = acc * fade[..., None] + jnp.einsum("bhgtk,bkhd->bhgtd", weights, values)
        return acc, new_top, total

    shape = (b, hkv, hq // hkv, t)
    carry = (
        jnp.zeros((*shape, d), jnp.float32),
        jnp.full(shape, -jnp.inf, jnp.float32),
        jnp.zeros(shape, jnp.float32),
    )
    lower = begin.min() // kv_block
    upper = (end.max() + kv_block - 1) // kv_block
    acc, top, total = lax.fori_loop(lower, upper, step, carry)
    out = acc / jnp.where(total > 0, total, 1.0)[..., None]
    lse = top + jnp.log(jnp.where(total > 0, total, 1.0))
    return jnp.moveaxis(out, 3, 1).reshape(b, t, hq, d), jnp.moveaxis(lse, 3, 1).reshape(b, t, hq)


def _block(stored: Array, rows: Array | None, first: Array, size: int) -> Array:
    """Tokens first..first+size of the rows, float32 [B, size, Hkv, D]."""
    block = lax.dynamic_slice_in_dim(stored, first, size, axis=1)
    return (block if rows is None else block[rows]).astype(jnp.float32)


def merge_partials(out_a: Array, lse_a: Array, out_b: Array, lse_b: Array) -> tuple[Array, Array]:
    """One attention result from two over disjoint tokens, weighted by their log-sum-exp.

    out: float32 [..., D]; lse: float32 [...]. Two empty partials (-inf) give 0 and -inf.
    """
    top = jnp.maximum(lse_a, lse_b)
    base = jnp.where(jnp.isfinite(top), top, 0.0)
    weight_a, weight_b = jnp.exp(lse_a - base), jnp.exp(lse_b - base)
    total = weight_a + weight_b
    safe = jnp.where(total > 0, total, 1.0)
    out = (out_a * weight_a[..., None] + out_b * weight_b[..., None]) / safe[..., None]
    return out, jnp.where(total > 0, base + jnp.log(safe), -jnp.inf)
