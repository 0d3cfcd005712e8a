"""Who uses a value up that may be used up once: a cache, or the handle of one."""

from __future__ import annotations

from collections.abc import Callable

from nspjax.compiler import mlir
from nspjax.compiler.nsp.edges import BRANCHES, LOOP, Edges


def uses_up(
    op: mlir.Operation,
    number: int,
    edges: Edges,
    takes: Callable[[mlir.Operation, int], bool],
) -> bool:
    """Whether an operation uses its operand up: by itself, as `takes` says, or in what it calls or
    carries the operand through. A loop or a function may only pass it on."""
    inside = edges.inside(op, number)
    if not inside:
        return takes(op, number)
    return any(
        uses_up(use.owner.operation, use.operand_number, edges, takes)
        for value in inside
        for use in value.uses
    )


def is_repeated(op: mlir.Operation, value: mlir.Value) -> bool:
    """Whether an operation is in a loop that the value, from outside of it, is not carried by."""
    return any(place.name == LOOP for place, _ in _places(op, _block_of(value)))


def are_alternatives(one: mlir.Operation, other: mlir.Operation, value: mlir.Value) -> bool:
    """Whether two users of a value are in different branches of one condition."""
    block = _block_of(value)
    branches = {place: inside for place, inside in _places(one, block) if place.name in BRANCHES}
    return any(
        place in branches and branches[place] != inside for place, inside in _places(other, block)
    )


def is_before(one: mlir.Operation, other: mlir.Operation) -> bool:
    """Whether it is, in one block."""
    return one.block == other.block and one.is_before_in_block(other)


def _block_of(value: mlir.Value) -> mlir.Block:
    owner = value.owner
    return owner if isinstance(owner, mlir.Block) else owner.operation.block


def _places(op: mlir.Operation, block: mlir.Block) -> list[tuple[mlir.Operation, mlir.Block]]:
    """The operations of `block` and inside it that `op` is in, each with its block that has it."""
    found = []
    inside = op.block
    while inside != block:
        around = inside.owner.operation
        found.append((around, inside))
        inside = around.block
    return found
