"""auto-interleave: interleave, where the machine's timeline says that it pays."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from nspjax.compiler import mlir, nsp
from nspjax.compiler.machine.rates import rates_of
from nspjax.compiler.machine.timeline import Schedule
from nspjax.compiler.passes import registered_pass
from nspjax.compiler.passes.interleave import decodes_a_batch

LEAST_GAIN = 0.15
"""Of a step's time: less is not worth what two calls cost in place of one, which has no rate."""


@dataclasses.dataclass(frozen=True)
class AutoInterleave:
    """Cut the batch in two where one half's computation can hide the other's attention.

    The decode step is timed with and without, on a machine of the measured rates, with rows half
    full; it is cut where that saves at least 15 %. It saves nothing where the next layer can be
    read ahead as a whole, where products wait for weights, which two groups read twice, or where
    attention and products share their processors. Without rates, nothing is changed.
    """

    name: ClassVar[str] = "auto-interleave"
    stage: ClassVar[nsp.Stage] = nsp.Stage.SCHEDULED
    after: ClassVar[tuple[str, ...]] = ("split-attention",)
    needs_rates: ClassVar[bool] = True

    def run(self, module: mlir.Module) -> mlir.Module:
        rates = rates_of(module)
        starts = list(filter(decodes_a_batch, mlir.operations(module)))
        if rates is None or not starts:
            return module
        context_tokens = max(nsp.cache_shape(start)[1] for start in starts) // 2
        whole = Schedule.of(module, context_tokens)
        most_s = (1 - LEAST_GAIN) * whole.on(rates).end_s
        # two groups read the weights twice, and in no order is the busiest lane done sooner: what
        # cannot pay need not be built
        twice = dataclasses.replace(rates, memory_bytes_per_s=rates.memory_bytes_per_s / 2)
        if whole.on(twice).busiest_s > most_s:
            return module
        halves = registered_pass("interleave")(groups=2).run(mlir.clone_module(module))
        return halves if Schedule.of(halves, context_tokens).on(rates).end_s <= most_s else module
