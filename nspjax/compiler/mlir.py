"""The one file that imports MLIR: modules in and out, walks, edits, spliced JAX functions."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.extend.mlir as jax_mlir
from jax import core, export
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import stablehlo

Attribute = ir.Attribute
Block = ir.Block
BlockArgument = ir.BlockArgument
Module = ir.Module
Operation = ir.Operation
Value = ir.Value
Type = ir.Type


# ---- modules ------------------------------------------------------------------------------------


def new_context() -> ir.Context:
    """A context with JAX's dialects that accepts our `nsp` operations unregistered."""
    empty = jax.jit(lambda: 0).lower().compiler_ir("stablehlo")
    assert isinstance(empty, ir.Module)
    context = empty.context
    context.allow_unregistered_dialects = True
    return context


def module_of(exported: export.Exported) -> Module:
    """The module of an exported function, in a context of its own."""
    return jax_mlir.deserialize_portable_artifact(exported.mlir_module_serialized, new_context())


def with_module(exported: export.Exported, module: Module) -> export.Exported:
    """`exported` with another module, whose main may have other argument and result types.

    `dataclasses.replace` on an Exported is not a documented interface: it is used here alone, and
    has a test of its own. The current StableHLO version is named because the minimum one, export's
    default, has no typed-FFI custom calls.
    """
    main = function(module, "main")
    with module.context:
        kind = ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value)
        kept = iter(kind.inputs)
        in_avals = tuple(
            _retyped(aval, next(kept)) if index in set(exported.module_kept_var_idx) else aval
            for index, aval in enumerate(exported.in_avals)
        )
        out_avals = tuple(map(_retyped, exported.out_avals, kind.results))
        artifact = jax_mlir.serialize_portable_artifact(
            module, stablehlo.get_current_version(), True
        )
    return dataclasses.replace(
        exported, in_avals=in_avals, out_avals=out_avals, mlir_module_serialized=artifact
    )


def _retyped(aval: core.ShapedArray, kind: Type) -> core.ShapedArray:
    shape = tuple(ir.RankedTensorType(kind).shape)
    if shape == tuple(aval.shape):
        return aval
    return core.ShapedArray(shape, jax.numpy.int32)


def parse(text: str) -> Module:
    """A module from MLIR text, in a context of its own."""
    return Module.parse(text, new_context())


def remove_unused_functions(module: Module) -> None:
    with module.context:
        passmanager.PassManager.parse("builtin.module(symbol-dce)").run(module.operation)


# ---- looking ------------------------------------------------------------------------------------


def operations(module: Module) -> Iterator[Operation]:
    """All operations in textual order, as they are at the time of the call."""
    found: list[Operation] = []

    def visit(op: Operation) -> Any:
        found.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return iter(found)


def functions(module: Module) -> dict[str, Operation]:
    return {
        string(op.attributes["sym_name"]): op.operation
        for op in module.body.operations
        if op.operation.name == "func.func"
    }


def function(module: Module, name: str) -> Operation:
    return functions(module)[name]


def string(attribute: Attribute) -> str:
    return ir.StringAttr(attribute).value


def symbol(attribute: Attribute) -> str:
    return ir.FlatSymbolRefAttr(attribute).value


def composite_name(op: Operation) -> str | None:
    """The name of a `stablehlo.composite`, None for any other operation."""
    return string(op.attributes["name"]) if op.name == "stablehlo.composite" else None


def composites(module: Module, name: str) -> list[Operation]:
    return [op for op in operations(module) if composite_name(op) == name]


def attributes_of(composite: Operation) -> dict[str, Attribute]:
    """A composite's own attributes: what the mark was called with."""
    given = ir.DictAttr(composite.attributes["composite_attributes"])
    return {item.name: item.attr for item in given}


def parent(op: Operation) -> Operation:
    """The operation whose region holds `op`."""
    assert op.parent is not None, "a module has no parent"
    return op.parent.operation


def terminator(block: Block) -> Operation:
    return list(block.operations)[-1].operation


def tensor(value: Value) -> tuple[tuple[int, ...], str]:
    """Shape and element type of a value: ((2, 1, 8, 64), "bf16")."""
    kind = ir.RankedTensorType(value.type)
    return tuple(kind.shape), str(kind.element_type)


_OWN_SOURCES = str(Path(__file__).resolve().parents[1])


def source_line(op: Operation) -> str:
    """`file:line` of the user's code behind an operation, or the bare location."""
    places = re.findall(r'"([^"]+\.py)":(\d+)', str(op.location))
    for file, line in places:
        if not file.startswith(_OWN_SOURCES):
            return f"{file}:{line}"
    return ":".join(places[0]) if places else str(op.location)


# ---- changing -----------------------------------------------------------------------------------


def tensor_type(shape: Sequence[int], element: str, context: ir.Context) -> Type:
    with ir.Location.unknown(context):
        return ir.RankedTensorType.get(shape, Type.parse(element, context))


def update_function_types(module: Module) -> None:
    """Make every function's signature say what its body's arguments and results now are."""
    with module.context:
        for fn in functions(module).values():
            block = fn.regions[0].blocks[0]
            kind = ir.FunctionType.get(
                [argument.type for argument in block.arguments],
                [operand.type for operand in terminator(block).operands],
            )
            fn.attributes["function_type"] = ir.TypeAttr.get(kind)


@dataclasses.dataclass(frozen=True)
class Builder:
    """Inserts operations before `anchor`, at its source location."""

    anchor: Operation

    def op(
        self,
        name: str,
        operands: Sequence[Value],
        results: Sequence[Type],
        attributes: dict[str, Attribute] | None = None,
    ) -> list[Value]:
        with self.anchor.location, ir.InsertionPoint(self.anchor):
            made = Operation.create(
                name, results=results, operands=operands, attributes=attributes or {}
            )
        return list(made.results)

    def call(self, callee: Operation, operands: Sequence[Value]) -> list[Value]:
        with self.anchor.context:
            kind = ir.FunctionType(ir.TypeAttr(callee.attributes["function_type"]).value)
            name = ir.FlatSymbolRefAttr.get(string(callee.attributes["sym_name"]))
        return self.op("func.call", operands, kind.results, {"callee": name})


def replace(op: Operation, values: Sequence[Value]) -> None:
    """Put `values` where the results of `op` were used, and erase it."""
    for old, new in zip(op.results, values, strict=True):
        old.replace_all_uses_with(new)
    op.erase()


def splice(module: Module, name: str, fn: Callable, *operands: Value) -> Operation:
    """Lower a JAX function for the types of `operands` into `module`; returns it, to be called.

    The same name and types give the same function: a pass that inserts it into every layer adds
    one copy.
    """
    specs = [_spec(value) for value in operands]
    key = "_".join([name, *map(_type_text, operands)])
    if key in functions(module):
        return function(module, key)
    lowered = Module.parse(str(jax.jit(fn).lower(*specs).compiler_ir("stablehlo")), module.context)
    rename = {old: key if old == "main" else f"{key}.{old}" for old in functions(lowered)}
    with module.context:
        for op in operations(lowered):
            for item in ("callee", "decomposition"):
                if item in op.attributes:
                    new = rename[symbol(op.attributes[item])]
                    op.attributes[item] = ir.FlatSymbolRefAttr.get(new)
        for old, fn_op in functions(lowered).items():
            fn_op.attributes["sym_name"] = ir.StringAttr.get(rename[old])
            fn_op.attributes["sym_visibility"] = ir.StringAttr.get("private")
            module.body.append(fn_op.clone())
    return function(module, key)


def _type_text(value: Value) -> str:
    shape, element = tensor(value)
    return "x".join([*map(str, shape), element])


_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i32": "int32", "i1": "bool"}


def _spec(value: Value) -> jax.ShapeDtypeStruct:
    shape, element = tensor(value)
    return jax.ShapeDtypeStruct(shape, jax.numpy.dtype(_DTYPES[element]))


# ---- the two kinds of operation that our passes exchange ----------------------------------------


def number(attribute: Attribute) -> float | int | bool:
    """The Python value of a float, integer or bool attribute."""
    if not isinstance(attribute, ir.FloatAttr | ir.BoolAttr | ir.IntegerAttr):
        raise TypeError(f"{attribute} is no number")
    return attribute.value


def custom_call(op: Operation, target: str) -> list[Value]:
    """A typed-FFI custom call (API version 4) in front of `op`, with its operands and attributes.

    Layouts are pinned to row-major, as the handlers read them; XLA may otherwise choose others.
    The call has a side effect, so that XLA keeps every one.
    """
    with op.location:
        config = {name: _ffi_attribute(op.attributes[name]) for name in _names(op)}
        attributes = {
            "call_target_name": ir.StringAttr.get(target),
            "has_side_effect": ir.BoolAttr.get(True),
            "api_version": ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4),
            "backend_config": ir.DictAttr.get(config),
            "operand_layouts": ir.ArrayAttr.get([_row_major(v) for v in op.operands]),
            "result_layouts": ir.ArrayAttr.get([_row_major(v) for v in op.results]),
        }
    return Builder(op).op(
        "stablehlo.custom_call", list(op.operands), [v.type for v in op.results], attributes
    )


def _names(op: Operation) -> list[str]:
    return [item if isinstance(item, str) else item.name for item in op.attributes]


def _ffi_attribute(attribute: Attribute) -> Attribute:
    """Floats go as f32, integers as i64: what the handlers bind."""
    value = number(attribute)
    if isinstance(value, float):
        return ir.FloatAttr.get(ir.F32Type.get(), value)
    return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)


def _row_major(value: Value) -> Attribute:
    rank = ir.RankedTensorType(value.type).rank
    index = ir.IndexType.get()
    text = f"dense<{list(reversed(range(rank)))}> : tensor<{rank}x{index}>"
    return Attribute.parse(text)
