"""Attention over rows whose X is stored: K and V are made again, chunk by chunk."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from nspjax.compiler.lowering.chunked_attention import Handles, attend_chunks, fetch

RECOMPUTE = "nspjax.recompute_kv"
"""A composite that stands for a function of the module. Operands: X [N, T, E], the place of each
row's first token, int32 [N], and what else it takes; results: k, v [N, T, Hkv, D]."""


@dataclasses.dataclass(frozen=True)
class XAttention:
    """What the loops of some layers have in common.

    recompute: the name of the function that RECOMPUTE stands for. first_row: of the batch rows,
    where those with X begin, and no others are looked at. x_cache_shape: [S, C, heads, size] of the
    cache with the halves of X as K and V. x_dtype: the model's X; what is stored has the cache's
    dtype.
    """

    recompute: str
    first_row: int
    chunk_tokens: int
    n_kv_heads: int
    x_cache_shape: tuple[int, ...]
    dtype: str
    x_dtype: str
    scale: float
    window: int
    softcap: float

    @property
    def name(self) -> str:
        given = dataclasses.asdict(self)
        given["x_cache_shape"] = "x".join(map(str, self.x_cache_shape))
        return "_".join(["nsp.attend_x", *map(str, given.values())])


def split_x(x: Array, *, n_heads: int, dtype: str) -> tuple[Array, Array]:
    """X [B, T, E] as a cache has it, [B, T, n_heads, E / 2 / n_heads] twice: its two halves."""
    halves = x.astype(dtype).reshape(*x.shape[:2], 2, n_heads, -1)
    return halves[:, :, 0], halves[:, :, 1]


def attend_x(
    settings: XAttention,
    x_k: Array,
    x_v: Array,
    q: Array,
    rows: Array,
    position: Array,
    length: Array,
    *captured: Array,
) -> tuple[Array, Array, Array, Array]:
    """Attention over the rows from settings.first_row on: out, lse as nsp.attend's, and handles.

    x_k, x_v: the handles of the X-cache; q [B, T, Hq, D]; rows, position, length: int32 [B];
    captured: what RECOMPUTE takes after X and places. chunk_tokens, a multiple of T, tokens of
    each row are on the compute device at a time. Memory: X, K and V of a chunk.
    """
    first_row, n = settings.first_row, settings.chunk_tokens
    q, rows, position, length = (value[first_row:] for value in (q, rows, position, length))

    def bring(begin: Array, handles: Handles) -> tuple[Array, Array, Handles]:
        shape = (rows.shape[0], n, *settings.x_cache_shape[2:])
        low, high, handles = fetch(
            handles, rows, begin, length, shape=shape, dtype=settings.dtype, read_ahead=True
        )
        x = jnp.stack([low, high], axis=2).reshape(*shape[:2], -1).astype(settings.x_dtype)
        # rows may end in this chunk; what comes after may be anything, NaN too
        return *_recomputed(settings, x, begin, q, captured), handles

    return attend_chunks(
        bring,
        (x_k, x_v),
        q,
        position,
        length,
        chunk_tokens=n,
        scale=settings.scale,
        window=settings.window,
        softcap=settings.softcap,
    )


def _recomputed(
    settings: XAttention, x: Array, begin: Array, q: Array, captured: tuple[Array, ...]
) -> tuple[Array, Array]:
    """k, v [B, chunk_tokens, Hkv, D]: as many neighbours as q has tokens are a batch row."""
    (batch, n, _), (_, n_tokens, _, head_dim) = x.shape, q.shape
    start = begin + jnp.arange(0, n, n_tokens, dtype=jnp.int32)
    start = jnp.broadcast_to(start, (batch, n // n_tokens)).reshape(-1)
    shape = (start.shape[0], n_tokens, settings.n_kv_heads, head_dim)

    def stand_in(*_: Array) -> tuple[Array, Array]:
        return jnp.zeros(shape, settings.dtype), jnp.zeros(shape, settings.dtype)

    recompute = lax.composite(stand_in, name=RECOMPUTE, version=1)
    k, v = recompute(x.reshape(-1, n_tokens, x.shape[-1]), start, *captured)
    return k.reshape(batch, n, *shape[2:]), v.reshape(batch, n, *shape[2:])
