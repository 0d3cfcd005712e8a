"""What the kernel's sources fix, and what is assumed of the FPGA and its memory."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Structure:
    """Constants and pragmas of hls_kernels/attention."""

    group: int = 4  # queries attended side by side: NSPJAX_KERNEL_GROUP
    beat_words: int = 16  # of 32 bits, in a word of the memory port
    block_tokens: int = 128
    most_queries: int = 64
    most_head_dim: int = 256
    compute_interval: int = 2  # cycles a slot, over K and over V
    softmax_interval: int = 1  # cycles a token, of every query of a pack
    least_slots: int = 4  # between two additions to a sum
    strands: int = 8
    k_blocks: int = 2
    v_blocks: int = 3
    burst_beats: int = 64
    outstanding_bursts: int = 16

    @property
    def most_packs(self) -> int:
        return -(-self.most_queries // self.group)

    @property
    def block_beats(self) -> int:
        """The most beats of a block's K or V: float32."""
        return self.block_tokens * self.most_head_dim // self.beat_words


@dataclasses.dataclass(frozen=True)
class Operators:
    """Latencies, in cycles at 300 MHz.

    add: what Vitis HLS gives an fadd in a design for an Alveo U50, of the same family
    (fadd_32ns_32ns_32_7_full_dsp, latency 6). The others are assumptions of that order: HLS chooses
    a latency for the clock.
    """

    add: int = 6
    multiply: int = 3
    exp: int = 9
    divide: int = 12
    compare: int = 1
    convert: int = 4  # whole number to float
    memory: int = 2  # of a block buffer

    @property
    def decode(self) -> int:
        return self.convert + self.multiply + self.add

    @property
    def compute_depth(self) -> int:
        """Of the loops over K and V: an element, its product, the pair's sum, the sum of all."""
        return self.memory + self.decode + self.multiply + 2 * self.add + 1

    @property
    def mask_depth(self) -> int:
        """scale, softcap * tanh(), mask, the largest."""
        capped = 3 * self.multiply + self.exp + self.add + self.divide
        return self.multiply + capped + 2 * self.compare + 1

    @property
    def exponential_depth(self) -> int:
        return 2 * self.add + self.exp + 2


@dataclasses.dataclass(frozen=True)
class Memory:
    """The card's memory, as the kernel's port sees it.

    peak_bytes_per_s: DDR4-2400, 64 bits. efficiency: an assumption for long sequential bursts
    (refresh, opening rows). latency_cycles: an assumption, of a first beat; it is waited for once a
    head, since the next block is asked for before this one is received.
    """

    peak_bytes_per_s: float = 19.2e9
    efficiency: float = 0.85
    latency_cycles: int = 150
    clock_hz: float = 296e6  # the paper's, for comparison; the recipe asks for 300 MHz

    def beats_per_cycle(self, beat_bytes: int) -> float:
        """What arrives: never more than the port's one."""
        return min(1.0, self.peak_bytes_per_s * self.efficiency / (beat_bytes * self.clock_hz))
