"""The blocks that a schedule is made in: those that hold nsp operations, in sight of each other."""

from __future__ import annotations

from nspjax.compiler import mlir, nsp


def layer_blocks(module: mlir.Module) -> list[mlir.Block]:
    """The blocks with nsp operations, in textual order: a decode step, a loop's body, a branch.

    Functions that hold such operations are put in the place of their calls first: a layer that is
    a function of its own would not see the next one.
    """
    _inline_layers(module)
    blocks: dict[mlir.Block, None] = {}
    for op in mlir.operations(module):
        if nsp.is_of_a_layer(op):
            blocks[op.operation.block] = None
    return list(blocks)


def operations_of(block: mlir.Block) -> list[mlir.Operation]:
    """The operations of a block, without those inside them."""
    return [op.operation for op in block.operations]


def reads_of(block: mlir.Block) -> list[mlir.Operation]:
    """What scans a cache in a block, in textual order."""
    return [op for op in operations_of(block) if nsp.kind(op) in nsp.READS]


def wait_of(read: mlir.Operation) -> mlir.Operation:
    """The operation that has a read's result: its nsp.attend_wait, or the read itself."""
    if nsp.kind(read) is not nsp.ATTEND_START:
        return read
    ticket = nsp.result(read, "ticket")
    for use in ticket.uses:
        user = use.owner.operation
        if nsp.kind(user) is nsp.ATTEND_WAIT and use.operand_number == 0:
            return user
    return read


def _inline_layers(module: mlir.Module) -> None:
    inlined = False
    while calls := _calls_of_layers(module):
        for call in calls:
            mlir.inline_call(call, mlir.function(module, mlir.symbol(call.attributes["callee"])))
        inlined = True
    if inlined:
        mlir.remove_unused_functions(module)


def _calls_of_layers(module: mlir.Module) -> list[mlir.Operation]:
    layers: set[str] = set()
    calls: list[mlir.Operation] = []
    for name, function in mlir.functions(module).items():
        for op in mlir.operations(function):
            if nsp.is_of_a_layer(op):
                layers.add(name)
            elif op.name == "func.call":
                calls.append(op)
    return [call for call in calls if mlir.symbol(call.attributes["callee"]) in layers]
