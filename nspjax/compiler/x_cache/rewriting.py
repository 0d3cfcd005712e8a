"""The layers of a module rewritten: some rows' X in a cache of its own, attention over both."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
from jax import Array

from nspjax.compiler import mlir, nsp
from nspjax.compiler.batch.function import batch_function
from nspjax.compiler.lowering.chunked_attention import place_fetches
from nspjax.compiler.x_cache.attention import RECOMPUTE, XAttention, attend_x, split_x
from nspjax.compiler.x_cache.finding import is_all_rows, place, projection_of, x_heads_of
from nspjax.errors import OffloadError
from nspjax.ops.blockwise import merge_partials


@dataclasses.dataclass
class Layers:
    """Rewrites attention by attention; what layers have in common is there once."""

    module: mlir.Module
    chunk_tokens: int
    x_handles: dict[mlir.Value, nsp.Handle] = dataclasses.field(default_factory=dict)
    """of the X-cache, by K's handle of the cache that is current at the same time"""
    functions: dict[str, str] = dataclasses.field(default_factory=dict)
    """names of recomputing functions, by their text"""

    def rewrite(self, attend: mlir.Operation, append: mlir.Operation, first_row: int) -> None:
        n_rows = nsp.cache_shape(append)[0]
        if first_row == n_rows:
            return
        projection = projection_of(append, attend)
        x = projection.operands[0]
        decomposition = mlir.symbol(projection.attributes["decomposition"])
        mlir.inline_call(projection, mlir.function(self.module, decomposition))
        n_heads, head_dim = x_heads_of(x, append, attend)
        rows = nsp.operand(append, "rows")
        fixed = is_all_rows(rows, n_rows)
        first = attend if attend.is_before_in_block(append) else append
        x_cache = self._x_cache(first, append, n_heads, head_dim)
        settings, captured = self._recomputing(
            attend, append, x, first_row if fixed else 0, _x_shape(append, n_heads, head_dim)
        )
        if first is attend:
            x_cache = self._attend(attend, settings, captured, x_cache, first_row, fixed)
            append, x_cache = self._append(append, x, x_cache, n_heads, first_row)
            self.x_handles[nsp.next_handle(append)[0]] = x_cache
        else:
            _, x_cache = self._append(append, x, x_cache, n_heads, first_row)
            x_cache = self._attend(attend, settings, captured, x_cache, first_row, fixed)
            self.x_handles[nsp.next_handle(attend)[0]] = x_cache

    def _call(self, anchor, name, fn, *operands, behind=False, **settings) -> list[mlir.Value]:
        text = "_".join([f"nsp.{name}", *map(str, settings.values())])
        bound = functools.partial(fn, **settings)
        body = mlir.splice(self.module, text, bound, *operands)
        return mlir.Builder(anchor, behind=behind).call(body, operands)

    def _x_cache(self, anchor, append, n_heads: int, head_dim: int) -> nsp.Handle:
        """The handle of the X-cache, in front of `anchor`."""
        handle = nsp.handle(anchor)
        if handle[0] in self.x_handles:
            return self.x_handles[handle[0]]
        made = nsp.X_CACHE.build(
            mlir.Builder(anchor),
            handle=handle,
            n_heads=n_heads,
            head_dim=head_dim,
            **nsp.cache_attributes(append),
        )
        return nsp.result(made, "x_k"), nsp.result(made, "x_v")

    def _append(
        self, append, x, x_cache: nsp.Handle, n_heads: int, first_row: int
    ) -> tuple[mlir.Operation, nsp.Handle]:
        """Each row's tokens go to one of the two; X first, so that later handles come after it."""
        rows, start, n_new = (nsp.operand(append, name) for name in ("rows", "start", "n_new"))
        dtype = str(mlir.dtype(nsp.cache_dtype(append)))
        halves = self._call(append, "split_x", split_x, x, n_heads=n_heads, dtype=dtype)
        of_x = self._call(append, "for_x_rows", _for_x_rows, rows, n_new, first_row=first_row)
        of_kv = self._call(append, "for_kv_rows", _for_kv_rows, rows, n_new, first_row=first_row)
        made = nsp.APPEND.build(
            mlir.Builder(append),
            handle=x_cache,
            k=halves[0],
            v=halves[1],
            rows=rows,
            start=start,
            n_new=of_x[0],
            hold=nsp.attribute(append, "hold"),
            cache_shape=_x_shape(append, *mlir.tensor(halves[0])[0][2:]),
            cache_dtype=nsp.cache_dtype(append),
        )
        nsp.set_operand(append, "n_new", of_kv[0])
        x_cache = nsp.next_handle(made)
        return mlir.add_operands(append, x_cache[:1]), x_cache

    def _attend(
        self, attend, settings: XAttention, captured, x_cache, first_row: int, fixed: bool
    ) -> nsp.Handle:
        """Attention over the rows with X beside the store's over the others; the X-cache's
        handle."""
        names = ("q", "rows", "position", "length")
        q, rows, position, length = (nsp.operand(attend, name) for name in names)
        of_x = self._call(attend, "for_x_rows", _for_x_rows, rows, length, first_row=first_row)
        of_kv = self._call(attend, "for_kv_rows", _for_kv_rows, rows, length, first_row=first_row)
        nsp.set_operand(attend, "length", of_kv[0])
        operands = [*x_cache, q, rows, position, *of_x, *captured]
        bound = functools.partial(attend_x, settings)
        body = mlir.splice(self.module, settings.name, bound, *operands)
        place_fetches(self.module, settings.x_cache_shape, nsp.cache_dtype(attend))
        recompute = mlir.function(self.module, settings.recompute)
        for stand_in in mlir.composites(self.module, RECOMPUTE):
            mlir.replace(stand_in, mlir.Builder(stand_in).call(recompute, stand_in.operands))
        *partial, x_k, x_v = mlir.Builder(attend).call(body, operands)
        both = [nsp.result(attend, "out"), nsp.result(attend, "lse")]
        if fixed:
            merged = self._call(attend, "join_rows", _join_rows, *both, *partial, behind=True)
        else:
            merged = self._call(attend, "merge", merge_partials, *both, *partial, behind=True)
        for old, new in zip(both, merged, strict=True):
            old.replace_all_uses_except(new, mlir.maker(new))
        return x_k, x_v

    def _recomputing(
        self, attend, append, x: mlir.Value, first_row: int, x_cache_shape: tuple[int, ...]
    ) -> tuple[XAttention, list[mlir.Value]]:
        """What the loop over X is to do, and what it needs of the module for that."""
        batch, n_tokens, _ = mlir.tensor(x)[0]
        _, capacity_tokens, n_kv_heads, _ = nsp.cache_shape(append)
        # whole groups of as many tokens as the program has in a row
        n_groups = -(-min(self.chunk_tokens, capacity_tokens) // n_tokens)
        lengths = [
            nsp.operand(op, "start")
            for op in mlir.operations(self.module)
            if nsp.kind(op) is nsp.APPEND and mlir.tensor(nsp.operand(op, "start"))[0] == (batch,)
        ]
        results = [nsp.operand(append, "k"), nsp.operand(append, "v")]
        size = (batch - first_row) * n_groups
        name = f"nsp.recompute_kv.{len(self.functions)}"
        try:
            made = batch_function(self.module, name, results, [[x], lengths], size)
        except OffloadError as error:
            raise OffloadError(
                f"x-cache cannot recompute the keys and values of {place(attend)}: beside the "
                f"input of nspjax.project_kv, lengths of caches and weights, they need {error}; "
                "compute them from these alone, or leave x-cache out of the pipeline"
            ) from None
        text = str(made.function).replace(name, "")
        if text in self.functions:
            made.function.erase()
        name = self.functions.setdefault(text, name)
        settings = XAttention(
            recompute=name,
            first_row=first_row,
            chunk_tokens=n_groups * n_tokens,
            n_kv_heads=n_kv_heads,
            x_cache_shape=x_cache_shape,
            dtype=str(mlir.dtype(nsp.cache_dtype(append))),
            x_dtype=str(mlir.dtype(mlir.tensor(x)[1])),
            **{name: nsp.attribute(attend, name) for name in ("scale", "window", "softcap")},
        )
        return settings, made.captured


def _x_shape(append: mlir.Operation, n_heads: int, head_dim: int) -> tuple[int, ...]:
    """Of the cache that keeps X for the one that is appended to."""
    return (*nsp.cache_shape(append)[:2], n_heads, head_dim)


# ---- computation that the pass inserts, as JAX functions ----------------------------------------


def _for_x_rows(rows: Array, n: Array, *, first_row: int) -> Array:
    """n where X is kept, else 0. int32 [B]"""
    return jnp.where(rows >= first_row, n, 0)


def _for_kv_rows(rows: Array, n: Array, *, first_row: int) -> Array:
    """n where K and V are kept, else 0. int32 [B]"""
    return jnp.where(rows >= first_row, 0, n)


def _join_rows(out: Array, lse: Array, x_out: Array, x_lse: Array) -> tuple[Array, Array]:
    """The store's results but for the last rows, which have X."""
    n = out.shape[0] - x_out.shape[0]
    return jnp.concatenate([out[:n], x_out]), jnp.concatenate([lse[:n], x_lse])
