"""Attention that reads a part of V beside attention that reads all: when is it faster?

One layer's decode attention over a cache on disk, in turn. Keys are random, so no token matters
more than others, and how much is read is set by `budget`: this is about time, not about quality,
which bench/quality.py measures. Rows are read with few large reads where all is read, with many
small ones where a part is.

    python bench/sparse.py --store /path/on/disk
    python bench/sparse.py --store /path/on/disk --rows 8 --tokens 2048 --rounds 2   # does it run
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from report import Table, bench_parser, publish
from turns import in_turn

from nspjax import _engine

HEAD_DIM = 64
BUDGETS = (0.02, 0.05, 0.1, 0.2, 0.5)
BLOCKS = (0, 256)


@dataclasses.dataclass(frozen=True)
class Way:
    """How a cache is kept, and how much of it is read."""

    kv_dtype: str
    budget: float = 1.0
    block_tokens: int = 0

    def __str__(self) -> str:
        if self.budget == 1.0:
            return f"{self.kv_dtype}, all"
        block = "a page" if self.block_tokens == 0 else f"{self.block_tokens} tokens"
        return f"{self.kv_dtype}, {self.budget:.0%} of V in blocks of {block}"


@dataclasses.dataclass(frozen=True)
class Measured:
    """Medians of a call: its time, what it read, in how many reads."""

    ms: float
    read_mb: float
    n_reads: float


class Attention:
    """Calls over one cache."""

    def __init__(self, directory: Path, kv_dtype: str, args: argparse.Namespace) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.args = args
        self.store = _engine.Store([str(directory)], 2 << 30, pinned_bytes=0)
        (self.cache,) = self.store.create_caches(
            1, args.rows, args.tokens, args.heads, HEAD_DIM, "bf16", 256, kv_dtype, sketch=True
        )
        self.version = self.store.fill_synthetic(self.cache, args.tokens)
        self.store.flush()
        rng = np.random.default_rng(0)
        self.q = rng.standard_normal((args.rows, 1, args.heads, HEAD_DIM), np.float32)

    def call(self, way: Way) -> Measured:
        rows, before = np.arange(self.args.rows, dtype=np.int32), self.store.stats()
        length = np.full(self.args.rows, self.args.tokens, np.int32)
        begin = time.perf_counter()
        self.store.attend(
            self.cache, self.version, self.q, rows, length - 1, length, HEAD_DIM**-0.5,
            read_ahead=False, budget=way.budget, block_tokens=way.block_tokens,
        )  # fmt: skip
        ms = 1e3 * (time.perf_counter() - begin)
        after = self.store.stats()
        read = after["bytes_read"] - before["bytes_read"]
        return Measured(ms, read / 1e6, after["n_reads"] - before["n_reads"])


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--rows", default=32, type=int, help="default %(default)s")
    parser.add_argument("--heads", default=12, type=int, help="KV heads, default %(default)s")
    parser.add_argument("--tokens", default=4096, type=int, help="of a row, default %(default)s")
    args = parser.parse_args()
    caches = {kv: Attention(args.store / f"sparse-{kv}", kv, args) for kv in ("bf16", "int4")}
    ways = [
        Way(kv_dtype, *part)
        for kv_dtype in caches
        for part in [(1.0, 0), *((budget, block) for block in BLOCKS for budget in BUDGETS)]
    ]
    calls = {str(way): functools.partial(caches[way.kv_dtype].call, way) for way in ways}
    runs = in_turn(calls, args.rounds)
    found = {way: medians(runs[str(way)]) for way in ways}
    publish(args, [table(found)], {str(way): dataclasses.asdict(m) for way, m in found.items()})


def medians(runs: Sequence[Measured]) -> Measured:
    return Measured(*map(median, zip(*map(dataclasses.astuple, runs), strict=True)))


def table(found: dict[Way, Measured]) -> Table:
    rows = []
    for way, m in found.items():
        dense = found[Way(way.kv_dtype)]
        rows.append((str(way), f"{m.read_mb:.1f}", f"{m.n_reads:.0f}", f"{m.ms:.1f}",
                     f"{dense.ms / m.ms:.2f}"))  # fmt: skip
    return Table(("KV", "MB read", "reads", "ms", "x all"), rows)


if __name__ == "__main__":
    main()
