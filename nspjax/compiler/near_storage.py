"""`near_storage`: a JAX function over KV caches, compiled so that the caches live in a Store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import core, export
from jax.sharding import Sharding, SingleDeviceSharding

from nspjax.compiler import mlir
from nspjax.compiler.marked_module import marked_module, spec
from nspjax.compiler.passes.offload_weights import OffloadWeights
from nspjax.compiler.pipeline import Observer, Pass, Pipeline, dump_to, print_after
from nspjax.compiler.rates import set_rates
from nspjax.errors import CompilerError, InvalidArgumentError, PipelineError, engine_errors
from nspjax.ops.cache import KVCache
from nspjax.runtime import Store, StoredArray, StoredKVCache, StoredWeight, register_targets

DEFAULT_PIPELINE = "offload-kv,host-dot,lower-to-ffi"
_AFTER_WEIGHTS = ("prefetch", "host-dot", "verify-schedule", "lower-to-ffi")


def near_storage(
    fn: Callable[..., Any],
    *,
    store: Store,
    pipeline: str | Pipeline = DEFAULT_PIPELINE,
    print_ir_after: str = "",
    dump_dir: str | Path | None = None,
) -> NearStorage:
    """Compile `fn` so that the KVCaches it takes and returns live in `store`.

    Use the result as you would use `jax.jit(fn)`, on its own or inside another `jax.jit`, with a
    `StoredKVCache` (from `Store.kv_caches`) wherever `fn` expects a `KVCache` and, if you like, a
    `StoredWeight` (from `Store.put_weight`) where it expects an array. A model that was not written
    for nspjax gets `StoredArray`s (from `Store.kv_pair`) where it expects its arrays of keys and
    values, and `raise-attention` in the pipeline. `fn` may hold its caches in `lax.while_loop`,
    `lax.scan`, `lax.cond` and nested functions; only `ops.cached_attention` may use their k and v.
    Put `jax.jit(..., donate_argnums=...)` around the result to donate arguments.

    Args:
      fn: takes and returns pytrees of arrays and KVCaches, all positional or by keyword.
      store: holds the caches.
      pipeline: the passes to run, as text or as a value.
      print_ir_after: print the module after these passes (comma list, or "all").
      dump_dir: write the module after every pass to numbered files here, in a folder for each
        program, that is for each combination of argument types.

    Errors of the engine are raised as classes of `nspjax.errors`; inside an outer `jax.jit`, which
    only sees XLA's error, wrap its call in `nspjax.errors.engine_errors()`.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline.parse(pipeline)
    observers = (print_after(print_ir_after),) if print_ir_after else ()
    return NearStorage(fn, store, pipeline, observers, None if dump_dir is None else Path(dump_dir))


@dataclasses.dataclass(frozen=True)
class NearStorage:
    """What `near_storage` returns: a function, and its compiled programs by argument types."""

    fn: Callable[..., Any]
    store: Store
    pipeline: Pipeline
    observers: tuple[Observer, ...] = ()
    dump_dir: Path | None = None
    _programs: dict[Any, _Program] = dataclasses.field(default_factory=dict, compare=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, program = self._program(args, kwargs)
        if any(isinstance(leaf, core.Tracer) for leaf in leaves):
            traced: Any = program.exported.call(*leaves)
            return program.unflatten(traced)
        with engine_errors():
            # waiting here costs nothing that overlaps: a step's work is the engine's
            call = program.compiled(_sharding(leaves))
            return program.unflatten(jax.block_until_ready(call(*leaves)))

    def exported(self, *args: Any, **kwargs: Any) -> export.Exported:
        """The program for these arguments (or ShapeDtypeStructs) after all passes."""
        return self._program(args, kwargs)[1].exported

    def _program(self, args: Any, kwargs: Any) -> tuple[list[Any], _Program]:
        self.store.check_usable()  # before XLA, which hangs in a fork's child
        values, tree = jax.tree.flatten((args, kwargs), is_leaf=_is_ours)
        for value in values:
            if isinstance(value, KVCache):
                raise InvalidArgumentError(
                    "a near_storage function got an in-memory KVCache: make its cache with "
                    "Store.kv_cache, or copy this one with Store.put"
                )
            if isinstance(value, _STORED) and not isinstance(value.handle, core.Tracer):
                self.store.check_owns(value)
        specs = tuple(map(_spec, values))
        key = (tree, tuple(map(_hashable, values, specs)))
        if key not in self._programs:
            self._programs[key] = self._compile(tree, specs, _weight_leaves(values, specs))
        return jax.tree.leaves(values), self._programs[key]

    def _compile(self, tree: Any, specs: Sequence[Any], weights: Sequence[int]) -> _Program:
        if jax.default_backend() != "cpu":
            raise CompilerError(
                f"near_storage runs on JAX's CPU backend, not on {jax.default_backend()!r}: set "
                "JAX_PLATFORMS=cpu, or call the function itself, with its cache in device memory"
            )
        register_targets()
        args, kwargs = jax.tree.unflatten(tree, specs)
        traced = marked_module(self.fn, args, kwargs)
        mlir.mark_weight_arguments(traced.module, weights)
        before = mlir.signature(traced.module)
        observers = self.observers
        if self.dump_dir is not None:
            observers += (dump_to(self.dump_dir / f"program-{len(self._programs) + 1}"),)
        pipeline = _with_weights(self.pipeline) if weights else self.pipeline
        if any(map(_asks_for_rates, pipeline.passes)):
            set_rates(traced.module, self.store.rates)
        module = pipeline.run(traced.module, observers)
        _check_lowered(module, pipeline)
        lowered = mlir.with_module(traced.exported, module, before)
        leaves, result_tree = jax.tree.flatten(traced.results)
        results = jax.tree.unflatten(result_tree, map(_template, leaves, lowered.out_avals))
        templates, out_tree = jax.tree.flatten(results, is_leaf=_is_cache)
        return _Program(lowered, tuple(templates), out_tree)


@dataclasses.dataclass(frozen=True)
class _Program:
    exported: export.Exported
    templates: tuple[Any, ...]
    """one a result: a KVCache of avals where the result is a cache, a _StoredResult where it is an
    array of one, else an aval"""
    tree: Any
    _compiled: dict[Sharding, Callable[..., Any]] = dataclasses.field(default_factory=dict)

    def compiled(self, sharding: Sharding) -> Callable[..., Any]:
        """The program for values on a device. Not jax.jit's, which compiles twice: for the first
        caches, and for those that a call returns, which are committed to their device."""
        if sharding not in self._compiled:
            call = jax.jit(self.exported.call, in_shardings=sharding)
            self._compiled[sharding] = call.lower(*self.exported.in_avals).compile()
            _return_compiler_memory()
        return self._compiled[sharding]

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        rest = iter(leaves)

        def value(item: Any) -> Any:
            if isinstance(item, KVCache):
                return StoredKVCache(next(rest), next(rest), next(rest), item.k.shape, item.k.dtype)
            if isinstance(item, _StoredResult):
                return StoredArray(next(rest), item.shape, item.dtype)
            return next(rest)

        return jax.tree.unflatten(self.tree, list(map(value, self.templates)))


def _asks_for_rates(step: Pass) -> bool:
    """By the class attribute `needs_rates`, or by an option whose value is auto."""
    options = [getattr(step, field.name) for field in dataclasses.fields(step)]  # pyright: ignore[reportArgumentType]
    return getattr(step, "needs_rates", False) or "auto" in options


def _weight_leaves(values: Sequence[Any], specs: Sequence[Any]) -> list[int]:
    """Which leaves of the arguments are stored weights."""
    found, at = [], 0
    for value, shapes in zip(values, specs, strict=True):
        if isinstance(value, StoredWeight):
            found.append(at)
        at += len(jax.tree.leaves(shapes))
    return found


def _with_weights(pipeline: Pipeline) -> Pipeline:
    """The pipeline with offload-weights, for a program that has stored weights."""
    names = [step.name for step in pipeline.passes]
    if OffloadWeights.name in names:
        return pipeline
    at = next((i for i, name in enumerate(names) if name in _AFTER_WEIGHTS), len(names))
    return Pipeline((*pipeline.passes[:at], OffloadWeights(), *pipeline.passes[at:]))


@dataclasses.dataclass(frozen=True)
class _StoredResult:
    """A result that was an array and is a handle."""

    shape: tuple[int, ...]
    dtype: Any


def _template(before: core.ShapedArray, after: core.ShapedArray) -> Any:
    return before if before == after else _StoredResult(before.shape, before.dtype)


def _sharding(values: Sequence[Any]) -> Sharding:
    """The device that jax.jit would run on: what is committed decides."""
    arrays = [value for value in values if isinstance(value, jax.Array)]
    committed = [array for array in arrays if array.committed]
    for array in (*committed, *arrays):
        return array.sharding
    return SingleDeviceSharding(jax.devices()[0])


def _return_compiler_memory() -> None:
    """XLA frees some 100 MB after a compilation, which the process would keep: as much as a small
    machine has for its caches."""
    from nspjax import _engine

    _engine.trim_heap()


def _check_lowered(module: mlir.Module, pipeline: Pipeline) -> None:
    names = [step.name for step in pipeline.passes]
    ours_left = any(op.name.startswith("nsp.") for op in mlir.operations(module))
    if ours_left or mlir.cache_arguments(module) or mlir.weight_arguments(module):
        raise PipelineError(
            f"the pipeline {','.join(names)!r} leaves KV caches or nsp operations in the program: "
            "near_storage needs offload-kv, and lower-to-ffi at the end"
        )


_STORED = (StoredKVCache, StoredArray)


def _is_ours(value: Any) -> bool:
    return isinstance(value, (KVCache, StoredWeight, *_STORED))


def _is_cache(value: Any) -> bool:
    return isinstance(value, KVCache)


def _spec(value: Any) -> Any:
    if isinstance(value, (StoredWeight, *_STORED)):
        return value.spec()
    return spec(value)


def _hashable(value: Any, spec: Any) -> Any:
    if isinstance(value, (StoredWeight, *_STORED)):
        return (type(value), value.shape, value.dtype)
    return (spec.shape, spec.dtype, spec.weak_type)
