"""What the kernel takes of the FPGA: operators and memories, from the structure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from nspjax.sim.attention_kernel.structure import Structure

# DSPs: of the Floating-Point Operator (PG060) as Vitis HLS uses it, "maxdsp" and "fulldsp".
DSPS = {"multiply": 3, "add": 2, "exp": 7, "divide": 0, "convert": 0}
# LUTs: an assumption, of the order of Vitis HLS's estimates.
LUTS = {"multiply": 80, "add": 220, "exp": 700, "divide": 760, "convert": 120}


@dataclasses.dataclass(frozen=True)
class Device:
    """A KU15P (UltraScale+ product selection guide), and what a SmartSSD's shell leaves of it.

    user_dsps: placeable in the dynamic region of xilinx_u2_gen3x4_xdma_gc_2_202110_1, as a public
    peak-compute benchmark for that platform reports.
    """

    luts: int = 522_720
    dsps: int = 1_968
    brams: int = 984  # of 36 Kbit
    urams: int = 128
    user_dsps: int = 1_344


@dataclasses.dataclass(frozen=True)
class Resources:
    """operators: how many of each kind by stage. luts: those of the operators only."""

    operators: Mapping[str, Mapping[str, int]]
    dsps: int
    luts: int
    brams: int
    urams: int
    macs_per_cycle: int


def resources(structure: Structure) -> Resources:
    group, words = structure.group, structure.beat_words
    # A slot has a part's two products for 16 lanes and each query, and is shared by its cycles.
    products = -(-2 * words * group // structure.compute_interval)
    elements = -(-2 * words // structure.compute_interval)
    compute = {
        "multiply": products + elements,  # offset + scale * code of int8 and int4
        "add": products + elements,
        "convert": elements,
    }
    operators = {
        "keys": compute,
        "mask": {"multiply": 3 * group, "exp": group, "add": 2 * group, "divide": group},
        # one more each for the corrections and the strands' sums, which queries take in turn
        "exponentials": {"multiply": 1, "exp": group + 1, "add": 2 * group + 3},
        "values": compute,
    }

    def total(cost: Mapping[str, int]) -> int:
        return sum(n * cost[kind] for stage in operators.values() for kind, n in stage.items())

    beat_bits = 32 * words
    group_bits = 32 * group
    brams = (
        # queries, in pairs of channels; the sums of a head; the port's read buffer; two FIFOs, with
        # a bit for each query that says whether it sees the token
        block_rams(2 * group_bits, structure.most_packs * structure.most_head_dim // 2)
        + block_rams(words * group_bits, structure.most_packs * structure.most_head_dim // words)
        + block_rams(beat_bits, structure.burst_beats * structure.outstanding_bursts)
        + 2 * block_rams(group_bits + group, 2 * structure.block_tokens)
    )
    urams = (structure.k_blocks + structure.v_blocks) * ultra_rams(beat_bits, structure.block_beats)
    return Resources(operators, total(DSPS), total(LUTS), brams, urams, 2 * products)


def block_rams(width_bits: int, depth: int) -> int:
    """Of 36 Kbit, in the best of its shapes with one port to read and one to write."""
    shapes = ((72, 512), (36, 1024), (18, 2048), (9, 4096))
    return min(-(-width_bits // width) * -(-depth // rows) for width, rows in shapes)


def ultra_rams(width_bits: int, depth: int) -> int:
    return -(-width_bits // 72) * -(-depth // 4096)
