"""`near_storage`: a JAX function over KV caches, compiled so that the caches live in a Store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from jax import export

from nspjax.compiler import mlir
from nspjax.compiler.driver.pipeline import Observer, Pipeline, dump_to, print_after
from nspjax.compiler.jit.arguments import CallArguments
from nspjax.compiler.jit.marked_module import marked_module
from nspjax.compiler.jit.program import Program, program, without_mesh
from nspjax.compiler.jit.stages import Lowered, Traced
from nspjax.compiler.jit.static_arguments import StaticArguments, StaticValues
from nspjax.compiler.machine.rates import set_rates
from nspjax.compiler.passes.offload_weights import OffloadWeights
from nspjax.errors import CompilerError, PipelineError
from nspjax.runtime import Store, register_targets

DEFAULT_PIPELINE = "offload-kv,host-dot,lower-to-ffi"
_TRACED_WITH = (
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_debug_nans",
)
"""Settings that are in a program: one that was traced under others is not used."""


def near_storage(
    fn: Callable[..., Any],
    *,
    store: Store,
    pipeline: str | Pipeline = DEFAULT_PIPELINE,
    static_argnums: int | Iterable[int] | None = None,
    static_argnames: str | Iterable[str] | None = None,
    print_ir_after: str = "",
    dump_dir: str | Path | None = None,
) -> NearStorage:
    """Compile `fn` so that the KVCaches it takes and returns live in `store`.

    Use the result as you would use `jax.jit(fn)`, on its own or inside another `jax.jit`, with a
    `StoredKVCache` (from `Store.kv_caches`) wherever `fn` expects a `KVCache` and, if you like, a
    `StoredWeight` (from `Store.put_weight`) where it expects an array. A model that was not written
    for nspjax gets `StoredArray`s (from `Store.kv_pair`) where it expects its arrays of keys and
    values, and `raise-attention` in the pipeline. `fn` may hold its caches in `lax.while_loop`,
    `lax.scan`, `lax.cond` and nested functions; only `cached_attention` and `KVCache.take_rows` may
    use their k and v. Put `jax.jit(..., donate_argnums=...)` around the result to donate arguments.

    Args:
      fn: takes and returns pytrees of arrays, numbers and KVCaches, all positional or by keyword.
      store: holds the caches.
      pipeline: the passes to run, as text or as a value.
      static_argnums, static_argnames: the arguments that are part of the program, as in jax.jit:
        hashable, and a program for each value.
      print_ir_after: print the module after these passes (comma list, or "all").
      dump_dir: write the module after every pass to numbered files here, in a folder for each
        program, that is for each combination of argument types.

    Errors of the engine are raised as classes of `nspjax.errors`; inside an outer `jax.jit`, which
    only sees XLA's error, wrap its call in `nspjax.errors.engine_errors()`.
    """
    if not isinstance(pipeline, Pipeline):
        pipeline = Pipeline.parse(pipeline)
    return NearStorage(
        fn,
        store,
        pipeline,
        StaticArguments.of(fn, static_argnums, static_argnames),
        (print_after(print_ir_after),) if print_ir_after else (),
        None if dump_dir is None else Path(dump_dir),
    )


@dataclasses.dataclass(frozen=True)
class NearStorage:
    """What `near_storage` returns: a function, and its compiled programs by argument types.

    Every method takes what `fn` takes; those that compute nothing take ShapeDtypeStructs too.
    """

    fn: Callable[..., Any]
    store: Store
    pipeline: Pipeline
    static: StaticArguments
    observers: tuple[Observer, ...] = ()
    dump_dir: Path | None = None
    _programs: dict[Any, Program] = dataclasses.field(default_factory=dict, compare=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            raise CompilerError(
                "near_storage has to compile, and jax.disable_jit is on: turn it off around this "
                "call, or call the function itself with its cache in memory"
            )
        program, arguments = self._program(args, kwargs)
        return (program.trace if arguments.are_traced() else program.run)(arguments.leaves)

    def trace(self, *args: Any, **kwargs: Any) -> Traced:
        """The program for these arguments, whose `lower()` and `out_info` are jax.jit's."""
        return Traced(*self._program(args, kwargs))

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """The program after all passes, with `as_text()` and `compile()` as jax.jit has them."""
        return self.trace(*args, **kwargs).lower()

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """The results as shapes and dtypes; of a cache, those of its handles and lengths."""
        return self.trace(*args, **kwargs).out_info

    def exported(self, *args: Any, **kwargs: Any) -> export.Exported:
        """The program for these arguments after all passes."""
        return self._program(args, kwargs)[0].exported

    def _program(self, args: Any, kwargs: Any) -> tuple[Program, CallArguments]:
        self.store.check_usable()  # before XLA, which hangs in a fork's child
        args, kwargs, values = self.static.split(args, kwargs)
        arguments = CallArguments.of(self.store, args, kwargs)
        settings = tuple(getattr(jax.config, name) for name in _TRACED_WITH)
        key = (arguments.key, values.key, settings)
        if key not in self._programs:
            with without_mesh():
                self._programs[key] = self._compile(arguments, values)
        return self._programs[key], arguments

    def _compile(self, arguments: CallArguments, values: StaticValues) -> Program:
        if jax.default_backend() != "cpu":
            raise CompilerError(
                f"near_storage runs on JAX's CPU backend, not on {jax.default_backend()!r}: set "
                "JAX_PLATFORMS=cpu, or call the function itself, with its cache in device memory"
            )
        register_targets()
        traced = marked_module(values.bound(self.fn), *arguments.specs())
        weights = arguments.weight_leaves()
        mlir.mark_weight_arguments(traced.module, weights)
        before = mlir.signature(traced.module)
        observers = self.observers
        if self.dump_dir is not None:
            observers += (dump_to(self.dump_dir / f"program-{len(self._programs) + 1}"),)
        pipeline = self.pipeline.including(OffloadWeights()) if weights else self.pipeline
        if pipeline.needs_rates:
            set_rates(traced.module, self.store.rates)
        module = pipeline.run(traced.module, observers)
        _check_lowered(module, pipeline)
        return program(mlir.with_module(traced.exported, module, before), traced.results)


def _check_lowered(module: mlir.Module, pipeline: Pipeline) -> None:
    names = [step.name for step in pipeline.passes]
    ours_left = any(op.name.startswith("nsp.") for op in mlir.operations(module))
    if ours_left or mlir.cache_arguments(module) or mlir.weight_arguments(module):
        raise PipelineError(
            f"the pipeline {','.join(names)!r} leaves KV caches or nsp operations in the program: "
            "near_storage needs offload-kv, and lower-to-ffi at the end"
        )
