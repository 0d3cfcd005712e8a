"""Looking at modules: walks, names, types, source lines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo

Attribute = ir.Attribute
Block = ir.Block
BlockArgument = ir.BlockArgument
Module = ir.Module
Operation = ir.Operation
Value = ir.Value
Type = ir.Type


def operations(module: Module | Operation) -> Iterator[Operation]:
    """All operations in textual order, as they are at the time of the call."""
    found: list[Operation] = []
    note, go_on = found.append, ir.WalkResult.ADVANCE  # looked up once: it is called often

    def visit(op: Operation) -> Any:
        note(op)
        return go_on

    module.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return iter(found)


def blocks(module: Module) -> Iterator[Block]:
    """All blocks, those of outer operations first."""
    return (block for op in operations(module) for region in op.regions for block in region.blocks)


def functions(module: Module) -> dict[str, Operation]:
    return {
        string(op.attributes["sym_name"]): op.operation
        for op in module.body.operations
        if op.operation.name == "func.func"
    }


def function(module: Module, name: str) -> Operation:
    """The function of that name.

    Raises:
      KeyError: there is none.
    """
    found = find_function(module, name)
    if found is None:
        raise KeyError(name)
    return found


def find_function(module: Module, name: str) -> Operation | None:
    """The function of that name; quick where there are many."""
    table = ir.SymbolTable(module.operation)
    return table[name].operation if name in table else None


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


def call_target(op: Operation) -> str | None:
    """What a `stablehlo.custom_call` calls, None for any other operation."""
    is_call = op.name == "stablehlo.custom_call"
    return string(op.attributes["call_target_name"]) if is_call else None


def ffi_attributes(op: Operation) -> dict[str, Attribute]:
    """What a typed-FFI custom call is called with; nothing for any other operation."""
    for name in ("backend_config", "mhlo.backend_config"):  # the latter is what jax.ffi writes
        if name in op.attributes and isinstance(op.attributes[name], ir.DictAttr):
            return {item.name: item.attr for item in ir.DictAttr(op.attributes[name])}
    return {}


NOTE = "nspjax."
"""Begins the names of those attributes of a custom call that are for who reads the module."""


def notes(op: Operation) -> dict[str, Attribute]:
    """What a custom call has for who reads the module, see `custom_call`."""
    names = [name for name in attribute_names(op) if name.startswith(NOTE)]
    return {name.removeprefix(NOTE): op.attributes[name] for name in names}


def contracted_size(dot_general: Operation) -> int:
    """How many products each element of a `stablehlo.dot_general` is the sum of."""
    numbers = stablehlo.DotDimensionNumbers(dot_general.attributes["dot_dimension_numbers"])
    shape, _ = tensor(dot_general.operands[0])
    return math.prod(shape[i] for i in numbers.lhs_contracting_dimensions)


def parent(op: Operation) -> Operation:
    """The operation whose region holds `op`."""
    assert op.parent is not None, "a module has no parent"
    return op.parent.operation


def is_argument(value: Value) -> bool:
    """Whether a value is a block's argument, and no operation's result."""
    return isinstance(value.owner, ir.Block)


def maker(value: Value) -> Operation:
    """The operation that gives a value; of a block's argument, the one around the block."""
    owner = value.owner
    return (owner.owner if isinstance(owner, ir.Block) else owner).operation


def position(value: Value) -> int:
    """Of a value among the results of its operation, or the arguments of its block."""
    if is_argument(value):
        return BlockArgument(value).arg_number
    return ir.OpResult(value).result_number


def terminator(block: Block) -> Operation:
    return block.operations[-1].operation


def tensor(value: Value) -> tuple[tuple[int, ...], str]:
    """Shape and element type of a value: ((2, 1, 8, 64), "bf16")."""
    return tensor_of_type(value.type)


def tensor_of_type(kind: Type) -> tuple[tuple[int, ...], str]:
    """Shape and element type that a value of that type has."""
    ranked = ir.RankedTensorType(kind)
    return tuple(ranked.shape), str(ranked.element_type)


def types(values: Iterable[Value]) -> tuple[Type, ...]:
    return tuple([value.type for value in values])


def is_tensor_type(kind: Type) -> bool:
    return isinstance(kind, ir.RankedTensorType)


def element_bytes(element: str) -> float:
    """Bytes of one element of a type as MLIR spells it: "bf16", "ui8", "i1", "complex<f32>"."""
    if element.startswith("complex<"):
        return 2 * element_bytes(element[len("complex<") : -1])
    if element == "i1":
        return 1
    found = re.match(r"[a-z]+(\d+)", element)
    if found is None:
        raise TypeError(f"{element} has no size")
    return int(found[1]) / 8


def tensor_bytes(value: Value) -> int:
    shape, element = tensor(value)
    return math.ceil(math.prod(shape) * element_bytes(element))


def element_type(value: Value) -> str:
    """The element type of a value: "bf16"; "" for one that is no tensor."""
    if not isinstance(value.type, ir.RankedTensorType):
        return ""
    return str(value.type.element_type)


_OWN_SOURCES = str(Path(__file__).resolve().parents[2])


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


def function_type(fn: Operation) -> ir.FunctionType:
    return ir.FunctionType(ir.TypeAttr(fn.attributes["function_type"]).value)


def attribute_names(op: Operation) -> list[str]:
    return [item if isinstance(item, str) else item.name for item in op.attributes]


def integers(attribute: Attribute) -> tuple[int, ...]:
    """The Python values of an array of i64."""
    if isinstance(attribute, ir.DenseIntElementsAttr):  # what serialisation makes of one
        return tuple(int(item) for item in attribute)
    return tuple(ir.DenseI64ArrayAttr(attribute))


def python_value(attribute: Attribute) -> bool | int | float | str | tuple[int, ...]:
    """What `attribute` was made of by `mlir.attribute`.

    Raises:
      TypeError: it is none of these.
    """
    if isinstance(attribute, ir.StringAttr):
        return attribute.value
    if isinstance(attribute, ir.DenseI64ArrayAttr | ir.DenseIntElementsAttr):
        return integers(attribute)
    return number(attribute)


def number(attribute: Attribute) -> float | int | bool:
    """The Python value of a float, integer or bool attribute."""
    if not isinstance(attribute, ir.FloatAttr | ir.BoolAttr | ir.IntegerAttr):
        raise TypeError(f"{attribute} is no number")
    return attribute.value
