"""How long a run of the kernel takes.

The stages work at the same time, joined by streams, so a run takes as long as its slowest stage,
and the time in which the first block passes through the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from nspjax.dtypes import BY_NAME
from nspjax.sim.attention_kernel.structure import Memory, Operators, Structure

_STRUCTURE, _OPERATORS, _MEMORY = Structure(), Operators(), Memory()


@dataclasses.dataclass(frozen=True)
class Run:
    """Attention of n_queries of each of n_heads KV heads over the first n_tokens of a row."""

    n_tokens: int
    n_queries: int = 4  # query heads to a KV head, times tokens
    n_heads: int = 1
    head_dim: int = 128
    kv_type: str = "f16"
    tile_tokens: int = 128

    def __post_init__(self) -> None:
        if self.kv_type not in BY_NAME:
            raise ValueError(f"kv_type is {self.kv_type!r}: use one of {', '.join(BY_NAME)}")
        if self.n_tokens < 1 or self.n_queries < 1 or self.n_heads < 1:
            raise ValueError("n_tokens, n_queries and n_heads must be at least 1")

    @property
    def elements_per_word(self) -> int:
        return 32 // BY_NAME[self.kv_type].bits

    @property
    def elements_per_slot(self) -> int:
        """Channels of K, tokens of V."""
        return min(self.elements_per_word, 2)

    @property
    def quantised(self) -> bool:
        return BY_NAME[self.kv_type].is_code


@dataclasses.dataclass(frozen=True)
class Cycles:
    """Cycles by stage, and what the C simulation counts too."""

    stages: Mapping[str, float]
    total: float
    clock_hz: float
    beats_read: int
    score_slots: int
    value_slots: int
    flops: int  # of q . k and of weights times V, without masked or idle slots

    @property
    def bottleneck(self) -> str:
        return max(self.stages, key=self.stages.__getitem__)

    @property
    def seconds(self) -> float:
        return self.total / self.clock_hz

    @property
    def kv_bytes_per_s(self) -> float:
        return 64 * self.beats_read / self.seconds

    @property
    def gflop_per_s(self) -> float:
        return self.flops / self.seconds / 1e9


def simulate(
    run: Run,
    structure: Structure = _STRUCTURE,
    operators: Operators = _OPERATORS,
    memory: Memory = _MEMORY,
) -> Cycles:
    words = structure.beat_words
    block_tokens = min(structure.block_tokens, run.tile_tokens)
    head_beats = run.head_dim // words
    kv_beats = block_tokens * head_beats // run.elements_per_word
    n_blocks = -(-run.n_tokens // block_tokens)
    n_tiles = -(-run.n_tokens // run.tile_tokens)
    n_packs = -(-run.n_queries // structure.group)

    scale_beats = n_tiles * head_beats + n_blocks * block_tokens // words if run.quantised else 0
    head_read = 2 * n_blocks * kv_beats + scale_beats
    key_slots = (
        run.head_dim // run.elements_per_slot * max(block_tokens // words, structure.least_slots)
    )
    value_slots = (1 + block_tokens // run.elements_per_slot) * max(
        head_beats, structure.least_slots
    )

    # of one block and head
    pairs = words // 2  # a cycle each when queries and scales are unpacked
    block = {
        "read": head_read / n_blocks / memory.beats_per_cycle(4 * words),
        "keys": n_packs * _compute(key_slots, structure, operators),
        "mask": n_packs * _mask(block_tokens, structure, operators),
        "exponentials": n_packs * _exponentials(block_tokens, structure, operators),
        "values": n_packs * _compute(value_slots, structure, operators),
    }
    if run.quantised:
        block["keys"] += n_tiles * head_beats * pairs / n_blocks
        block["values"] += block_tokens // words * pairs
    once = {
        "read": memory.latency_cycles,
        "keys": n_packs * structure.group * head_beats * pairs,
        "mask": 0,
        "exponentials": n_packs * structure.group + run.n_queries,
        "values": (n_packs + run.n_queries) * head_beats,
    }
    stages = {name: run.n_heads * (once[name] + n_blocks * block[name]) for name in block}
    slowest = max(stages, key=stages.__getitem__)
    fill = sum(cycles for name, cycles in block.items() if name != slowest)
    blocks_and_packs = run.n_heads * n_blocks * n_packs
    return Cycles(
        stages=stages,
        total=stages[slowest] + fill,
        clock_hz=memory.clock_hz,
        beats_read=run.n_heads * head_read,
        score_slots=blocks_and_packs * key_slots,
        value_slots=blocks_and_packs * value_slots,
        flops=4 * run.n_heads * run.n_queries * run.n_tokens * run.head_dim,
    )


def _compute(slots: int, structure: Structure, operators: Operators) -> int:
    return slots * structure.compute_interval + operators.compute_depth


def _mask(block_tokens: int, structure: Structure, operators: Operators) -> int:
    strands = 2 * structure.strands * operators.compare
    return block_tokens * structure.softmax_interval + operators.mask_depth + strands


def _exponentials(block_tokens: int, structure: Structure, operators: Operators) -> int:
    """The corrections, a query a cycle; the weights; the strands' sums, a query in eight cycles."""
    corrections = structure.group + operators.add + operators.exp
    weights = block_tokens * structure.softmax_interval + operators.exponential_depth
    strands = structure.strands * (structure.group + operators.add)
    return corrections + weights + strands + operators.multiply + operators.add
