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

from nspjax.errors import CompilerError

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


@dataclasses.dataclass(frozen=True)
class Signature:
    """The argument and result types of a module's main."""

    inputs: tuple[Type, ...]
    results: tuple[Type, ...]


def signature(module: Module) -> Signature:
    with module.context:
        kind = _function_type(function(module, "main"))
        return Signature(tuple(kind.inputs), tuple(kind.results))


def _function_type(fn: Operation) -> ir.FunctionType:
    return ir.FunctionType(ir.TypeAttr(fn.attributes["function_type"]).value)


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


def remove_unused_functions(module: Module) -> None:
    with module.context:
        passmanager.PassManager.parse("builtin.module(symbol-dce)").run(module.operation)


# ---- looking ------------------------------------------------------------------------------------


def operations(module: Module | Operation) -> Iterator[Operation]:
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
    """`file:line` of the user's code behind an operation, or the bare location.

    An operation of a nested function may have none of its own: then it is that of a call.
    """
    for place in _places(op):
        for file, line in re.findall(r'"([^"]+\.py)":(\d+)', str(place.location)):
            if not file.startswith(_OWN_SOURCES):
                return f"{file}:{line}"
    return str(op.location)


def _places(op: Operation) -> Iterator[Operation]:
    """The operation, those around it, and the calls of the function that they are in."""
    yield op
    if op.name == "func.func":
        name = string(op.attributes["sym_name"])
        for call in operations(parent(op)):
            if call.name == "func.call" and symbol(call.attributes["callee"]) == name:
                yield from _places(call)
    elif op.parent is not None:
        yield from _places(op.parent.operation)


# ---- changing -----------------------------------------------------------------------------------


def tensor_type(shape: Sequence[int], element: str, context: ir.Context) -> Type:
    with ir.Location.unknown(context):
        return ir.RankedTensorType.get(shape, Type.parse(element, context))


CACHE_ARGUMENT = "nspjax.kv_cache"
"""Attribute of those arguments of main that are a cache, whether a mark uses them or not."""


def mark_cache_arguments(module: Module, indices: Sequence[int]) -> None:
    """Put CACHE_ARGUMENT on these arguments of main."""
    _set_cache_arguments(module, set(indices))


def take_cache_arguments(module: Module) -> list[Value]:
    """The arguments of main that have CACHE_ARGUMENT; it is removed."""
    main = functions(module).get("main")
    if main is None:
        return []
    arguments = main.regions[0].blocks[0].arguments
    given = _argument_attributes(main)
    _set_cache_arguments(module, set())
    return [a for a, attrs in zip(arguments, given, strict=True) if CACHE_ARGUMENT in attrs]


def _argument_attributes(fn: Operation) -> list[dict[str, Attribute]]:
    if "arg_attrs" not in fn.attributes:
        return [{} for _ in fn.regions[0].blocks[0].arguments]
    given = ir.ArrayAttr(fn.attributes["arg_attrs"])
    return [{item.name: item.attr for item in ir.DictAttr(attrs)} for attrs in given]


def _set_cache_arguments(module: Module, indices: set[int]) -> None:
    main = function(module, "main")
    changed = _argument_attributes(main)
    with module.context:
        for index, attributes in enumerate(changed):
            attributes.pop(CACHE_ARGUMENT, None)
            if index in indices:
                attributes[CACHE_ARGUMENT] = ir.UnitAttr.get()
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(list(map(ir.DictAttr.get, changed)))


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
            kind = _function_type(callee)
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
    if element not in _DTYPES:
        raise CompilerError(
            f"nspjax attends in {', '.join(_DTYPES)}, not in {element}: cast q, k and v first"
        )
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
