"""nsp.haul as a loop: fetch a chunk of K and V, attend over it, merge."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from nspjax.compiler import mlir, nsp
from nspjax.ops.blockwise import blockwise_attention, merge_partials


@dataclasses.dataclass(frozen=True)
class Haul:
    """What one nsp.haul does: its attributes, and the cache's heads and element type."""

    scale: float
    window: int
    softcap: float
    read_ahead: bool
    chunk_tokens: int
    n_kv_heads: int
    dtype: str


def expand_haul(module: mlir.Module, op: mlir.Operation) -> None:
    """Replace an nsp.haul by a call of `haul`; every layer that hauls alike calls the same."""
    given = {name: mlir.number(op.attributes[name]) for name in nsp.HAUL.attributes}
    settings = Haul(**given, n_kv_heads=nsp.cache_shape(op)[2], dtype=nsp.cache_dtype(op))
    name = "_".join(["nsp.haul", *map(str, dataclasses.astuple(settings))])
    body = mlir.splice(module, name, functools.partial(haul, settings), *op.operands)
    mlir.replace(op, mlir.Builder(op).call(body, list(op.operands)))


def haul(
    settings: Haul,
    handle_k: Array,
    handle_v: Array,
    q: Array,
    rows: Array,
    position: Array,
    length: Array,
    *after: Array,
) -> tuple[Array, Array, Array, Array]:
    """nsp.attend's results, by attention here over what nspjax.fetch brings, chunk by chunk.

    One chunk, k and v [B, chunk_tokens, Hkv, D], is held at a time. As many are fetched as the
    longest row needs; with a window, from the first that a query sees.
    """
    n = settings.chunk_tokens
    last = length.max()
    first = jnp.int32(0)
    if settings.window:
        seen = jnp.where(length > 0, jnp.minimum(position - settings.window + 1, length), last)
        first = jnp.maximum(seen.min(), 0) // n * n

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        begin, handle_k, handle_v, out, lse = carry
        k, v, handle_k, handle_v = _fetch(
            settings, handle_k, handle_v, rows, begin, length, q.shape, after
        )
        # positions are counted from the chunk's first token on; those before it see nothing of it
        here = blockwise_attention(
            q,
            k,
            v,
            None,
            position - begin,
            jnp.clip(length - begin, 0, n),
            scale=settings.scale,
            window=settings.window,
            softcap=settings.softcap,
        )
        return begin + n, handle_k, handle_v, *merge_partials(out, lse, *here)

    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], -jnp.inf, jnp.float32)
    carry = (first, handle_k, handle_v, *nothing)
    _, handle_k, handle_v, out, lse = lax.while_loop(lambda c: c[0] < last, step, carry)
    return out, lse, handle_k, handle_v


_DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16, "f16": jnp.float16}


def _fetch(settings, handle_k, handle_v, rows, begin, length, q_shape, after) -> list[Array]:
    """The chunk from token `begin` on, and the handles: so the calls are ordered by data."""
    batch, _, _, head_dim = q_shape
    kv = jax.ShapeDtypeStruct(
        (batch, settings.chunk_tokens, settings.n_kv_heads, head_dim), _DTYPES[settings.dtype]
    )
    handle = jax.ShapeDtypeStruct(handle_k.shape, handle_k.dtype)
    call = jax.ffi.ffi_call("nspjax.fetch", (kv, kv, handle, handle), has_side_effect=True)
    return call(
        handle_k,
        handle_v,
        rows,
        begin[None],
        length,
        *after,
        n_tokens=np.int64(settings.chunk_tokens),
        read_ahead=np.int64(settings.read_ahead),
    )
