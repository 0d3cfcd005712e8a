"""Attention at the compute device over what a store gives out chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from nspjax.compiler import mlir, nsp
from nspjax.ops.blockwise import blockwise_attention, merge_partials

FETCH = "nspjax.fetch"
"""A composite that stands for an nsp.fetch, which JAX does not know; see `place_fetches`."""

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
    window: int = 0,
    read_ahead: bool,
) -> tuple[Array, Array, Handles]:
    """Stands for an nsp.fetch: K and V from token `begin` on, as `shape` [B, n_tokens, H, D]."""

    def stand_in(handle_k: Array, handle_v: Array, *_: Array, **__: int) -> tuple[Array, ...]:
        return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), handle_k, handle_v

    mark = lax.composite(stand_in, name=FETCH, version=1)
    operands = (*handles, rows, begin[None], length, *after)
    k, v, *handles_after = mark(*operands, window=window, read_ahead=read_ahead)
    return k, v, (handles_after[0], handles_after[1])


def place_fetches(module: mlir.Module, cache_shape: tuple[int, ...], cache_dtype: str) -> None:
    """Make what `fetch` left in a module operations of the dialect, on a cache of that type."""
    n_own = len(nsp.FETCH.operands)
    for mark in mlir.composites(module, FETCH):
        own: dict[str, Any] = {
            item.name: value for item, value in zip(nsp.FETCH.operands, mark.operands, strict=False)
        }
        attributes = mlir.attributes_of(mark)
        made = nsp.FETCH.build(
            mlir.Builder(mark),
            **own,
            after=list(mark.operands)[n_own:],
            n_tokens=mlir.tensor(mark.results[0])[0][1],
            window=int(mlir.number(attributes["window"])),
            read_ahead=bool(mlir.number(attributes["read_ahead"])),
            cache_shape=cache_shape,
            cache_dtype=cache_dtype,
        )
        mlir.replace(mark, list(made.results))
