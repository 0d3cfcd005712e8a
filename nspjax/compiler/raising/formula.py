"""Conditions that a mask is made of: and, or, and `affine >= 0`."""

from __future__ import annotations

import dataclasses

from nspjax.compiler.raising.affine import Affine


@dataclasses.dataclass(frozen=True)
class Both:
    """All of the parts hold; with none, it is true."""

    parts: frozenset[Formula]


@dataclasses.dataclass(frozen=True)
class Either:
    """One of the parts holds; with none, it is false."""

    parts: frozenset[Formula]


@dataclasses.dataclass(frozen=True)
class NotNegative:
    number: Affine


Formula = Both | Either | NotNegative
TRUE, FALSE = Both(frozenset()), Either(frozenset())


def not_negative(number: Affine) -> Formula:
    """number >= 0, settled where its range says so."""
    if number.low >= 0:
        return TRUE
    return FALSE if number.high < 0 else NotNegative(number)


def both(*parts: Formula) -> Formula:
    flat = {p for part in parts for p in (part.parts if isinstance(part, Both) else (part,))}
    if FALSE in flat:
        return FALSE
    return flat.pop() if len(flat) == 1 else Both(frozenset(flat))


def either(*parts: Formula) -> Formula:
    flat = {p for part in parts for p in (part.parts if isinstance(part, Either) else (part,))}
    if TRUE in flat:
        return TRUE
    return flat.pop() if len(flat) == 1 else Either(frozenset(flat))


def negation(formula: Formula) -> Formula:
    if isinstance(formula, NotNegative):
        return not_negative((formula.number * -1).plus(-1))
    join = either if isinstance(formula, Both) else both
    return join(*map(negation, formula.parts))


def compared(direction: str, left: Affine, right: Affine) -> Formula:
    """left `direction` right, one of EQ, NE, LT, LE, GT, GE."""
    at_least, at_most = not_negative(left - right), not_negative(right - left)
    return {
        "GE": at_least,
        "LE": at_most,
        "LT": negation(at_least),
        "GT": negation(at_most),
        "EQ": both(at_least, at_most),
        "NE": either(negation(at_least), negation(at_most)),
    }[direction]


def conjunction(formula: Formula) -> list[Affine] | None:
    """The numbers all of which must be >= 0, or None where it is not that simple."""
    parts = formula.parts if isinstance(formula, Both) else (formula,)
    numbers = [part.number for part in parts if isinstance(part, NotNegative)]
    return numbers if len(numbers) == len(parts) else None
