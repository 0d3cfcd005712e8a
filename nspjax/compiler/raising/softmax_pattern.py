"""Attention weights, backwards: the softmax, the masks, softcap and scale, to query x keys."""

from __future__ import annotations

import dataclasses
import math

from nspjax.compiler import mlir
from nspjax.compiler.raising.affine import Affine, Axis, Index
from nspjax.compiler.raising.matching import Elements, NoMatch

_LARGE = -1e9
_LARGE_IN_HALF = -4e4  # float16 ends at 65504
"""what hides a key: its weight is exactly 0 beside any key that is seen"""


@dataclasses.dataclass(frozen=True)
class Mask:
    """A condition on the scores; the key is seen where it holds, or, if it `hides`, where not."""

    value: mlir.Value
    index: Index
    hides: bool


@dataclasses.dataclass(frozen=True)
class Scores:
    """softcap * tanh(scale * (query x keys) / softcap), under masks."""

    dot: mlir.Operation
    index: Index
    scale: float
    softcap: float
    masks: tuple[Mask, ...]


def scores_of(weights: mlir.Value, index: Index, key: Axis, elements: Elements) -> Scores:
    """The scores whose softmax over `key` the weights are.

    Raises:
      NoMatch: they are something else.
    """
    value, index = _softmax(weights, index, key, elements)
    masks: list[Mask] = []
    while (mask := _masked(value, index, elements)) is not None:
        masks.append(mask[0])
        value, index = mask[1:]
    factor, softcap = 1.0, 0.0
    while True:
        value, index = elements.source(value, index)
        op = mlir.definition(value)
        if op is not None and op.name == "stablehlo.dot_general":
            break
        scaled = _scaled(op, index, elements)
        if scaled is not None:
            value, number = scaled
            factor *= number
        elif op is not None and op.name == "stablehlo.tanh" and not softcap and factor > 0:
            value, softcap, factor = op.operands[0], factor, 1.0
        else:
            raise NoMatch("the scores are not query x keys, scaled and perhaps softcapped", value)
    if softcap:
        factor *= softcap
    return Scores(op, index, factor, softcap, tuple(masks))


# ---- softmax ------------------------------------------------------------------------------------


def _softmax(
    weights: mlir.Value, index: Index, key: Axis, elements: Elements
) -> tuple[mlir.Value, Index]:
    """exp(x - max x) / sum exp(x - max x), to x."""
    value, index = elements.source(weights, index)
    division = _expected("stablehlo.divide", value, "the weights are no softmax")
    above = elements.source(division.operands[0], index)
    total, at_total = elements.source(division.operands[1], index)
    if _reduced(total, at_total, "stablehlo.add", key, elements) != above:
        raise NoMatch("the softmax is not over the keys, or of other scores", division)
    value, index = above
    power = _expected("stablehlo.exponential", value, "the weights are no softmax")
    difference, index = elements.source(power.operands[0], index)
    minus = _expected("stablehlo.subtract", difference, "the softmax lacks its maximum")
    scores = elements.source(minus.operands[0], index)
    top, at_top = elements.source(minus.operands[1], index)
    while (op := mlir.definition(top)) is not None and op.name == "stablehlo.maximum":
        bounds = [elements.scalar(operand, at_top) for operand in op.operands]
        if -math.inf not in bounds:
            break
        top, at_top = elements.source(op.operands[1 - bounds.index(-math.inf)], at_top)
    if _reduced(top, at_top, "stablehlo.maximum", key, elements) != scores:
        raise NoMatch("the softmax subtracts something else than the maximum over the keys", minus)
    return scores


def _reduced(
    value: mlir.Value, index: Index, by: str, key: Axis, elements: Elements
) -> tuple[mlir.Value, Index]:
    """What a reduction over one dimension, of all keys, takes."""
    op = _expected("stablehlo.reduce", value, "a reduction over the keys is missing")
    dimensions = mlir.integers(op.attributes["dimensions"])
    shape, _ = mlir.tensor(op.operands[0])
    if mlir.reduction(op) != by or len(dimensions) != 1 or shape[dimensions[0]] != key.size:
        raise NoMatch("the softmax is over another axis than the keys", op)
    inner = list(index)
    inner.insert(dimensions[0], Affine.axis(key))
    return elements.source(op.operands[0], tuple(inner))


def _expected(name: str, value: mlir.Value, otherwise: str) -> mlir.Operation:
    op = mlir.definition(value)
    if op is None or op.name != name:
        raise NoMatch(otherwise, value)
    return op


# ---- masks and scales ---------------------------------------------------------------------------


def _masked(
    value: mlir.Value, index: Index, elements: Elements
) -> tuple[Mask, mlir.Value, Index] | None:
    """(mask, scores, index) where the value is masked scores."""
    value, index = elements.source(value, index)
    op = mlir.definition(value)
    if op is None or op.name not in ("stablehlo.select", "stablehlo.add"):
        return None
    if op.name == "stablehlo.select":
        which, yes, no = op.operands
        at = index if mlir.tensor(which)[0] else ()
        for hides, shown, hidden in ((False, yes, no), (True, no, yes)):
            number = elements.scalar(hidden, index)
            if number is not None:
                if not _is_large(number, value):
                    raise NoMatch(f"hidden keys get the score {number}, which is too much", op)
                return Mask(which, at, hides), shown, index
        raise NoMatch("no side of the mask is a constant", op)
    for shown, bias in (op.operands, list(op.operands)[::-1]):
        if (mask := _bias(bias, index, elements)) is not None:
            return mask, shown, index
    raise NoMatch("a bias is added to the scores", op)


def _bias(value: mlir.Value, index: Index, elements: Elements) -> Mask | None:
    """The mask that a bias of 0 and a large negative number is."""
    value, index = elements.source(value, index)
    op = mlir.definition(value)
    if op is None:
        return None
    if op.name == "stablehlo.select":
        which, yes, no = op.operands
        numbers = [elements.scalar(side, index) for side in (yes, no)]
        at = index if mlir.tensor(which)[0] else ()
        for hides in (False, True):
            shown, hidden = numbers[::-1] if hides else numbers
            if shown == 0 and hidden is not None and _is_large(hidden, value):
                return Mask(which, at, hides)
    if op.name == "stablehlo.multiply":  # (1 - mask) * -1e9
        for condition, factor in (op.operands, list(op.operands)[::-1]):
            number = elements.scalar(factor, index)
            if number is not None and _is_large(number, value):
                return Mask(condition, index, hides=True)
    return None


def _is_large(number: float, scores: mlir.Value) -> bool:
    half = mlir.tensor(scores)[1] == "f16"
    return number <= (_LARGE_IN_HALF if half else _LARGE)


def _scaled(
    op: mlir.Operation | None, index: Index, elements: Elements
) -> tuple[mlir.Value, float] | None:
    """(x, number) of x * number or x / number."""
    if op is None or op.name not in ("stablehlo.multiply", "stablehlo.divide"):
        return None
    number = elements.scalar(op.operands[1], index)
    if number:
        return op.operands[0], 1 / number if op.name == "stablehlo.divide" else number
    if op.name == "stablehlo.multiply" and (number := elements.scalar(op.operands[0], index)):
        return op.operands[1], number
    return None
