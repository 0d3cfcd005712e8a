"""nsp.haul as a loop: fetch a chunk of K and V, attend over it, merge."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from jax import Array

from nspjax.compiler import mlir, nsp
from nspjax.compiler.lowering.chunked_attention import Handles, attend_chunks, fetch


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
    given: dict[str, Any] = {name: mlir.number(op.attributes[name]) for name in nsp.HAUL.attributes}
    dtype = str(mlir.dtype(nsp.cache_dtype(op)))
    settings = Haul(**given, n_kv_heads=nsp.cache_shape(op)[2], dtype=dtype)
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
    """nsp.attend's results, by attention here over what nspjax.fetch brings, chunk by chunk."""
    shape = (q.shape[0], settings.chunk_tokens, settings.n_kv_heads, q.shape[3])

    def bring(begin: Array, handles: Handles) -> tuple[Array, Array, Handles]:
        return fetch(
            handles,
            rows,
            begin,
            length,
            *after,
            shape=shape,
            dtype=settings.dtype,
            read_ahead=settings.read_ahead,
        )

    return attend_chunks(
        bring,
        (handle_k, handle_v),
        q,
        position,
        length,
        chunk_tokens=settings.chunk_tokens,
        scale=settings.scale,
        window=settings.window,
        softcap=settings.softcap,
    )
