"""offload-kv: the KV cache moves to the store, and decode attention with it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp.cache_flow import cache_marks, cache_of, cache_values
from nspjax.compiler.nsp.cache_use import check_used_once
from nspjax.ops.blockwise import blockwise_attention, merge_partials
from nspjax.ops.rows import TAKE_ROWS
from nspjax.runtime.handle import HANDLE_INTEGERS

Cache = dict[str, Any]
"""cache_shape and cache_dtype, of every operation that has the cache's handle"""


@dataclasses.dataclass(frozen=True)
class OffloadKV:
    """Retype every KV cache to a handle; turn each mark into nsp.append and nsp.attend.

    One new token a row (decode): it is appended, then the store attends over all. Several
    (prefill, extension): the store attends over what it held before, the compute device over the
    new tokens, and the two partial results are merged by log-sum-exp; HILOS (arXiv 2502.09921)
    likewise keeps prefill attention on the compute device. A KVCache.take_rows becomes an
    nsp.take_rows.
    """

    name: ClassVar[str] = "offload-kv"
    stage: ClassVar[nsp.Stage] = nsp.Stage.OFFLOADED

    def run(self, module: mlir.Module) -> mlir.Module:
        marks = cache_marks(module)
        caches = [mlir.tensor(cache_of(mark)) for mark in marks]
        handle = mlir.tensor_type((HANDLE_INTEGERS,), "i32", module.context)
        values = cache_values(module)
        check_used_once(module, values)
        for value in values:
            value.set_type(handle)
        mlir.mark_cache_arguments(module, ())  # they are handles now
        for mark, (shape, element) in zip(marks, caches, strict=True):
            _rewrite(module, mark, {"cache_shape": shape, "cache_dtype": element})
        mlir.update_function_types(module)
        mlir.remove_unused_functions(module)
        return module


def _rewrite(module: mlir.Module, mark: mlir.Operation, cache: Cache) -> None:
    if mlir.composite_name(mark) == TAKE_ROWS:
        _take_rows(mark, cache)
    elif mlir.tensor(mark.operands[0])[0][1] == 1:
        _decode(module, mark, cache)
    else:
        _extend(module, mark, cache)


def _take_rows(mark: mlir.Operation, cache: Cache) -> None:
    handle_k, handle_v, order, lengths = mark.operands
    taken = nsp.TAKE_ROWS.build(
        mlir.Builder(mark), handle=(handle_k, handle_v), order=order, length=lengths, **cache
    )
    mlir.replace(mark, list(nsp.next_handle(taken)))


def _decode(module: mlir.Module, mark: mlir.Operation, cache: Cache) -> None:
    q, k, v, handle_k, handle_v, rows, start, n_new = mark.operands
    build = mlir.Builder(mark)
    (length,) = build.call(
        mlir.splice(module, "nsp.decode_length", _decode_length, start, n_new), (start, n_new)
    )
    append = nsp.APPEND.build(
        build, handle=(handle_k, handle_v), k=k, v=v, rows=rows, start=start, n_new=n_new, **cache
    )
    attend = nsp.ATTEND.build(
        build,
        handle=nsp.next_handle(append),
        q=q,
        rows=rows,
        position=start,
        length=length,
        **_settings(mark),
        **cache,
    )
    out = build.op("stablehlo.convert", [nsp.result(attend, "out")], [mark.results[0].type])
    mlir.replace(mark, [*out, *nsp.next_handle(attend)])


def _extend(module: mlir.Module, mark: mlir.Operation, cache: Cache) -> None:
    q, k, v, handle_k, handle_v, rows, start, n_new = mark.operands
    build = mlir.Builder(mark)
    (stored,) = build.call(
        mlir.splice(module, "nsp.stored_length", _stored_length, start, n_new), (start, n_new)
    )
    settings = _settings(mark)
    attend = nsp.ATTEND.build(
        build,
        handle=(handle_k, handle_v),
        q=q,
        rows=rows,
        position=start,
        length=stored,
        **settings,
        **cache,
    )
    append = nsp.APPEND.build(
        build,
        handle=nsp.next_handle(attend),
        k=k,
        v=v,
        rows=rows,
        start=start,
        n_new=n_new,
        **cache,
    )
    name = "nsp.attend_new." + "_".join(f"{key}{value}" for key, value in settings.items())
    attend_new = functools.partial(_attend_new, **settings)
    # two calls, so that the first can run while the store attends
    new = build.call(mlir.splice(module, name, attend_new, q, k, v, n_new), (q, k, v, n_new))
    parts = (nsp.result(attend, "out"), nsp.result(attend, "lse"), *new)
    element = mlir.tensor(q)[1]
    merge = functools.partial(_merge, dtype=mlir.dtype(element))
    out = build.call(mlir.splice(module, f"nsp.merge.{element}", merge, *parts), parts)
    mlir.replace(mark, [*out, *nsp.next_handle(append)])


def _settings(mark: mlir.Operation) -> dict[str, Any]:
    """What attention it is."""
    given = mlir.attributes_of(mark)
    return {name: mlir.number(given[name]) for name in ("scale", "window", "softcap")}


# ---- computation that the pass inserts, as JAX functions ----------------------------------------


def _decode_length(start: Array, n_new: Array) -> Array:
    """Tokens that a decode step's query sees; 0 leaves an idle row alone. int32 [B]"""
    return jnp.where(n_new > 0, start + 1, 0)


def _stored_length(start: Array, n_new: Array) -> Array:
    """Tokens stored before the new ones; 0 leaves an idle row alone. int32 [B]"""
    return jnp.where(n_new > 0, start, 0)


def _attend_new(
    q: Array, k: Array, v: Array, n_new: Array, *, scale: float, window: int, softcap: float
) -> tuple[Array, Array]:
    """The new tokens among themselves: out float32 [B, T, Hq, D], lse float32 [B, T, Hq]."""
    at_zero = jnp.zeros_like(n_new)
    return blockwise_attention(
        q, k, v, None, at_zero, n_new, scale=scale, window=window, softcap=softcap
    )


def _merge(out: Array, lse: Array, new_out: Array, new_lse: Array, *, dtype: jnp.dtype) -> Array:
    """The store's partial result over the old tokens, and that over the new ones, as one."""
    return merge_partials(out, lse, new_out, new_lse)[0].astype(dtype)
