"""offload-weights: weights that lie in a store are loaded where a layer uses them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.nsp.edges import CALL, LOOP, unchanged
from nspjax.compiler.nsp.weight_block import WeightBlock
from nspjax.compiler.passes.options import check_whole
from nspjax.ops.attention import CACHED_ATTENTION
from nspjax.runtime.handle import HANDLE_INTEGERS

_REARRANGES = (
    "stablehlo.broadcast_in_dim",
    "stablehlo.convert",
    "stablehlo.reshape",
    "stablehlo.transpose",
)


@dataclasses.dataclass(frozen=True)
class OffloadWeights:
    """Retype every argument that is a stored weight to a handle; nsp.load it where it is used.

    A load comes right before its first user in the block, and after the most recent attention there
    (or, before the first one, after what the user needs besides the weight), so that about one
    layer's weights are in memory at a time. A loop that attends carries the handle, and loads in
    every iteration; any other loop is a user like any operation, and so is one that slices the
    weight: give each layer its own array, not all layers a stacked one.
    """

    name: ClassVar[str] = "offload-weights"
    keep: int = 4
    """attentions that a loaded weight outlives; used again later than that, it is loaded again"""

    def __post_init__(self) -> None:
        check_whole(self, "keep", least=0)

    def run(self, module: mlir.Module) -> mlir.Module:
        weights = mlir.weight_arguments(module)
        mlir.mark_weight_arguments(module, ())  # they are handles now
        if weights:
            main = mlir.function(module, "main").regions[0].blocks[0]
            _Offload(module, self.keep).function(main, weights)
            mlir.update_function_types(module)
            mlir.remove_unused_functions(module)
        return module


@dataclasses.dataclass
class _Offload:
    """One run over a module."""

    module: mlir.Module
    keep: int

    def __post_init__(self) -> None:
        self.functions = mlir.functions(self.module)
        self.handle = mlir.tensor_type((HANDLE_INTEGERS,), "i32", self.module.context)
        self.attending: dict[str, bool] = {}

    def function(self, body: mlir.Block, weights: list[mlir.Value]) -> None:
        """Offload the weights among a function's arguments."""
        types = {hash(weight): weight.type for weight in weights}
        for weight in weights:
            weight.set_type(self.handle)
        self.block(body, types)

    def block(
        self, block: mlir.Block, weights: dict[int, mlir.Type], carried: tuple[int, ...] = ()
    ) -> None:
        """Load the weights that a block uses, but for those `carried` into the next iteration.

        weights: what each is in memory; here it is a handle.
        """
        here = WeightBlock(block, weights, self.keep)
        operations = [op.operation for op in block.operations]
        for op in operations:
            if op.name in _REARRANGES and here.hold_back(op):
                continue
            used = [i for i, operand in enumerate(op.operands) if hash(operand) in weights]
            entered: list[int] = []
            if op == operations[-1]:
                used = [i for i in used if i not in carried]
            elif op.name == LOOP:
                entered = [i for i in used if self._enters(op, i)]
            elif op.name == CALL and used and self.attends(op):
                self._enter_call(op, tuple(used))
                used = []
            here.load(op, [i for i in used if i not in entered])
            self._regions(op, weights, entered)
            here.passed(op, attends=self.attends(op))

    def _regions(
        self, op: mlir.Operation, weights: dict[int, mlir.Type], entered: list[int]
    ) -> None:
        for region in op.regions:
            for inner in region.blocks:
                inside = dict(weights)
                for i in entered:
                    inside[hash(inner.arguments[i])] = inner.arguments[i].type
                    inner.arguments[i].set_type(self.handle)
                self.block(inner, inside, carried=tuple(entered))
        for i in entered:  # what comes out is what went in
            op.results[i].replace_all_uses_with(op.operands[i])
            op.results[i].set_type(self.handle)

    def _enters(self, loop: mlir.Operation, index: int) -> bool:
        """Whether the loop carries the weight on, attends, and does not take slices of it."""
        weight = loop.regions[1].blocks[0].arguments[index]
        sliced = any(use.owner.operation.name == "stablehlo.dynamic_slice" for use in weight.uses)
        return unchanged(weight) is not None and not sliced and self.attends(loop)

    def _enter_call(self, call: mlir.Operation, indices: tuple[int, ...]) -> None:
        """Call a copy of the function that takes handles there."""
        name = mlir.symbol(call.attributes["callee"])
        key = f"{name}.weights_{'_'.join(map(str, indices))}"
        if key not in self.functions:
            copy = mlir.copy_function(self.module, name, key)
            self.functions[key] = copy
            body = copy.regions[0].blocks[0]
            self.function(body, [body.arguments[i] for i in indices])
        mlir.set_callee(call, key)

    def attends(self, op: mlir.Operation) -> bool:
        """Whether an operation, or one inside it, ends an attention."""
        if nsp.kind(op) in (nsp.ATTEND, nsp.ATTEND_WAIT, nsp.HAUL):
            return True
        if op.name == CALL:
            callee = mlir.symbol(op.attributes["callee"])
            if callee not in self.attending:
                self.attending[callee] = self.attends(self.functions[callee])
            return self.attending[callee]
        if mlir.composite_name(op) == CACHED_ATTENTION:
            return True
        return any(
            self.attends(inner.operation)
            for region in op.regions
            for block in region.blocks
            for inner in block.operations
        )
