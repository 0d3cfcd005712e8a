"""What waits for what inside one block, as bit sets over its operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from nspjax.compiler import mlir


@dataclasses.dataclass(frozen=True)
class Dependence:
    """The operations of a block in textual order, and what each needs.

    Bit i of a set is operation i; the bits from len(ops) on are what comes from outside the block:
    its arguments, and values of the blocks around it. Operands that only order count too.
    """

    ops: list[mlir.Operation]
    index: dict[mlir.Operation, int]
    needs: list[int]
    """of each operation, what its operands are made by"""
    ancestors: list[int]
    """the same, all the way; with the operation itself"""

    @staticmethod
    def of(block: mlir.Block) -> Dependence:
        ops = [op.operation for op in block.operations]
        index = {op: i for i, op in enumerate(ops)}
        outside: dict[mlir.Value, int] = {}
        needs, ancestors = [], []
        for i, op in enumerate(ops):
            direct = 0
            for value in op.operands:
                at = _maker(index, value)
                if at is None:
                    at = outside.setdefault(value, len(ops) + len(outside))
                direct |= 1 << at
            for value in mlir.used_values(op) if len(op.regions) else ():
                if (at := _maker(index, value)) is not None:
                    direct |= 1 << at
            closure = 1 << i
            for at in members(direct):
                closure |= ancestors[at] if at < i else 1 << at
            needs.append(direct)
            ancestors.append(closure)
        return Dependence(ops, index, needs, ancestors)

    def maker(self, value: mlir.Value) -> int | None:
        """The operation that makes a value; None if it comes from outside."""
        return _maker(self.index, value)

    def needs_any(self, i: int, others: int) -> bool:
        """Whether operation i waits, at whatever distance, for one of a set."""
        return bool(self.ancestors[i] & others)


def members(bits: int) -> Iterator[int]:
    """The numbers in a bit set, ascending."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _maker(index: dict[mlir.Operation, int], value: mlir.Value) -> int | None:
    owner = value.owner
    return None if isinstance(owner, mlir.Block) else index.get(owner.operation)
