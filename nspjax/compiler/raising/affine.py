"""Whole numbers that a program computes, as sums of unknowns: what a mask is proved with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from nspjax.compiler import mlir


@dataclasses.dataclass(frozen=True)
class Axis:
    """A place along one dimension: 0 … size - 1."""

    name: str
    size: int

    @property
    def high(self) -> int:
        return self.size - 1


@dataclasses.dataclass(frozen=True)
class Symbol:
    """An element of an integer tensor of the program that nothing is known of but 0 … high."""

    key: int
    index: tuple[Affine, ...]
    high: int
    value: mlir.Value = dataclasses.field(compare=False, repr=False)

    @property
    def is_input(self) -> bool:
        """Whether it is not computed here: an argument, what a loop carries, an entry of such."""
        op = mlir.definition(self.value)
        return op is None or op.name in ("stablehlo.gather", "stablehlo.dynamic_slice")

    @property
    def axes(self) -> set[Axis]:
        return {axis for at in self.index for axis in at.axes}


Unknown = Axis | Symbol


@dataclasses.dataclass(frozen=True)
class Affine:
    """constant + the sum of coefficient x unknown."""

    terms: frozenset[tuple[Unknown, int]]
    constant: int = 0

    @staticmethod
    def of(terms: dict[Unknown, int], constant: int = 0) -> Affine:
        return Affine(frozenset((u, c) for u, c in terms.items() if c), constant)

    @staticmethod
    def axis(axis: Axis) -> Affine:
        """The axis as a number; one of size 1 is 0."""
        return constant(0) if axis.size == 1 else Affine.of({axis: 1})

    def __add__(self, other: Affine) -> Affine:
        terms = dict(self.terms)
        for unknown, coefficient in other.terms:
            terms[unknown] = terms.get(unknown, 0) + coefficient
        return Affine.of(terms, self.constant + other.constant)

    def __mul__(self, factor: int) -> Affine:
        return Affine.of({u: c * factor for u, c in self.terms}, self.constant * factor)

    def __sub__(self, other: Affine) -> Affine:
        return self + other * -1

    def plus(self, number: int) -> Affine:
        return Affine(self.terms, self.constant + number)

    @property
    def low(self) -> int:
        return self.constant + sum(c * u.high for u, c in self.terms if c < 0)

    @property
    def high(self) -> int:
        return self.constant + sum(c * u.high for u, c in self.terms if c > 0)

    @property
    def is_constant(self) -> bool:
        return not self.terms

    @property
    def axes(self) -> set[Axis]:
        """The axes that it depends on, through symbols too."""
        own = {u for u, _ in self.terms if isinstance(u, Axis)}
        return own.union(*(u.axes for u, _ in self.terms if isinstance(u, Symbol)))

    @property
    def symbols(self) -> set[Symbol]:
        return {u for u, _ in self.terms if isinstance(u, Symbol)}

    def coefficient(self, unknown: Unknown) -> int:
        return dict(self.terms).get(unknown, 0)

    def only_axis(self) -> Axis | None:
        """The axis that this is, if it is just one."""
        if len(self.terms) == 1 and self.constant == 0:
            ((unknown, coefficient),) = self.terms
            if isinstance(unknown, Axis) and coefficient == 1:
                return unknown
        return None


Index = tuple[Affine, ...]
"""where an element is: one number a dimension"""


def constant(number: int) -> Affine:
    return Affine(frozenset(), number)


class SplitAxis(Exception):  # noqa: N818 - not an error: the proof starts again with two axes
    """An axis is two: outer x inner places, where a reshape takes it apart."""

    def __init__(self, axis: Axis, inner: int) -> None:
        super().__init__(f"{axis} / {inner}")
        self.axis, self.inner = axis, inner


def flat_index(index: Iterable[Affine], shape: Iterable[int]) -> Affine:
    """The row-major place of an index."""
    place = constant(0)
    for at, size in zip(index, shape, strict=True):
        place = place * size + at
    return place


def unflatten(place: Affine, shape: tuple[int, ...]) -> tuple[Affine, ...] | None:
    """The index of a row-major place in a tensor of `shape`; None if it is none of affine parts.

    Raises:
      SplitAxis: it would be, with an axis cut in two.
    """
    index = []
    for dimension in range(len(shape)):
        stride = 1
        for size in shape[dimension + 1 :]:
            stride *= size
        outer = Affine.of(
            {u: c // stride for u, c in place.terms if c % stride == 0}, place.constant // stride
        )
        rest = place - outer * stride
        if rest.low < 0 or rest.high >= stride:
            for unknown, coefficient in rest.terms:
                inner = stride // coefficient if coefficient > 0 else 0
                if (
                    isinstance(unknown, Axis)
                    and 1 < inner < unknown.size
                    and stride % coefficient == 0
                    and unknown.size % inner == 0
                ):
                    raise SplitAxis(unknown, inner)
            return None
        index.append(outer)
        place = rest
    return tuple(index)
