"""Attention at the compute device over what a store gives out chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from nspjax.ops.blockwise import blockwise_attention, merge_partials

Handles = tuple[Array, Array]
Bring = Callable[[Array, Handles], tuple[Array, Array, Handles]]
"""(the chunk's first token, handles) -> k, v [B, chunk_tokens, Hkv, D], handles"""


def attend_chunks(
    bring: Bring,
    handles: Handles,
    q: Array,
    position: Array,
    length: Array,
    *,
    chunk_tokens: int,
    scale: float,
    window: int,
    softcap: float,
) -> tuple[Array, Array, Array, Array]:
    """nsp.attend's results: out, lse and the handles.

    q: [B, T, Hq, D]; position, length: int32 [B]. One chunk is held at a time. As many are brought
    as the longest row needs; with a window, from the first that a query sees. The handles go
    through the loop, so that data orders the calls.
    """
    last = length.max()
    first = jnp.int32(0)
    if window:
        seen = jnp.where(length > 0, jnp.minimum(position - window + 1, length), last)
        first = jnp.maximum(seen.min(), 0) // chunk_tokens * chunk_tokens

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        begin, handle_k, handle_v, out, lse = carry
        k, v, handles = bring(begin, (handle_k, handle_v))
        # positions are counted from the chunk's first token on; those before it see nothing of it
        here = blockwise_attention(
            q,
            k,
            v,
            None,
            position - begin,
            jnp.clip(length - begin, 0, chunk_tokens),
            scale=scale,
            window=window,
            softcap=softcap,
        )
        return begin + chunk_tokens, *handles, *merge_partials(out, lse, *here)

    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], -jnp.inf, jnp.float32)
    carry = (first, *handles, *nothing)
    _, handle_k, handle_v, out, lse = lax.while_loop(lambda c: c[0] < last, step, carry)
    return out, lse, handle_k, handle_v


def fetch(
    handles: Handles,
    rows: Array,
    begin: Array,
    length: Array,
    *after: Array,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    read_ahead: bool,
) -> tuple[Array, Array, Handles]:
    """The engine's nspjax.fetch: K and V from token `begin` on, as `shape` [B, n_tokens, H, D]."""
    kv = jax.ShapeDtypeStruct(shape, dtype)
    of_handle = jax.ShapeDtypeStruct(handles[0].shape, handles[0].dtype)
    results = (kv, kv, of_handle, of_handle)
    call = jax.ffi.ffi_call("nspjax.fetch", results, has_side_effect=True)
    numbers = {"n_tokens": np.int64(shape[1]), "read_ahead": np.int64(read_ahead)}
    k, v, *handles_after = call(*handles, rows, begin[None], length, *after, **numbers)
    return k, v, (handles_after[0], handles_after[1])
