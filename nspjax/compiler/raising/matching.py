"""Following one element of a tensor to where it comes from.

An element is a value and its index, one Affine a dimension. `Elements` follows it through what only
moves elements (reshape, transpose, broadcast, slice), and reads integers, conditions and constants.
"""

from __future__ import annotations

import re

from nspjax.compiler import mlir
from nspjax.compiler.nsp.edges import before_loops
from nspjax.compiler.raising.affine import (
    Affine,
    Axis,
    Index,
    Symbol,
    constant,
    flat_index,
    unflatten,
)
from nspjax.compiler.raising.arithmetic import (
    ARITHMETIC,
    Number,
    as_formula,
    constant_element,
    fits,
    is_float,
    larger,
    smaller,
)
from nspjax.compiler.raising.formula import FALSE, TRUE, Formula, both, either, negation


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
            value = before_loops(value)
            op = mlir.definition(value)
            if op is None:
                return value, index
            if op.name == "stablehlo.convert" and is_float(value) and is_float(op.operands[0]):
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
        formula = as_formula(self.number(value, index))
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

    def number(self, value: mlir.Value, index: Index) -> Number:
        value, index = self.source(value, index)
        op = mlir.definition(value)
        if op is None:
            return self._unknown(value, index)
        read = self._computed(op, index)
        if read is None or (isinstance(read, Affine) and not fits(read, mlir.tensor(value)[1])):
            return self._unknown(value, index)
        return read

    def _computed(self, op: mlir.Operation, index: Index) -> Number | None:
        name = op.name.removeprefix("stablehlo.")
        if name == "constant":
            return constant_element(op, index)
        if name == "iota":
            return index[mlir.integer(op, "iota_dimension")]
        if name not in ARITHMETIC:
            return None
        if name == "select":
            # each branch by itself: the one that is not taken may be unreadable
            return self._selected(op, index)
        if name == "clamp":
            low, x, high = (self.number(v, index if mlir.tensor(v)[0] else ()) for v in op.operands)
            return smaller(larger(low, x), high)
        return ARITHMETIC[name](op, *(self.number(operand, index) for operand in op.operands))

    def _selected(self, op: mlir.Operation, index: Index) -> Number | None:
        which, yes, no = op.operands
        condition = self.condition(which, index if mlir.tensor(which)[0] else ())
        if condition in (TRUE, FALSE):
            return self.number(yes if condition == TRUE else no, index)
        chosen, other = (as_formula(self.number(v, index)) for v in (yes, no))
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
