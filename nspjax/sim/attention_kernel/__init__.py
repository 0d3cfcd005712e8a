"""Cycles and resources of the FPGA's attention kernel (hls_kernels/attention), from its structure.

`simulate(run)` counts what each stage of the kernel does for a run and says which one is the
slowest; `resources(structure)` counts operators and memories. `python -m
nspjax.sim.attention_kernel` prints both beside the figures of HILOS (arXiv 2502.09921).

Nothing here was measured on a card. Structural numbers are those of the C++ headers, and the counts
of beats and slots those of the C simulation (tests/hls_kernels); what an operator of the FPGA costs
and what its memory gives is named where it is assumed.
"""

from nspjax.sim.attention_kernel.cycles import Cycles, Run, simulate
from nspjax.sim.attention_kernel.resources import Device, Resources, resources
from nspjax.sim.attention_kernel.structure import Memory, Operators, Structure

__all__ = [
    "Cycles", "Device", "Memory", "Operators", "Resources", "Run", "Structure", "resources",
    "simulate",
]  # fmt: skip
