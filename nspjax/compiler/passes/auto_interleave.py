"""auto-interleave: interleave, where measured rates say that it pays."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.machine.rates import Rates, rates_of
from nspjax.compiler.nsp.layer_blocks import layer_blocks, operations_of, reads_of
from nspjax.compiler.passes import registered_pass
from nspjax.errors import CompilerError

_COMPARABLE = 4.0


@dataclasses.dataclass(frozen=True)
class AutoInterleave:
    """Cut the batch in two where one half's computation can hide the other's attention.

    That is where decode steps have at least two rows, and the time that a layer computes and the
    time that the devices read for it differ by no more than a factor of four: otherwise nearly
    all of the longer one is left over, and the weights are read twice for nothing. Rows are taken
    to be half full. Without rates, nothing is changed.
    """

    name: ClassVar[str] = "auto-interleave"
    stage: ClassVar[nsp.Stage] = nsp.Stage.SCHEDULED
    after: ClassVar[tuple[str, ...]] = ("split-attention",)
    needs_rates: ClassVar[bool] = True

    def run(self, module: mlir.Module) -> mlir.Module:
        rates = rates_of(module)
        if rates is None or not any(_pays(block, rates) for block in layer_blocks(module)):
            return module
        return registered_pass("interleave")(groups=2).run(module)


def _pays(block: mlir.Block, rates: Rates) -> bool:
    reads = reads_of(block)
    if not reads:
        return False
    batch, n_tokens, *_ = mlir.tensor(nsp.operand(reads[0], "q"))[0]
    if n_tokens != 1 or batch < 2:
        return False
    compute_s = _flops_of_a_layer(block, len(reads)) / rates.compute_flops
    device_s = _bytes_of_a_layer(reads[0], batch) / rates.device_bytes_per_s
    return 1 / _COMPARABLE <= compute_s / device_s <= _COMPARABLE


def _bytes_of_a_layer(read: mlir.Operation, batch: int) -> float:
    if "cache_shape" not in read.attributes:
        raise CompilerError(
            f"auto-interleave needs to know the cache behind {read.name} at "
            f"{mlir.source_line(read)}: a pass before it must keep its cache_shape and cache_dtype"
        )
    _, capacity_tokens, n_kv_heads, head_dim = nsp.cache_shape(read)
    element_bytes = mlir.element_bytes(nsp.cache_dtype(read))
    return batch * capacity_tokens / 2 * 2 * n_kv_heads * head_dim * element_bytes


def _flops_of_a_layer(block: mlir.Block, n_layers: int) -> float:
    """Of the matmuls of the block; the vocabulary's scores are spread over the layers."""
    return sum(map(_flops, operations_of(block))) / n_layers


def _flops(op: mlir.Operation) -> float:
    if op.name != "stablehlo.dot_general":
        return 0.0
    left, right, out = (math.prod(mlir.tensor(v)[0]) for v in (*op.operands, op.results[0]))
    # left, right and out have the contracted size in common but for the batched one: a decode
    # step's matmuls have none
    return 2.0 * math.sqrt(left * right * out)
