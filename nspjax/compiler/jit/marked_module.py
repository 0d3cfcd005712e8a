"""From a JAX function to what a pipeline begins with: its module, with its caches marked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import export

from nspjax.compiler import mlir
from nspjax.compiler.jit.callbacks import refuse_callbacks
from nspjax.ops.cache import CacheArray, KVCache


@dataclasses.dataclass(frozen=True)
class MarkedModule:
    """A function that was exported: all arguments are arguments of the module's main."""

    exported: export.Exported
    module: mlir.Module
    """in a context of its own; the arguments of main that are a cache's k or v are marked so"""
    results: Any
    """what the function returns, of avals"""


def marked_module(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
) -> MarkedModule:
    """Export `fn` for these arguments: pytrees of ShapeDtypeStructs or arrays, of KVCaches of them,
    and of CacheArrays. Nothing is computed.

    Raises:
      CompilerError: the function calls back into Python.
    """
    given = (tuple(args), dict(kwargs or {}))
    leaves, tree = jax.tree.flatten(given)
    result_tree = None

    def flat(*leaves: Any) -> list[Any]:
        nonlocal result_tree
        args, kwargs = jax.tree.unflatten(tree, leaves)
        results, result_tree = jax.tree.flatten(fn(*args, **kwargs))
        return results

    function, specs = jax.jit(flat, keep_unused=True), list(map(spec, leaves))
    refuse_callbacks(function.trace(*specs).jaxpr)
    exported = export.export(function)(*specs)
    module = mlir.module_of(exported)
    mlir.mark_cache_arguments(module, _cache_leaves(given))
    assert result_tree is not None, "export calls the function"
    return MarkedModule(exported, module, jax.tree.unflatten(result_tree, exported.out_avals))


def spec(value: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and weak type of an array, a number or a ShapeDtypeStruct."""
    if isinstance(value, CacheArray):
        return jax.ShapeDtypeStruct(value.shape, value.dtype)
    if isinstance(value, jax.ShapeDtypeStruct):
        return value
    aval = jax.typeof(value)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


def _cache_leaves(args: Any) -> list[int]:
    """Which leaves of the arguments are the k or v of a cache."""
    found, at = [], 0
    for value in jax.tree.leaves(args, is_leaf=lambda value: isinstance(value, KVCache)):
        if isinstance(value, KVCache):
            found += [at, at + 1]  # k, v, lengths
        elif isinstance(value, CacheArray):
            found.append(at)
        at += len(jax.tree.leaves(value))
    return found
