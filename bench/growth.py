"""How the time of decode attention grows with the context, and that it does not with the capacity.

One layer in Llama 3.2 1B's heads, synthetic KV: a query token of each row attends over contexts
that double, in memory and on disk (none of the KV in host memory), each in a cache of just that
capacity and in one with four times as much. A straight line is fitted to the medians.

    python bench/growth.py --store /path/on/nvme
    python bench/growth.py --store /path/on/nvme --most 4096 --rounds 2 --batch 2
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from functools import partial
from statistics import median

import numpy as np
from raw_attention import Heads, Layers, attend, filled_layers
from report import Table, bench_parser, publish
from turns import in_turn, median_ratio

from nspjax import Store

CAPACITY_FACTORS = (1, 4)
MEASURED_SECONDS = {"memory": 0.1, "file": 1.0}
"""Calls are repeated for at least so long: a disk's pace swings."""
EVICTING_BYTES = 128 << 20
"""Written before each call in memory, so that a short context does not stay in the CPU's caches. On
a disk calls follow one another: what is read ahead between them would not be measured."""


@dataclasses.dataclass(frozen=True)
class Line:
    """microseconds = intercept_us + tokens * slope_ns / 1000"""

    slope_ns: float
    intercept_us: float
    r_squared: float


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--least", default=1024, type=int, help="tokens (default %(default)s)")
    parser.add_argument("--most", default=131072, type=int, help="tokens (default %(default)s)")
    parser.add_argument("--batch", default=4, type=int, help="rows (default %(default)s)")
    parser.add_argument("--host-memory", default="1GiB", help="default %(default)s")
    args = parser.parse_args()
    args.store.mkdir(parents=True, exist_ok=True)

    contexts = doublings(args.least, args.most)
    print(f"one layer, {args.batch} rows, {args.rounds} rounds\n")
    tables, rounds = [], {}
    for kind, device in (("memory", "memory:"), ("file", args.store)):
        measured = measure(kind, device, contexts, args)
        rounds[kind] = measured
        tables += [times_table(kind, contexts, measured), lines_table(kind, contexts, measured)]
    publish(args, tables, rounds)


def doublings(least: int, most: int) -> list[int]:
    return [least << i for i in range((most // least).bit_length())]


def measure(
    kind: str, device: object, contexts: list[int], args: argparse.Namespace
) -> dict[str, list[float]]:
    """Microseconds of one attend call for each row, by "context capacity_factor"."""
    with contextlib.ExitStack() as stores:
        store = stores.enter_context(Store(device, host_memory=args.host_memory, pinned="0"))
        arms = {}
        for context in contexts:
            for factor in CAPACITY_FACTORS:
                layers = filled_layers(
                    store, 1, args.batch, context, Heads(), spare_tokens=context * (factor - 1)
                )
                arms[arm(context, factor)] = partial(microseconds_a_row, kind, layers)
        return in_turn(arms, args.rounds)


def arm(context: int, factor: int) -> str:
    return f"{context} x{factor}"


def microseconds_a_row(kind: str, layers: Layers) -> float:
    begin, seconds, calls = time.perf_counter(), 0.0, 0
    evicting = np.zeros(EVICTING_BYTES if kind == "memory" else 0, np.uint8)
    while calls == 0 or time.perf_counter() - begin < MEASURED_SECONDS[kind]:
        evicting += 1
        seconds += attend(layers).seconds
        calls += 1
    return seconds / calls / layers.batch * 1e6


def fit(tokens: list[int], microseconds: list[float]) -> Line:
    """Least squares; it is the long contexts that decide."""
    slope, intercept = np.polyfit(tokens, microseconds, 1)
    left = np.asarray(microseconds) - (slope * np.asarray(tokens) + intercept)
    r_squared = 1 - left.var() / np.var(microseconds)
    return Line(float(slope * 1e3), float(intercept), float(r_squared))


def times_table(kind: str, contexts: list[int], measured: dict[str, list[float]]) -> Table:
    rows = []
    for context in contexts:
        own, larger = (measured[arm(context, factor)] for factor in CAPACITY_FACTORS)
        rows.append(
            (
                f"{context}",
                f"{median(own):.0f}",
                f"{median(own) / context * 1e3:.1f}",
                f"{median(larger):.0f}",
                f"{median_ratio(larger, own):.3f}",
            )
        )
    columns = (
        f"{kind}: context, tokens",
        "a token of a row, µs",
        "ns a token attended",
        "with capacity ×4, µs",
        "ratio",
    )
    return Table(columns, rows)


def lines_table(kind: str, contexts: list[int], measured: dict[str, list[float]]) -> Table:
    rows = []
    for factor in CAPACITY_FACTORS:
        line = fit(contexts, [median(measured[arm(context, factor)]) for context in contexts])
        rows.append(
            (
                f"× {factor}",
                f"{line.slope_ns:.1f}",
                f"{line.intercept_us:.0f}",
                f"{line.r_squared:.5f}",
            )
        )
    return Table((f"{kind}: capacity", "slope, ns/token", "intercept, µs", "R²"), rows)


if __name__ == "__main__":
    main()
