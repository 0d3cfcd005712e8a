"""Modules in and out: contexts, text, exported functions."""

from __future__ import annotations

import dataclasses
import io
import sys
import types

import jax
import jax.extend.mlir as jax_mlir
from jax import core, export
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import stablehlo

from nspjax.compiler.mlir.reading import Module, Type, function, function_type

_NSP_DIALECT = "jaxlib.mlir.dialects.nsp"


def new_context() -> ir.Context:
    """A context with JAX's dialects that accepts our `nsp` operations unregistered."""
    # Whenever Python sees an operation, MLIR's bindings ask for a module with its dialect's
    # classes, and only remember that there is one: without this, each sight is a failed import.
    sys.modules.setdefault(_NSP_DIALECT, types.ModuleType(_NSP_DIALECT))
    empty = jax.jit(lambda: 0).lower().compiler_ir("stablehlo")
    assert isinstance(empty, ir.Module)
    context = empty.context
    context.allow_unregistered_dialects = True
    return context


def module_of(exported: export.Exported) -> Module:
    """The module of an exported function, in a context of its own."""
    return jax_mlir.deserialize_portable_artifact(exported.mlir_module_serialized, new_context())


@dataclasses.dataclass(frozen=True)
class Signature:
    """The argument and result types of a module's main."""

    inputs: tuple[Type, ...]
    results: tuple[Type, ...]


def signature(module: Module) -> Signature:
    with module.context:
        kind = function_type(function(module, "main"))
        return Signature(tuple(kind.inputs), tuple(kind.results))


def with_module(exported: export.Exported, module: Module, before: Signature) -> export.Exported:
    """`exported` with another module, in which main's types may differ from those of `before`.

    `dataclasses.replace` on an Exported is not a documented interface: it is used here alone, and
    has a test of its own. The current StableHLO version is named because the minimum one, export's
    default, has no typed-FFI custom calls.
    """
    after = signature(module)
    in_avals = list(exported.in_avals)
    for i, index in enumerate(exported.module_kept_var_idx):
        in_avals[index] = _retyped(in_avals[index], before.inputs[i], after.inputs[i])
    out_avals = map(_retyped, exported.out_avals, before.results, after.results)
    with module.context:
        artifact = jax_mlir.serialize_portable_artifact(
            module, stablehlo.get_current_version(), True
        )
    return dataclasses.replace(
        exported,
        in_avals=tuple(in_avals),
        out_avals=tuple(out_avals),
        mlir_module_serialized=artifact,
    )


def _retyped(aval: core.ShapedArray, old: Type, new: Type) -> core.ShapedArray:
    """The aval of a value whose type a pass changed, to a handle's."""
    if old == new:
        return aval
    return core.ShapedArray(tuple(ir.RankedTensorType(new).shape), jax.numpy.int32)


def parse(text: str) -> Module:
    """A module from MLIR text, in a context of its own."""
    return Module.parse(text, new_context())


def clone_module(module: Module) -> Module:
    """A copy in the same context, with its source lines."""
    content = io.BytesIO()
    module.operation.write_bytecode(content)
    return Module.parse(content.getvalue(), module.context)


def remove_unused_functions(module: Module) -> None:
    with module.context:
        passmanager.PassManager.parse("builtin.module(symbol-dce)").run(module.operation)
