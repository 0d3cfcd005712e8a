"""What an operation of a module is, and its operands, results and attributes by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nspjax.compiler import mlir
from nspjax.compiler.nsp.definition import CACHE_DTYPE, CACHE_SHAPE, HANDLE_K, HANDLE_V, Op
from nspjax.compiler.nsp.ops import FETCH, OPS
from nspjax.errors import CompilerError

Handle = tuple[mlir.Value, mlir.Value]
"""of K and of V"""

DIALECT, TARGETS = "nsp.", "nspjax."


def kind(op: mlir.Operation) -> Op | None:
    """What an operation is, None if it is none of ours."""
    return OPS.get(op.name)


def call_kind(op: mlir.Operation) -> Op | None:
    """The same before and after lowering: of a custom call to the engine, which operation it was.

    Raises:
      CompilerError: it has a name of ours, but nothing is known of it.
    """
    target = mlir.call_target(op)
    if target is None:
        found, is_ours = OPS.get(op.name), op.name.startswith(DIALECT)
    else:
        is_ours = target.startswith(TARGETS)
        found = OPS.get(target.replace(TARGETS, DIALECT, 1)) if is_ours else None
    if is_ours and found is None:
        raise CompilerError(
            f"{target or op.name} at {mlir.source_line(op)} is no operation of nspjax; there are "
            f"{', '.join(sorted(OPS))}"
        )
    return found


def is_of_a_layer(op: mlir.Operation) -> bool:
    """Whether passes that schedule layers see it. A fetch stands in a loop over chunks, which is
    one piece of work to them."""
    return kind(op) not in (None, FETCH)


def operand(op: mlir.Operation, name: str) -> mlir.Value:
    """The operand that its kind calls `name`."""
    return op.operands[_kind(op).operand_index(name)]


def set_operand(op: mlir.Operation, name: str, value: mlir.Value) -> None:
    op.operands[_kind(op).operand_index(name)] = value


def operands(op: mlir.Operation) -> dict[str, mlir.Value]:
    """Its own operands by name, as `Op.build` takes them."""
    return {item.name: value for item, value in zip(_kind(op).operands, op.operands, strict=False)}


def result(op: mlir.Operation, name: str) -> mlir.Value:
    """The result that its kind calls `name`."""
    return op.results[_kind(op).result_index(name)]


def after(op: mlir.Operation) -> list[mlir.Value]:
    """The operands that only say what must have happened before."""
    return list(op.operands)[len(_kind(op).operands) :]


def handle(op: mlir.Operation) -> Handle:
    """That of the cache that an operation has."""
    return operand(op, HANDLE_K), operand(op, HANDLE_V)


def set_handle(op: mlir.Operation, values: Sequence[mlir.Value]) -> None:
    for name, value in zip((HANDLE_K, HANDLE_V), values, strict=True):
        set_operand(op, name, value)


def next_handle(op: mlir.Operation) -> Handle:
    """That which an operation gives, when it has used up its own."""
    return result(op, HANDLE_K), result(op, HANDLE_V)


def attribute(op: mlir.Operation, name: str) -> Any:
    """The Python value of an attribute, before and after lowering; its default if it is not there.

    Raises:
      CompilerError: it must be there, and is not.
    """
    found = call_kind(op)
    if found is None:
        raise CompilerError(f"{op.name} at {mlir.source_line(op)} is no operation of nspjax")
    item = found.attribute(name)
    given = op.attributes if op.name == found.name else mlir.ffi_attributes(op) | mlir.notes(op)
    if name in given:
        return item.type(mlir.python_value(given[name]))
    if item.default is None:
        raise CompilerError(
            f"{found.name} at {mlir.source_line(op)} is without its attribute {name!r}"
        )
    return item.default


def set_attribute(op: mlir.Operation, name: str, value: Any) -> None:
    item = _kind(op).attribute(name)
    assert type(value) is item.type, f"{name} is a {item.type.__name__}, got {value!r}"
    op.attributes[name] = mlir.attribute(value, op.context)


def is_sparse(op: mlir.Operation) -> bool:
    """Whether an attention reads a part of V."""
    return min(attribute(op, "mass"), attribute(op, "budget")) < 1


def attributes(op: mlir.Operation) -> dict[str, Any]:
    """All of them by name, as `Op.build` takes them."""
    return {item.name: attribute(op, item.name) for item in _kind(op).attributes}


def has_cache_attributes(op: mlir.Operation) -> bool:
    """Whether an operation, or the engine's call that it became, says what its cache is."""
    return CACHE_SHAPE in op.attributes or mlir.NOTE + CACHE_SHAPE in op.attributes


def cache_attributes(op: mlir.Operation) -> dict[str, Any]:
    """What an operation says of its cache, as `Op.build` takes it."""
    return {CACHE_SHAPE: cache_shape(op), CACHE_DTYPE: cache_dtype(op)}


def cache_shape(op: mlir.Operation) -> tuple[int, int, int, int]:
    """(S, C, Hkv, D) of the cache that the handles stand for."""
    return attribute(op, CACHE_SHAPE)


def cache_dtype(op: mlir.Operation) -> str:
    """The element type of the cache that the handles stand for: "bf16"."""
    return attribute(op, CACHE_DTYPE)


def _kind(op: mlir.Operation) -> Op:
    found = OPS.get(op.name)
    if found is None:
        raise CompilerError(f"{op.name} at {mlir.source_line(op)} is no operation of nspjax")
    return found
