"""nsp.haul as a loop: fetch a chunk of K and V, attend over it, merge."""

from __future__ import annotations

import dataclasses
import functools

from jax import Array

from nspjax.compiler import mlir, nsp
from nspjax.compiler.lowering.chunked_attention import (
    Handles,
    attend_chunks,
    fetch,
    place_fetches,
)


@dataclasses.dataclass(frozen=True)
class Haul:
    """The attributes of an nsp.haul."""

    scale: float
    window: int
    softcap: float
    read_ahead: bool
    chunk_tokens: int
    cache_shape: tuple[int, ...]
    cache_dtype: str

    @property
    def text(self) -> str:
        cache = "x".join([*map(str, self.cache_shape), self.cache_dtype])
        numbers = (self.scale, self.window, self.softcap, self.read_ahead, self.chunk_tokens)
        return "_".join(["nsp.haul", cache, *map(str, numbers)])


def expand_haul(module: mlir.Module, op: mlir.Operation) -> None:
    """Replace an nsp.haul by a call of `haul`; every layer that hauls alike calls the same."""
    settings = Haul(**nsp.attributes(op))
    body = mlir.splice(module, settings.text, functools.partial(haul, settings), *op.operands)
    place_fetches(module, settings.cache_shape, settings.cache_dtype)
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
    shape = (q.shape[0], settings.chunk_tokens, *settings.cache_shape[2:])

    def bring(begin: Array, handles: Handles) -> tuple[Array, Array, Handles]:
        return fetch(
            handles,
            rows,
            begin,
            length,
            *after,
            shape=shape,
            dtype=mlir.dtype(settings.cache_dtype),
            window=settings.window,
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
