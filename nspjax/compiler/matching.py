"""Following one element of a tensor to where it comes from.

An element is a value and its index, one Affine a dimension. `Elements` follows it through what only
moves elements (reshape, transpose, broadcast, slice), and reads integers, conditions and constants.
"""

from __future__ import annotations

import re

import numpy as np

from nspjax.compiler import mlir
from nspjax.compiler.affine import Affine, Axis, Symbol, constant, flat_index, unflatten
from nspjax.compiler.formula import (
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

Index = tuple[Affine, ...]


class NoMatch(Exception):  # noqa: N818 - a finding, not an error
    """What keeps a piece of a program from being what was looked for."""

    def __init__(self, reason: str, at: mlir.Operation | mlir.Value) -> None:
        super().__init__(f"{reason}: {described(at)}")


def described(at: mlir.Operation | mlir.Value) -> str:
    """`stablehlo.add at model.py:7`, or which argument of what."""
    if isinstance(at, mlir.Value):
        found = mlir.definition(at)
        if found is None:
            argument = mlir.BlockArgument(at)
            owner, number = argument.owner.owner.operation, argument.arg_number
            what = "the function" if owner.name == "func.func" else owner.name
            return f"argument {number} of {what} at {mlir.source_line(owner)}"
        at = found
    return f"{at.name} at {mlir.source_line(at)}"


class Elements:
    """Reads elements. What it cannot read of integers becomes a Symbol, kept in `symbols`.

    symbol_high: every Symbol is taken to be 0 … symbol_high: whoever uses what was read must see
    to it that it is so, for all of `symbols`.
    """

    def __init__(self, symbol_high: int, not_of: frozenset[Axis] = frozenset()) -> None:
        self.symbol_high = symbol_high
        self.not_of = not_of
        self.symbols: set[Symbol] = set()

    # ---- moved elements ------------------------------------------------------------------------

    def source(self, value: mlir.Value, index: Index) -> tuple[mlir.Value, Index]:
        """The element as what computes or holds it, through moves and changes of float type."""
        while True:
            value = mlir.without_loops(value)
            op = mlir.definition(value)
            if op is None:
                return value, index
            if op.name == "stablehlo.convert" and _is_float(value) and _is_float(op.operands[0]):
                value = op.operands[0]
                continue
            moved = self._moved(op, index)
            if moved is None:
                return value, index
            value, index = op.operands[0], moved

    def _moved(self, op: mlir.Operation, index: Index) -> Index | None:
        """The index in the first operand of what has `index` in the result, if `op` only moves."""
        if op.name == "stablehlo.transpose":
            order = mlir.integers(op.attributes["permutation"])
            return tuple(index[order.index(d)] for d in range(len(order)))
        if op.name == "stablehlo.broadcast_in_dim":
            shape, _ = mlir.tensor(op.operands[0])
            places = mlir.integers(op.attributes["broadcast_dimensions"])
            return tuple(
                constant(0) if size == 1 else index[place]
                for size, place in zip(shape, places, strict=True)
            )
        if op.name == "stablehlo.reshape":
            shape, _ = mlir.tensor(op.operands[0])
            return unflatten(flat_index(index, mlir.tensor(op.results[0])[0]), shape)
        if op.name == "stablehlo.slice":
            starts, strides = (
                mlir.integers(op.attributes[name]) for name in ("start_indices", "strides")
            )
            return tuple(
                (at * stride).plus(start)
                for at, start, stride in zip(index, starts, strides, strict=True)
            )
        if op.name == "stablehlo.dynamic_slice":
            sizes, (shape, _) = (
                mlir.integers(op.attributes["slice_sizes"]),
                mlir.tensor(op.operands[0]),
            )
            starts = [self.integer(start, ()) for start in list(op.operands)[1:]]
            room = [whole - size for whole, size in zip(shape, sizes, strict=True)]
            if any(s.low < 0 or s.high > most for s, most in zip(starts, room, strict=True)):
                return None  # it would be moved back to fit
            return tuple(at + start for at, start in zip(index, starts, strict=True))
        return None

    # ---- numbers -------------------------------------------------------------------------------

    def integer(self, value: mlir.Value, index: Index) -> Affine:
        """An element of a tensor of integers.

        Raises:
          NoMatch: it depends on an axis of `not_of` in a way that is not affine.
        """
        read = self.number(value, index)
        if isinstance(read, Affine):
            return read
        raise NoMatch("a whole number is needed", value)

    def condition(self, value: mlir.Value, index: Index) -> Formula:
        """An element of a tensor of booleans, or of numbers that are 0 or 1.

        Raises:
          NoMatch: it is made of something that nothing is known of.
        """
        formula = _as_formula(self.number(value, index))
        if formula is None:
            raise NoMatch("a condition is needed", value)
        return formula

    def scalar(self, value: mlir.Value, index: Index) -> float | None:
        """An element that is a constant number, None if it is none."""
        try:
            read = self.number(value, index)
        except NoMatch:
            return None
        if isinstance(read, Affine):
            return float(read.constant) if read.is_constant else None
        return read if isinstance(read, float) else None

    def number(self, value: mlir.Value, index: Index) -> Affine | Formula | float:
        value, index = self.source(value, index)
        op = mlir.definition(value)
        if op is None:
            return self._unknown(value, index)
        read = self._computed(op, index)
        if read is None or (isinstance(read, Affine) and not _fits(read, mlir.tensor(value)[1])):
            return self._unknown(value, index)
        return read

    def _computed(self, op: mlir.Operation, index: Index) -> Affine | Formula | float | None:
        name = op.name.removeprefix("stablehlo.")
        if name == "constant":
            return _constant(op, index)
        if name == "iota":
            return index[mlir.integer(op, "iota_dimension")]
        if name not in _ARITHMETIC:
            return None
        if name == "select":
            # each branch by itself: the one that is not taken may be unreadable
            return self._selected(op, index)
        if name == "clamp":
            low, x, high = (self.number(v, index if mlir.tensor(v)[0] else ()) for v in op.operands)
            return _smaller(_larger(low, x), high)
        return _ARITHMETIC[name](op, *(self.number(operand, index) for operand in op.operands))

    def _selected(self, op: mlir.Operation, index: Index) -> Affine | Formula | float | None:
        which, yes, no = op.operands
        condition = self.condition(which, index if mlir.tensor(which)[0] else ())
        if condition in (TRUE, FALSE):
            return self.number(yes if condition == TRUE else no, index)
        chosen, other = (_as_formula(self.number(v, index)) for v in (yes, no))
        if chosen is None or other is None:
            return None
        return either(both(condition, chosen), both(negation(condition), other))

    def _unknown(self, value: mlir.Value, index: Index) -> Affine:
        _, element = mlir.tensor(value)
        if re.fullmatch(r"u?i(8|16|32|64)", element) is None:
            what = "an input" if mlir.definition(value) is None else "what is computed here"
            raise NoMatch(f"the mask needs a proof, but nothing is known of {what}", value)
        for at in index:
            if not (at.is_constant or at.only_axis()) or at.axes & self.not_of:
                raise NoMatch("an integer is no sum of positions", value)
        symbol = Symbol(hash(value), index, self.symbol_high, value)
        self.symbols.add(symbol)
        return Affine.of({symbol: 1})


# ---- what operations compute --------------------------------------------------------------------

Number = Affine | Formula | float


def _constant(op: mlir.Operation, index: Index) -> Affine | Formula | float | None:
    _, element = mlir.tensor(op.results[0])
    if (number := mlir.splat_number(op)) is not None:
        if element == "i1":
            return TRUE if number else FALSE
        return float(number) if _is_float(op.results[0]) else constant(int(number))
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


def _as_formula(read: Number | None) -> Formula | None:
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
    if _as_formula(a) == TRUE and isinstance(b, Formula):
        return negation(b)  # 1 - mask
    return a - b if isinstance(a, Affine) and isinstance(b, Affine) else None


def _multiply(op: mlir.Operation, a: Number, b: Number) -> Number | None:
    if isinstance(a, float) and isinstance(b, float):
        return a * b
    if isinstance(a, Affine) and isinstance(b, Affine):
        if a.is_constant or b.is_constant:
            return b * a.constant if a.is_constant else a * b.constant
        return None
    left, right = _as_formula(a), _as_formula(b)
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
    return _as_formula(a) if mlir.tensor(op.results[0])[1] == "i1" else None


def _larger(a: Number, b: Number) -> Number | None:
    if isinstance(a, Affine) and isinstance(b, Affine):
        return a if (a - b).low >= 0 else b if (b - a).low >= 0 else None
    left, right = _as_formula(a), _as_formula(b)
    return None if left is None or right is None else either(left, right)


def _smaller(a: Number | None, b: Number) -> Number | None:
    if isinstance(a, Affine) and isinstance(b, Affine):
        return b if (a - b).low >= 0 else a if (b - a).low >= 0 else None
    left, right = _as_formula(a), _as_formula(b)
    return None if left is None or right is None else both(left, right)


def _compare(op: mlir.Operation, a: Number, b: Number) -> Formula | None:
    direction = mlir.comparison(op)
    if isinstance(a, Affine) and isinstance(b, Affine):
        return compared(direction, a, b)
    if isinstance(a, float) and isinstance(b, Affine):
        a, b, direction = b, a, _MIRRORED[direction]
    if isinstance(a, Affine) and isinstance(b, float):  # whole numbers kept as floats
        return compared(direction, a, constant(int(b))) if b == int(b) else None
    left, right = _as_formula(a), _as_formula(b)
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
        return compared("NE", a, constant(0)) if isinstance(a, Affine) else _as_formula(a)
    if isinstance(a, float):
        if _is_float(op.results[0]):
            return a
        return constant(int(a)) if a == int(a) else None
    if isinstance(a, Affine) and a.is_constant and _is_float(op.results[0]):
        return float(a.constant)
    return a


_MIRRORED = {"EQ": "EQ", "NE": "NE", "LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}
_ARITHMETIC = {
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
    "maximum": lambda op, a, b: _larger(a, b),
    "minimum": lambda op, a, b: _smaller(a, b),
    "compare": _compare,
    "convert": _convert,
    "select": None,
    "clamp": None,
}


def _is_float(value: mlir.Value) -> bool:
    return re.fullmatch(r"bf16|f\d+.*", mlir.tensor(value)[1]) is not None


def _fits(number: Affine, element: str) -> bool:
    """Whether a type holds all that the number may be, exactly."""
    if found := re.fullmatch(r"(u?)i(\d+)", element):
        bits = int(found[2]) - (0 if found[1] else 1)
        return (0 if found[1] else -(2**bits)) <= number.low and number.high < 2**bits
    most = {"f64": 2**53, "f32": 2**24, "f16": 2**11, "bf16": 2**8}.get(element, 0)
    return -most <= number.low and number.high <= most
