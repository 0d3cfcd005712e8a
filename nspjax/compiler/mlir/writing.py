"""Changing modules: new operations, other types, spliced JAX functions, custom calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.mlir import ir

from nspjax.compiler.mlir.reading import (
    NOTE,
    Attribute,
    Module,
    Operation,
    Type,
    Value,
    attribute_names,
    find_function,
    function,
    function_type,
    functions,
    operations,
    string,
    symbol,
    tensor,
    terminator,
)
from nspjax.dtypes import DTYPES
from nspjax.errors import CompilerError


def tensor_type(shape: Sequence[int], element: str, context: ir.Context) -> Type:
    with ir.Location.unknown(context):
        return ir.RankedTensorType.get(shape, Type.parse(element, context))


def attribute(value: bool | int | float | str | tuple[int, ...], context: ir.Context) -> Attribute:
    """A value as an attribute: i1, i64, f64, text or an array of i64."""
    with context:
        if isinstance(value, bool):
            return ir.BoolAttr.get(value)
        if isinstance(value, int):
            return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)
        if isinstance(value, float):
            return ir.FloatAttr.get(ir.F64Type.get(), value, ir.Location.unknown(context))
        if isinstance(value, tuple):
            return ir.DenseI64ArrayAttr.get(list(value))
        return ir.StringAttr.get(value)


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
    """Inserts operations before `anchor`, at its source location; or each right after it."""

    anchor: Operation
    behind: bool = False

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
        if self.behind:
            made.move_after(self.anchor)
        return list(made.results)

    def call(self, callee: Operation, operands: Sequence[Value]) -> list[Value]:
        with self.anchor.context:
            kind = function_type(callee)
            name = ir.FlatSymbolRefAttr.get(string(callee.attributes["sym_name"]))
        return self.op("func.call", operands, kind.results, {"callee": name})

    def composite(
        self,
        name: str,
        operands: Sequence[Value],
        results: Sequence[Type],
        settings: dict[str, bool | int | float | str],
        decomposition: Operation,
    ) -> list[Value]:
        """A mark, as lowering `jax.lax.composite` makes it."""
        context = self.anchor.context
        given = {key: attribute(value, context) for key, value in settings.items()}
        with context:
            attributes = {
                "name": ir.StringAttr.get(name),
                "composite_attributes": ir.DictAttr.get(given),
                "decomposition": ir.FlatSymbolRefAttr.get(
                    string(decomposition.attributes["sym_name"])
                ),
                "version": ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 1),
            }
        return self.op("stablehlo.composite", operands, results, attributes)


def copy_function(module: Module, name: str, copy_name: str) -> Operation:
    """A private copy of a function, of another name."""
    with module.context:
        copy = function(module, name).clone()
        copy.attributes["sym_name"] = ir.StringAttr.get(copy_name)
        copy.attributes["sym_visibility"] = ir.StringAttr.get("private")
        module.body.append(copy)
    return function(module, copy_name)


def set_callee(call: Operation, name: str) -> None:
    with call.context:
        call.attributes["callee"] = ir.FlatSymbolRefAttr.get(name)


def add_operands(op: Operation, values: Sequence[Value]) -> Operation:
    """Give an operation further operands; returns the one that now stands in its place."""
    attributes = {name: op.attributes[name] for name in attribute_names(op)}
    kinds = [result.type for result in op.results]
    with op.location, ir.InsertionPoint(op):
        made = Operation.create(
            op.name, results=kinds, operands=[*op.operands, *values], attributes=attributes
        )
    replace(op, list(made.results))
    return made


def replace(op: Operation, values: Sequence[Value]) -> None:
    """Put `values` where the results of `op` were used, and erase it."""
    for old, new in zip(op.results, values, strict=True):
        old.replace_all_uses_with(new)
    op.erase()


def inline_call(call: Operation, callee: Operation) -> None:
    """Put the operations of `callee` where it is called."""
    body = callee.regions[0].blocks[0]
    values = dict(zip(body.arguments, call.operands, strict=True))
    with call.context, ir.InsertionPoint(call):
        for op in list(body.operations)[:-1]:
            made = op.operation.clone()
            for inner in operations(made):
                # what JAX itself put into a function knows no line of the user's but the call's
                inner.location = ir.Location.callsite(inner.location, [call.location])
                for i, value in enumerate(inner.operands):
                    if value in values:
                        inner.operands[i] = values[value]
            values |= dict(zip(op.operation.results, made.results, strict=True))
    replace(call, [values.get(value, value) for value in terminator(body).operands])


def splice(module: Module, name: str, fn: Callable, *operands: Value) -> Operation:
    """Lower a JAX function for the types of `operands` into `module`; returns it, to be called.

    The same name and types give the same function: a pass that inserts it into every layer adds
    one copy.
    """
    specs = [_spec(value) for value in operands]
    key = "_".join([name, *map(_type_text, operands)])
    if (spliced := find_function(module, key)) is not None:
        return spliced
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


_DTYPES = {dtype.name: dtype.numpy for dtype in DTYPES if dtype.appended}
_DTYPES |= {"i32": "int32", "i1": "bool"}


def dtype(element: str) -> jax.numpy.dtype:
    """JAX's dtype of an element type.

    Raises:
      CompilerError: it is none that nspjax attends in.
    """
    if element not in _DTYPES:
        raise CompilerError(
            f"nspjax attends in {', '.join(_DTYPES)}, not in {element}: cast q, k and v first"
        )
    return jax.numpy.dtype(_DTYPES[element])


def _spec(value: Value) -> jax.ShapeDtypeStruct:
    shape, element = tensor(value)
    return jax.ShapeDtypeStruct(shape, dtype(element))


def custom_call(
    op: Operation, target: str, config: Mapping[str, bool | int | float], notes: Mapping[str, Any]
) -> list[Value]:
    """A typed-FFI custom call (API version 4) in front of `op`, with its operands. The handler gets
    `config`: floats as f32, integers as i64. `notes` stay on the call for who reads the module, as
    attributes that XLA does not look at.

    Layouts are pinned to row-major, as the handlers read them; XLA may otherwise choose others.
    The call has a side effect, so that XLA keeps every one. Its name in XLA, which profiles show,
    is the target's.
    """
    with op.context, ir.Location.name(target, op.location):
        given = {name: _ffi_attribute(value) for name, value in config.items()}
        attributes = {
            "call_target_name": ir.StringAttr.get(target),
            "has_side_effect": ir.BoolAttr.get(True),
            "api_version": ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4),
            "backend_config": ir.DictAttr.get(given),
            "operand_layouts": ir.ArrayAttr.get([_row_major(v) for v in op.operands]),
            "result_layouts": ir.ArrayAttr.get([_row_major(v) for v in op.results]),
        }
        attributes |= {NOTE + name: attribute(value, op.context) for name, value in notes.items()}
        with ir.InsertionPoint(op):
            made = Operation.create(
                "stablehlo.custom_call",
                results=[v.type for v in op.results],
                operands=list(op.operands),
                attributes=attributes,
            )
    return list(made.results)


def _ffi_attribute(value: bool | int | float) -> Attribute:
    if isinstance(value, float):
        return ir.FloatAttr.get(ir.F32Type.get(), value)
    return ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)


def _row_major(value: Value) -> Attribute:
    rank = ir.RankedTensorType(value.type).rank
    index = ir.IndexType.get()
    text = f"dense<{list(reversed(range(rank)))}> : tensor<{rank}x{index}>"
    return Attribute.parse(text)
