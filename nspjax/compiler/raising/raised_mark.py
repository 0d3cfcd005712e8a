"""Putting a mark in the place of an attention that was recognised."""

from __future__ import annotations

import functools
import math

import jax.numpy as jnp
from jax import Array

from nspjax.compiler import mlir
from nspjax.compiler.raising.affine import Affine, Axis, Symbol
from nspjax.compiler.raising.attention_pattern import Attention, Operand
from nspjax.compiler.raising.matching import NoMatch
from nspjax.ops.attention import CACHED_ATTENTION, append_and_attend

_CARRIES = (
    "func.return",
    "stablehlo.return",
    "stablehlo.while",
    "stablehlo.optimization_barrier",
    "stablehlo.dynamic_update_slice",
    "stablehlo.composite",
)
"""who may have the written cache besides the attention: none of them reads it"""


def put_mark(module: mlir.Module, dot: mlir.Operation, found: Attention) -> None:
    """Replace the attention that ends with `dot`, and the cache writes before it, by a mark.

    Raises:
      NoMatch: something else uses a part of it; then nothing is changed.
    """
    new_k, new_v = (write.operands[1] for write in (found.write_k, found.write_v))
    cache_k, cache_v = (write.operands[0] for write in (found.write_k, found.write_v))
    if cache_k.type != cache_v.type:
        raise NoMatch("the caches of keys and of values are not alike", found.write_v)
    later = [_uses_behind(write, dot) for write in (found.write_k, found.write_v)]
    q_axes, out_axes = _axes_in(found.q), _axes_in(found.out)
    heads = [found.batch, found.token or Axis("one", 1), found.kv_head, *found.group]
    _check_axes(found.q, q_axes, [*heads, found.depth])
    _check_axes(found.out, out_axes, [*heads, found.value_depth])

    build = mlir.Builder(dot)
    q = _spliced(
        module,
        build,
        _to_heads,
        (found.q.value,),
        axes=tuple(a.size for a in q_axes),
        order=_order(q_axes, [*heads, found.depth]),
        shape=_heads_shape([*heads, found.depth]),
    )[0]
    rows, start, n_new = _rows_start_n_new(module, build, found)
    operands = (q, new_k, new_v, cache_k, cache_v, rows, start, n_new)
    settings = {
        "scale": found.scale,
        "window": found.mask.window,
        "softcap": found.softcap,
        "all_rows": True,
    }
    reference = mlir.splice(
        module,
        f"nsp.raised_attention.{_slug(settings)}",
        functools.partial(append_and_attend, **settings),
        *operands,
    )
    out, keys, values = build.composite(
        CACHED_ATTENTION, operands, [q.type, cache_k.type, cache_v.type], settings, reference
    )
    (out,) = _spliced(
        module,
        build,
        _from_heads,
        (out,),
        axes=tuple(a.size for a in [*heads, found.value_depth]),
        order=_order([*heads, found.value_depth], out_axes),
        shape=mlir.tensor(found.out.value)[0],
    )
    (out,) = build.op("stablehlo.convert", [out], [dot.results[0].type])
    mlir.replace(dot, [out])
    for uses, value in zip(later, (keys, values), strict=True):
        for user, number in uses:
            user.operands[number] = value


# ---- what else uses a part ----------------------------------------------------------------------


def _uses_behind(write: mlir.Operation, dot: mlir.Operation) -> list[tuple[mlir.Operation, int]]:
    """The uses of the written cache that are not the attention's: they get the mark's.

    Raises:
      NoMatch: one reads the cache, or uses a part of the attention, for example its weights.
    """
    if write.block != dot.block:
        raise NoMatch("the cache is written in another region than it is attended in", write)
    inside, uses = _between(write, dot), []
    for value in [write.results[0], *(v for op in inside for v in op.results)]:
        for use in value.uses:
            user = use.owner.operation
            if user == dot or user in inside:
                continue
            if hash(value) != hash(write.results[0]):
                raise NoMatch("a part of the attention is used elsewhere", user)
            if user.name not in _CARRIES or not _is_behind(user, dot):
                raise NoMatch("the cache is read elsewhere", user)
            uses.append((user, use.operand_number))
    return uses


def _between(write: mlir.Operation, dot: mlir.Operation) -> list[mlir.Operation]:
    """The operations through which the product that ends the attention depends on the write."""
    reached, work = [], [write]
    while work:
        for result in work.pop().results:
            for use in result.uses:
                user = use.owner.operation
                if user.block == dot.block and user.is_before_in_block(dot) and user not in reached:
                    reached.append(user)
                    work.append(user)
    leading = {hash(operand) for operand in dot.operands}
    inside = []
    for op in sorted(reached, key=functools.cmp_to_key(_textual), reverse=True):
        if any(hash(result) in leading for result in op.results):
            inside.append(op)
            leading |= {hash(operand) for operand in op.operands}
    return inside


def _textual(left: mlir.Operation, right: mlir.Operation) -> int:
    return -1 if left.is_before_in_block(right) else 1


def _is_behind(user: mlir.Operation, dot: mlir.Operation) -> bool:
    """Whether an operation, or the one around it in the block of `dot`, comes after `dot`."""
    while user.block != dot.block:
        user = mlir.parent(user)
    return dot.is_before_in_block(user)


# ---- layouts ------------------------------------------------------------------------------------


def _axes_in(operand: Operand) -> list[Axis]:
    """The axes of a tensor from the slowest to the fastest, each dimension's in its order."""
    axes = []
    for at, size in zip(operand.index, mlir.tensor(operand.value)[0], strict=True):
        terms = sorted(at.terms, key=lambda term: -term[1])
        stride = size
        for axis, coefficient in terms:
            if not isinstance(axis, Axis) or coefficient * axis.size != stride:
                raise NoMatch("heads are in no order that a mark has", operand.value)
            stride = coefficient
            axes.append(axis)
        if stride != 1 or at.constant:
            raise NoMatch("only a part of the heads or tokens is used", operand.value)
    return axes


def _check_axes(operand: Operand, has: list[Axis], needs: list[Axis]) -> None:
    if {a for a in needs if a.size > 1} != set(has) or len(set(has)) != len(has):
        raise NoMatch("q and the result are not [batch, tokens, heads, depth]", operand.value)


def _order(axes: list[Axis], wanted: list[Axis]) -> tuple[int, ...]:
    """Where the wanted axes, those that are more than 1 long, are."""
    have = [axis for axis in axes if axis.size > 1]
    return tuple(have.index(axis) for axis in wanted if axis.size > 1)


def _heads_shape(axes: list[Axis]) -> tuple[int, ...]:
    """[B, T, Hq, D] of batch, token, KV head, group …, depth."""
    batch, token, *heads, depth = (axis.size for axis in axes)
    return batch, token, math.prod(heads), depth


# ---- computation that the pass inserts, as JAX functions ----------------------------------------


def _to_heads(x: Array, *, axes, order, shape) -> Array:
    return x.reshape([size for size in axes if size > 1]).transpose(order).reshape(shape)


_from_heads = _to_heads


def _positions(
    *symbols: Array, batch, n_tokens, most, patterns, start, zero, token
) -> tuple[Array, Array, Array]:
    """rows, start, n_new, int32 [B]. start is -1, which a store refuses, where the proof fails.

    symbols: the integers that the proof is about; patterns: for each, the index of the one that is
    meant, "batch" and "token" being axes of the result; start, zero: constant and coefficients.
    What the engine checks itself is not checked here: its message names the numbers.
    """
    values = [_aligned(*pair) for pair in zip(symbols, patterns, strict=True)]  # [B or 1, T or 1]

    def total(numbers) -> Array:
        base, *coefficients = numbers
        parts = (c * v for c, v in zip(coefficients, values, strict=True))
        return functools.reduce(jnp.add, parts, jnp.int32(base))

    first = jnp.broadcast_to(total(start), (batch, 1))[:, 0]
    rows, n_new = jnp.arange(batch, dtype=jnp.int32), jnp.full((batch,), n_tokens, jnp.int32)
    if tuple(start) == (0, 1) and not any(zero) and not token:
        return rows, first, n_new
    excess = total(zero) + token * jnp.arange(n_tokens, dtype=jnp.int32)
    proved = jnp.broadcast_to(excess == 0, (batch, n_tokens)).all(axis=1)
    for value in values:
        inside = (value >= 0) & (value <= most)
        proved &= jnp.broadcast_to(inside, (batch, n_tokens)).all(axis=1)
    return rows, jnp.where(proved, first, -1), n_new


def _aligned(value: Array, pattern: tuple[int | str, ...]) -> Array:
    value = value[tuple(slice(None) if isinstance(at, str) else at for at in pattern)]
    axes = [at for at in pattern if isinstance(at, str)]
    value = value.transpose([axes.index(name) for name in ("batch", "token") if name in axes])
    missing = [place for place, name in enumerate(("batch", "token")) if name not in axes]
    return jnp.expand_dims(value, missing)


def _rows_start_n_new(module: mlir.Module, build: mlir.Builder, found: Attention):
    symbols = sorted(
        found.assumed | found.start.symbols | found.mask.must_be_zero.symbols,
        key=lambda s: (str(mlir.tensor(s.value)), s.key),
    )
    names = {found.batch: "batch", found.token: "token"}

    def numbers(sum_: Affine) -> tuple[int, ...]:
        return (sum_.constant, *(sum_.coefficient(symbol) for symbol in symbols))

    def pattern(symbol: Symbol) -> tuple[int | str, ...]:
        return tuple(
            at.constant if at.is_constant else names[at.only_axis()] for at in symbol.index
        )

    zero = found.mask.must_be_zero
    return _spliced(
        module,
        build,
        _positions,
        tuple(_int32(build, symbol.value) for symbol in symbols),
        batch=mlir.tensor(found.write_k.results[0])[0][0],
        n_tokens=found.n_tokens,
        most=mlir.tensor(found.write_k.results[0])[0][1] - found.n_tokens,
        patterns=tuple(map(pattern, symbols)),
        start=numbers(found.start),
        zero=numbers(zero),
        token=zero.coefficient(found.token) if found.token else 0,
    )


def _int32(build: mlir.Builder, value: mlir.Value) -> mlir.Value:
    shape, element = mlir.tensor(value)
    if element == "i32":
        return value
    kind = mlir.tensor_type(shape, "i32", build.anchor.context)
    return build.op("stablehlo.convert", [value], [kind])[0]


def _spliced(module: mlir.Module, build: mlir.Builder, fn, operands, **settings):
    """A call of a JAX function with these settings."""
    name = f"nsp.{fn.__name__.strip('_')}.{_slug(settings)}"
    return build.call(
        mlir.splice(module, name, functools.partial(fn, **settings), *operands), operands
    )


def _slug(settings) -> str:
    text = "_".join(f"{key}{value}" for key, value in settings.items())
    return "".join(c for c in text.replace(", ", ".").replace("-", "m") if c.isalnum() or c in "._")
