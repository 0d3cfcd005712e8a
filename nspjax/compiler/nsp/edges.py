"""How values flow through loops, branches, barriers and calls.

What such an operation carries has several names: the operand of a `while`, the arguments of its
regions, its result. An edge leads from one name to the next. Whoever follows a value (a cache, a
handle, a weight, a length) asks here which those are.
"""

from __future__ import annotations

import functools

from nspjax.compiler import mlir

CALL, LOOP, BARRIER = "func.call", "stablehlo.while", "stablehlo.optimization_barrier"
BRANCHES = ("stablehlo.if", "stablehlo.case")
RETURNS = ("func.return", "stablehlo.return")


class Edges:
    """Those of a module, as it is while they are asked for."""

    def __init__(self, module: mlir.Module):
        self._module = module

    @functools.cached_property
    def functions(self) -> dict[str, mlir.Operation]:
        return mlir.functions(self._module)

    @functools.cached_property
    def _calls(self) -> dict[str, list[mlir.Operation]]:
        """By the function that is called."""
        found: dict[str, list[mlir.Operation]] = {name: [] for name in self.functions}
        for op in mlir.operations(self._module):
            if op.name == CALL:
                found[mlir.symbol(op.attributes["callee"])].append(op)
        return found

    def blocks(self, op: mlir.Operation) -> list[mlir.Block]:
        """What an operation runs: a function's body, a loop's condition and body, the branches."""
        if op.name == CALL:
            callee = self.functions[mlir.symbol(op.attributes["callee"])]
            return [callee.regions[0].blocks[0]]
        if op.name == LOOP or op.name in BRANCHES:
            return [region.blocks[0] for region in op.regions]
        return []

    def is_carried(self, value: mlir.Value) -> bool:
        """Whether a value is another name of what it was before: `into` has that. Otherwise it is
        made by an operation. An argument of main comes from nowhere, but is not made."""
        name = mlir.maker(value).name
        if mlir.is_argument(value):
            return name in ("func.func", LOOP)
        return name in (CALL, LOOP, BARRIER, *BRANCHES)

    def into(self, value: mlir.Value) -> list[mlir.Value]:
        """The names that a value may have had right before; none where it is made."""
        if not self.is_carried(value):
            return []
        op, index = mlir.maker(value), mlir.position(value)
        if op.name == "func.func":
            calls = self._calls[mlir.string(op.attributes["sym_name"])]
            return [call.operands[index] for call in calls]
        given = [op.operands[index]] if op.name in (LOOP, BARRIER) else []
        inner = self.blocks(op)[1:] if op.name == LOOP else self.blocks(op)
        return given + [mlir.terminator(block).operands[index] for block in inner]

    def passes_on(self, op: mlir.Operation) -> bool:
        """Whether an operation does nothing with its operands but give them further names."""
        if op.name == "stablehlo.return":
            around = mlir.parent(op)
            # what a loop's condition returns goes nowhere
            return around.name in BRANCHES or (
                around.name == LOOP and op.block == around.regions[1].blocks[0]
            )
        return op.name in (CALL, LOOP, BARRIER, "func.return")

    def out_of(self, op: mlir.Operation, number: int) -> list[mlir.Value]:
        """The names that an operand of an operation has right after; none where it ends."""
        if not self.passes_on(op):
            return []
        if op.name == "func.return":
            calls = self._calls[mlir.string(mlir.parent(op).attributes["sym_name"])]
            return [call.results[number] for call in calls]
        if op.name == "stablehlo.return":
            op = mlir.parent(op)
        names = [] if op.name == CALL else [op.results[number]]
        return names if op.name in BRANCHES else names + self.inside(op, number)

    def inside(self, op: mlir.Operation, number: int) -> list[mlir.Value]:
        """The names that an operand of a call or a loop has in there."""
        if op.name not in (CALL, LOOP):
            return []
        return [block.arguments[number] for block in self.blocks(op)]


def unchanged(value: mlir.Value) -> mlir.Value | None:
    """What a value was before the loop that carries it, if it is the same in every iteration; None
    if it is not, or if no loop carries it."""
    loop = mlir.maker(value)
    if loop.name != LOOP:
        return None
    index = mlir.position(value)
    body = loop.regions[1].blocks[0]
    same = mlir.terminator(body).operands[index] == body.arguments[index]
    return loop.operands[index] if same else None


def before_loops(value: mlir.Value) -> mlir.Value:
    """What a value is outside of the loops that carry it unchanged into where it is an argument."""
    while mlir.is_argument(value) and (before := unchanged(value)) is not None:
        value = before
    return value
