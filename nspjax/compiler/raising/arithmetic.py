"""What StableHLO's elementwise operations make of numbers and conditions that are known.

Each function here takes the operation and what its operands are, and says what the result is, or
None where it is no sum of positions, no condition on such sums, and no constant.
"""

from __future__ import annotations

import re

import numpy as np

from nspjax.compiler import mlir
from nspjax.compiler.raising.affine import Affine, Index, constant
from nspjax.compiler.raising.formula import (
    FALSE,
    TRUE,
    Both,
    Either,
    Formula,
    NotNegative,
    both,
    compared,
    either,
    negation,
)

Number = Affine | Formula | float


def constant_element(op: mlir.Operation, index: Index) -> Number | None:
    _, element = mlir.tensor(op.results[0])
    if (number := mlir.splat_number(op)) is not None:
        if element == "i1":
            return TRUE if number else FALSE
        return float(number) if is_float(op.results[0]) else constant(int(number))
    items = mlir.constant_array(op)
    if items is None or items.ndim == 0:
        return None
    if all(at.is_constant for at in index):
        number = int(items[tuple(at.constant for at in index)])
        return (TRUE if number else FALSE) if element == "i1" else constant(number)
    if element != "i1" and items.ndim == 1 and len(set(np.diff(items).tolist())) == 1:
        return (index[0] * int(items[1] - items[0])).plus(int(items[0]))
    if element == "i1" and items.ndim == 2:
        diagonal = int(np.count_nonzero(items[0])) - 1  # row i sees the first i + 1 + diagonal
        if np.array_equal(items != 0, np.tri(items.shape[0], items.shape[1], diagonal, dtype=bool)):
            return compared("LE", index[1], index[0].plus(diagonal))
    return None


def as_formula(read: Number | None) -> Formula | None:
    if isinstance(read, Both | Either | NotNegative):
        return read
    if isinstance(read, Affine):
        read = read.constant if read.is_constant else None
    return FALSE if read == 0 else TRUE if read == 1 else None


def _add(op: mlir.Operation, a: Number, b: Number) -> Number | None:
    if isinstance(a, float) and isinstance(b, float):
        return a + b
    return a + b if isinstance(a, Affine) and isinstance(b, Affine) else None


def _subtract(op: mlir.Operation, a: Number, b: Number) -> Number | None:
    if isinstance(a, float) and isinstance(b, float):
        return a - b
    if as_formula(a) == TRUE and isinstance(b, Formula):
        return negation(b)  # 1 - mask
    return a - b if isinstance(a, Affine) and isinstance(b, Affine) else None


def _multiply(op: mlir.Operation, a: Number, b: Number) -> Number | None:
    if isinstance(a, float) and isinstance(b, float):
        return a * b
    if isinstance(a, Affine) and isinstance(b, Affine):
        if a.is_constant or b.is_constant:
            return b * a.constant if a.is_constant else a * b.constant
        return None
    left, right = as_formula(a), as_formula(b)
    return None if left is None or right is None else both(left, right)


def _divide(op: mlir.Operation, a: Number, b: Number) -> Number | None:
    return a / b if isinstance(a, float) and isinstance(b, float) and b else None


def _remainder(op: mlir.Operation, a: Number, b: Number) -> Number | None:
    if not (isinstance(a, Affine) and isinstance(b, Affine) and b.is_constant):
        return None
    return a if a.low >= 0 and a.high < b.constant else None


def _negate(op: mlir.Operation, a: Number) -> Number | None:
    if isinstance(a, float):
        return -a
    return a * -1 if isinstance(a, Affine) else None


def _root(op: mlir.Operation, a: Number) -> Number | None:
    if not isinstance(a, float) or a <= 0:
        return None
    return a**0.5 if op.name == "stablehlo.sqrt" else a**-0.5


def _and(op: mlir.Operation, a: Number, b: Number) -> Number | None:
    left, right = _truth(op, a), _truth(op, b)
    return None if left is None or right is None else both(left, right)


def _or(op: mlir.Operation, a: Number, b: Number) -> Number | None:
    left, right = _truth(op, a), _truth(op, b)
    return None if left is None or right is None else either(left, right)


def _not(op: mlir.Operation, a: Number) -> Number | None:
    formula = _truth(op, a)
    return None if formula is None else negation(formula)


def _truth(op: mlir.Operation, a: Number) -> Formula | None:
    """An operand of a logical operation; of integers, they are bitwise."""
    return as_formula(a) if mlir.tensor(op.results[0])[1] == "i1" else None


def larger(a: Number, b: Number) -> Number | None:
    if isinstance(a, Affine) and isinstance(b, Affine):
        return a if (a - b).low >= 0 else b if (b - a).low >= 0 else None
    left, right = as_formula(a), as_formula(b)
    return None if left is None or right is None else either(left, right)


def smaller(a: Number | None, b: Number) -> Number | None:
    if isinstance(a, Affine) and isinstance(b, Affine):
        return b if (a - b).low >= 0 else a if (b - a).low >= 0 else None
    left, right = as_formula(a), as_formula(b)
    return None if left is None or right is None else both(left, right)


def _compare(op: mlir.Operation, a: Number, b: Number) -> Formula | None:
    direction = mlir.comparison(op)
    if isinstance(a, Affine) and isinstance(b, Affine):
        return compared(direction, a, b)
    if isinstance(a, float) and isinstance(b, Affine):
        a, b, direction = b, a, _MIRRORED[direction]
    if isinstance(a, Affine) and isinstance(b, float):  # whole numbers kept as floats
        return compared(direction, a, constant(int(b))) if b == int(b) else None
    left, right = as_formula(a), as_formula(b)
    if left is None or right is None:
        return None
    if left in (TRUE, FALSE):
        left, right, direction = right, left, _MIRRORED[direction]
    if right not in (TRUE, FALSE):
        return None
    table = {  # of a condition, as 0 or 1, with (0, 1)
        "NE": (left, negation(left)),
        "EQ": (negation(left), left),
        "GT": (left, FALSE),
        "GE": (TRUE, left),
        "LT": (FALSE, negation(left)),
        "LE": (negation(left), TRUE),
    }
    return table[direction][right == TRUE]


def _convert(op: mlir.Operation, a: Number) -> Number | None:
    """Between integers, floats and booleans, where the number stays what it is."""
    _, to = mlir.tensor(op.results[0])
    if to == "i1":
        return compared("NE", a, constant(0)) if isinstance(a, Affine) else as_formula(a)
    if isinstance(a, float):
        if is_float(op.results[0]):
            return a
        return constant(int(a)) if a == int(a) else None
    if isinstance(a, Affine) and a.is_constant and is_float(op.results[0]):
        return float(a.constant)
    return a


_MIRRORED = {"EQ": "EQ", "NE": "NE", "LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}
ARITHMETIC = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "remainder": _remainder,
    "negate": _negate,
    "sqrt": _root,
    "rsqrt": _root,
    "and": _and,
    "or": _or,
    "not": _not,
    "maximum": lambda op, a, b: larger(a, b),
    "minimum": lambda op, a, b: smaller(a, b),
    "compare": _compare,
    "convert": _convert,
    "select": None,
    "clamp": None,
}


def is_float(value: mlir.Value) -> bool:
    return re.fullmatch(r"bf16|f\d+.*", mlir.tensor(value)[1]) is not None


def fits(number: Affine, element: str) -> bool:
    """Whether a type holds all that the number may be, exactly."""
    if found := re.fullmatch(r"(u?)i(\d+)", element):
        bits = int(found[2]) - (0 if found[1] else 1)
        return (0 if found[1] else -(2**bits)) <= number.low and number.high < 2**bits
    most = {"f64": 2**53, "f32": 2**24, "f16": 2**11, "bf16": 2**8}.get(element, 0)
    return -most <= number.low and number.high <= most
