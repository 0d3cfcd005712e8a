"""The loads of weights in one block: where each goes, and what it waits for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from nspjax.compiler import mlir, nsp


@dataclasses.dataclass(frozen=True)
class _Load:
    value: mlir.Value
    n_attended: int


class WeightBlock:
    """A block that is gone through from its begin, operation by operation."""

    def __init__(self, block: mlir.Block, weights: Mapping[int, mlir.Type], keep: int):
        """weights: what each is in memory; here it is a handle."""
        self._weights = weights
        self._keep = keep
        self._loads: dict[int, _Load] = {}
        self._held_back: dict[int, mlir.Operation] = {}
        self._attended: mlir.Value | None = None
        self._n_attended = 0
        # What depends on the block's arguments, numbered as it is computed. Constants do not: they
        # are there at any time.
        self._computed = {hash(a): 0 for a in block.arguments if hash(a) not in weights}

    def hold_back(self, op: mlir.Operation) -> bool:
        """Whether `op` only rearranges a weight: then it moves down to its first user."""
        if any(not self._is_weight(operand) for operand in op.operands):
            return False
        if any(use.owner.operation.parent != op.parent for use in op.results[0].uses):
            return False
        self._held_back[hash(op.results[0])] = op
        return True

    def load(self, op: mlir.Operation, used: Sequence[int]) -> None:
        """Give `op` the values of the weights that are these operands of it."""
        wait_for = [self._attended] if self._attended else self._needed_by(op)
        for operand in op.operands:
            self._release(operand, op, wait_for)
        self._replace(op, used, wait_for)

    def passed(self, op: mlir.Operation, *, attends: bool) -> None:
        """`op` is done with: what it computes may be waited for by what comes next."""
        if any(hash(operand) in self._computed for operand in op.operands):
            number = len(self._computed)
            self._computed |= {hash(result): number for result in op.results}
        if attends and len(op.results):
            self._attended, self._n_attended = _largest(op), self._n_attended + 1

    def _is_weight(self, value: mlir.Value) -> bool:
        return hash(value) in self._weights or hash(value) in self._held_back

    def _release(self, value: mlir.Value, user: mlir.Operation, wait_for: list) -> None:
        op = self._held_back.pop(hash(value), None)
        if op is None:
            return
        op.move_before(user)
        for operand in op.operands:
            self._release(operand, op, wait_for)
        used = [i for i, operand in enumerate(op.operands) if hash(operand) in self._weights]
        self._replace(op, used, wait_for)

    def _replace(self, op: mlir.Operation, used: Sequence[int], wait_for: list) -> None:
        for index in used:
            weight = op.operands[index]
            load = self._loads.get(hash(weight))
            if load is None or self._n_attended - load.n_attended > self._keep:
                types = {"value": self._weights[hash(weight)]}
                made = nsp.LOAD.build(mlir.Builder(op), weight=weight, after=wait_for, types=types)
                load = _Load(nsp.result(made, "value"), self._n_attended)
                self._loads[hash(weight)] = load
            op.operands[index] = load.value

    def _needed_by(self, op: mlir.Operation) -> list[mlir.Value]:
        """The operand that is computed last, none where all are there from the start."""
        number, last = max(
            ((self._computed.get(hash(operand), 0), i) for i, operand in enumerate(op.operands)),
            default=(0, 0),
        )
        return [op.operands[last]] if number else []


def _largest(op: mlir.Operation) -> mlir.Value:
    """The attention's output, or the largest result of what holds it."""
    if nsp.kind(op) is not None:
        return nsp.result(op, "out")
    return max(op.results, key=mlir.tensor_bytes)
