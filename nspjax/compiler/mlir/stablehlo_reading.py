"""What StableHLO operations say: comparisons, reductions, constants."""

from __future__ import annotations

import re

import numpy as np
from jax.extend.mlir import ir

from nspjax.compiler.mlir.reading import Block, Operation, Value, number


def integer(op: Operation, name: str) -> int:
    return ir.IntegerAttr(op.attributes[name]).value


def comparison(op: Operation) -> str:
    """EQ, NE, LT, LE, GT or GE."""
    found = re.search(r"\b(EQ|NE|LT|LE|GT|GE)\b", str(op.attributes["comparison_direction"]))
    assert found is not None
    return found[1]


def reduction(op: Operation) -> str | None:
    """The operation that a `stablehlo.reduce` of one tensor applies, None if it is not just one."""
    body = list(op.regions[0].blocks[0].operations)
    simple = len(op.operands) == 2 and len(body) == 2 and len(body[0].operation.operands) == 2
    return body[0].operation.name if simple else None


def splat_number(op: Operation) -> float | int | bool | None:
    """The number that all elements of a constant are, None if they differ."""
    value = ir.DenseElementsAttr(op.attributes["value"])
    return number(value.get_splat_value()) if value.is_splat else None


def constant_array(op: Operation) -> np.ndarray | None:
    """A constant of integers or booleans; None for other types."""
    value = ir.DenseElementsAttr(op.attributes["value"])
    kind = ir.RankedTensorType(value.type)
    if not isinstance(kind.element_type, ir.IntegerType):
        return None
    items = ir.DenseIntElementsAttr(value)
    return np.array([int(item) for item in items]).reshape(kind.shape)


def definition(value: Value) -> Operation | None:
    """The operation whose result the value is, None for an argument of a block."""
    return None if isinstance(value.owner, Block) else value.owner.operation
